"""Reads a plain folder of images by a CSV manifest.

The file has a header line and the columns

    image    file below the root
    label    class id from 0 or class name; several, divided by `;`, make it a multilabel set
    caption  instead of `label`: one caption a row, rows of the same image belong together
    split    optional: train, val or test; without it all rows are `test`
    key      optional: the sample's key; the image file by default

Where all labels are whole numbers they are class ids and the suite gives the names; otherwise labels are
names, in the order of the suite's `class_names` or sorted. Classes are numbered over all splits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.reading import MOST_CLASSES, below, check_spellings, csv_rows, is_no_class_id
from rwkvclip_eval.data.samples import FileReader, Split, fingerprint_files, targets
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.errors import DamagedData, DataNotFound, NoSuchSplit, UserError, shortened, shown
from rwkvclip_eval.printable import unreadable
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = ("image", "label", "caption", "split", "key")
DIVIDER = ";"
MOST_MARKS = 1 << 27
"""Of a multilabel set: in memory they take 1 GiB."""


@dataclass(frozen=True)
class _Row:
    """One line of a manifest.

    Attributes:
        line: its number in the file, from 1.
        image: the file, below the images' folder.
        text: the label or caption.
        split: `train`, `val` or `test`.
        key: of the sample.
    """

    line: int
    image: str
    text: str
    split: str
    key: str


def open_manifest(
    path: Path,
    root: Path | None,
    split: str,
    class_names: Sequence[str] | None = None,
    cache_dir: Path | None = None,
) -> Split:
    """Open one split of the manifest.

    Args:
        path: the CSV file.
        root: folder of the images; the file's own by default.
        split: `train`, `val` or `test`.
        class_names: the suite's, if any.
        cache_dir: keeps the fingerprint; the user's cache folder by default.

    Raises:
        DataNotFound: no such file, or no rows of this split.
        DamagedData: a line that cannot be right, or whose label is not among the class names; it is named.
        UserError: columns that are missing or unknown.
    """
    path = path.absolute()
    root = path.parent if root is None else root.absolute()
    if not path.is_file():
        raise DataNotFound(f"There is no manifest {path} (a suite's paths are relative to the suite file).")
    if not root.is_dir():
        raise DataNotFound(f"There is no folder {root} for the images of {path.name}.")
    rows, target = _read(path)
    check_spellings((row.image for row in rows), str(path))
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        there = ", ".join(sorted({row.split for row in rows}))
        raise NoSuchSplit(f"{path} has no rows of split {split!r}; it has: {there}.")
    for row in chosen:
        image = below(root, row.image, f"{path}, line {row.line}")
        if not image.is_file():
            raise DamagedData(f"{path}, line {row.line}: there is no image {image}.")
    labels: np.ndarray[Any, Any] | None = None
    captions: list[list[str]] | None = None
    if target == "caption":
        chosen, captions = _captions(path, chosen)
    else:
        _check_keys(path, chosen)
        labels, class_names = _labels(path, rows, chosen, class_names)
    keys = [row.key for row in chosen]
    paths = [root / row.image for row in chosen]
    return Split(
        kind="retrieval" if labels is None else "multilabel" if labels.ndim == 2 else "classification",
        keys=keys,
        images=FileReader(tuple(paths), root),
        source=f"manifest {path.name}",
        fingerprint=fingerprint_files(paths, keys, targets(labels, captions), root, cache_dir),
        labels=labels,
        captions=captions,
        class_names=None if labels is None or class_names is None else tuple(class_names),
    )


def _read(path: Path) -> tuple[list[_Row], str]:
    """Return all rows, and which column (`label` or `caption`) says what they show."""
    rows: list[_Row] = []
    target = ""
    for line, values in csv_rows(path, check=_check_columns):
        target = target or ("label" if "label" in values else "caption")
        rows.append(_row(path, line, values, target))
    if not rows:
        raise DataNotFound(f"{path} has a header but no rows.")
    return rows, target


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a header.

    Raises:
        UserError: columns are missing or unknown.
    """
    for column in columns:
        if column not in COLUMNS:
            raise UserError(f"{path}: {unknown_name('column', column, COLUMNS)}")
    given = [column for column in ("label", "caption") if column in columns]
    if "image" not in columns or len(given) != 1:
        raise UserError(
            f"{path}: expected a header with image and one of label and caption, "
            f"found {', '.join(columns) or 'nothing'}."
        )


def _row(path: Path, line: int, raw: dict[str, str], target: str) -> _Row:
    """Return one line's values.

    Raises:
        DamagedData: fields are empty, or the split is none.
    """
    where = f"{path}, line {line}"
    values = {column: text.strip() for column, text in raw.items()}
    for column in ("image", target, *(c for c in ("split", "key") if c in values)):
        if why := unreadable(values[column]):
            raise DamagedData(f"{where}: the {column} {why}.")
    if any("\n" in text for text in values.values()):
        raise DamagedData(
            f"{where}: a field has a line break, as where a quote is misplaced; write it in one line."
        )
    for part in values["label"].split(DIVIDER) if target == "label" else ():
        if why := unreadable(part.strip()):
            raise DamagedData(f"{where}: in {shortened(values['label'])!a}, a label {why}.")
    split = values.get("split", "test")
    if split not in SPLITS:
        raise DamagedData(f"{where}: {unknown_name('split', split, SPLITS)}")
    return _Row(line, values["image"], values[target], split, values.get("key", values["image"]))


def _check_keys(path: Path, rows: Sequence[_Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.key in seen:
            raise DamagedData(
                f"{path}, line {row.line}: the key {row.key!r} is that of line {seen[row.key]} too. Each row "
                f"with a label is one sample; several labels go into one field, divided by {DIVIDER!r}."
            )
        seen[row.key] = row.line


def _captions(path: Path, rows: Sequence[_Row]) -> tuple[list[_Row], list[list[str]]]:
    """Return the first row of each key in order, and each key's captions."""
    by_key: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_key[row.key].append(row)
        if row.image != by_key[row.key][0].image:
            raise DamagedData(
                f"{path}, line {row.line}: the key {row.key!r} is that of another image in line "
                f"{by_key[row.key][0].line}."
            )
    return [same[0] for same in by_key.values()], [[row.text for row in same] for same in by_key.values()]


def _labels(
    path: Path, rows: Sequence[_Row], chosen: Sequence[_Row], class_names: Sequence[str] | None
) -> tuple[np.ndarray[Any, Any], Sequence[str] | None]:
    """Return [n] int64 or [n, K] 0/1 of the chosen rows, and the class names if there are any."""
    parts = {row.line: [part.strip() for part in row.text.split(DIVIDER)] for row in rows}
    texts = {part for listed in parts.values() for part in listed}
    known = set(class_names or ())
    if foreign := [row for row in rows if any(p.isdecimal() and not p.isascii() for p in parts[row.line])]:
        raise DamagedData(
            f"{path}, line {foreign[0].line}: label {foreign[0].text[:40]!r} is written in other digits than "
            "0 to 9."
        )
    if all(text.isdecimal() for text in texts) and not texts <= known:
        # Behind every class there is.
        number = {text: MOST_CLASSES if (n := whole_number(text)) is None else n for text in texts}
        count = len(known) or min(max(number.values()) + 1, MOST_CLASSES)
        if too_high := [row for row in rows if any(number[part] >= count for part in parts[row.line])]:
            raise DamagedData(
                f"{path}, line {too_high[0].line}: label {too_high[0].text[:40]} for {count} "
                f"{'class names' if known else 'classes at most'}, which are numbered from 0."
            )
    else:
        odd = [row for row in rows if not known and any(map(is_no_class_id, parts[row.line]))]
        if odd:
            raise DamagedData(
                f"{path}, line {odd[0].line}: label {shown(odd[0].text)} is a number, but class ids are "
                "whole numbers from 0 in all rows; if it is a name, write class_names in the suite."
            )
        class_names = class_names or sorted(texts)
        number = {name: i for i, name in enumerate(class_names)}
        for row in rows:
            for part in parts[row.line]:
                if part not in number:
                    raise DamagedData(
                        f"{path}, line {row.line}: {unknown_name('class name', part, class_names)}"
                    )
        count = len(class_names)
    if all(len(listed) == 1 for listed in parts.values()):
        return np.array([number[parts[row.line][0]] for row in chosen], dtype=np.int64), class_names
    if len(chosen) * count > MOST_MARKS:
        raise DamagedData(
            f"{path}: {len(chosen)} images times {count} classes are more marks than the {MOST_MARKS} that "
            "are kept; number the classes without gaps."
        )
    labels = np.zeros((len(chosen), count), dtype=np.int64)
    for i, row in enumerate(chosen):
        labels[i, [number[part] for part in parts[row.line]]] = 1
    return labels, class_names
