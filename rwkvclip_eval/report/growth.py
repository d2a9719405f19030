"""How measured times and memory grow with the size of an input, and where two models cross. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.metrics.ratios import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import SpeedRow

    Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where a model becomes as fast as another, or stops to be.

    Attributes:
        size: tokens of a text, pixels of an image.
        low: lower end of the 95 % interval over repeats; None where the lines of one of them do not cross.
        high: upper end.
    """

    size: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a model's time and memory grow with the tokens of an input, beside another's.

    Attributes:
        exponent: of time against tokens: 1 is linear, 2 quadratic, 0 a constant.
        crossovers: of time.
        memory_crossovers: of memory, which has no repeats.
    """

    exponent: Estimate | None
    crossovers: Sequence[Crossover] = ()
    memory_crossovers: Sequence[Crossover] = ()


def length_of(cell: Cell) -> int:
    """Return what a cell's input grows in: pixels of an image, tokens of a text."""
    return cell.height * cell.width or cell.tokens


def growth(rows: Sequence[SpeedRow], model: str, other: str) -> Growth:
    """Return how time and memory grow over the rows of one tower, batch and precision, which differ in size.

    Noisy rows are left out. The exponent is the slope of a straight line through log time against log size,
    fitted in each repeat, with the t interval over repeats.

    Args:
        rows: of all models.
        model: whose.
        other: what it is beside.
    """
    quiet = [row for row in rows if row.rate is not None and not row.noisy]
    own, theirs = (
        {length_of(row.cell): row for row in quiet if row.measured.model == name} for name in (model, other)
    )
    both = sorted(set(own) & set(theirs)) if model != other else []
    margin = math.log1p(max((row.margin for row in quiet), default=0.0))
    memory = [
        (math.log(n), math.log(own[n].megabytes / theirs[n].megabytes))  # type: ignore[operator]  # checked
        for n in both
        if own[n].megabytes and theirs[n].megabytes
    ]
    return Growth(
        exponent=_exponent([own[n] for n in sorted(own)]),
        crossovers=_of_time([(own[n], theirs[n]) for n in both], margin),
        memory_crossovers=[Crossover(size=math.exp(x)) for x in crossings(memory, margin)],
    )


def _exponent(own: Sequence[SpeedRow]) -> Estimate | None:
    repeats = min((len(row.measured.repeats) for row in own), default=0)
    if len(own) < 3 or repeats < 2:
        return None
    x = np.log([length_of(row.cell) for row in own])
    slopes = [
        float(np.polyfit(x, np.log([row.measured.seconds[i] for row in own]), 1)[0]) for i in range(repeats)
    ]
    low, high = _t_interval(slopes)
    return Estimate(value=float(np.mean(slopes)), low=low, high=high, n=repeats)


def _of_time(pairs: Sequence[tuple[SpeedRow, SpeedRow]], margin: float) -> list[Crossover]:
    repeats = min((len(row.measured.repeats) for pair in pairs for row in pair), default=0)

    def points(repeat: int | None) -> list[Point]:
        found = []
        for row, other in pairs:
            if repeat is None:
                assert row.rate is not None
                assert other.rate is not None
                ratio = other.rate.value / row.rate.value
            else:
                ratio = row.measured.seconds[repeat] / other.measured.seconds[repeat]
            found.append((math.log(length_of(row.cell)), math.log(ratio)))
        return found

    drawn, each = points(None), [points(i) for i in range(repeats)]
    found = []
    for first, last in _brackets(drawn, margin):
        [size, *others] = (_middle_zero(one[first : last + 1]) for one in (drawn, *each))
        assert size is not None
        low = high = None
        known = [x for x in others if x is not None]
        if len(known) == repeats > 1:
            low, high = (math.exp(x) for x in _t_interval(known))
        found.append(Crossover(size=math.exp(size), low=low, high=high))
    return found


def crossings(points: Sequence[Point], margin: float) -> list[float]:
    """Return where the line through points crosses 0, as drawn, between two that lie beyond the margin.

    Of points within the margin, which may lie on either side by chance, a line may cross several times; the
    one in the middle stands for them. Two equal models never cross.

    Args:
        points: x, ascending, and y.
        margin: of y.
    """
    zeros = (_middle_zero(points[first : last + 1]) for first, last in _brackets(points, margin))
    return [zero for zero in zeros if zero is not None]


def _brackets(points: Sequence[Point], margin: float) -> list[tuple[int, int]]:
    """Return which two points beyond the margin, with none between them, lie on either side of 0."""
    clear = [i for i, (_, y) in enumerate(points) if abs(y) > margin]
    return [(i, j) for i, j in pairwise(clear) if points[i][1] * points[j][1] < 0]


def _middle_zero(points: Sequence[Point]) -> float | None:
    """Return the middle one of the places where the line through points crosses 0; None where it does not."""
    zeros = [
        x0 if y0 == 0 else x0 - y0 * (x1 - x0) / (y1 - y0)
        for (x0, y0), (x1, y1) in pairwise(points)
        if y0 * y1 < 0 or (y0 == 0) != (y1 == 0)
    ]
    return sorted(zeros)[len(zeros) // 2] if zeros else None


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of a mean."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half
