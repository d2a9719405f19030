"""Reads image folders: one folder per class, or one flat folder with captions.csv or captions.json."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from rwkvclip_eval.data.reading import (
    below,
    check_captions,
    check_spellings,
    csv_rows,
    numbers_in_order,
    plain_name,
    read_json,
)
from rwkvclip_eval.data.samples import IMAGE_SUFFIXES, FileReader, Split, fingerprint_files, targets
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.errors import DamagedData, DataNotFound, DataWarning, NoSuchSplit, UserError, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES = frozenset(f".{s}" for s in (*IMAGE_SUFFIXES, "bmp", "tif", "tiff", "gif", "ppm", "pgm"))


def open_folder(
    path: Path, split: str, class_names: Sequence[str] | None = None, cache_dir: Path | None = None
) -> Split:
    """Open `path`/`split` if there is such a folder, otherwise `path` itself.

    A captions.csv (columns `image`, `caption`; one row per caption) or captions.json (file → caption or list
    of captions) makes it a retrieval set. Otherwise each folder is a class, labelled by its place among the
    sorted folders of all splits. Where `class_names` are the folders' names, they give the label order; where
    they are other words, they name the sorted folders.

    Args:
        path: the folder.
        split: tried as a folder below it.
        class_names: the suite's, if any.
        cache_dir: keeps the fingerprint; the user's cache folder by default.

    Raises:
        DataNotFound: no such folder.
        DamagedData: no images in it, or captions that do not fit them.
        UserError: class names that fit the folders only in part.
    """
    path = path.absolute()
    if not path.is_dir():
        raise DataNotFound(f"There is no folder {path} (a suite's `folder` is relative to the suite file).")
    plain_name(split, "split")
    root = path / split if (path / split).is_dir() else path
    if root == path and (others := [s for s in SPLITS if (path / s).is_dir()]):
        raise NoSuchSplit(f"{path} has no split {split!r}; it has: {', '.join(others)}.")
    if root == path and split not in SPLITS:
        raise NoSuchSplit(
            f"{path} has no folder {split!r}; without such folders it is any of {', '.join(SPLITS)}."
        )
    source = f"folder {path.name}" + (f"/{split}" if root != path else "")
    if files := [root / name for name in ("captions.csv", "captions.json") if (root / name).is_file()]:
        if len(files) > 1:
            raise DamagedData(f"{root} holds captions.csv and captions.json: which is it? Move one away.")
        return _with_captions(root, files[0], source, cache_dir)
    # A class that one split lacks must not move the labels of the others.
    splits = [path / s for s in SPLITS if (path / s).is_dir()] if root != path else [root]
    return _with_classes(root, sorted(set(splits) | {root}), source, class_names, cache_dir)


def _with_classes(
    root: Path,
    splits: Sequence[Path],
    source: str,
    class_names: Sequence[str] | None,
    cache_dir: Path | None,
) -> Split:
    here = _class_folders(root)
    if not here:
        raise DamagedData(
            f"{root} has neither one folder per class nor captions.csv or captions.json beside its images."
        )
    order = _label_order(
        sorted({name for split in splits for name in _class_folders(split)}), class_names, root
    )
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(order):
        if folder not in here:
            continue
        found = sorted(
            p
            for p in (root / folder).rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and not p.is_dir()
        )
        if not found:
            raise DamagedData(
                f"{root / folder} holds no images ({', '.join(sorted(SUFFIXES))}). Remove it or complete it."
            )
        paths += found
        labels += [label] * len(found)
    keys = [p.relative_to(root).as_posix() for p in paths]
    array = np.array(labels, dtype=np.int64)
    return Split(
        kind="classification",
        keys=keys,
        images=FileReader(tuple(paths), root),
        source=source,
        fingerprint=fingerprint_files(paths, keys, targets(array, None), root, cache_dir),
        labels=array,
        class_names=tuple(order),
    )


def _class_folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _label_order(folders: list[str], class_names: Sequence[str] | None, root: Path) -> list[str]:
    """Return the folders in label order: that of the class names given, of numbers, or of the alphabet."""
    if class_names is None or not set(class_names) & set(folders):
        return numbers_in_order(folders)
    if twice := [name for name, times in Counter(class_names).items() if times > 1 and name in folders]:
        raise UserError(
            f"{root}: class names that are folders stand for one class each, but {name_some(twice)} is there "
            "more than once."
        )
    if set(class_names) == set(folders):
        return list(class_names)
    without = sorted(set(class_names) - set(folders))
    extra = sorted(set(folders) - set(class_names))
    raise UserError(
        f"{root}: some class names are folders and some are not, so the label order is unclear. Class names "
        f"without a folder: {name_some(without) or 'none'}; folders without a class name: "
        f"{name_some(extra) or 'none'}."
    )


def _with_captions(root: Path, file: Path, source: str, cache_dir: Path | None) -> Split:
    by_image = _read_captions(file)
    paths = [below(root, name, str(file)) for name in by_image]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise DamagedData(f"{file} names {len(missing)} images that are not there: {name_some(missing)}.")
    keys, captions = list(by_image), list(by_image.values())
    # A folder may hold more than the set: the images of others beside it, or some that captions forgot.
    there = sum(
        p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file() for p in root.rglob("*")
    )
    if there > len(paths):
        part = f"{len(paths)} of the {there} images there, those that {file.name} names"
        warnings.warn(f"{root}: {part}, are the set.", DataWarning, stacklevel=2)
        source += f": {part}"
    return Split(
        kind="retrieval",
        keys=keys,
        images=FileReader(tuple(paths), root),
        source=source,
        fingerprint=fingerprint_files(paths, keys, targets(None, captions), root, cache_dir),
        captions=captions,
    )


def _read_captions(file: Path) -> dict[str, list[str]]:
    """Return image file → captions, in the file's order.

    Raises:
        DamagedData: it has another form, or an image without a caption.
    """
    by_image: dict[str, list[str]] = {}
    if file.suffix == ".csv":
        for _, row in csv_rows(file, ("image", "caption")):
            by_image.setdefault(row["image"], []).append(row["caption"])
        if broken := [name for name, said in by_image.items() if any("\n" in caption for caption in said)]:
            raise DamagedData(
                f"{file}: a caption of {name_some(broken)} has a line break, as where a quote is misplaced; "
                "write each caption in one line."
            )
    else:
        content = read_json(file, _CAPTIONS, "a mapping of image file to caption or list of captions")
        by_image = {name: [said] if isinstance(said, str) else said for name, said in content.items()}
    check_spellings(by_image, str(file))
    if not by_image:
        raise DamagedData(f"{file} holds no captions: it has no rows.")
    check_captions(by_image.items(), str(file))
    return by_image


_CAPTIONS: TypeAdapter[dict[str, str | list[str]]] = TypeAdapter(dict[str, str | list[str]])
