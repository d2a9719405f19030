"""The paper's tables as data: rows of published and of measured numbers, and their differences.

Numbers are in per cent here, differences in points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rwkvclip_eval.metrics.intervals import Z

if TYPE_CHECKING:
    from rwkvclip_eval.report.paper_layout import Column

_Z_POWER = 0.8416212335729143
"""80 % point of the standard normal distribution."""
RESOLVED = (Z + _Z_POWER) * math.sqrt(2) / Z
"""Half widths of an interval in the smallest difference that a set resolves: two models that differ so much,
each judged on a draw of its own, are told apart with 80 % power at a level of 5 % (two-sided). Compared image
by image, less is enough."""


@dataclass(frozen=True, kw_only=True)
class PaperCell:
    """One number, or why there is none.

    Attributes:
        value: in per cent; None where there is none.
        status: `published`, `derived` or `read_from_figure`; `ok` of what was measured; else why it is empty.
        printed: a published number as its source prints it.
        low: lower end of the 95 % interval, in per cent; None where there is none.
        high: upper end.
        versions: those of the dataset, of an average's datasets, that are known and not the usual ones.
        apart: why a measured number is not held against published ones; empty where it is.
        older: an earlier task version made its interval, so that no lead is claimed from it.
        problem: why numbers of this column must not be compared between models.
        bold: it is better than every other row's by more than their intervals.
        ties: the range that equal logits leave open, where it reaches beyond the interval.
        remark: how its making differs from what its protocol follows, and whose images vote.
    """

    value: float | None = None
    status: str = "not_published"
    printed: str = ""
    low: float | None = None
    high: float | None = None
    versions: tuple[str, ...] = ()
    apart: str = ""
    older: bool = False
    problem: str = ""
    bold: bool = False
    ties: str = ""
    remark: str = ""

    @property
    def text(self) -> str:
        """Return the number as shown, `~` before one read from a figure; empty where there is none."""
        if self.value is None:
            return ""
        about = "~" if self.status == "read_from_figure" else ""
        return f"{about}{self.printed or f'{self.value:.1f}'}"

    @property
    def half(self) -> float | None:
        """Return the distance to the farther end of the interval."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measured number less a published one, in points.

    Attributes:
        value: the difference.
        low: lower end of the measured number's interval less the published number; None where it has none.
        high: upper end.
        resolved: the smallest difference that the set resolves; see `RESOLVED`.
        about: the published number was read from a figure.
    """

    value: float
    low: float | None = None
    high: float | None = None
    resolved: float | None = None
    about: bool = False

    @property
    def noise(self) -> bool:
        """Return whether the set could not tell it from none."""
        return self.resolved is None or abs(self.value) < self.resolved

    @property
    def half(self) -> float | None:
        """Return the distance to the farther end of the interval."""
        if self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A method and its numbers, one a column.

    Attributes:
        method: as its source, or the run, calls it.
        protocol: under which its numbers were made; `unknown` where no source says.
        precision: of the arithmetic; empty or `unknown` where that is not known.
        cells: one a column.
        measured: here; else published.
        compared: a published method that the paper compares, or one that a model shown may be.
        subset: measured on parts of splits.
        trained: False of random weights.
        sources: numbers of the documents that print it.
        against: the published method that `differences` are to; empty where there are none.
        against_protocol: that of its numbers; `unknown` where no source says, empty where there are none.
        differences: one a column, None where there is none; empty where there is none at all.
    """

    method: str
    protocol: str
    precision: str
    cells: tuple[PaperCell, ...]
    measured: bool = False
    compared: bool = True
    subset: bool = False
    trained: bool = True
    sources: tuple[int, ...] = ()
    against: str = ""
    against_protocol: str = ""
    differences: tuple[Difference | None, ...] = ()

    @property
    def label(self) -> str:
        """Return the method; of a measured one with its protocol and what the reader must know of it."""
        said = (self.protocol, "subset" if self.subset else "", "" if self.trained else "untrained")
        return f"{self.method} ({', '.join(filter(None, said))})" if self.measured else self.method


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One of the paper's tables.

    Attributes:
        name: of its files.
        title: what it is of.
        columns: datasets with metrics, and averages.
        published: rows in the order of their sources.
        measured: rows, a model's protocols below each other.
        metrics: which datasets have which, in a sentence where the columns' heads do not say it.
        notes: what else the reader must know, a sentence each.
        sources: documents, numbered from 1.
        task: of the records.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    published: tuple[PaperRow, ...]
    measured: tuple[PaperRow, ...]
    metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    task: str = ""

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Return the headings over each column, from the outermost (`""`: none), then its title."""
        depth = max(len(column.groups) for column in self.columns)
        return tuple((*("",) * (depth - len(c.groups)), *c.groups, c.title) for c in self.columns)

    @property
    def heads(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Return the lines of the head: headings with how many columns each is over, then the titles."""
        lines = []
        for level in range(1, len(self.paths[0])):
            own = groupby(path[:level] for path in self.paths)
            lines.append(tuple((path[-1], len(list(same))) for path, same in own))
        return (*lines, tuple((path[-1], 1) for path in self.paths))
