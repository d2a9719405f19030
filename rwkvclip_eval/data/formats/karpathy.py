"""Flickr8k, Flickr30k and MS COCO captions with Karpathy and Fei-Fei's splits.

    dataset_flickr30k.json, dataset_flickr8k.json or dataset_coco.json (caption_datasets.zip):
        {"images": [{"filename": …, "split": …, "sentences": [{"raw": …}, …], "filepath": …}, …]}
    the images: flickr30k-images/, Flicker8k_Dataset/ (so spelt), or for COCO train2014/ and val2014/

Where a copy has clip-benchmark's annotation file of the split (flickr30k_test_karpathy.txt,
coco_test_karpathy.json), that is read. COCO's fourth split `restval` joins `train` in the variant `restval`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter

from rwkvclip_eval.data.clip_benchmark import RETRIEVAL, open_clip_benchmark
from rwkvclip_eval.data.formats.image_files import need_split
from rwkvclip_eval.data.reading import below, check_captions, read_json
from rwkvclip_eval.data.samples import FileReader, Split, check_unique, fingerprint_files, targets
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

FILES = {
    "flickr30k": "dataset_flickr30k.json",
    "flickr8k": "dataset_flickr8k.json",
    "mscoco_captions": "dataset_coco.json",
}
FILE_FOLDERS = ("", "annotations", "caption_datasets", "karpathy")
IMAGE_FOLDERS = {
    "flickr30k": ("flickr30k-images", "flickr30k_images", "images", "Images", ""),
    "flickr8k": ("Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images", ""),
    "mscoco_captions": ("", "images"),
}


def read_flickr30k(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split of Flickr30k."""
    return _read("flickr30k", root, split, variant, cache_dir)


def read_flickr8k(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split of Flickr8k."""
    return _read("flickr8k", root, split, variant, cache_dir)


def read_coco(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split of MS COCO 2014 captions."""
    return _read("mscoco_captions", root, split, variant, cache_dir)


def _read(name: str, root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    need_split(name, split, SPLITS)
    root = root.absolute()
    wanted = ("train", "restval") if split == "train" and variant == "restval" else (split,)
    other = root / RETRIEVAL[name].format(split=split)
    if len(wanted) == 1 and other.is_file():
        return open_clip_benchmark(name, root, split, cache_dir=cache_dir)
    places = [root / folder / FILES[name] for folder in FILE_FOLDERS]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        also = f" nor {other.name}" if len(wanted) == 1 else ""
        raise DataNotFound(
            f"{name}: there is no {FILES[name]}{also} in {root}. Karpathy's caption_datasets.zip has the "
            "former."
        )
    content = read_json(file, _FORM, f"{name} in Karpathy's form")
    rows = [row for row in content.images if row.split in wanted]
    if not rows:
        raise DataNotFound(f"{name}: {file} has no images of split {split}.")
    base, paths = _paths(name, root, rows)
    keys = [path.relative_to(base).as_posix() for path in paths]
    check_unique(keys, str(file))
    captions = [[sentence.raw for sentence in row.sentences] for row in rows]
    check_captions(zip(keys, captions, strict=True), str(file))
    return Split(
        kind="retrieval",
        keys=keys,
        images=FileReader(tuple(paths), base),
        source=f"published files of {name}",
        fingerprint=fingerprint_files(paths, keys, targets(None, captions), base, cache_dir),
        captions=captions,
    )


class _Sentence(BaseModel):
    raw: str


class _Row(BaseModel):
    """An image of Karpathy's file."""

    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: str = ""


class _Content(BaseModel):
    images: list[_Row]


_FORM = TypeAdapter(_Content)


def _paths(name: str, root: Path, rows: Sequence[_Row]) -> tuple[Path, list[Path]]:
    """Return the folder of the images, and each image's path.

    Raises:
        DataNotFound: no folder has the first image.
        DamagedData: some are missing.
    """
    files = [Path(row.filepath, row.filename) for row in rows]
    for file in files:
        below(root, str(file), name)
    bases = [root / folder for folder in IMAGE_FOLDERS[name]]
    base = next((base for base in bases if (base / files[0]).is_file()), None)
    if base is None:
        raise DataNotFound(f"{name}: there is no {files[0]} in {' or '.join(map(str, bases))}.")
    paths = [base / file for file in files]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DamagedData(
            f"{name}: {len(missing)} of {len(paths)} images are not in {base}: {name_some(missing)}. "
            "Unpack the images again."
        )
    return base, paths
