"""What the gate's rule can see on the sets at hand, by simulation at the discordance that was observed.

Each set is simulated as so many equally weighted images, of which the observed share differs between the
models (more, where the loss in question needs more); one whose difference is nearly normal as a normal
number. The same function decides that gives the verdict. Sets of one dataset are drawn independently all the
same: how they go together is not known.

Axes: R repetitions, K sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rwkvclip_eval.compare.difference import reaches
from rwkvclip_eval.compare.gate import DEFAULT_RULE, Outcomes, Rule, apply, numbered
from rwkvclip_eval.compare.significance import worse
from rwkvclip_eval.metrics.intervals import Z, wilson_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.gate import Found, Gated

NUM_REPETITIONS = 4000
"""Of a rate that is printed: one of 5 % is then known to 0.7 points."""
_NUM_SEARCHING = 1000
POWER = 0.8
"""With which a smallest detectable difference is found."""
_SMALLEST = 1e-6
_STEPS = 12
_FEW = 20
"""Counts from which on `wilson` is the plain formula; see `metrics.intervals.FEW`."""


class Rates(NamedTuple):
    """How the rule errs and what it finds on the sets at hand.

    Attributes:
        false_alarms: share of REGRESSION where nothing differs.
        passes: share of PASS where nothing differs.
        wrong_passes: share of PASS where every set lost the margin.
        detectable: loss of every set that is found, None where none is.
        power: share of REGRESSION at `detectable`.
    """

    false_alarms: float
    passes: float
    wrong_passes: float
    detectable: float | None
    power: float


@dataclass(frozen=True)
class Simulation:
    """K sets to draw from.

    Attributes:
        flips: [K] bool, a set is a mean of hits.
        images: [K] whole numbers.
        fewest: [K] images, see `Difference`.
        unseen: [K] least distance of the ends of a set of hits.
        discordance: [K] share of images on which the models differ.
        spread: [K] standard deviation of a nearly normal set.
        below: [K] distance of its lower end.
        above: [K] distance of its upper end.
        curves: for each set that is nearly normal the differences whose p are `LEVELS`.
        datasets: [K] number of each set's dataset.
        table: [2, _FEW + 1, K] ends of the interval of so many hits of each set.
    """

    flips: NDArray[np.bool_]
    images: NDArray[np.int64]
    fewest: NDArray[np.float64]
    unseen: NDArray[np.float64]
    discordance: NDArray[np.float64]
    spread: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    curves: tuple[NDArray[np.float64], ...]
    datasets: NDArray[np.int64]
    table: NDArray[np.float64]

    def draw(self, generator: np.random.Generator, losses: NDArray[np.float64], num: int) -> Outcomes:
        """Return the outcomes of `num` repetitions in which each set truly loses `losses` [K].

        Losses of images that no set can have are cut.
        """
        losses = np.minimum(losses, 1.0)
        shape = num, len(losses)
        discordance = np.maximum(self.discordance, np.abs(losses))
        differing = generator.binomial(self.images, discordance, shape)
        share = (1 + np.divide(losses, discordance, out=np.zeros(shape[1]), where=discordance > 0)) / 2
        lost = generator.binomial(differing, share)
        gained = differing - lost
        low, high = self._ends(gained, lost)
        value, p = (gained - lost) / self.images, worse(gained, lost)
        # No loss comes about without images that differ.
        wider = np.maximum(1, np.sqrt(np.abs(losses) / self.images) / self.spread)
        for k in np.flatnonzero(~self.flips):
            value[:, k] = generator.normal(-losses[k], wider[k] * self.spread[k], num)
            low[:, k] = value[:, k] - wider[k] * self.below[k]
            high[:, k] = value[:, k] + wider[k] * self.above[k]
            tail = np.interp(np.abs(value[:, k]) / wider[k], self.curves[k][::-1], LEVELS[::-1])
            p[:, k] = np.where(value[:, k] < 0, tail, 1 - tail)
        return Outcomes(value, low, high, p)

    def find(self, rule: Rule, losses: NDArray[np.float64], num: int, seed: int) -> Found:
        """Return what the rule finds in `num` seeded repetitions."""
        outcomes = self.draw(np.random.default_rng(seed), losses, num)
        return apply(rule, outcomes, self.datasets, self.fewest)

    def _ends(
        self, gained: NDArray[np.int64], lost: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both ends of `paired.hits`, each [R, K]."""
        n = self.images
        up, down = gained / n, lost / n
        (up_low, up_high), (down_low, down_high) = self._rates(gained), self._rates(lost)
        with np.errstate(divide="ignore", invalid="ignore"):
            together = np.sqrt(up * down / ((1 - up) * (1 - down)))
        together = np.where((gained > 0) & (lost > 0), together, 0.0)
        more_up, more_down = (np.maximum(x, self.unseen) for x in (up_high - up, down_high - down))
        below, above = (
            np.sqrt(one**2 + other**2 + 2 * together * one * other)
            for one, other in ((up - up_low, more_down), (more_up, down - down_low))
        )
        return np.maximum(up - down - below, -1), np.minimum(up - down + above, 1)

    def _rates(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        n, few = self.images, counts <= _FEW
        centre = (counts + Z * Z / 2) / (n + Z * Z)
        half = Z / (n + Z * Z) * np.sqrt(counts * (1 - counts / n) + Z * Z / 4)
        sets = np.broadcast_to(np.arange(len(n)), counts.shape)[few]
        ends = [centre - half, centre + half]
        for end, table in zip(ends, self.table, strict=True):
            end[few] = table[counts[few], sets]
        return ends[0], ends[1]


LEVELS = np.geomspace(1e-9, 0.5, 400)


def simulation(sets: Sequence[Gated]) -> Simulation:
    """Return what draws differences like those of `sets`."""
    found = [one.difference for one in sets]
    images = np.maximum(np.round([one.images for one in found]).astype(np.int64), 1)
    counts = np.minimum(np.arange(_FEW + 1)[:, None], images)
    low, high, _ = wilson_ends(counts, images)
    return Simulation(
        flips=np.array([one.flips for one in found]),
        images=images,
        fewest=np.array([one.fewest for one in found]),
        unseen=np.array([one.unseen for one in found]),
        discordance=np.minimum([one.discordance for one in found], 1),
        spread=np.sqrt([max(one.variance + one.seeds_variance, 1e-300) for one in found]),
        below=np.array([one.value - one.low for one in found]),
        above=np.array([one.high - one.value for one in found]),
        curves=tuple(reaches(LEVELS, one.variance, one.seeds, one.seeds_variance) for one in found),
        datasets=numbered(sets),
        table=np.stack([low, high]),
    )


def rates(sets: Sequence[Gated], rule: Rule = DEFAULT_RULE, seed: int = 0) -> Rates:
    """Return the rule's errors and power on `sets`."""
    drawn, every = simulation(sets), np.ones(len(sets))
    alike = drawn.find(rule, 0 * every, NUM_REPETITIONS, seed)
    lost = drawn.find(rule, rule.margin * every, NUM_REPETITIONS, seed + 1)

    def power(losses: NDArray[np.float64], num: int = _NUM_SEARCHING) -> NDArray[np.float64]:
        return np.atleast_1d(drawn.find(rule, losses[0] * every, num, seed + 2).regression.mean())

    (detectable,) = _smallest(power, 1)
    found = 0.0
    if detectable is not None:
        found = float(power(np.array([detectable]), NUM_REPETITIONS)[0])
    return Rates(
        float(alike.regression.mean()),
        float(alike.passed.mean()),
        float(lost.passed.mean()),
        detectable,
        found,
    )


def detectable(sets: Sequence[Gated], rule: Rule = DEFAULT_RULE, seed: int = 0) -> list[float | None]:
    """Return for each set the smallest loss of it alone by which it is found to have regressed.

    By Holm's first step, which is the hardest. None where no loss is.
    """
    drawn = simulation(sets)

    def power(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        outcomes = drawn.draw(np.random.default_rng(seed), losses, _NUM_SEARCHING)
        found = (outcomes.worse <= rule.level / len(sets)) & (outcomes.low <= -rule.margin)
        return np.asarray(found.mean(axis=0), np.float64)

    return _smallest(power, len(sets))


def _smallest(power: Callable[[NDArray[np.float64]], NDArray[np.float64]], num: int) -> list[float | None]:
    """Return the `num` smallest losses whose `power` is `POWER`, each by bisection on a logarithmic scale."""
    low, high = np.full(num, np.log(_SMALLEST)), np.zeros(num)
    possible = power(np.exp(high)) >= POWER
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = power(np.exp(middle)) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return [float(loss) if can else None for loss, can in zip(np.exp(high), possible, strict=True)]
