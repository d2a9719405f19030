"""How often an interval covers the truth, by simulation, and the rule that every interval is held to.

A point is a situation that a number can be in (102 classes of one image, a recall of 0.995, …). Truths are
drawn around it, and from each truth test sets; `check` wants the interval to cover the truth in 0.93 of them
averaged over the truths, in 0.90 at every single one, and in no more than 0.97 where the intervals are not
marked conservative.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from rwkvclip_eval.metrics.intervals import Interval

AVERAGED, SINGLE, AT_MOST = 0.93, 0.90, 0.97
CHANCE_OF_FALSE_ALARM = 1e-3
"""Of each comparison, for an interval that covers exactly what it must."""


class Draw(NamedTuple):
    """What one test set gives: the interval, the number it belongs to, and the truth it should cover."""

    interval: Interval
    value: float
    truth: float


@dataclass(frozen=True)
class Point:
    """A situation.

    Attributes:
        name: in test names.
        truth: generator → one truth near the point, in any form that `draw` understands.
        draw: truth, generator → one test set's outcome.
        at_most: coverage allowed where the intervals are not marked conservative.
    """

    name: str
    truth: Callable[[np.random.Generator], Any]
    draw: Callable[[Any, np.random.Generator], Draw]
    at_most: float = AT_MOST


class Coverage(NamedTuple):
    """Outcome of a simulation.

    Attributes:
        covered: [truths] test sets whose interval covers the truth.
        num_draws: test sets of each truth.
        conservative: share of the intervals that are marked so.
    """

    covered: np.ndarray
    num_draws: int
    conservative: float

    @property
    def mean(self) -> float:
        return float(self.covered.sum() / (len(self.covered) * self.num_draws))

    @property
    def least(self) -> float:
        return float(self.covered.min() / self.num_draws)


def simulate(point: Point, num_truths: int, num_draws: int, *, seed: int = 0, scale: float = 1.0) -> Coverage:
    """Return how often the intervals of `point` cover the truth; `scale` multiplies their half widths."""
    generator = np.random.default_rng(seed)
    covered, marked = np.zeros(num_truths, np.int64), 0
    for i in range(num_truths):
        near = point.truth(generator)
        for _ in range(num_draws):
            interval, value, truth = point.draw(near, generator)
            assert interval.low <= value + 1e-9 and value - 1e-9 <= interval.high, (interval, value)
            low, high = value - scale * (value - interval.low), value + scale * (interval.high - value)
            covered[i] += low - 1e-12 <= truth <= high + 1e-12
            marked += interval.conservative
    return Coverage(covered, num_draws, marked / (num_truths * num_draws))


def check(point: Point, found: Coverage) -> None:
    """Assert the rule, as far as so many draws can tell."""
    covered, draws = int(found.covered.sum()), len(found.covered) * found.num_draws
    said = f"{point.name}: covers {found.mean:.3f}, at least {found.least:.3f}"
    assert binom.cdf(covered, draws, AVERAGED) > CHANCE_OF_FALSE_ALARM, f"{said}: too little on average"
    # One of many truths must not raise a false alarm more often than the average does.
    alarm = CHANCE_OF_FALSE_ALARM / len(found.covered)
    single = binom.cdf(found.covered.min(), found.num_draws, SINGLE)
    assert single > alarm, f"{said}: too little at one truth"
    if found.conservative < 0.5:
        too_much = binom.sf(covered - 1, draws, point.at_most)
        assert too_much > CHANCE_OF_FALSE_ALARM, f"{said}: too much, and does not say that it is conservative"


def check_found_out(point: Point, num_truths: int, num_draws: int, scale: float) -> None:
    """Assert that intervals of `scale` times their width break the rule."""
    with pytest.raises(AssertionError, match="too little"):
        check(point, simulate(point, num_truths, num_draws, scale=scale))


def named(points: Mapping[str, Iterable[Point]]) -> list[Any]:
    """Return the points of every group as parameters of a test."""
    return [pytest.param(point, id=point.name) for group in points.values() for point in group]
