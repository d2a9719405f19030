"""95 % intervals of a mean over seeded draws that are all judged on the same test images.

Two things could have come out otherwise: the draws, and the test images. Draws judged on the same images are
not independent evidence, so the images' share of the variance does not shrink with the number of seeds.
With S seeds and the score A_s of each,

    variance of the mean = Var(A_s) / S  +  C,

where Var(A_s) is the variance of the scores among the seeds (what belongs to one draw alone, its interplay
with the images included) and C the covariance that the choice of images gives two seeds' scores. The first
has S − 1 degrees of freedom, the second those of the images. Each is given the critical value of its own,

    half width² = t²(S−1) · Var(A_s) / S  +  z² · C,

which never covers less than 95 % for normal scores whatever the shares (Banerjee, Sankhyā 22, 1960). Near 0
and 1 a variance is proportional to p (1 − p), so both are taken as multiples of that and the equation is
solved for p, as Wilson (1927) does for one proportion.

Axes: S seeds, n test images, G groups of images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.975
"""Probability below the upper end of a two-sided 95 % interval."""

Z = 1.959963984540054
"""Its point of the standard normal distribution."""

FEW = 10
"""Images from which on a group's own variance is believed."""

PRIOR_MISSES = 1.0
"""Weight, in missed images, of the assumption that all seeds miss the same ones; see `_images_share`."""


class SeedInterval(NamedTuple):
    """A 95 % interval over seeds and test images, with the parts that averages over datasets are made of.

    Attributes:
        low: lower end.
        high: upper end.
        seeds_se: standard error of the mean from the seeds' part, with S − 1 degrees of freedom.
        images_low: lower end of the interval over test images alone, the seeds held fixed.
        images_high: its upper end.
    """

    low: float
    high: float
    seeds_se: float
    images_low: float
    images_high: float


def method(num_seeds: int) -> str:
    """Return the name of such an interval, as records carry it."""
    return f"score interval over {num_seeds} seeds × test images"


def of_mean(values: NDArray[Any]) -> SeedInterval | None:
    """Return the interval of the mean over seeds and images of `values`; None for a single seed.

    Args:
        values: [S, n] in [0, 1]: hits, or the mean of hits at 1 and 5.
    """
    return _interval(values, np.zeros(values.shape[1], np.int64), num_alike=values.shape[1])


def of_mean_per_class(hit: NDArray[np.bool_], labels: NDArray[np.int64]) -> SeedInterval | None:
    """Return the interval of the mean over seeds of mean per-class accuracy; None for a single seed.

    Images vary within their class. Classes without images are left out.

    Args:
        hit: [S, n] bool.
        labels: [n] int64.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    # The number of images whose plain mean varies as this one does if all classes are equally hard.
    return _interval(hit, labels, num_alike=len(counts) ** 2 / float((1 / counts).sum()))


def of_area_under_curve(fractions: NDArray[np.float64], positive: NDArray[np.bool_]) -> SeedInterval | None:
    """Return the interval of the mean over seeds of ROC AUC; None for a single seed.

    Args:
        fractions: [S, n], for each positive the fraction of negatives below it, for each negative that of
            positives above it (`metrics.ranking.AreaUnderCurve`).
        positive: [n] bool, some of each kind.
    """
    num_positive = int(np.count_nonzero(positive))
    # Positives and negatives each move all of the area, which is the mean of their two means. No area
    # varies more than a proportion of the rarer kind.
    rarer = min(num_positive, len(positive) - num_positive)
    return _interval(fractions, positive.astype(np.int64), num_alike=rarer, scale=2.0)


def _interval(
    values: NDArray[Any], groups: NDArray[np.int64], *, num_alike: float, scale: float = 1.0
) -> SeedInterval | None:
    """Return the interval of the mean over seeds of (mean over groups of each group's mean).

    Args:
        values: [S, n] in [0, 1].
        groups: [n] int64; images vary within theirs.
        num_alike: images whose plain proportion varies at least as much as the score of one seed.
        scale: of the scores' variation by images, against that of the mean over groups.
    """
    num_seeds = len(values)
    if num_seeds < 2:
        return None
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ordered = values[:, order].astype(np.float64)
    counts = np.diff(starts, append=len(groups))
    scores = (np.add.reduceat(ordered, starts, axis=1) / counts).mean(axis=1)
    # Rounding of a sum over groups must not leave [0, 1].
    mean = min(1.0, max(0.0, float(scores.mean())))
    own_parts = np.mean([_variance_by_images(row, starts) for row in ordered], axis=0)
    together_parts = _variance_by_images(ordered.mean(axis=0), starts)
    least = _least_of_few(ordered, starts, counts)
    # What images give all seeds alike is that share of what they give each, as all images together tell it.
    alike = min(1.0, float(ordered.mean(axis=0).var()) / max(float(ordered.var(axis=1).mean()), 1e-300))
    own = scale**2 * float(np.maximum(own_parts, least).sum()) / len(starts) ** 2
    together = scale**2 * float(np.maximum(together_parts, alike * least).sum()) / len(starts) ** 2
    shared = min(own, max(0.0, (num_seeds * together - own) / (num_seeds - 1)))
    # Not above: of what imports this, few ask for an interval over seeds.
    from scipy.special import stdtrit

    t = float(stdtrit(num_seeds - 1, LEVEL))
    # Seeds that agree by chance must not make the interval vanish: their variance has at least the part that
    # images give each seed by itself, of which one standard error is kept.
    seeds = max(float(scores.var(ddof=1)), (own - shared) / t**2) / num_seeds
    images = _images_share(shared, mean, num_alike, num_seeds)
    spread = mean * (1 - mean)
    low, high = _score_ends(mean, Z**2 * images + (t**2 * seeds / spread if spread > 0 else 0.0))
    images_low, images_high = _score_ends(mean, Z**2 * images)
    return SeedInterval(low, high, math.sqrt(seeds), images_low, images_high)


def _least_of_few(
    ordered: NDArray[np.float64], starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return [G], below which the variance of a group's mean is not believed; 0 for groups of `FEW` and more.

    A few images that all come out alike say little of how they vary, and where such groups stand beside large
    ones they are nearly all of the variance. They are given one rate, drawn towards ½ by two hits and two
    misses (Agresti and Coull 1998).

    Args:
        ordered: [S, n], by group.
        starts: [G], where each group begins.
        counts: [G] images.
    """
    few = counts < FEW
    hits = float(np.add.reduceat(ordered.mean(axis=0), starts)[few].sum())
    rate = (hits + 2) / (float(counts[few].sum()) + 4)
    least: NDArray[np.float64] = np.where(few, rate * (1 - rate) / counts, 0.0)
    return least


def _variance_by_images(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [G], the variance that the choice of images gives each group's mean.

    A group's own variance counts with one observation of the variance among all groups' images beside it:
    a single image says nothing of its group's.

    Args:
        values: [n], ordered by group.
        starts: [G], where each group begins.
    """
    counts = np.diff(starts, append=len(values))
    means = np.add.reduceat(values, starts) / counts
    squares = np.maximum(0.0, np.add.reduceat(values**2, starts) - counts * means**2)
    among_all = float((squares / counts + (means - means.mean()) ** 2).mean())
    variances: NDArray[np.float64] = (squares + among_all) / counts**2
    return variances


def _images_share(shared: float, mean: float, num_alike: float, num_seeds: int) -> float:
    """Return the images' variance of the mean as a multiple of p (1 − p), always above 0.

    That is 1 / `num_alike` if all seeds hit the same images, and less if each hits its own. Which of the two
    it is shows only where images are missed: the first is assumed with the weight of `PRIOR_MISSES`.
    """
    misses = num_seeds * num_alike * mean * (1 - mean)
    common = num_seeds * num_alike**2 * shared
    return (common + PRIOR_MISSES) / (misses + PRIOR_MISSES) / num_alike


def _score_ends(mean: float, multiple: float) -> tuple[float, float]:
    """Return both p for which (mean − p)² = multiple · p (1 − p)."""
    centre = (mean + multiple / 2) / (1 + multiple)
    half = math.sqrt(multiple * mean * (1 - mean) + multiple**2 / 4) / (1 + multiple)
    # Exact ends where rounding would leave 1e-17.
    low = 0.0 if mean == 0 else max(0.0, centre - half)
    return low, 1.0 if mean == 1 else min(1.0, centre + half)
