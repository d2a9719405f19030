"""The difference of two models on one set, with its interval and what a gate's power follows from.

Axes: L levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rwkvclip_eval.compare.significance import Significance
from rwkvclip_eval.metrics.intervals import Z

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BOUND_WEIGHT = 0.5
"""Weight of a variance's upper bound beside its estimate, in images' worth."""

WIDER = 1.1
"""Times a plain normal interval's width from which on a smooth one is called conservative."""


class Difference(NamedTuple):
    """Candidate − baseline on one set.

    Attributes:
        value: of the number, in its unit.
        low: lower end of its 95 % interval.
        high: upper end.
        method: name of the interval.
        conservative: few images or seeds decide, so that the interval covers more than 95 %.
        significance: were both alike; None for ranks, which are not tested.
        variance: of `value` from images, were both alike.
        images: equally weighted images on which `value` would vary so.
        fewest: images that it would be worth if all of an image (its captions, its class) came out alike.
        unseen: distance of the interval's ends where no image differs, which they never fall short of; 0 for
            numbers that are no means of hits.
        flips: the number is a mean of hits, so that images that differ are all there is to it.
        gained: queries that only the candidate has right; 0 where the number is no mean of hits.
        lost: those that only the baseline has right.
        seeds: draws that `value` is a mean over; 0 for all but few-shot numbers.
        seeds_variance: of `value` from the seeds, with one degree of freedom fewer than these.
    """

    value: float
    low: float
    high: float
    method: str
    conservative: bool
    significance: Significance | None
    variance: float
    images: float
    fewest: float
    unseen: float = 0.0
    flips: bool = False
    gained: int = 0
    lost: int = 0
    seeds: int = 0
    seeds_variance: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether both models have the same number, and of hits the same ones."""
        return self.value == 0 and not self.gained and not self.lost

    @property
    def discordance(self) -> float:
        """Share of images that would have to differ for `value` to vary as it does."""
        return self.variance * self.images


def smooth(value: float, variance: float, most: float, fewest: float, method: str) -> Difference:
    """Return a difference that is nearly normal.

    A variance estimated from a few images that are out of order is often far too small, so it is averaged
    with the largest it can be, as in `metrics.intervals`.

    Args:
        value: of the difference.
        variance: an estimate of its variance.
        most: its variance if the models had nothing in common and every image were quite right or wrong.
        fewest: the number of images at which a proportion varies as much as either number can at most.
        method: name.
    """
    from scipy import special

    worth = most * fewest**2
    plain = Z * math.sqrt(variance)
    variance = (worth * variance + _BOUND_WEIGHT * most) / (worth + _BOUND_WEIGHT) if most > 0 else 0.0
    variance = max(variance, (_BOUND_WEIGHT / fewest) ** 2)
    reach = float(special.stdtrit(max(1.0, fewest - 1), 0.975)) * math.sqrt(variance)
    return Difference(
        value,
        max(-1.0, value - reach),
        min(1.0, value + reach),
        method,
        conservative=reach > WIDER * plain,
        significance=of_smooth(value, variance),
        variance=variance,
        images=fewest,
        fewest=fewest,
    )


def of_smooth(value: float, variance: float, seeds: int = 0, seeds_variance: float = 0.0) -> Significance:
    """Return the significance of a difference that is nearly normal, and partly of few seeds.

    The level at which its interval, t² of the seeds' variance beside z² of the images', ends at 0.
    """
    levels = np.geomspace(1e-12, 0.5, 2000)
    reach = reaches(levels, variance, seeds, seeds_variance)
    tail = float(np.interp(abs(value), reach[::-1], levels[::-1]))
    return Significance(tail if value < 0 else 1 - tail, min(1.0, 2 * tail))


def reaches(
    levels: NDArray[np.float64], variance: float, seeds: int, seeds_variance: float
) -> NDArray[np.float64]:
    """Return the differences whose one-sided p are `levels`, see `of_smooth`."""
    from scipy import special

    squared = special.ndtri(levels) ** 2 * variance
    if seeds > 1:
        squared = squared + special.stdtrit(seeds - 1, levels) ** 2 * seeds_variance
    reach: NDArray[np.float64] = np.sqrt(squared)
    return reach
