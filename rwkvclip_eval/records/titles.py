"""What pages, tables and drawings call tasks and datasets, where files for programs have record names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

TASK_TITLES = {
    "zero_shot_classification": "Zero-shot classification",
    "zero_shot_retrieval": "Zero-shot retrieval",
    "linear_probe": "Linear probe",
    "few_shot_linear_probe": "Few-shot linear probe",
    "knn_probe": "k-NN probe",
}
DATASET_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "food101": "Food-101",
    "pets": "Pets",
    "flowers": "Flowers-102",
    "sun397": "SUN397",
    "cars": "Cars",
    "dtd": "DTD",
    "caltech101": "Caltech-101",
    "aircraft": "Aircraft",
    "imagenet": "ImageNet",
    "birdsnap": "Birdsnap",
    "voc2007": "VOC 2007",
    "mnist": "MNIST",
    "fer2013": "FER2013",
    "stl10": "STL-10",
    "eurosat": "EuroSAT",
    "resisc45": "RESISC45",
    "gtsrb": "GTSRB",
    "kitti": "KITTI",
    "country211": "Country211",
    "pcam": "PCam",
    "ucf101": "UCF101",
    "kinetics700": "Kinetics-700",
    "clevr": "CLEVR",
    "hateful_memes": "Hateful Memes",
    "rendered_sst2": "Rendered SST2",
    "imagenet_v2": "ImageNet-V2",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "objectnet": "ObjectNet",
    "imagenet_sketch": "ImageNet-Sketch",
    "flickr30k": "Flickr30k",
    "mscoco_captions": "MSCOCO",
    "flickr8k": "Flickr8k",
    "tiny_imagenet": "Tiny ImageNet",
    "twemoji": "Twemoji",
    "digits": "Digits",
    "digits_scenes": "Digit scenes",
}
"""Record name → title as papers print it at the head of a column."""


def task_title(task: str) -> str:
    """Return the title of a task; one that a plugin brings goes by its name."""
    return TASK_TITLES.get(task) or task.replace("_", " ").capitalize()


def version_title(version: str, split: str = "", names: Collection[str] = ()) -> str:
    """Return the title of a dataset with its variant and split; what has none keeps its name.

    Args:
        version: record name, with its variant where that is not the usual one.
        split: where it is not the test split.
        names: record names beside it; one that is called like another's title keeps that for itself.
    """
    name, _, variant = version.partition("@")
    title = DATASET_TITLES.get(name, name)
    title = name if title in names else title
    said = ", ".join(filter(None, (variant, split)))
    return f"{title} ({said})" if said else title
