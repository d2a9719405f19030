"""95 % interval of a difference of two methods: over the seeds of training and over the test images.

Runs of one method are draws of its seed; all runs of both methods are judged on the same images, which are a
draw, too. With S seeds, the number A_s of each, and d the difference of the methods' means,

    variance of d  =  Σ V / S  +  C,    V = max(Var(A_s), R),    C = max(0, T − Σ R / S),

where the sums are over both methods (paired by seed: over the one row of differences), T is the variance
that the images give d with the seeds held fixed, and R that part of one run's which no other run shares. Runs
that are equally good still differ by R, so no estimate below it is believed: with two seeds, Var(A_s) is
often far too small by chance. Student's t has the degrees of freedom of Satterthwaite (1946): S − 1 for
each V / S, those of the images for C.

Simulated: without the bound it covers 0.88 to 0.96 with two seeds (paired: to 0.92); the seeds' variance
alone 0.70 to 0.95 with ten of them, below 0.90 in seven of twelve settings, so that it takes its place at no
number of seeds. `tests/compare/test_group_coverage.py` simulates what is used.

Axes: S seeds, p parts of a number by images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rwkvclip_eval.compare.gate import together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.by_image import ByImage

FEW_SEEDS = 10
"""Below which the interval is conservative: seeds that vary little are not known to."""
_BOUND_WEIGHT = 0.5
"""Weight of the images' largest variance beside its estimate, in images' worth; see `difference.smooth`."""


class Draws(NamedTuple):
    """Numbers of one method's runs, or differences of paired ones.

    Attributes:
        values: [S].
        own: variance that the images give one of them alone.
    """

    values: NDArray[np.float64]
    own: float


class Varied(NamedTuple):
    """How a difference varies.

    Attributes:
        value: the difference.
        draws: of both methods, or of their pairs.
        by_images: variance from the test images, the seeds held fixed.
        images: number of images at which a proportion varies as much at most.
    """

    value: float
    draws: tuple[Draws, ...]
    by_images: float
    images: float

    @property
    def _by_seeds(self) -> list[tuple[float, int]]:
        """Variance of each mean over seeds, with its degrees of freedom."""
        return [
            (max(float(one.values.var(ddof=1)), one.own) / len(one.values), len(one.values) - 1)
            for one in self.draws
        ]

    @property
    def _shared(self) -> float:
        """Variance that the images give all runs alike."""
        return max(0.0, self.by_images - math.fsum(one.own / len(one.values) for one in self.draws))

    @property
    def variance(self) -> float:
        """Of the difference."""
        return math.fsum(variance for variance, _ in self._by_seeds) + self._shared

    @property
    def freedom(self) -> float:
        """Degrees of freedom of `variance`."""
        squared = math.fsum(variance**2 / freedom for variance, freedom in self._by_seeds)
        squared += self._shared**2 / max(1.0, self.images - 1)
        # Squares of variances of a few images in millions are below what floats hold.
        return self.variance**2 / squared if squared > 0 else 1.0

    @property
    def conservative(self) -> bool:
        """Whether the interval covers more than 95 %."""
        return min(len(one.values) for one in self.draws) < FEW_SEEDS

    def reach(self, level: float = 0.025) -> float:
        """Return the distance of the interval's ends, each missed with probability `level`."""
        from scipy import special

        return float(special.stdtrit(self.freedom, 1 - level)) * math.sqrt(self.variance)

    @property
    def worse(self) -> float:
        """One-sided p that the second method is worse."""
        from scipy import special

        return float(special.stdtr(self.freedom, self.value / math.sqrt(self.variance)))


def vary(baseline: Sequence[ByImage], candidate: Sequence[ByImage], *, paired: bool) -> Varied:
    """Return how the difference of two methods on one set varies.

    Args:
        baseline: one number of each of its runs, two at least.
        candidate: the same of the other method, on the same samples.
        paired: runs at the same place belong together.
    """
    sides = [
        (np.array([run.value for run in runs]), np.stack([run.parts for run in runs]))
        for runs in (baseline, candidate)
    ]
    (before, parts_before), (after, parts_after) = sides
    images = baseline[0].images
    between = parts_after.mean(axis=0) - parts_before.mean(axis=0)
    rows = [(after - before, parts_after - parts_before)] if paired else sides
    most = math.fsum(float(values.mean() * (1 - values.mean())) for values, _ in sides) / images
    return Varied(
        value=float(after.mean() - before.mean()),
        draws=tuple(Draws(values, _own(parts)) for values, parts in rows),
        by_images=_believed(float(between @ between), most, images),
        images=images,
    )


def vary_from(runs: Sequence[ByImage], printed: float) -> Varied:
    """Return how the mean of a method's runs less a number that somebody printed varies.

    Nothing is known of the printed number's samples: it is taken as of as many other images, held to no seed.

    Args:
        runs: two at least.
        printed: a fraction.
    """
    values, parts = np.array([run.value for run in runs]), np.stack([run.parts for run in runs])
    mean, images = parts.mean(axis=0), runs[0].images
    others = printed * (1 - printed) / images
    most = float(values.mean() * (1 - values.mean())) / images + others
    return Varied(
        value=float(values.mean()) - printed,
        draws=(Draws(values, _own(parts)),),
        by_images=_believed(float(mean @ mean) + others, most, images),
        images=images,
    )


def _own(parts: NDArray[np.float64]) -> float:
    """Return the variance that images give one run alone, of [S, p]."""
    return float(((parts - parts.mean(axis=0)) ** 2).sum()) / (len(parts) - 1)


def _believed(variance: float, most: float, images: float) -> float:
    """Return a variance over images that a few of them may have made too small."""
    worth = most * images**2
    averaged = (worth * variance + _BOUND_WEIGHT * most) / (worth + _BOUND_WEIGHT)
    return max(averaged, (_BOUND_WEIGHT / images) ** 2)


def mean_of(sets: Sequence[Varied], datasets: NDArray[np.int64]) -> Varied:
    """Return how the mean over `sets` varies: seeds give all of them their own, images each its own.

    Args:
        sets: of the same runs, one at least.
        datasets: number of each set's dataset; sets of one dataset have the same images, whose parts add as
            deviations, those of different ones as variances.
    """

    def of_mean(variances: Sequence[float]) -> float:
        return float(together(np.sqrt(variances)[None], datasets)[0] / len(sets)) ** 2

    draws = tuple(
        Draws(np.mean([row.values for row in rows], axis=0), of_mean([row.own for row in rows]))
        for rows in zip(*(one.draws for one in sets), strict=True)
    )
    return Varied(
        value=math.fsum(one.value for one in sets) / len(sets),
        draws=draws,
        by_images=of_mean([one.by_images for one in sets]),
        images=min(one.images for one in sets),
    )
