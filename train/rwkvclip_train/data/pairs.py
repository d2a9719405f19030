"""Training pairs: images of evaluation datasets' train splits, each with several texts.

Every random choice (order, text, crop) is a pure function of seed, epoch and sample, so a run that
continues needs no generator state and the number of workers changes nothing.

Axes: B pairs, L context (tokens), H W image height and width (px).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_train.data.digit_texts import three_kinds
from rwkvclip_train.order import sample_rng
from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_train.recipe import AugmentationRecipe, DataRecipe, Recipe


@dataclass(frozen=True)
class ImagesWithTexts:
    """One dataset split and the texts of each of its images.

    Attributes:
        dataset: where images come from.
        texts: a non-empty list of texts per image, in the dataset's order.
    """

    dataset: Dataset
    texts: Sequence[Sequence[str]]


class Pairs(TorchDataset[tuple["Tensor", str]]):
    """Pairs of an augmented image and one of its texts, drawn uniformly.

    Indexed by (epoch, sample): an image meets another of its texts and another crop in each epoch.

    Args:
        sources: concatenated in order.
        image_size_px: (height, width) of the crops.
        tokenize: list of texts → [n, L] int64.
        augmentation: of images.
        seed: of the recipe.
    """

    def __init__(
        self,
        sources: Sequence[ImagesWithTexts],
        *,
        image_size_px: tuple[int, int],
        tokenize: Callable[[list[str]], Tensor],
        augmentation: AugmentationRecipe,
        seed: int,
    ) -> None:
        self.sources = sources
        self.ends = np.cumsum([len(s.texts) for s in sources])
        self.tokenize = tokenize
        self.transform = training_transform(image_size_px, augmentation)
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.ends[-1])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, str]:
        """Return pixels [3, H, W] uint8 and the text of sample `key` = (epoch, sample).

        Raises:
            DamagedData: the image cannot be decoded.
        """
        epoch, sample = key
        which = int(np.searchsorted(self.ends, sample, side="right"))
        source = self.sources[which]
        index = sample - int(self.ends[which]) + len(source.texts)
        rng = sample_rng(self.seed, epoch, sample)
        text = source.texts[index][int(rng.integers(len(source.texts[index])))]
        # torchvision draws from torch's global generator, which must not notice.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            pixels = self.transform(source.dataset.image(index))
        return pixels, text

    def collate(self, samples: list[tuple[Tensor, str]]) -> tuple[Tensor, Tensor]:
        """Return pixels [B, 3, H, W] float32, normalised as CLIP's, and token ids [B, L] int64."""
        from torchvision.transforms.functional import normalize

        from rwkvclip_models.transforms import CLIP_MEAN, CLIP_STD

        pixels = torch.stack([image for image, _ in samples]).float() / 255
        return normalize(pixels, CLIP_MEAN, CLIP_STD), self.tokenize([text for _, text in samples])


def training_transform(
    image_size_px: tuple[int, int], augmentation: AugmentationRecipe
) -> Callable[[Image], Tensor]:
    """Return the transform of training images to [3, H, W] uint8: random crop, resize (bilinear), flip."""
    from torchvision.transforms import v2

    transform: Callable[[Image], Tensor] = v2.Compose(
        [
            v2.RGB(),
            v2.RandomResizedCrop(
                image_size_px,
                scale=augmentation.crop_area,
                ratio=augmentation.crop_aspect,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.RandomHorizontalFlip(augmentation.horizontal_flip),
            v2.PILToTensor(),
        ]
    )
    return transform


def open_sources(recipe: Recipe, data_root: Path | None) -> list[ImagesWithTexts]:
    """Open the datasets of a recipe and give their images the texts it asks for.

    Raises:
        RecipeError: the texts asked for do not exist for the kind of dataset.
        DataNotFound, DamagedData, UserError: a dataset is absent, damaged or unknown.
    """
    sources = []
    for part in recipe.data:
        dataset = open_dataset(
            DatasetRef.model_validate({"name": part.dataset, "split": part.split}), data_root=data_root
        )
        source = ImagesWithTexts(dataset, _texts(part, dataset))
        sources += [source] * part.repeat
    return sources


def _texts(part: DataRecipe, dataset: Dataset) -> Sequence[Sequence[str]]:
    info = dataset.info
    where = f"data: {part.dataset} is a {info.kind} dataset"
    if part.texts == "kinds":
        return three_kinds(info.name, part.split)
    if part.texts == "captions":
        if dataset.captions is None:
            raise RecipeError(
                f"{where}, which has no captions: use texts: templates, or a list of templates."
            )
        return dataset.captions
    templates = info.templates if part.texts == "templates" else tuple(part.texts)
    if dataset.labels is None or info.kind != "classification":
        raise RecipeError(f"{where}; templates need the classes of a classification dataset: use captions.")
    if not templates or not all("{c}" in t for t in templates):
        raise RecipeError(
            f"{where}; its texts need templates with {{c}} for the class name: got {templates}."
        )
    of_class = [[t.replace("{c}", name) for t in templates] for name in info.class_names]
    return [of_class[label] for label in dataset.labels]
