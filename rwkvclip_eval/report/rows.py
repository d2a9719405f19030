"""Rows of numbers, one a model, and the rules for what may be called best."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.report.wording import STATUS_WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.report.loading import Entry


_MOST_NAMED = 8
"""Datasets of an incomplete average that are named."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number (or the reason there is none) in a table.

    Attributes:
        metric: what is measured.
        status: of the record.
        value: None where there is none; a fraction for accuracies and recalls.
        low: lower end of the 95 % interval; None where there is none.
        high: its upper end.
        chance: what can be had without looking at the images, as the task says; None where it does not.
        ties_low: where it would fall if equal logits all went against it; None where none are open.
        ties_high: where it would fall if they all went its way.
        conservative: its interval covers more than 95 %, since few images decide it.
        older: what of it an older task version made otherwise; no lead is claimed from it. Empty where
            nothing is.
        trained: whether the weights were; random ones are never ranked.
        entry: the record behind it; None for averages and where nothing was run.
        missing: datasets an average lacks; such an average is never ranked.
        num_datasets: how many datasets an average is over; 0 for other numbers.
        best: it is better than that of every other model that can be ranked, and their intervals lie apart;
            every form of a report marks that, and nothing else, as best.
    """

    metric: Metric
    status: str = "ok"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    ties_low: float | None = None
    ties_high: float | None = None
    conservative: bool = False
    older: str = ""
    trained: bool = True
    entry: Entry | None = None
    missing: tuple[str, ...] = ()
    num_datasets: int = 0
    best: bool = False

    @property
    def text(self) -> str:
        """Return the number as shown, or the word for its absence."""
        if self.value is None:
            return STATUS_WORDS.get(self.status, "—")
        return self.metric.text(self.value)

    @property
    def interval(self) -> str:
        """Return the 95 % interval as shown, empty where there is none."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return f"{self.metric.text(self.low)}–{self.metric.text(self.high)}"

    @property
    def ties(self) -> str:
        """Return the range that equal logits leave open, where it reaches beyond the interval."""
        if self.value is None or self.ties_low is None or self.ties_high is None:
            return ""
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if low <= self.ties_low and self.ties_high <= high:
            return ""
        return f"{self.metric.text(self.ties_low)}–{self.metric.text(self.ties_high)}"

    @property
    def beats_chance(self) -> bool | None:
        """Return whether its whole 95 % interval is better than chance; None where either is unknown."""
        if self.chance is None or self.low is None or self.high is None:
            return None
        return self.high < self.chance if self.metric.better == "lower" else self.low > self.chance

    @property
    def coverage(self) -> str:
        """Return how much of an incomplete average is there, such as `23 of 26`; empty for all else."""
        return f"{self.num_datasets - len(self.missing)} of {self.num_datasets}" if self.missing else ""

    def part(self, datasets: Sequence[str]) -> str:
        """Return in words which of an average's `datasets` it is over, or lacks; empty where it has all."""
        if not self.missing:
            return ""
        has = [name for name in datasets if name not in self.missing]
        word, names = ("only", has) if len(has) < len(self.missing) else ("missing", list(self.missing))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"{word}: {', '.join(names[:_MOST_NAMED])}{more}"

    @property
    def rankable(self) -> bool:
        """Return whether it may be called best."""
        return self.value is not None and self.trained and not self.missing


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dataset and metric (or an average) over all models of the table.

    Attributes:
        title: dataset or average, as shown.
        metric: what is measured.
        cells: model → number.
        scope: slug of the table it is in.
        kind: `dataset` or `average`.
        dataset: its record name; empty for averages.
        version: the dataset with its variant.
        primary: whether the metric is the one reported for the dataset.
        remark: what to know of the dataset under this protocol; on the first row of each dataset.
        problem: why the numbers of this row must not be compared; such a row is never ranked.
        datasets: what an average is over.
        leaves_out: what the suite runs beside them.
        parts: dataset and metric of the rows an average is made of.
        series: model → training run, for models that are checkpoints of one.
    """

    title: str
    metric: Metric
    cells: Mapping[str, Cell]
    scope: str
    kind: Literal["dataset", "average"] = "dataset"
    dataset: str = ""
    version: str = ""
    primary: bool = False
    remark: str = ""
    problem: str = ""
    datasets: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    parts: frozenset[tuple[str, str]] = frozenset()
    series: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what tells it apart from every other row of a report."""
        return self.scope, self.kind, self.title, self.metric.name

    @property
    def leaves_out_text(self) -> str:
        """Return what an average leaves out, in words; empty where it is nothing or the title says it."""
        if all(re.search(rf"\b{re.escape(name)}\b", self.title, re.IGNORECASE) for name in self.leaves_out):
            return ""
        named = ", ".join(self.leaves_out) if len(self.leaves_out) < 4 else f"{len(self.leaves_out)} others"
        return f"leaves out {named}"

    @property
    def full_title(self) -> str:
        """Return the title, with what an average leaves out."""
        return f"{self.title} ({self.leaves_out_text})" if self.leaves_out_text else self.title

    @property
    def metric_text(self) -> str:
        """Return the metric with its unit."""
        return self.metric.label


def restrict(row: Row, models: Collection[str]) -> Row:
    """Return `row` with the cells of `models` only, and the best of those marked."""
    cells = {m: dataclasses.replace(c, best=False) for m, c in row.cells.items() if m in models}
    return mark_best(dataclasses.replace(row, cells=cells))


def mark_best(row: Row) -> Row:
    """Return `row` with its best cell marked where the lead is clear: all other intervals apart from its own.

    Numbers that are equal as shown lead nobody.

    Untrained models and incomplete averages are never marked; nor is anything where fewer than two
    models can be ranked, all of them are checkpoints of one training run, or the row's numbers must not
    be compared.
    """
    able = {m: c for m, c in row.cells.items() if c.rankable}
    if len(able) < 2 or len({row.series.get(m, m) for m in able}) == 1 or row.problem:
        return row
    (first, best), *others = ranking(row)
    if len(leaders(row)) > 1 or not all(intervals_apart(best, other) for _, other in others):
        return row
    return dataclasses.replace(row, cells={**row.cells, first: dataclasses.replace(best, best=True)})


def intervals_apart(first: Cell, second: Cell) -> bool | None:
    """Return whether the 95 % intervals do not overlap; None where one is missing or of an older version."""
    if first.older or second.older:
        return None
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.low > second.high or second.low > first.high


def leaders(row: Row) -> list[str]:
    """Return the models whose value is the best of the rankable ones at the precision shown."""
    values = {m: c.value for m, c in row.cells.items() if c.rankable and c.value is not None}
    best = row.metric.text(row.metric.best(values.values()))
    return [m for m, v in values.items() if row.metric.text(v) == best]


def ranking(row: Row) -> list[tuple[str, Cell]]:
    """Return the rankable cells, best first."""
    sign = 1 if row.metric.better == "lower" else -1
    able = [(m, c) for m, c in row.cells.items() if c.rankable]
    return sorted(able, key=lambda item: (item[1].value or 0.0) * sign)


def nearest(row: Row) -> tuple[str, Cell]:
    """Return the one that the best number is not clearly ahead of; the second where it leads clearly."""
    (_, best), *others = ranking(row)
    return next((item for item in others if not intervals_apart(best, item[1])), others[0])


def gap_text(row: Row, first: Cell, second: Cell) -> str:
    """Return the distance of two numbers of a row with its unit."""
    gap = row.metric.text(abs((first.value or 0.0) - (second.value or 0.0)))
    return f"{gap} points" if row.metric.in_percent else gap
