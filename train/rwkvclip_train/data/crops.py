"""Random resized crop and flip of training images, decoded at a smaller scale where the crop allows.

libjpeg gives a JPEG at 1/2, 1/4 or 1/8 of its size for less work than whole. It is asked for the smallest
scale at which the crop still has as many pixels as come out, so that nothing is ever enlarged for it. The
crop keeps its place to a fraction of a pixel. Images of other formats, and crops without such a scale, are
cropped and resized as torchvision does, pixel for pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from rwkvclip_train.recipe import AugmentationRecipe

TRIES = 10
"""Draws of a crop before the whole image is taken, as in torchvision."""
REDUCTIONS = (8, 4, 2)


class Crop(NamedTuple):
    """A part of an image, in its own pixels.

    Attributes:
        left: of the part.
        top: of the part.
        width: of the part.
        height: of the part.
        flipped: left and right change places afterwards.
    """

    left: int
    top: int
    width: int
    height: int
    flipped: bool


def draw_crop(rng: np.random.Generator, size_px: tuple[int, int], augmentation: AugmentationRecipe) -> Crop:
    """Return a part of an image as torchvision's RandomResizedCrop draws one, and whether it is flipped.

    Args:
        rng: of the sample.
        size_px: (width, height) of the image.
        augmentation: area, aspect and probability of a flip.
    """
    width, height = size_px
    low, high = augmentation.crop_aspect
    flipped = bool(rng.random() < augmentation.horizontal_flip)
    for _ in range(TRIES):
        area = width * height * rng.uniform(*augmentation.crop_area)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1))
            return Crop(left, top, wide, tall, flipped)
    # The widest part in the middle whose aspect is allowed.
    wide, tall = width, height
    if width / height < low:
        tall = round(width / low)
    elif width / height > high:
        wide = round(height * high)
    return Crop((width - wide) // 2, (height - tall) // 2, max(wide, 1), max(tall, 1), flipped)


def central_crop(size_px: tuple[int, int], out_px: tuple[int, int]) -> Crop:
    """Return the largest part in the middle of an image that has the shape of what comes out.

    Args:
        size_px: (width, height) of the image.
        out_px: (height, width) of what comes out.
    """
    width, height = size_px
    wide = min(width, max(round(height * out_px[1] / out_px[0]), 1))
    tall = min(height, max(round(width * out_px[0] / out_px[1]), 1))
    return Crop((width - wide) // 2, (height - tall) // 2, wide, tall, flipped=False)


def reduction(crop: Crop, size_px: tuple[int, int]) -> int:
    """Return 8, 4, 2 or 1: by how much an image may shrink before `crop` is resized to (height, width)."""
    return next((s for s in REDUCTIONS if crop.height >= s * size_px[0] and crop.width >= s * size_px[1]), 1)


def cropped(image: Image, crop: Crop, size_px: tuple[int, int], *, reduced: bool = True) -> Tensor:
    """Return a part of an image, resized (bilinear, with antialiasing): [3, H, W] uint8.

    Args:
        image: opened; if its pixels have not been read they are now, and it may be smaller afterwards.
        crop: the part.
        size_px: (height, width) of what comes out.
        reduced: decode at a smaller scale where the format can and the crop allows.

    Raises:
        Exception: what Pillow raises on damaged files.
    """
    from PIL.Image import Resampling, Transpose

    out = (size_px[1], size_px[0])
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    before, shrink = image.size, reduction(crop, size_px) if reduced else 1
    # Only an opened file has a `draft` that does something.
    if shrink > 1:
        image.draft(None, (max(before[0] // shrink, 1), max(before[1] // shrink, 1)))
    if image.size == before:
        shown = _rgb(image)
        if box != (0, 0, *before):
            shown = shown.crop(box)
        shown = shown.resize(out, Resampling.BILINEAR)
    else:
        # The library rounds the size up; a pixel stands for as many as it was asked to.
        scale = next(s for s in REDUCTIONS if -(-before[0] // s) == image.width)
        left, top = crop.left / scale, crop.top / scale
        right, bottom = min(box[2] / scale, image.width), min(box[3] / scale, image.height)
        shown = _rgb(image).resize(out, Resampling.BILINEAR, box=(left, top, right, bottom))
    if crop.flipped:
        shown = shown.transpose(Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.asarray(shown).transpose(2, 0, 1).copy())


def _rgb(image: Image) -> Image:
    # Of an image that is in RGB, `convert` makes a copy.
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")
