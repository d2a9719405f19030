"""Writers of miniatures of the captioned sets, as `miniatures.py` writes the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miniatures import picture, pictures, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KARPATHY_FILES = {
    "flickr30k": "dataset_flickr30k.json",
    "flickr8k": "dataset_flickr8k.json",
    "mscoco_captions": "dataset_coco.json",
}
FLICKR_FOLDERS = {"flickr30k": "flickr30k-images", "flickr8k": "Flicker8k_Dataset"}


def karpathy_row(name: str, split: str, *captions: str, **more: Any) -> dict[str, Any]:
    """One image of Karpathy's files."""
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": 0, "sentid": i}
        for i, text in enumerate(captions)
    ]
    numbers = list(range(len(captions)))
    return {"sentids": numbers, "imgid": 0, "sentences": sentences, "split": split, "filename": name, **more}


def karpathy(root: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The annotation file alone."""
    write(root / KARPATHY_FILES[name], json.dumps({"images": rows, "dataset": name}))


def flickr(root: Path, name: str) -> None:
    """Four images, two of them for testing."""
    pictures(root / FLICKR_FOLDERS[name], [f"{i}.jpg" for i in range(4)])
    rows = [
        karpathy_row("2.jpg", "test", "A dog , runs .", "Two dogs ."),
        karpathy_row("0.jpg", "train", "A cat ."),
        karpathy_row("3.jpg", "val", "A bird ."),
        karpathy_row("1.jpg", "test", "A café ."),
    ]
    karpathy(root, name, rows)


COCO_IMAGES = {
    n: f"{f}/COCO_{f}_{n:012d}.jpg"
    for n, f in ((1, "val2014"), (2, "train2014"), (3, "val2014"), (4, "val2014"))
}


def coco(root: Path, splits: Sequence[str] = ("test", "train", "restval", "val")) -> None:
    """COCO's two image folders, and dataset_coco.json with one image of each split."""
    rows = []
    for (number, path), split in zip(COCO_IMAGES.items(), splits, strict=False):
        picture(root / path)
        folder, file = path.split("/")
        rows.append(karpathy_row(file, split, f"Caption {number}. ", "x", filepath=folder, cocoid=number))
    karpathy(root, "mscoco_captions", rows)
