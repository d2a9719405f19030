"""What readers of published files share: find them, read their lists, make the split of image files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.reading import below, read_text
from rwkvclip_eval.data.samples import FileReader, Split, check_unique, fingerprint_files, targets
from rwkvclip_eval.errors import DamagedData, DataNotFound, NoSuchSplit, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

LEVELS = 3
"""How far above a given folder the right one is looked for, to name it."""


def find_base(name: str, root: Path, folders: Sequence[str], holds: str) -> Path:
    """Return the folder that holds the file or folder `holds`: `root`/one of `folders`, or `root` itself.

    Args:
        name: the record name; the catalogue says what the folder should hold.
        root: the dataset's folder.
        folders: names archives unpack to, tried first.
        holds: file or folder.

    Raises:
        DataNotFound: none does; the text says what is missing, where it was looked for and how to get it.
    """
    bases = [*(root.absolute() / folder for folder in folders), root.absolute()]
    for base in bases:
        if (base / holds).exists():
            return base
    raise DataNotFound(
        f"{name}: there is no {holds} in {' or '.join(map(str, bases))}. "
        f"{_what_to_do(name, root, [*(f'{folder}/{holds}' for folder in folders), holds])}"
    )


def locate(name: str, root: Path, *candidates: str) -> Path:
    """Return the first of `candidates` that exists below `root`.

    Raises:
        DataNotFound: none does; the text names them all and says how to get them.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise DataNotFound(
        f"{name}: there is no {' or '.join(candidates)} in {root}. {_what_to_do(name, root, candidates)}"
    )


def _what_to_do(name: str, root: Path, candidates: Sequence[str]) -> str:
    """Return which folder to give instead, else what it should hold and how to get that."""
    root = root.absolute()
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in (*root.parents[:LEVELS], *inside):
        if any((folder / candidate).exists() for candidate in candidates):
            return f"It is in {folder}: give that folder."
    entry = catalogue()[name]
    return f"Expected: {entry.layout.rstrip('.')}." + (entry.by_hand and f" By hand: {entry.by_hand}")


def need(name: str, path: Path) -> Path:
    """Return `path` if it is there.

    Raises:
        DataNotFound: it is not; the text names it.
    """
    if not path.exists():
        raise DataNotFound(f"{name}: there is no {path}; it is part of the published files.")
    return path


def need_split(name: str, split: str, known: Iterable[str], why: str = "") -> None:
    """Refuse a split the authors do not define.

    Raises:
        NoSuchSplit: `split` is not among `known`.
    """
    names = list(known)
    if split not in names:
        raise NoSuchSplit(
            f"{name} has no official split {split!r}{why and f' ({why})'}; it has: {', '.join(names)}."
        )


def read_lines(name: str, path: Path) -> list[str]:
    """Return the lines of a list that are not blank, without white space at their ends.

    Raises:
        DataNotFound: there is no such file.
        DamagedData: it is not UTF-8, or empty.
    """
    lines = [line.strip() for line in read_text(need(name, path)).split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise DamagedData(f"{name}: {path} is empty; fetch it again.")
    return lines


def class_ids(name: str, names: Sequence[str], classes: Sequence[str], where: Path) -> list[int]:
    """Return the class number of each of `names`.

    Raises:
        DamagedData: `where` names classes that are not among `classes`.
    """
    number = {c: i for i, c in enumerate(classes)}
    if strange := sorted(set(names) - set(number)):
        raise DamagedData(f"{name}: {where} names {len(strange)} unknown classes: {name_some(strange)}.")
    return [number[c] for c in names]


def image_split(
    name: str,
    base: Path,
    files: Sequence[str],
    labels: Sequence[int] | np.ndarray[Any, Any],
    class_names: Sequence[str] | None,
    cache_dir: Path | None,
    templates: tuple[str, ...] | None = None,
) -> Split:
    """Return the split of image files below `base`.

    Args:
        name: the record name, for messages and the source.
        base: folder of the published files; keys are paths below it.
        files: n paths below it, with slashes.
        labels: [n] class ids, or [n, K] 0/1, −1 where it is left open.
        class_names: in label order; None takes clip-benchmark's list.
        cache_dir: keeps the fingerprint.
        templates: for sets of which clip-benchmark has none.

    Raises:
        DataNotFound: the list is empty.
        DamagedData: images that are not there, listed twice or outside `base`, or labels outside the class
            names.
    """
    if not files:
        raise DataNotFound(f"{name}: no images below {base}.")
    paths = tuple(below(base, file, name) for file in files)
    if missing := [file for file, path in zip(files, paths, strict=True) if not path.is_file()]:
        raise DamagedData(
            f"{name}: {len(missing)} of {len(files)} images are not below {base}: {name_some(missing)}. "
            "Unpack the images again."
        )
    check_unique(files, f"{name} in {base}")
    array = np.asarray(labels, dtype=np.int64)
    least = 0 if array.ndim == 1 else -1
    if array.min() < least or (array.ndim == 1 and class_names and array.max() >= len(class_names)):
        raise DamagedData(
            f"{name}: labels {array.min()} to {array.max()} for {len(class_names or ())} classes."
        )
    return Split(
        kind="classification" if array.ndim == 1 else "multilabel",
        keys=list(files),
        images=FileReader(paths, base),
        source=f"published files of {name}",
        fingerprint=fingerprint_files(paths, files, targets(array, None), base, cache_dir),
        labels=array,
        class_names=None if class_names is None else tuple(class_names),
        templates=templates,
    )
