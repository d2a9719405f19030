"""ImageNet-1k (ILSVRC 2012): train/ and val/ as unpacked from the archives or in Kaggle's tree.

    train/nXXXXXXXX/*.JPEG
    val/nXXXXXXXX/*.JPEG, or val/ILSVRC2012_val_00000001.JPEG… with one of
        ILSVRC2012_devkit_t12/data/{meta.mat, ILSVRC2012_validation_ground_truth.txt}
        LOC_synset_mapping.txt and LOC_val_solution.csv (Kaggle)

Labels are the places of the sorted WordNet ids, as in torchvision and clip-benchmark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.data.formats.image_files import class_ids, find_base, image_split, need_split, read_lines
from rwkvclip_eval.data.formats.mat_files import load_mat
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

NAME = "imagenet"
NUM_CLASSES = 1000
FOLDERS = {"train": "train", "test": "val"}
"""Split → folder: the labelled validation images are what the field tests on."""
SUFFIXES = (".jpeg", ".jpg", ".png")


def read_imagenet(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split; `test` is the 50,000 validation images."""
    need_split(NAME, split, FOLDERS, "the validation images are the test split")
    base = find_base(NAME, root, ["ILSVRC/Data/CLS-LOC"], FOLDERS[split])
    folder = base / FOLDERS[split]
    entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    folders = [entry for entry in entries if (folder / entry).is_dir()]
    if folders:
        wnids = _wnids(root, base) or folders
        files = [
            f"{folder.name}/{wnid}/{image}"
            for wnid in folders
            for image in _images([path.name for path in (folder / wnid).iterdir()])
        ]
        classes = [file.split("/")[1] for file in files]
    elif split == "train":
        raise DataNotFound(
            f"{NAME}: {folder} has no folder per class; unpack each nXXXXXXXX.tar into a folder of its name."
        )
    else:
        images = _images(entries)
        wnids, classes = _flat_classes(root, base, images)
        files = [f"{folder.name}/{image}" for image in images]
    if len(wnids) != NUM_CLASSES:
        raise DamagedData(
            f"{NAME}: {len(wnids)} classes in {folder}, expected {NUM_CLASSES}: labels follow their order. "
            "With ILSVRC2012_devkit_t12 beside it, a copy that lacks some can be read."
        )
    labels = class_ids(NAME, classes, sorted(wnids), folder)
    return image_split(NAME, base, files, labels, shipped("labels", NAME), cache_dir)


def _images(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))


def _data(root: Path, base: Path) -> Path | None:
    """Return the development kit's folder `data`."""
    found = (folder / "ILSVRC2012_devkit_t12" / "data" for folder in (base, root))
    return next((folder for folder in found if folder.is_dir()), None)


def _wnids(root: Path, base: Path) -> list[str] | None:
    """Return the 1,000 WordNet ids of the development kit or of Kaggle's list, None where neither is."""
    mapping = root / "LOC_synset_mapping.txt"
    if mapping.is_file():
        return [line.partition(" ")[0] for line in read_lines(NAME, mapping)]
    data = _data(root, base)
    return None if data is None else list(_numbered(data).values())


def _numbered(data: Path) -> dict[int, str]:
    """Return ILSVRC2012_ID → WordNet id of the synsets without children."""
    synsets = load_mat(NAME, data / "meta.mat", "synsets")
    return {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}


def _flat_classes(root: Path, base: Path, images: list[str]) -> tuple[list[str], list[str]]:
    """Return all WordNet ids, and that of each of the validation images, sorted by name.

    Raises:
        DataNotFound: neither list of labels is there.
        DamagedData: the list does not fit the images.
    """
    solution, data, wnids = root / "LOC_val_solution.csv", _data(root, base), _wnids(root, base)
    if solution.is_file() and wnids is not None:
        rows = [line.partition(",")[::2] for line in read_lines(NAME, solution)[1:]]
        known = {image: prediction.partition(" ")[0] for image, prediction in rows}
        if unknown := [image for image in images if image.rpartition(".")[0] not in known]:
            raise DamagedData(
                f"{NAME}: {solution} has no label for {len(unknown)} images, such as {unknown[0]}."
            )
        return wnids, [known[image.rpartition(".")[0]] for image in images]
    if data is None or wnids is None:
        raise DataNotFound(
            f"{NAME}: the images in {base / 'val'} are in no class folders, so their labels are needed: "
            f"unpack ILSVRC2012_devkit_t12.tar.gz into {root}."
        )
    truth = data / "ILSVRC2012_validation_ground_truth.txt"
    numbers = [-1 if (n := whole_number(line)) is None else n for line in read_lines(NAME, truth)]
    by_number = _numbered(data)
    places = [image.rpartition(".")[0].rpartition("_")[2] for image in images]
    if bad := [
        i for i, p in zip(images, places, strict=True) if not 1 <= (whole_number(p) or 0) <= len(numbers)
    ]:
        raise DamagedData(
            f"{NAME}: {truth} has {len(numbers)} labels, none for {len(bad)} images, such as {bad[0]}."
        )
    if strange := {numbers[int(p) - 1] for p in places} - set(by_number):
        raise DamagedData(f"{NAME}: {truth} has labels that meta.mat has not, such as {min(strange)}.")
    return wnids, [by_number[numbers[int(p) - 1]] for p in places]
