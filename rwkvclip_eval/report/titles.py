"""What pages and drawings call the datasets: as papers print them, where tables of text have record names."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rwkvclip_eval.report.tables import build_tables
from rwkvclip_eval.report.wording import DATASET_TITLES, dataset_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rwkvclip_eval.report.entries import Entry
    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table


def titled(loaded: Loaded) -> Loaded:
    """Return `loaded` with entries that go by the title of their dataset: `SUN397 (partition1)`."""
    names = {e.record.dataset for e in loaded.entries}
    return dataclasses.replace(
        loaded, entries=tuple(dataclasses.replace(e, title=_of_entry(e, names)) for e in loaded.entries)
    )


def titled_tables(loaded: Loaded) -> list[Table]:
    """Return the tables of what `titled` returned, with the titles of what averages are over and lack."""
    names = {e.record.dataset for e in loaded.entries}
    return [
        dataclasses.replace(table, averages=tuple(_average(row, names) for row in table.averages))
        for table in build_tables(loaded.entries, loaded.averages)
    ]


def _average(row: Row, names: Iterable[str]) -> Row:
    cells = {
        model: dataclasses.replace(cell, missing=tuple(_of_version(one, names) for one in cell.missing))
        for model, cell in row.cells.items()
    }
    return dataclasses.replace(
        row,
        cells=cells,
        datasets=tuple(_of_version(one, names) for one in row.datasets),
        leaves_out=tuple(_of_version(one, names) for one in row.leaves_out),
    )


def _of_entry(entry: Entry, names: Iterable[str]) -> str:
    split = entry.record.split
    return _of_version(dataset_version(entry.record), names, "" if split in ("", "test") else split)


def _of_version(version: str, names: Iterable[str], split: str = "") -> str:
    """Return the title of a dataset with its variant and split; what has none keeps its name.

    Args:
        version: record name, with its variant where that is not the usual one.
        names: record names of the report; one that is called like another's title keeps that for itself.
        split: where it is not the test split.
    """
    name, _, variant = version.partition("@")
    title = DATASET_TITLES.get(name, name)
    title = name if title in names else title
    said = ", ".join(filter(None, (variant, split)))
    return f"{title} ({said})" if said else title
