"""ImageNet under distribution shift, as its authors' archives unpack.

    imagenet_v2      imagenetv2-matched-frequency-format-val/0…999/*.jpeg (and -threshold0.7-, -top-images-)
    imagenet_a       imagenet-a/nXXXXXXXX/*.jpg, 200 classes
    imagenet_r       imagenet-r/nXXXXXXXX/*.jpg, 200 classes
    imagenet_sketch  sketch/nXXXXXXXX/*.JPEG, 1,000 classes
    objectnet        objectnet-1.0/images/FOLDER/*.png and objectnet-1.0/mappings/*.json

Labels and class names are clip-benchmark's: the folders' places in sorted order (imagenet_v2: their numbers).
For imagenet_a and imagenet_r that means a choice among their own 200 classes, not among 1,000.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from rwkvclip_eval.data.formats.image_files import find_base, image_split, need, need_split
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import open_image, read_image, read_json
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from rwkvclip_eval.data.samples import Split

SUFFIXES = (".jpeg", ".jpg", ".png")
NUM_CLASSES = {"imagenet_a": 200, "imagenet_r": 200, "imagenet_sketch": 1000}
FOLDERS = {
    "imagenet_a": ("imagenet-a",),
    "imagenet_r": ("imagenet-r",),
    "imagenet_sketch": ("sketch", "imagenet-sketch", "ImageNet-Sketch/sketch"),
}
FIRST_CLASS = {"imagenet_a": "n01498041", "imagenet_r": "n01443537", "imagenet_sketch": "n01440764"}
"""Tells the folder of classes from the one around it."""
BORDER_PX = 2
"""ObjectNet's red frame, drawn so that nobody trains on it unawares."""


def imagenet_names(wnids: list[str], name: str) -> tuple[str, ...]:
    """Return clip-benchmark's ImageNet class names of WordNet ids.

    Raises:
        DamagedData: some are not among ImageNet's 1,000.
    """
    from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids

    by_wnid = dict(zip(all_imagenet_wordnet_ids, shipped("labels", "imagenet1k") or (), strict=True))
    if strange := [wnid for wnid in wnids if wnid not in by_wnid]:
        raise DamagedData(f"{name}: {len(strange)} classes are not ImageNet's: {name_some(strange)}.")
    return tuple(by_wnid[wnid] for wnid in wnids)


def _images(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def _class_folders(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_wnid_folders(name: str, root: Path, split: str, cache_dir: Path | None) -> Split:
    need_split(name, split, ["test"])
    base = find_base(name, root, FOLDERS[name], FIRST_CLASS[name])
    wnids = [folder for folder in _class_folders(base) if re.fullmatch(r"n\d{8}", folder)]
    if len(wnids) != NUM_CLASSES[name]:
        raise DamagedData(
            f"{name}: {len(wnids)} class folders in {base}, expected {NUM_CLASSES[name]}: labels follow "
            "their order. Unpack the archive again."
        )
    found = [(f"{wnid}/{image}", i) for i, wnid in enumerate(wnids) for image in _images(base / wnid)]
    files, labels = [file for file, _ in found], [label for _, label in found]
    return image_split(name, base, files, labels, imagenet_names(wnids, name), cache_dir)


def read_imagenet_a(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read ImageNet-A; its 200 classes are the ones to choose from."""
    return _read_wnid_folders("imagenet_a", root, split, cache_dir)


def read_imagenet_r(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read ImageNet-R; its 200 classes are the ones to choose from."""
    return _read_wnid_folders("imagenet_r", root, split, cache_dir)


def read_imagenet_sketch(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read ImageNet-Sketch."""
    return _read_wnid_folders("imagenet_sketch", root, split, cache_dir)


def read_imagenet_v2(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read one of the three samplings; each has 10,000 images in folders named by label."""
    name = "imagenet_v2"
    need_split(name, split, ["test"])
    root = need(name, root.absolute())
    # The archives, their addresses and clip-benchmark write the same name with other hyphens and dots.
    wanted = re.sub("[^a-z0-9]", "", variant)
    bases = [f for f in _class_folders(root) if wanted in re.sub("[^a-z0-9]", "", f.lower())]
    if not bases and not (root / "0").is_dir():
        raise DataNotFound(
            f"{name}@{variant}: there is no imagenetv2-{variant}-format-val in {root}. Unpack the archive."
        )
    base = root / bases[0] if bases else root
    numbered = [(folder, whole_number(folder)) for folder in _class_folders(base)]
    found = [
        (f"{folder}/{image}", label)
        for folder, label in numbered
        if label is not None
        for image in _images(base / folder)
    ]
    files, labels = [file for file, _ in found], [label for _, label in found]
    return image_split(name, base, files, labels, shipped("labels", "imagenet1k"), cache_dir)


@dataclass(frozen=True)
class BorderlessReader:
    """Reads images and cuts `BORDER_PX` pixels off each side.

    Attributes:
        paths: the n image files.
    """

    paths: tuple[Path, ...]

    def read(self, index: int) -> Image:
        """Return the image without its border."""
        image = open_image(read_image(self.paths[index]))
        return image.crop((BORDER_PX, BORDER_PX, image.width - BORDER_PX, image.height - BORDER_PX))

    def where(self, index: int) -> str:
        """Return the path."""
        return str(self.paths[index])


def read_objectnet(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read the 113 of ObjectNet's 313 classes that ImageNet has; `cropped` takes the red border off."""
    name = "objectnet"
    need_split(name, split, ["test"])
    base = find_base(name, root, ["objectnet-1.0", "objectnet/objectnet-1.0"], "images")
    places = (base / "mappings", base, base.parent)  # clip-benchmark copies the mappings beside the folder.
    label_file = "folder_to_objectnet_label.json"
    mappings = next((p for p in places if (p / label_file).is_file()), base / "mappings")
    label_of = _mapping(name, mappings / label_file)
    shared = _mapping(name, mappings / "objectnet_to_imagenet_1k.json")
    folders = sorted(folder for folder, label in label_of.items() if label in shared)
    if strange := sorted(set(shared) - set(label_of.values())):
        raise DamagedData(f"{name}: {mappings} has no folder of {name_some(strange)}.")
    if missing := [folder for folder in folders if not (base / "images" / folder).is_dir()]:
        raise DamagedData(
            f"{name}: {len(missing)} of {len(folders)} class folders are not in {base / 'images'}: "
            f"{name_some(missing)}."
        )
    found = [
        (f"images/{folder}/{image}", i)
        for i, folder in enumerate(folders)
        for image in _images(base / "images" / folder)
    ]
    files, labels = [file for file, _ in found], [label for _, label in found]
    names = [label_of[folder].lower() for folder in folders]
    whole = image_split(name, base, files, labels, names, cache_dir)
    if variant != "cropped":
        return whole
    fingerprint = hashlib.sha256(f"{whole.fingerprint} without {BORDER_PX} px".encode()).hexdigest()
    return replace(
        whole, images=BorderlessReader(tuple(base / file for file in files)), fingerprint=fingerprint
    )


def _mapping(name: str, path: Path) -> dict[str, str]:
    return read_json(need(name, path), TypeAdapter(dict[str, str]), f"a mapping of texts for {name}")
