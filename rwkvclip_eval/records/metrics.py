"""What a number means: its name, its title, its unit, and which way is better; none is read out of a name.

Tasks say of each number which `Metric` it is, and records carry it. Records of schema version 1 and published
tables have names only; `known` is the one table that gives theirs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rwkvclip_eval.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable

Unit = Literal["fraction", "rank", "number"]
Better = Literal["higher", "lower"]
_ROUNDING = 1e-9
Direction = Literal["", "image→text", "text→image"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A kind of number.

    Attributes:
        name: as records and published tables have it: `top1_accuracy`, `image_retrieval_recall@5`.
        title: as readers see it: `top-1`, `text→image R@5`.
        unit: `fraction` in [0, 1], shown in per cent; `rank` from 1; `number`, shown as it is.
        better: which way a model improves.
        shots: training images a class that it is of; None for other numbers.
        k: of a recall at k; None for other numbers.
        direction: of retrieval, from the query to what is looked for; empty for other numbers.
    """

    name: Annotated[str, Field(max_length=200)]
    title: Annotated[str, Field(max_length=200)]
    unit: Unit = "fraction"
    better: Better = "higher"
    shots: Annotated[int, Field(ge=1, le=10**9)] | None = None
    k: Annotated[int, Field(ge=1, le=10**9)] | None = None
    direction: Direction = ""

    @property
    def in_percent(self) -> bool:
        """Whether readers see it in per cent."""
        return self.unit == "fraction"

    @property
    def label(self) -> str:
        """The title with its unit; empty where there is no metric."""
        return f"{self.title}, %" if self.in_percent and self.title else self.title

    def text(self, value: float | None) -> str:
        """Return a value as tables show it: per cent with one decimal, other numbers with four digits."""
        if value is None:
            return "—"
        return f"{100 * value:.1f}" if self.in_percent else f"{value:.4g}"

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of some values; None where there are none."""
        return min(values, default=None) if self.better == "lower" else max(values, default=None)

    def misfit(
        self, value: float | None, low: float | None, high: float | None, *, strict: bool = False
    ) -> str:
        """Return why a value or the ends of its interval cannot be of this metric; nothing where they can.

        Args:
            value: the number.
            low: lower end of its interval.
            high: upper end.
            strict: the interval holds the value, and of a fraction lies in [0, 1]; intervals over seeds of
                before there was schema version 2 do not.
        """
        given = [number for number in (value, low, high) if number is not None]
        if not all(map(is_finite, given)):
            return f"{shortened(self.name)} and its interval are finite numbers, got {shortened(str(given))}"
        if value is not None and self.unit == "fraction" and not -_ROUNDING <= value <= 1 + _ROUNDING:
            return f"{shortened(self.name)} is a fraction from 0 to 1, got {value:g}"
        if low is not None and high is not None and low > high + _ROUNDING:
            return f"the interval of {shortened(self.name)} begins at {low:g} and ends at {high:g}"
        if strict and (low is None) is not (high is None):
            return f"the interval of {shortened(self.name)} has one end"
        if strict and value is not None and low is not None and high is not None:
            least, most = (0.0, 1.0) if self.unit == "fraction" else (-math.inf, math.inf)
            if (
                not least - _ROUNDING <= low <= value + _ROUNDING
                or not value - _ROUNDING <= high <= most + _ROUNDING
            ):
                return f"the interval of {shortened(self.name)} does not fit {value:g}: {low:g} to {high:g}"
        return ""

    def of_shots(self, shots: int) -> Metric:
        """Return the same of probes that learned from `shots` images a class."""
        return dataclasses.replace(
            self, name=f"{self.name}_{shots}_shot", title=f"{self.title}, {shots}-shot", shots=shots
        )


TOP1 = Metric(name="top1_accuracy", title="top-1")
TOP5 = Metric(name="top5_accuracy", title="top-5")
MEAN_PER_CLASS = Metric(name="mean_per_class_accuracy", title="mean per class")
MEAN_TOP1_TOP5 = Metric(name="mean_top1_top5_accuracy", title="mean of top-1 and top-5")
TOP1_PADDED = Metric(name="top1_accuracy_padded", title="top1 accuracy padded")
ROC_AUC = Metric(name="roc_auc", title="ROC AUC")
MAP_11_POINT = Metric(name="mean_average_precision_11_point", title="11-point mAP")
MAP_AREA = Metric(name="mean_average_precision", title="mAP (area)")
PRIMARY = Metric(name="primary_metric_accuracy", title="primary metric of each")
"""Stands in averages for each dataset's own primary metric."""
PRIMARY_WORD = "primary"
"""What suites and runs call it."""
NONE = Metric(name="", title="", unit="number")
"""Of a record without a number."""

STANDARD = {
    metric.name: metric
    for metric in (
        *(TOP1, TOP5, MEAN_PER_CLASS, MEAN_TOP1_TOP5, TOP1_PADDED, ROC_AUC, MAP_11_POINT, MAP_AREA),
        *(PRIMARY, NONE),
    )
}

_DIRECTIONS: dict[str, Direction] = {"image": "text→image", "text": "image→text"}
"""What is retrieved → direction."""


def recall(retrieved: str, k: int) -> Metric:
    """Return recall at `k`, where `image` or `text` is retrieved."""
    direction = _DIRECTIONS[retrieved]
    return Metric(
        name=f"{retrieved}_retrieval_recall@{k}", title=f"{direction} R@{k}", k=k, direction=direction
    )


def median_rank(retrieved: str) -> Metric:
    """Return the median rank of the first that belongs, where `image` or `text` is retrieved."""
    direction = _DIRECTIONS[retrieved]
    return Metric(
        name=f"{retrieved}_retrieval_median_rank",
        title=f"{direction} median rank",
        unit="rank",
        better="lower",
        direction=direction,
    )


_SHOTS = re.compile(r"^(.+)_([1-9][0-9]{0,8})_shot$")
_RECALL = re.compile(r"^(image|text)_retrieval_recall@([1-9][0-9]{0,5})$")
_MEDIAN_RANK = re.compile(r"^(image|text)_retrieval_median_rank$")
_FRACTION = re.compile(r"accuracy|recall|auc|precision|_map|\bmap|f1")
_LOWER = re.compile(r"rank|loss|error|latency|seconds|bytes|memory")


def is_finite(number: float) -> bool:
    """Whether a number is finite and no larger than floats are."""
    try:
        return math.isfinite(number)
    except OverflowError:  # Python's whole numbers have no largest.
        return False


def standard(name: str) -> Metric | None:
    """Return the metric of a name that a task of ours gives; None for others."""
    if name in STANDARD:
        return STANDARD[name]
    if name == PRIMARY_WORD:
        return PRIMARY
    if match := _SHOTS.match(name):
        of = standard(match[1])
        return None if of is None or of.shots else of.of_shots(int(match[2]))
    if match := _RECALL.match(name):
        return recall(match[1], int(match[2]))
    if match := _MEDIAN_RANK.match(name):
        return median_rank(match[1])
    return None


def known(name: str) -> Metric:
    """Return the metric of a name alone, as old records and published tables have it.

    Names that no task of ours gave are taken by their words, as reports did before records said it.
    """
    if (found := standard(name)) is not None:
        return found
    if match := _SHOTS.match(name):
        return known(match[1]).of_shots(int(match[2]))
    lower = bool(_LOWER.search(name))
    unit: Unit = "fraction" if _FRACTION.search(name) else "rank" if "rank" in name else "number"
    return Metric(name=name, title=name.replace("_", " "), unit=unit, better="lower" if lower else "higher")
