"""Food-101, Birdsnap, FGVC Aircraft, DTD and Oxford-IIIT Pets: image lists in text and JSON.

Class orders are torchvision's, which clip-benchmark takes over; Birdsnap, which neither has, is in the order
of its species ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from rwkvclip_eval.data.formats.image_files import (
    class_ids,
    find_base,
    image_split,
    need,
    need_split,
    read_lines,
)
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import below, read_json
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

BIRDSNAP_TEMPLATES = ("a photo of a {c}, a type of bird.",)
"""CLIP's, from data/prompts.md of openai/CLIP; clip-benchmark has none."""


def read_food101(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `food-101/`: `meta/{train,test}.json` map class to images, `images/CLASS/NUMBER.jpg`."""
    need_split("food101", split, ("train", "test"))
    base = find_base("food101", root, ["food-101"], "images")
    path = need("food101", base / "meta" / f"{split}.json")
    listed = read_json(path, TypeAdapter(dict[str, list[str]]), "food101's mapping of class to images")
    files = [f"images/{image}.jpg" for images in listed.values() for image in images]
    classes = [name for name, images in listed.items() for _ in images]
    order = sorted(listed)
    labels = class_ids("food101", classes, order, path)
    return image_split("food101", base, files, labels, [c.replace("_", " ") for c in order], cache_dir)


def read_birdsnap(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `birdsnap/`: species.txt, images.txt, test_images.txt; images where get_birdsnap.py puts them.

    Images whose address is dead are left out; those not listed for testing are for training.
    """
    name = "birdsnap"
    need_split(name, split, ("train", "test"))
    base = find_base(name, root, ["birdsnap"], "images.txt")
    species = _table(base / "species.txt", ("id", "common"))
    images = _table(base / "images.txt", ("path", "species_id"))
    test = set(read_lines(name, base / "test_images.txt")[1:])
    if wrong := [row["id"] for row in species if whole_number(row["id"]) is None]:
        raise DamagedData(f"{name}: species.txt has the id {wrong[0][:40]!r}; expected a number.")
    species = sorted(species, key=lambda row: int(row["id"]))
    number = {row["id"]: i for i, row in enumerate(species)}
    class_names = [row["common"] for row in species]
    if absent := test - {row["path"] for row in images}:
        raise DamagedData(f"{name}: test_images.txt lists {len(absent)} images that images.txt has not.")
    folder = next((f for f in ("download/images", "images", "download") if (base / f).is_dir()), None)
    if folder is None:
        raise DataNotFound(
            f"{name}: there is no folder download/images in {base}; run get_birdsnap.py there."
        )
    wanted = [row for row in images if (row["path"] in test) == (split == "test")]
    there = [row for row in wanted if below(base / folder, row["path"], name).is_file()]
    labels = class_ids(name, [row["species_id"] for row in there], list(number), base / "images.txt")
    files = [f"{folder}/{row['path']}" for row in there]
    return image_split(name, base, files, labels, class_names, cache_dir, BIRDSNAP_TEMPLATES)


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of one of Birdsnap's tab-separated tables with a header line."""
    header, *lines = read_lines("birdsnap", path)
    fields = header.split("\t")
    if not set(columns) <= set(fields):
        raise DamagedData(f"birdsnap: {path} has the columns {fields}; expected {', '.join(columns)}.")
    rows = [dict(zip(fields, line.split("\t"), strict=False)) for line in lines]
    if short := [i for i, row in enumerate(rows, 2) if not set(columns) <= set(row)]:
        raise DamagedData(f"birdsnap: line {short[0]} of {path} is cut off ({len(short)} such lines).")
    return rows


def read_aircraft(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `fgvc-aircraft-2013b/data/`: variants.txt, images_variant_SPLIT.txt, `images/`."""
    name = "aircraft"
    need_split(name, split, ("train", "val", "test"))
    base = find_base(name, root, ["fgvc-aircraft-2013b/data", "data"], "images")
    class_names = read_lines(name, base / "variants.txt")
    path = base / f"images_variant_{split}.txt"
    pairs = [line.partition(" ")[::2] for line in read_lines(name, path)]
    labels = class_ids(name, [variant_name for _, variant_name in pairs], class_names, path)
    files = [f"images/{number}.jpg" for number, _ in pairs]
    return image_split(name, base, files, labels, class_names, cache_dir)


def read_dtd(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `dtd/`: partition 1 of ten, `labels/{train,val,test}1.txt` with lines `CLASS/FILE`, `images/`."""
    name = "dtd"
    need_split(name, split, ("train", "val", "test"))
    base = find_base(name, root, ["dtd/dtd", "dtd"], "labels")
    path = base / "labels" / f"{split}1.txt"
    listed = read_lines(name, path)
    classes = [line.partition("/")[0] for line in listed]
    order = sorted(set(classes))
    labels = class_ids(name, classes, order, path)
    return image_split(name, base, [f"images/{line}" for line in listed], labels, order, cache_dir)


def read_pets(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `images/` and `annotations/{trainval,test}.txt` with lines `IMAGE CLASS SPECIES BREED`.

    Train is the authors' trainval; they set nothing aside for validation.
    """
    name = "pets"
    need_split(name, split, ("train", "test"))
    base = find_base(name, root, ["oxford-iiit-pet"], "annotations")
    path = base / "annotations" / ("trainval.txt" if split == "train" else "test.txt")
    rows = [line.split() for line in read_lines(name, path) if not line.startswith("#")]
    if wrong := [row for row in rows if len(row) != 4 or whole_number(row[1]) is None]:
        raise DamagedData(
            f"{name}: {path}: expected IMAGE CLASS SPECIES BREED, found {' '.join(wrong[0])!r}."
        )
    files, labels = [f"images/{row[0]}.jpg" for row in rows], [int(row[1]) - 1 for row in rows]
    return image_split(name, base, files, labels, shipped("labels", name), cache_dir)
