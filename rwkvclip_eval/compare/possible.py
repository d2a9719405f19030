"""What per-sample predictions cannot be, whether a number uses it or not.

Axes: n rows, k entries of a ranking, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.compare.tables import KNOWN_COLUMNS, MAX_CLASS, Table, open_table, read_table
from rwkvclip_eval.errors import OutputError
from rwkvclip_models.disk import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record

TABLES = ("predictions", "image_to_text", "text_to_image")
"""Of samples, as tasks of ours write them."""
_FIT = ("l2", "objective", "iterations", "status")
_MAX_FITS = 10_000
_FLOAT32 = 1e-5
"""Relative: what rounding logits to float32 changes."""


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse tables of predictions that are not as they were written.

    Args:
        folder: of one unit.
        digests: name → SHA-256 of its file; nothing in records of before they were kept.

    Raises:
        OutputError: one is missing, or has other bytes.
    """
    for name, digest in digests.items():
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise OutputError(f"{path} is missing; its record names it. Run the suite again.")
        if file_digest(path) != digest:
            raise OutputError(
                f"{path} is not as it was written: its record has another SHA-256. Run the suite again."
            )


def check_tables(folder: Path, record: Record) -> None:
    """Refuse tables of one of our tasks that no model and no data could have given.

    Raises:
        OutputError: one is; the text says in what.
    """
    tables = {
        name: read_table(folder / f"{name}.parquet", KNOWN_COLUMNS)
        for name in TABLES
        if (folder / f"{name}.parquet").exists()
    }
    for name, table in tables.items():
        for why in _problems(name, table, tables, record):
            raise OutputError(f"{table.path} cannot be right: {why}. Run the suite again.")


def _problems(name: str, table: Table, tables: Mapping[str, Table], record: Record) -> Iterator[str]:
    yield from _key_problems(name, table)
    if name == "predictions":
        if "top_ids" in table.columns:
            yield from _ranking_problems(table, record)
        elif (
            "hit_5" in table.columns
            and (missed := ~table["hit_5"].astype(bool))[table["prediction"] == table["label"]].any()
        ):
            yield f"{int((missed & (table['prediction'] == table['label'])).sum())} hits at 1 are none at 5"
        return
    other = tables.get(TABLES[3 - TABLES.index(name)])
    if other is None:
        yield "the table of the other direction is missing"
        return
    if (worst := int(table["rank"].max())) > other.num_rows:
        yield f"rank {worst} among {other.num_rows} candidates"
    if name == "text_to_image" and {*table.texts("key")} != {*other.texts("key")}:
        yield "its images are not those of image_to_text"


def _key_problems(name: str, table: Table) -> Iterator[str]:
    if "key" not in table.columns:
        yield "it has no column 'key'"
        return
    if table.columns["key"].null_count:
        yield f"{table.columns['key'].null_count} rows have no key"
    codes = table.codes("key")
    if "" in table.texts("key"):
        yield "a key is empty"
    more = [n for n in ("shots", "seed", "caption_index") if n in table.columns]
    rows = np.stack([codes, *(table[n].astype(np.int64) for n in more)], axis=1)
    if twice := len(rows) - len(np.unique(rows, axis=0)):
        yield f"{twice} rows have the {' and '.join(['key', *more])} of another"
    if name == "text_to_image" and "caption_index" in table.columns:
        counts = np.bincount(codes)
        if (table["caption_index"] >= counts[codes]).any():
            yield "captions of an image are not numbered from 0 without gaps"


def _ranking_problems(table: Table, record: Record) -> Iterator[str]:
    """Yield what is wrong with predictions of one label an image."""
    ids, prediction, label = table["top_ids"], table["prediction"], table["label"]
    num_classes = _num_classes(table, record)
    if num_classes is not None:
        for column, values in (("label", label), ("prediction", prediction), ("top_ids", ids)):
            if (worst := int(values.max())) >= num_classes:
                yield f"{column} {worst} of {num_classes} classes"
        if (kept := ids.shape[1]) != min(5, num_classes):
            yield f"top_ids are {kept} of {num_classes} classes"
    ordered = np.sort(ids, axis=1)
    if repeated := int((ordered[:, 1:] == ordered[:, :-1]).any(axis=1).sum()):
        yield f"{repeated} rows have one class twice in top_ids"
    # Of equal truncated logits top-1 and top-5 name different classes.
    if record.notes.get("logits") == "truncated" or record.protocol.startswith("official"):
        return
    if other := int((ids[:, 0] != prediction).sum()):
        yield f"{other} rows have another prediction than the first of top_ids"
    if {"top_logits", "log_sum_exp", "label_logit"} <= {*table.columns}:
        yield from _logit_problems(table, num_classes)


def _num_classes(table: Table, record: Record) -> int | None:
    if table.class_names:
        return len(table.class_names)
    said = record.notes.get("num_classes")
    return said if isinstance(said, int) and 0 < said <= MAX_CLASS else None


def _logit_problems(table: Table, num_classes: int | None) -> Iterator[str]:
    top, total = table["top_logits"].astype(np.float64), table["log_sum_exp"].astype(np.float64)
    if top.shape != table["top_ids"].shape:
        yield f"top_logits are {top.shape[1]} a row, top_ids {table['top_ids'].shape[1]}"
        return
    if rising := int((np.diff(top, axis=1) > 0).any(axis=1).sum()):
        yield f"{rising} rows have logits that rise from rank to rank"
        return
    room = _FLOAT32 * (1 + np.abs(top).max(axis=1))
    shifted = np.exp(top - top[:, :1])
    least = top[:, 0] + np.log(shifted.sum(axis=1))
    wrong = total < least - room
    if num_classes is not None:
        rest = max(0, num_classes - top.shape[1]) * shifted[:, -1]
        wrong |= total > top[:, 0] + np.log(shifted.sum(axis=1) + rest) + room
    if wrong.any():
        yield f"{int(wrong.sum())} rows have a log_sum_exp that their logits do not allow"
    own = table["label_logit"].astype(np.float64)
    there = table["top_ids"] == table["label"][:, None]
    placed = there.any(axis=1)
    expected = np.where(placed, (top * there).sum(axis=1), top[:, -1])
    off = np.where(placed, np.abs(own - expected) > room, own > expected + room)
    if off.any():
        yield f"{int(off.sum())} rows have a label_logit that their ranking does not allow"


def fit_facts(folder: Path, record: Record) -> dict[str, float | str | None]:
    """Return what a linear probe's table of fits says of the last, by the names of a record's notes.

    Raises:
        OutputError: the table cannot be read, or has no last fit.
    """
    path = folder / "regularisation.parquet"
    if record.task != "linear_probe" or not path.exists():
        return {}
    with open_table(path) as file:
        if file.metadata.num_rows > _MAX_FITS or not {"stage", *_FIT} <= {*file.schema_arrow.names}:
            raise OutputError(f"{path} is no table of fits. Run the suite again.")
        rows: Sequence[dict[str, Any]] = file.read(["stage", *_FIT]).to_pylist()
    last = [row for row in rows if row["stage"] == "final"]
    if len(last) != 1 or not isinstance(last[0]["l2"], float) or not 0 < last[0]["l2"] < math.inf:
        raise OutputError(
            f"{path} has {len(last)} last fits, or one without a strength. Run the suite again."
        )
    return {**{name: last[0][name] for name in _FIT}, "C": 1 / last[0]["l2"]}
