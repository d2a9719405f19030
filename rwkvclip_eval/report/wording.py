"""The words of a report: titles of tasks, states, names of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.loading import Entry

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
STATUS_WORDS = {
    "not_applicable": "n/a",
    "missing_data": "no data",
    "failed": "failed",
    "not_run": "not run",
}


def dataset_version(record: Record) -> str:
    """Return the dataset with its variant where that is not the default: `sun397@partition1`."""
    return record.dataset if record.variant in ("", "default") else f"{record.dataset}@{record.variant}"


def dataset_title(entry: Entry) -> str:
    """Return what the entry says it is shown as, else the dataset with its variant and an unusual split."""
    if entry.title:
        return entry.title
    split = "" if entry.record.split in ("", "test") else f" ({entry.record.split})"
    return f"{dataset_version(entry.record)}{split}"
