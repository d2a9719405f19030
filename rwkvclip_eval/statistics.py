"""95 % intervals for one model on one dataset: over the draw of test images, the model held fixed.

Images are the unit. All captions of an image enter or leave a resample together, since they are not
independent; the retrieval gallery is held fixed. Bootstraps are seeded: equal inputs give equal intervals.

Axes: n images, m captions, R resamples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
"""Bootstrap resamples: the ends of an interval then move by about 0.06 standard errors with the seed."""

Z = 1.959963984540054
"""97.5 % point of the standard normal distribution."""

_BLOCK_ELEMENTS = 1 << 21


class Interval(NamedTuple):
    """A 95 % interval and the name of the method, as records carry it."""

    low: float
    high: float
    method: str


def wilson(successes: float, n: float) -> Interval:
    """Return Wilson's score interval of a binomial proportion (Wilson 1927), without continuity correction.

    Args:
        successes: hits among the n trials.
        n: trials; an effective number need not be whole.
    """
    successes, n = float(successes), float(n)
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    # Exact ends where rounding would leave 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def mean_per_class(
    hit: NDArray[np.bool_], labels: NDArray[np.int64], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Return the class-stratified percentile bootstrap of mean per-class accuracy.

    Resampling the n_c images of a class with replacement gives Binomial(n_c, accuracy_c) hits, so the
    resamples are drawn from that law directly. Classes without images are left out. Where every image is a
    hit, or none is, no resample differs: Wilson's interval then stands in, at the effective number of images
    K² / Σ 1/n_c for which a mean over K classes of equal accuracy varies as a plain proportion does.

    Args:
        hit: [n] bool.
        labels: [n] int64.
        seed: of the bootstrap.
        num_resamples: R.
    """
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=hit)
    present = counts > 0
    counts, correct = counts[present], correct[present]
    if hit.all() or not hit.any():
        effective = len(counts) ** 2 / float((1 / counts).sum())
        return wilson(effective if hit.all() else 0, effective)
    generator = np.random.default_rng(seed)
    drawn = generator.binomial(counts, correct / counts, size=(num_resamples, len(counts)))
    return _percentile((drawn / counts).mean(axis=1), "class-stratified bootstrap")


def retrieval(
    ranks: NDArray[np.int64],
    owner: NDArray[np.int64],
    ks: Sequence[int],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[list[Interval], Interval]:
    """Return the image-cluster percentile bootstrap of recall@k for each of `ks`, and of the median rank.

    Images are drawn with replacement; each brings all its queries. Where every query is a hit at k, or none
    is, Wilson's interval over images stands in.

    Args:
        ranks: [m] ranks from 1, one per query.
        owner: [m] image of each query, 0 … n−1, each at least once; `arange(n)` for image → text.
        ks: ranks that count.
        seed: of the bootstrap.
        num_resamples: R.
    """
    num_images = int(owner.max()) + 1
    counts = np.bincount(owner, minlength=num_images)
    hits = [np.bincount(owner, weights=ranks <= k, minlength=num_images) for k in ks]
    totals = np.stack([counts, *hits], axis=1)
    order = np.argsort(ranks, kind="stable")
    recalls = np.empty((num_resamples, len(ks)))
    medians = np.empty(num_resamples)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_ELEMENTS // len(ranks))
    for start in range(0, num_resamples, block):
        rows = slice(start, min(start + block, num_resamples))
        weights = _draw(generator, rows.stop - rows.start, num_images)
        sums = weights @ totals
        recalls[rows] = sums[:, 1:] / sums[:, :1]
        medians[rows] = _weighted_median(ranks[order], weights[:, owner[order]])
    intervals = []
    for column, k in enumerate(ks):
        total = np.count_nonzero(ranks <= k)
        if total in (0, len(ranks)):
            intervals.append(wilson(num_images if total else 0, num_images))
        else:
            intervals.append(_percentile(recalls[:, column], "image-cluster bootstrap"))
    return intervals, _percentile(medians, "image-cluster bootstrap")


def mean_of(values: NDArray[np.float64]) -> Interval:
    """Return the normal interval of a mean of [n] values in [0, 1]; Wilson's where all are 0 or all 1."""
    mean, n = float(values.mean()), len(values)
    if mean in (0.0, 1.0) or n == 1:
        return wilson(mean * n, n)
    half = Z * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(max(0.0, mean - half), min(1.0, mean + half), "normal")


def area_under_curve(per_positive: NDArray[np.float64], per_negative: NDArray[np.float64]) -> Interval:
    """Return DeLong's interval of a ROC AUC (DeLong, DeLong and Clarke-Pearson 1988).

    Where the scores separate the two kinds completely the variance estimate is 0: Wilson's interval over the
    smaller kind stands in.

    Args:
        per_positive: for each positive, the fraction of negatives below it.
        per_negative: for each negative, the fraction of positives above it.
    """
    value = float(per_positive.mean())
    sizes = len(per_positive), len(per_negative)
    parts = (per_positive, per_negative)
    variance = sum(float(part.var(ddof=1)) / len(part) for part in parts if len(part) > 1)
    if variance == 0:
        return wilson(value * min(sizes), min(sizes))
    half = Z * math.sqrt(variance)
    return Interval(max(0.0, value - half), min(1.0, value + half), "DeLong")


def mean_over_labels(
    statistic: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
    num_images: int,
    num_labels: int,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap over images of a mean over labels (mean average precision).

    Args:
        statistic: label and weights [R, n] → [R] values, NaN where a resample has none.
        num_images: n.
        num_labels: K.
        seed: of the bootstrap.
        num_resamples: R.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_ELEMENTS // num_images)
    means = []
    for start in range(0, num_resamples, block):
        weights = _draw(generator, min(block, num_resamples - start), num_images)
        values = np.stack([statistic(label, weights) for label in range(num_labels)])
        present = ~np.isnan(values)
        means.append(np.where(present, values, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1))
    return _percentile(np.concatenate(means), "image bootstrap")


def _draw(generator: np.random.Generator, num_resamples: int, num_images: int) -> NDArray[np.float64]:
    """Return [R, n], how often each resample of n images with replacement drew each image."""
    drawn = generator.integers(0, num_images, size=(num_resamples, num_images))
    drawn += np.arange(num_resamples)[:, None] * num_images
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_images)
    return counts.reshape(num_resamples, num_images).astype(np.float64)


def _weighted_median(values: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [R], the median of ascending `values` [m] repeated `weights` [R, m] times (whole numbers)."""
    reached = np.cumsum(weights, axis=1)
    total = reached[:, -1:]
    # The two middle elements (one and the same for an odd total) lie at 0-based positions
    # (total − 1) // 2 and total // 2; position p is the first value whose cumulative count exceeds p.
    low = (reached > (total - 1) // 2).argmax(axis=1)
    high = (reached > total // 2).argmax(axis=1)
    median: NDArray[np.float64] = (values[low] + values[high]) / 2
    return median


def _percentile(resampled: NDArray[np.float64], method: str) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(low), float(high), method)
