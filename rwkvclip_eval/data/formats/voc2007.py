"""PASCAL VOC 2007: images with several labels, and the single-label crops clip-benchmark makes of objects.

VOCdevkit/VOC2007/ImageSets/Main/SPLIT.txt           image ids
VOCdevkit/VOC2007/ImageSets/Main/CLASS_SPLIT.txt     lines `ID -1|0|1`: absent, only difficult, present
VOCdevkit/VOC2007/Annotations/ID.xml                 objects with class, box and a flag `difficult`
VOCdevkit/VOC2007/JPEGImages/ID.jpg
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from rwkvclip_eval.data.formats.image_files import find_base, image_split, need, need_split, read_lines
from rwkvclip_eval.data.reading import below, open_image, read_image, read_text
from rwkvclip_eval.data.samples import Split, fingerprint_samples, remembered_fingerprint, stat_signature
from rwkvclip_eval.errors import DamagedData, name_some
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
NAME = "voc2007"
MAX_SIDE_PX = 65535
"""Of a box: a JPEG is no larger. Pillow makes an image of the box's size, wherever that lies."""

_MARKS = {"-1": 0, "0": -1, "1": 1}
"""The lists' absent, only difficult and present as labels, of which −1 is left open."""


@dataclass(frozen=True)
class ObjectBox:
    """One annotated object.

    Attributes:
        label: class id.
        box: (left, top, right, bottom) in pixels.
        difficult: the authors' mark of an object that is hard to recognise.
    """

    label: int
    box: tuple[int, int, int, int]
    difficult: bool


@dataclass(frozen=True)
class CropReader:
    """Cuts one object out of each image; several samples share a file.

    Attributes:
        paths: the file of each sample's image.
        boxes: what of it is the sample: (left, top, right, bottom) in pixels.
    """

    paths: tuple[Path, ...]
    boxes: tuple[tuple[int, int, int, int], ...]

    def read(self, index: int) -> Image:
        """Return the crop in RGB."""
        return open_image(read_image(self.paths[index])).convert("RGB").crop(self.boxes[index])

    def where(self, index: int) -> str:
        """Return path and box."""
        return f"{self.paths[index]}, box {self.boxes[index]}"


def read_voc2007(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split: `default`, `with-difficult` or `crops`.

    `default` marks a class that has at least one object not flagged difficult, and with −1 one whose objects
    are all difficult: the authors' evaluation leaves that image out for that class. `with-difficult` marks
    every class with an object, as clip-benchmark does. `crops` has one sample per object, difficult ones
    included.
    """
    need_split(NAME, split, ("train", "val", "test"))
    base = find_base(NAME, root, ["VOCdevkit/VOC2007", "VOC2007"], "JPEGImages")
    if variant == "default":
        ids, labels = _image_sets(base, split)
    else:
        ids = read_lines(NAME, base / "ImageSets" / "Main" / f"{split}.txt")
        objects = [_objects(base, image) for image in ids]
        if variant == "crops":
            return _crops(base, ids, objects, cache_dir)
        labels = np.zeros((len(ids), len(CLASSES)), dtype=np.int64)
        for row, found in enumerate(objects):
            labels[row, [o.label for o in found]] = 1
    files = [f"JPEGImages/{image}.jpg" for image in ids]
    return image_split(NAME, base, files, labels, CLASSES, cache_dir)


def _image_sets(base: Path, split: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Return image ids and [n, 20] labels (1, 0, −1) of the per-class lists.

    Raises:
        DataNotFound: a list is missing.
        DamagedData: two lists name different images, or a line has another form.
    """
    ids: list[str] = []
    columns = []
    for name in CLASSES:
        path = base / "ImageSets" / "Main" / f"{name}_{split}.txt"
        rows = [line.split() for line in read_lines(NAME, path)]
        if wrong := [row for row in rows if len(row) != 2 or row[1] not in _MARKS]:
            raise DamagedData(f"{NAME}: {path}: expected ID and -1, 0 or 1, found {' '.join(wrong[0])!r}.")
        ids = ids or [row[0] for row in rows]
        if ids != [row[0] for row in rows]:
            raise DamagedData(f"{NAME}: {path} lists other images than {CLASSES[0]}_{split}.txt.")
        columns.append([_MARKS[row[1]] for row in rows])
    return ids, np.array(columns, dtype=np.int64).T


def _objects(base: Path, image: str) -> list[ObjectBox]:
    """Return the objects of one annotation file, in its order.

    Raises:
        DataNotFound: there is no such file.
        DamagedData: it is no such XML, or names an unknown class.
    """
    path = need(NAME, below(base, f"Annotations/{image}.xml", NAME))
    found = []
    try:
        for one in ElementTree.fromstring(_without_types(read_text(path))).iter("object"):
            left, top, right, bottom = (
                _coordinate(one.findtext(f"bndbox/{e}", "")) for e in ("xmin", "ymin", "xmax", "ymax")
            )
            if left > right or top > bottom:
                raise ValueError(f"a box {left, top, right, bottom}")
            label = CLASSES.index(one.findtext("name", "").strip())
            found.append(ObjectBox(label, (left, top, right, bottom), one.findtext("difficult") == "1"))
    except (ElementTree.ParseError, ValueError) as error:
        raise DamagedData(f"{NAME}: {path} is no VOC annotation: {error}. Unpack it again.") from error
    return found


def _without_types(text: str) -> str:
    """Return an XML text that defines no entities, which could name each other without end.

    Raises:
        ValueError: it defines some.
    """
    if "<!" in text.replace("<!--", ""):
        raise ValueError("it defines types of its own")
    return text


def _coordinate(text: str) -> int:
    number = whole_number(text)
    if number is None or number > MAX_SIDE_PX:
        raise ValueError(f"a coordinate {text[:40]!r}")
    return number


def _crops(base: Path, ids: list[str], objects: list[list[ObjectBox]], cache_dir: Path | None) -> Split:
    """Return one sample per object; keys are the image's path and the object's place in its annotation."""
    pairs = [(image, i, o) for image, found in zip(ids, objects, strict=True) for i, o in enumerate(found)]
    if missing := [image for image in ids if not (base / "JPEGImages" / f"{image}.jpg").is_file()]:
        raise DamagedData(f"{NAME}@crops: {len(missing)} images are not in {base}: {name_some(missing)}.")
    paths = tuple(below(base, f"JPEGImages/{image}.jpg", NAME) for image, _, _ in pairs)
    keys = [f"JPEGImages/{image}-{i}" for image, i, _ in pairs]
    boxes = tuple(o.box for _, _, o in pairs)
    labels = np.array([o.label for _, _, o in pairs], dtype=np.int64)

    def compute() -> str:
        whole = {path: hashlib.sha256(read_image(path)).digest() for path in set(paths)}
        digests = (
            hashlib.sha256(whole[p] + repr(b).encode()).digest() for p, b in zip(paths, boxes, strict=True)
        )
        return fingerprint_samples(zip(keys, digests, labels.tolist(), strict=True))

    signature = stat_signature(sorted(set(paths)), base, str(base), keys, boxes, labels.tolist(), moved=True)
    return Split(
        kind="classification",
        keys=keys,
        images=CropReader(paths, boxes),
        source=f"published files of {NAME}, crops",
        fingerprint=remembered_fingerprint(signature, cache_dir, compute),
        labels=labels,
        class_names=CLASSES,
    )
