"""Image transforms of the official code: CLIP's for evaluation, a random crop and flip for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def eval_transform(size_px: int = 224) -> Callable[[Image], Tensor]:
    """Return CLIP's transform to [3, size, size] float32: bicubic resize of the short side, centre crop.

    Images of any mode are converted to RGB after the crop, as CLIP does. Picklable.
    """
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    resize = transforms.Resize(size_px, interpolation=InterpolationMode.BICUBIC)
    return _compose([resize, transforms.CenterCrop(size_px)])


def train_transform(size_px: int = 224) -> Callable[[Image], Tensor]:
    """Return the official training augmentation to [3, size, size] float32.

    Random crop of 0.7 to 1 of the area with aspect 0.8 to 1.25, bilinear; horizontal flip of every second.
    Picklable.
    """
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    crop = transforms.RandomResizedCrop(
        size_px, scale=(0.7, 1.0), ratio=(0.8, 1.25), interpolation=InterpolationMode.BILINEAR
    )
    return _compose([crop, transforms.RandomHorizontalFlip()])


def _compose(geometry: list[Callable[[Image], Image]]) -> Callable[[Image], Tensor]:
    from torchvision import transforms

    steps = [*geometry, _to_rgb, transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)]
    return cast("Callable[[Image], Tensor]", transforms.Compose(steps))


def _to_rgb(image: Image) -> Image:
    return image.convert("RGB")
