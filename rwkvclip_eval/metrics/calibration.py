"""How far a model's confidence is from its accuracy: reliability by bins, their expected distance (ECE).

Guo et al., On Calibration of Modern Neural Networks (ICML 2017): bins of equal width over [0, 1], each
weighted by the images in it. Here confidence is the probability of the class predicted.

Axes: n images, B bins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rwkvclip_eval.metrics.intervals import WIDER, Interval, Z
from rwkvclip_eval.metrics.roots import root

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_BINS = 15
_FEW_WEIGHT = 3
"""Images' worth by which a bin's variance, where it rests on few hits or misses, leans to what it may be."""
_LEAST_VARIANCE = 1e-9
_FAR = 9.0
"""Deviations."""


class Reliability(NamedTuple):
    """Images by their confidence; bins without images hold NaN.

    Attributes:
        counts: [B] images.
        confidence: [B] mean confidence.
        accuracy: [B] share of hits.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(
    confidence: NDArray[np.float64], hit: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> Reliability:
    """Return accuracy and mean confidence of bins of equal width; a confidence of 1 is in the last.

    Args:
        confidence: [n] in [0, 1], n ≥ 1.
        hit: [n] bool.
        num_bins: B.
    """
    bins = _bins(confidence, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=x, minlength=num_bins) / counts for x in (confidence, hit)]
    return Reliability(counts, *means)


def expected_calibration_error(found: Reliability) -> float:
    """Return Σ counts/n · |accuracy − confidence|, in [0, 1].

    Example:
        3 images of confidence 0.9, 2 of them hits, and 1 of 0.5, no hit: ¾ · |2/3 − 0.9| + ¼ · 0.5 = 0.3.
    """
    there = found.counts > 0
    gaps = np.abs(found.accuracy[there] - found.confidence[there])
    return float((found.counts[there] * gaps).sum() / found.counts.sum())


def calibration_interval(
    confidence: NDArray[np.float64], hit: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> Interval:
    """Return the interval of the expected calibration error of the images' population, by the same bins.

    The error of a sample is larger than that of its population, since what chance adds to a bin's distance
    has no sign: of a calibrated model it is not 0. So an error is in the interval where the observed one lies
    between the 2.5 and the 97.5 % point of what it would give: bins' distances are normal, their sum has the
    mean, deviation and skewness of folded normals (Cornish and Fisher's expansion). Towards smaller errors
    every distance shrinks by as many of its deviations, to 0 at least; towards larger ones distances are as
    many deviations each, which adds least to the sample's and so reaches furthest.

    The observed error belongs to the interval even where chance alone would explain more.

    Args:
        confidence: see `reliability`.
        hit: [n] bool.
        num_bins: B.
    """
    bins, n = _bins(confidence, num_bins), len(hit)
    counts, hits, gaps, squares, spread = (
        np.bincount(bins, weights=x, minlength=num_bins)
        for x in (
            np.ones(n),
            hit,
            hit - confidence,
            (hit - confidence) ** 2,
            confidence * (1 - confidence),
        )
    )
    there = counts > 0
    gap = np.abs(gaps[there])
    seen = squares[there] - gap**2 / n
    # All hits, or none, say nothing of the variance: then it is at least that of a calibrated model.
    few = np.minimum(hits, counts - hits)[there]
    variance = (few * seen + _FEW_WEIGHT * np.maximum(seen, spread[there])) / (few + _FEW_WEIGHT)
    deviation = np.sqrt(variance + _LEAST_VARIANCE)
    observed = float(gap.sum())

    def shrunk(steps: float) -> NDArray[np.float64]:
        distance: NDArray[np.float64] = np.maximum(gap - steps * deviation, 0)
        return distance

    def even(steps: float) -> NDArray[np.float64]:
        distance: NDArray[np.float64] = steps * deviation
        return distance

    low = high = 0.0
    most = float((gap / deviation).max()) + 1
    if observed > _point(shrunk(most), deviation, Z):
        steps = root(lambda x: observed - _point(shrunk(x), deviation, Z), -50, most)
        low = float(shrunk(steps).sum())
    if observed > _point(even(0), deviation, -Z):
        steps = root(lambda x: observed - _point(even(x), deviation, -Z), 0, most + 50)
        high = float(even(steps).sum())
    wide = deviation.sum() > WIDER * np.sqrt(np.maximum(seen, 0)).sum()
    return Interval(
        min(low, observed) / n,
        min(1.0, max(high, observed) / n),
        f"score over {num_bins} bins",
        conservative=bool(low == 0 or wide),
    )


def _point(distance: NDArray[np.float64], deviation: NDArray[np.float64], z: float) -> float:
    """Return a point of the distribution of Σ |normal(distance, deviation)|, `z` as of a normal one."""
    # Further out a folded normal is a normal to the last digit; of large steps the moments would lose theirs.
    steps = np.minimum(distance / deviation, _FAR)
    density = np.exp(-(steps**2) / 2) / math.sqrt(2 * math.pi)
    inside = np.array([math.erf(step / math.sqrt(2)) for step in steps])
    first = 2 * density + steps * inside
    third = (steps**3 + 3 * steps) * inside + 2 * (steps**2 + 2) * density
    second = steps**2 + 1
    mean = distance + deviation * (first - steps)
    spread = math.sqrt(float((deviation**2 * (second - first**2)).sum()))
    skewness = float((deviation**3 * (third - 3 * first * second + 2 * first**3)).sum()) / spread**3
    return float(mean.sum()) + spread * (z + (z * z - 1) * skewness / 6)


def _bins(confidence: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    return found
