"""KITTI as VTAB's task `closest_vehicle_distance`: how far is the nearest vehicle, in four classes.

    training/image_2/000000.png…  data_object_image_2.zip
    training/label_2/000000.txt…  data_object_label_2.zip
    mapping/train_mapping.txt, mapping/train_rand.txt  devkit_object.zip

The definition is VTAB's (google-research/task_adaptation, data/kitti.py), the split that of TensorFlow
Datasets' kitti 3.3.0, which VTAB takes: a tenth of the drives for test and a tenth for validation, drawn with
numpy's seed 123; no drive is in two splits.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.data.formats.image_files import find_base, image_split, need, need_split, read_lines
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import read_text, text_lines
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

NAME = "kitti"
VEHICLES = ("Car", "Van", "Truck")
BOUNDS_M = (8.0, 20.0, 999.0)
"""A class ends with the bound itself: 8 m is class 0."""
NO_VEHICLE_M = 1000.0
LABEL_FIELDS = 15
DEPTH_FIELD = 13
"""z in camera coordinates, in metres (devkit_object's readme)."""
SEED, SHARE_PERCENT = 123, 10


def read_kitti(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split of VTAB's task."""
    need_split(NAME, split, SPLITS)
    base = find_base(NAME, root, ["Kitti/raw", "kitti"], "training/image_2")
    numbers = split_by_drive(*_mapping(root.absolute(), base))[split]
    labels_folder = need(NAME, base / "training" / "label_2")
    labels = [nearest_vehicle(labels_folder / f"{number:06d}.txt") for number in numbers]
    files = [f"training/image_2/{number:06d}.png" for number in numbers]
    return image_split(
        NAME, base, files, labels, shipped("labels", "kitti_closest_vehicle_distance"), cache_dir
    )


def nearest_vehicle(path: Path) -> int:
    """Return the class of one image from its labels: 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 no vehicle.

    Raises:
        DataNotFound: there is no such file.
        DamagedData: a line has not the published fields.
    """
    distance = NO_VEHICLE_M
    lines = text_lines(read_text(need(NAME, path)))
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != LABEL_FIELDS:
                raise ValueError(f"{len(fields)} fields")
            if fields[0] in VEHICLES:
                distance = min(distance, float(fields[DEPTH_FIELD]))
        except ValueError as error:
            raise DamagedData(
                f"{path}, line {number}: expected a type and {LABEL_FIELDS - 1} numbers ({error})."
            ) from error
    return sum(distance > bound for bound in BOUNDS_M)


def split_by_drive(drives: list[str], places: list[int]) -> dict[str, list[int]]:
    """Return split → image numbers in order.

    Args:
        drives: the drive of each line of train_mapping.txt.
        places: for each image the line, from 1, it was drawn from (train_rand.txt).
    """
    images: dict[str, list[int]] = defaultdict(list)
    for image, place in enumerate(places):
        images[drives[place - 1]].append(image)
    draw = np.random.RandomState(SEED)
    count = max(1, SHARE_PERCENT * len(images) // 100)
    test = set(draw.choice(sorted(images), count, replace=False).tolist())
    val = set(draw.choice(sorted(set(images) - test), count, replace=False).tolist())
    chosen = {"train": set(images) - test - val, "val": val, "test": test}
    return {name: sorted(i for drive in those for i in images[drive]) for name, those in chosen.items()}


def _mapping(root: Path, base: Path) -> tuple[list[str], list[int]]:
    """Return the development kit's drives and places, see `split_by_drive`."""
    folders = [top / kit / "mapping" for top in (base, root) for kit in ("", "devkit_object", "devkit")]
    folder = next((f for f in folders if (f / "train_mapping.txt").is_file()), None)
    if folder is None:
        raise DataNotFound(
            f"{NAME}: there is no mapping/train_mapping.txt in {root}; it tells the splits. "
            "Unpack devkit_object.zip there."
        )
    rows = [line.split() for line in read_lines(NAME, folder / "train_mapping.txt")]
    texts = ",".join(read_lines(NAME, folder / "train_rand.txt")).split(",")
    places = [whole_number(text) or 0 for text in texts if text.strip()]
    if any(len(row) < 2 for row in rows) or not places or not 1 <= min(places) <= max(places) <= len(rows):
        raise DamagedData(f"{NAME}: train_rand.txt and train_mapping.txt in {folder} do not fit each other.")
    return [row[1] for row in rows], places
