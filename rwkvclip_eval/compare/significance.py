"""How surprising a difference is if two models were alike, and what many such numbers say together.

Were candidate and baseline alike, each image on which they differ would have come out the other way round as
easily. That is McNemar's test (1947) where all images weigh the same, in its exact conditional form: the
losses among d discordant images are Binomial(d, ½). Where they do not (classes of unequal size, several
captions an image) it is the same test of weighted flips, whose distribution is drawn.

Axes: n images, K sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NUM_FLIPS = 39_999
"""Draws of weighted flips. A drawn p counts the observed outcome as one of them, which keeps its level
exactly (Davison and Hinkley 1997, §4.2.1); the smallest is 2.5e-5."""


class Significance(NamedTuple):
    """Two p values of one difference.

    Attributes:
        worse: one-sided, that the candidate is worse; never below its level, for the gate.
        mid: two-sided mid-p, for the exploratory table: nearer to its level on average, beyond it at times.
        least: the smallest that either can be by drawing, so that the true one lies below it; 0 where exact.
    """

    worse: float
    mid: float
    least: float = 0.0


def worse(gained: ArrayLike, lost: ArrayLike) -> NDArray[np.float64]:
    """Return the exact conditional McNemar p that there are so many losses or more.

    Args:
        gained: discordant images that only the candidate has right, any shape.
        lost: those that only the baseline has right.
    """
    from scipy import special

    gained, lost = np.asarray(gained, np.float64), np.asarray(lost, np.float64)
    # P(Binomial(d, 1/2) >= lost) as an incomplete beta function, which has no value at 0.
    tail: NDArray[np.float64] = special.betainc(np.maximum(lost, 1), gained + 1, 0.5)
    return np.where(lost > 0, tail, 1.0)


def either(gained: int, lost: int) -> float:
    """Return the exact conditional McNemar p, two-sided, as `scipy.stats.binomtest` has it."""
    return min(1.0, 2 * float(min(worse(gained, lost), worse(lost, gained))))


def mid_p(gained: int, lost: int) -> float:
    """Return the two-sided mid-p of McNemar's test (Fagerland, Lydersen and Laake 2013).

    It passes its level where discordant images are few, so it decides nothing.
    """
    more, fewer = float(worse(gained, lost)), float(worse(lost, gained))
    # The two tails share the outcome itself.
    here = more + fewer - 1
    return min(1.0, 2 * min(more, fewer) - here)


def of_flips(differences: NDArray[Any]) -> Significance:
    """Return the significance of a sum of differences that might each have had the other sign.

    Args:
        differences: [n] candidate − baseline of each image (of a cluster: its sum), in its weight.
    """
    magnitudes, which = np.unique(np.abs(differences[differences != 0]), return_inverse=True)
    lost = np.bincount(which[differences[differences != 0] < 0], minlength=len(magnitudes))
    counts = np.bincount(which, minlength=len(magnitudes))
    if len(magnitudes) <= 1:
        gains, losses = int((counts - lost).sum()), int(lost.sum())
        return Significance(float(worse(gains, losses)), mid_p(gains, losses))
    generator = np.random.default_rng(0)
    drawn = np.zeros(NUM_FLIPS)
    for size, count in zip(magnitudes, counts, strict=True):
        drawn += size * generator.binomial(count, 0.5, NUM_FLIPS)
    seen = float(magnitudes @ lost)
    # Equal sums may differ in their last digits.
    slack = 1e-9 * float(magnitudes @ counts)
    more, equal = (
        int(np.count_nonzero(found)) + 1 for found in (drawn >= seen - slack, np.abs(drawn - seen) <= slack)
    )
    fewer, total = NUM_FLIPS + 1 - more + equal, NUM_FLIPS + 1
    return Significance(more / total, min(1.0, (2 * min(more, fewer) - equal) / total), 1 / total)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p values adjusted by Holm (1979): rejecting those up to α errs at all in α of cases at most.

    Whatever the dependence between the sets.

    Args:
        p: [..., K].
    """
    num_sets = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.take_along_axis(p, order, axis=-1) * np.arange(num_sets, 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1), axis=-1)
    return adjusted


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p values adjusted by Benjamini and Hochberg (1995): of those up to q, a share q is by chance.

    Args:
        p: [K].
    """
    num = len(p)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * num / np.arange(1, num + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1)
    return adjusted
