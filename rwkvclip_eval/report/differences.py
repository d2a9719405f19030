"""Differences of two models on every dataset of a table: paired where predictions of both are kept.

A number measured here and a published one, or two numbers of which predictions are missing, are taken for
independent: that interval is wider than a paired one, and no win is read from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.compare.measured import PairOfUnits, Unknown
from rwkvclip_eval.compare.tables import SamplesDiffer
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.metrics.intervals import Z, wilson
from rwkvclip_eval.records.metrics import MAP_11_POINT, MAP_AREA
from rwkvclip_eval.records.published import counterparts
from rwkvclip_eval.report.paper_measured import meant_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.records.published import PublishedRow
    from rwkvclip_eval.report.loading import Entry
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

# Their paired bootstrap would take longer than all else in a report.
_SLOW = (MAP_11_POINT, MAP_AREA)
_CLOSE = 1e-6
_TABLES = {"": "predictions", "image→text": "image_to_text", "text→image": "text_to_image"}
"""Direction of a metric → table of predictions."""

Published = dict[str, dict[tuple[str, str], float]]
"""Method → dataset and title of the metric → fraction."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One model less another on one dataset, or on average.

    Attributes:
        title: dataset.
        value: fraction, such as 0.02 for two points.
        low: lower end of the 95 % interval; None where there is none.
        high: its upper end.
        paired: both were judged on the same images, and the interval is that of their differences.
    """

    title: str
    value: float
    low: float | None = None
    high: float | None = None
    paired: bool = False


def published_numbers(table: Table, published: Sequence[PublishedRow]) -> Published:
    """Return the published numbers beside a table: methods that its models may be first, then those of most.

    A number of a named version of a dataset stands beside that version only, and subsets have none.
    """
    if table.subset:
        return {}
    found: Published = {}
    own = {(row.dataset, row.metric.name): row for row in table.rows}
    of_task = [line for line in published if line.record_task == table.task]
    for line in of_task:
        row = own.get((line.dataset.partition("@")[0], line.metric))
        number = line.number
        if row is None or number is None:
            continue
        # As in the tables: a protocol may mean a version that its rows do not name.
        version = line.dataset if "@" in line.dataset else meant_version(line.protocol, row.dataset)
        if version and version != row.version:
            continue
        value = number / 100 if row.metric.in_percent else number
        found.setdefault(line.who, {}).setdefault((row.dataset, row.metric.title), value)
    cells = (cell for row in table.rows for cell in row.cells.values())
    specs = dict.fromkeys(str(c.entry.record.model_info.get("spec", "")) for c in cells if c.entry)
    alike = {line.who for spec in specs for line in counterparts(spec, of_task)}
    return dict(sorted(found.items(), key=lambda item: (item[0] not in alike, -len(item[1]))))


def deltas(rows: Sequence[Row], one: str, other: str, published: Published) -> list[Delta]:
    """Return `one` less `other` on each of `rows` that has both, in their order; each model or method.

    Rows whose numbers must not be compared are left out.

    Raises:
        OutputError: predictions are damaged, or not those of the records.
    """
    found = []
    for row in rows:
        if row.problem:
            continue
        numbers = [_number(row, name, published) for name in (one, other)]
        if None in numbers:
            continue
        sides = [row.cells.get(name) for name in (one, other)]
        (first, second) = (number for number in numbers if number is not None)
        delta = _paired(row, *sides) if all(sides) else None
        found.append(delta or _unpaired(row.title, first, second))
    return found


def mean_delta(parts: Sequence[Delta]) -> Delta:
    """Return the plain mean over at least one dataset; its interval is that of independent samples."""
    values, n = [p.value for p in parts], len(parts)
    mean = math.fsum(values) / n
    ends = [(p.value - p.low, p.high - p.value) for p in parts if p.low is not None and p.high is not None]
    paired = all(p.paired for p in parts)
    if len(ends) < n:
        return Delta(title=f"mean of {n}", value=mean, paired=paired)
    below, above = (math.sqrt(math.fsum(d * d for d in side)) / n for side in zip(*ends, strict=True))
    return Delta(title=f"mean of {n}", value=mean, low=mean - below, high=mean + above, paired=paired)


_Number = tuple[float, float | None, float | None]


def _number(row: Row, name: str, published: Published) -> _Number | None:
    """Return value and both ends of the interval; a published number has that of as many images."""
    cell = row.cells.get(name)
    if cell is not None:
        return None if cell.value is None else (cell.value, cell.low, cell.high)
    value = published.get(name, {}).get((row.dataset, row.metric.title))
    if value is None:
        return None
    worth = [n for n in map(_worth, row.cells.values()) if n is not None]
    if not worth:
        return value, None, None
    interval = wilson(value * max(worth), max(worth))
    return value, interval.low, interval.high


def _worth(cell: Cell) -> float | None:
    """Return the number of images at which a proportion has an interval as wide as a number measured here."""
    n = cell.entry.record.n if cell.entry else None
    if cell.value is None or cell.low is None or cell.high is None or n is None or cell.high <= cell.low:
        return None
    spread = max(cell.value * (1 - cell.value), 1 / (n + 2) ** 2)
    return min(float(n), max(1.0, spread * (2 * Z / (cell.high - cell.low)) ** 2))


def _unpaired(title: str, one: _Number, other: _Number) -> Delta:
    """Return the difference of independent numbers: distances to the ends add as squares (MOVER)."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    if a_low is None or a_high is None or b_low is None or b_high is None:
        return Delta(title=title, value=a - b)
    low = a - b - math.hypot(a - a_low, b_high - b)
    return Delta(title=title, value=a - b, low=low, high=a - b + math.hypot(a_high - a, b - b_low))


def _paired(row: Row, one: Cell | None, other: Cell | None) -> Delta | None:
    """Return the paired difference; None where predictions are missing or tell nothing of this metric."""
    assert one is not None and other is not None
    entries = [cell.entry for cell in (other, one) if cell.entry is not None]
    if len(entries) < 2 or row.metric in _SLOW:
        return None
    folders = [_folder(entry, _TABLES[row.metric.direction]) for entry in entries]
    if None in folders:
        return None
    baseline, candidate = (folder for folder in folders if folder is not None)
    try:
        measured = PairOfUnits((baseline, candidate), "key").measure(entries[0].record)
    except (Unknown, SamplesDiffer):
        return None
    values = [(measured.baseline, other.value), (measured.candidate, one.value)]
    for (derived, value), folder in zip(values, folders, strict=True):
        if value is None or abs(derived - value) > _CLOSE:
            raise OutputError(
                f"{folder} holds predictions of {row.metric.title} {row.metric.text(derived)}, its record "
                f"says {row.metric.text(value)}: one of them was changed. Run the suite again."
            )
    found = measured.difference
    if found is None:
        return None
    return Delta(title=row.title, value=found.value, low=found.low, high=found.high, paired=True)


def _folder(entry: Entry, table: str) -> Path | None:
    """Return where the predictions of a number lie; None where there is no such table."""
    # A unit that is no name of a folder would lead out of the run.
    if "/" in entry.record.unit:
        return None
    folder = entry.run.path / "predictions" / entry.record.unit
    return folder if (folder / f"{table}.parquet").exists() else None
