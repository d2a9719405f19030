"""Images a second and core: this loader beside plain torchvision and Pillow, in turns in one process.

CPU time of one thread, from a file's bytes to a normalised tensor; the plain one takes the same files, crops
and flips by torchvision's own draws. Tokens are made by the same code in both worlds and are left out.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rwkvclip_train.data.crops import cropped, draw_crop, reduction
from rwkvclip_train.data.pairs import Pairs
from rwkvclip_train.order import sample_rng

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_train.data.indexed import IndexedPairs
    from rwkvclip_train.data.synthetic import SyntheticPairs
    from rwkvclip_train.recipe import AugmentationRecipe

BATCH = 16


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        images: taken in each round.
        rounds: of both, one after the other.
        images_per_s: of one core; median round.
        plain_images_per_s: of torchvision and Pillow; median round.
        ratio: median of the rounds' ratios.
        ratio_low: the least of them.
        ratio_high: the greatest of them.
        reduced_share: images that were decoded at a smaller scale.
        max_error: greatest difference of a pixel's channel from decoding whole, of 255.
        mean_error: mean difference, of 255.
    """

    images: int
    rounds: int
    images_per_s: float
    plain_images_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    reduced_share: float
    max_error: int
    mean_error: float


def measure(
    source: IndexedPairs | SyntheticPairs,
    *,
    size_px: tuple[int, int],
    augmentation: AugmentationRecipe,
    images: int = 128,
    rounds: int = 7,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Return how fast pairs are read and prepared, and what decoding at a smaller scale changes.

    Args:
        source: of the pairs; `images` of them are taken, evenly spread.
        size_px: (height, width) of the crops.
        augmentation: of both.
        images: in a round.
        rounds: of both, in turns; the first of each is not counted.
        on_progress: called with rounds that are done and their number.

    Raises:
        DamagedData: an image cannot be read.
    """
    pairs = Pairs([source], image_size_px=size_px, tokenize=_no_tokens, augmentation=augmentation, seed=0)
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int).tolist()
    plain = _plain(size_px, augmentation)

    def ours() -> None:
        for start in range(0, len(chosen), BATCH):
            pairs.collate([pairs[0, i] for i in chosen[start : start + BATCH]])

    def theirs() -> None:
        from torchvision.transforms.functional import normalize

        from rwkvclip_models.transforms import CLIP_MEAN, CLIP_STD

        for start in range(0, len(chosen), BATCH):
            some = [plain(source.content(i)) for i in chosen[start : start + BATCH]]
            normalize(torch.stack(some).float() / 255, CLIP_MEAN, CLIP_STD)

    times: list[tuple[float, float]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for round_ in range(rounds + 1):
            # Each goes first in every second round.
            order = (ours, theirs) if round_ % 2 else (theirs, ours)
            took = {work: _cpu_s(work) for work in order}
            if round_:
                times.append((took[ours], took[theirs]))
            on_progress(round_, rounds)
    finally:
        torch.set_num_threads(threads)
    ratios = [plain_s / own_s for own_s, plain_s in times]
    share, greatest, mean = _errors(source, chosen, size_px, augmentation)
    return Speed(
        images=len(chosen),
        rounds=rounds,
        images_per_s=len(chosen) / float(np.median([own for own, _ in times])),
        plain_images_per_s=len(chosen) / float(np.median([other for _, other in times])),
        ratio=float(np.median(ratios)),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        reduced_share=share,
        max_error=greatest,
        mean_error=mean,
    )


def _no_tokens(texts: list[str]) -> torch.Tensor:
    return torch.zeros(len(texts), 1, dtype=torch.int64)


def _cpu_s(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    # A round may be shorter than the clock's tick.
    return max(time.process_time() - started, time.get_clock_info("process_time").resolution)


def _plain(size_px: tuple[int, int], augmentation: AugmentationRecipe) -> Callable[[bytes], torch.Tensor]:
    """Return torchvision's own pipeline on Pillow's images."""
    from PIL import Image
    from torchvision import transforms

    steps: Any = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size_px,
                scale=augmentation.crop_area,
                ratio=augmentation.crop_aspect,
                interpolation=transforms.InterpolationMode.BILINEAR,
            ),
            transforms.RandomHorizontalFlip(augmentation.horizontal_flip),
            transforms.PILToTensor(),
        ]
    )

    def prepare(content: bytes) -> torch.Tensor:
        made: torch.Tensor = steps(Image.open(io.BytesIO(content)).convert("RGB"))
        return made

    return prepare


def _errors(
    source: IndexedPairs | SyntheticPairs,
    chosen: list[int],
    size_px: tuple[int, int],
    augmentation: AugmentationRecipe,
) -> tuple[float, int, float]:
    """Return the share of images decoded at a smaller scale, and their difference from whole ones."""
    reduced, greatest, means = 0, 0, []
    for i in chosen:
        image, whole = source.image(i), source.image(i)
        crop = draw_crop(sample_rng(0, 0, i), image.size, augmentation)
        before = image.size
        found = cropped(image, crop, size_px)
        if image.size == before or reduction(crop, size_px) == 1:
            continue
        reduced += 1
        error = (found.int() - cropped(whole, crop, size_px, reduced=False).int()).abs()
        greatest = max(greatest, int(error.max()))
        means.append(float(error.float().mean()))
    return reduced / len(chosen), greatest, float(np.mean(means)) if means else 0.0
