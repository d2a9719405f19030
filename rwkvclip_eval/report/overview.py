"""What sums a report up: for each model its averages by kind of task, protocol by protocol."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.report.paper_layout import SHIFTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

ROBUSTNESS = "Robustness"
_KINDS = {
    "zero_shot_classification": "Zero-shot",
    "zero_shot_retrieval": "Retrieval",
    "linear_probe": "Linear probe",
    "few_shot_linear_probe": "Few-shot",
    "knn_probe": "k-NN",
}
_ORDER = ("Zero-shot", "Retrieval", "Linear probe", ROBUSTNESS)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The numbers of one kind of task under one protocol that sum a table up.

    Attributes:
        kind: a short title: `Zero-shot`.
        table: where they stand with all others.
        rows: averages, else datasets.
    """

    kind: str
    table: Table
    rows: tuple[Row, ...]

    @property
    def under(self) -> str:
        """Return the protocol, and whether the numbers are of parts of splits."""
        return f"{self.table.protocol}{', subset' if self.table.subset else ''}"


@dataclass(frozen=True, kw_only=True)
class View:
    """One group of each kind: those of a protocol, where a kind lacks it its first.

    Attributes:
        under: the protocol; empty where no kind has several.
        groups: one of each kind.
    """

    under: str
    groups: tuple[Group, ...]


def overview(columns: Sequence[tuple[Table, Row]]) -> list[View]:
    """Return the views of a report's headline, one for each protocol that there is a choice of.

    Args:
        columns: rows that sum the tables up, each with its table.
    """
    kinds: dict[str, dict[str, Group]] = {}
    for table, row in columns:
        kind = _kind(table, row)
        group = Group(kind=kind, table=table, rows=())
        own = kinds.setdefault(kind, {})
        group = own.get(group.under, group)
        own[group.under] = dataclasses.replace(group, rows=(*group.rows, row))
    ordered = sorted(kinds.values(), key=lambda own: _place(next(iter(own.values())).kind))
    choices = dict.fromkeys(under for own in ordered if len(own) > 1 for under in own)
    return [
        View(under=under, groups=tuple(own.get(under) or next(iter(own.values())) for own in ordered))
        for under in (choices or ([""] if ordered else []))
    ]


def _kind(table: Table, row: Row) -> str:
    datasets = {dataset for dataset, _ in row.parts} or {row.dataset}
    if table.task == "zero_shot_classification" and datasets <= set(SHIFTED):
        return ROBUSTNESS
    return _KINDS.get(table.task, table.task_title)


def _place(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
