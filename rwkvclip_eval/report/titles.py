"""What pages and drawings call the datasets: as papers print them, where tables of text have record names."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rwkvclip_eval.records.titles import version_title
from rwkvclip_eval.report.tables import build_tables
from rwkvclip_eval.report.wording import dataset_version

if TYPE_CHECKING:
    from collections.abc import Collection

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


def _average(row: Row, names: Collection[str]) -> Row:
    cells = {
        model: dataclasses.replace(
            cell, missing=tuple(version_title(one, names=names) for one in cell.missing)
        )
        for model, cell in row.cells.items()
    }
    return dataclasses.replace(
        row,
        cells=cells,
        datasets=tuple(version_title(one, names=names) for one in row.datasets),
        leaves_out=tuple(version_title(one, names=names) for one in row.leaves_out),
    )


def _of_entry(entry: Entry, names: Collection[str]) -> str:
    split = entry.record.split
    return version_title(dataset_version(entry.record), "" if split in ("", "test") else split, names)
