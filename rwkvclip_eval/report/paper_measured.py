"""What was measured, as cells of the paper's tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.report.averages import average_interval, average_ties
from rwkvclip_eval.report.paper_rows import PaperCell
from rwkvclip_eval.report.rows import Cell
from rwkvclip_eval.report.tables import remark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.paper_layout import Column, Key
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The numbers of a model in a table of the report.

    Attributes:
        table: of the report.
        model: as its columns call it.
        numbers: dataset and metric → row and cell, of the version that the protocol means.
        statuses: dataset → why it has no number, of those tried.
    """

    table: Table
    model: str
    numbers: Mapping[Key, tuple[Row, Cell]]
    statuses: Mapping[str, str]

    @property
    def record(self) -> Record | None:
        """One of its records, which say what model it was."""
        return next((cell.entry.record for _, cell in self.numbers.values() if cell.entry), None)


def measured_numbers(tables: Sequence[Table], models: Collection[str] | None) -> list[Measured]:
    """Return what has numbers, a model's tables below each other."""
    names = dict.fromkeys(model for table in tables for model in table.models)
    found = []
    for model in names:
        for table in tables if models is None or model in models else ():
            candidates: dict[Key, list[tuple[Row, Cell]]] = {}
            statuses: dict[str, str] = {}
            for row in (*table.rows, *table.further):
                cell = row.cells.get(model)
                if cell is None or cell.entry is None:
                    continue
                if cell.value is None:
                    statuses[row.dataset] = cell.status
                elif cell.entry.record.split in ("", "test"):
                    candidates.setdefault((row.dataset, row.metric.name), []).append((row, cell))
            numbers = {}
            for key, several in candidates.items():
                one = _meant(several, table.protocol)
                if one is None:
                    statuses[key[0]] = "several_versions"
                else:
                    numbers[key] = one
            if numbers:
                found.append(Measured(table=table, model=model, numbers=numbers, statuses=statuses))
    return found


def _meant(several: Sequence[tuple[Row, Cell]], protocol: str) -> tuple[Row, Cell] | None:
    """Return the number of the version that the protocol means; None where that is none or unknown."""
    if len(several) == 1:
        return several[0]
    meant = [(row, cell) for row, cell in several if row.version == meant_version(protocol, row.dataset)]
    return meant[0] if len(meant) == 1 else None


def meant_version(protocol: str, dataset: str) -> str:
    """Return the version of a dataset that a protocol names; empty where it names none or is unknown."""
    own = protocol.partition(" (")[0]
    variant = PROTOCOLS.get(own).variants.get(dataset, "") if own in PROTOCOLS else ""
    return f"{dataset}@{variant}" if variant else ""


def measured_cell(one: Measured, column: Column) -> PaperCell:
    """Return a model's number in a column: an average only where every dataset has its number."""
    if column.over:
        return _own_average(one, column)
    if column.key not in one.numbers:
        return PaperCell(status=one.statuses.get(column.dataset, "not_run"))
    row, cell = one.numbers[column.key]
    assert cell.value is not None and cell.entry is not None
    return PaperCell(
        value=100 * cell.value,
        status="ok",
        low=None if cell.low is None else 100 * cell.low,
        high=None if cell.high is None else 100 * cell.high,
        versions=_named(row),
        apart=_apart(cell.entry.record),
        older=bool(cell.older),
        problem=row.problem,
        ties=cell.ties,
        remark=remark([cell.entry.record]),
    )


def _named(row: Row) -> tuple[str, ...]:
    return (row.version,) if row.version != row.dataset else ()


def _own_average(one: Measured, column: Column) -> PaperCell:
    if not column.over <= one.numbers.keys():
        return PaperCell(status="incomplete")
    members = [one.numbers[key] for key in sorted(column.over)]
    cells = [cell for _, cell in members]
    low, high = average_interval(cells)
    records = [cell.entry.record for cell in cells if cell.entry]
    value = math.fsum(cell.value or 0.0 for cell in cells) / len(cells)
    tied = average_ties(cells)
    return PaperCell(
        value=100 * value,
        status="ok",
        ties=Cell(
            metric=column.metric, value=value, low=low, high=high, ties_low=tied[0], ties_high=tied[1]
        ).ties,
        low=None if low is None else 100 * low,
        high=None if high is None else 100 * high,
        apart=next(filter(None, map(_apart, records)), ""),
        versions=tuple(version for row, _ in members for version in _named(row)),
        older=any(cell.older for cell in cells),
        problem=next((row.problem for row, _ in members if row.problem), ""),
    )


def _apart(record: Record) -> str:
    """Return why a number is not held against published ones; empty where it is."""
    if record.subset:
        return "a part of the set"
    if record.own_copy:
        return "a copy without the images that the web has lost"
    if record.num_missing:
        return f"{record.num_missing} damaged images left out"
    return "" if record.verified else "not known to be the whole set"
