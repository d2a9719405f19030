"""95 % intervals for one model on one dataset: over the draw of test images, the model held fixed.

Images are the unit. All captions of an image are drawn together, since they are not independent; the
retrieval gallery is held fixed. An interval covers the truth in about 95 of 100 draws of the test images: in
93 at least on average over truths near the one at hand and in 90 at every single one, as simulated in
`tests/metrics/test_coverage.py`. Where few images decide, it costs width: see `Interval.conservative`.

Every interval but those of classes and medians is `wilson` at an effective number of images (`_proportion`).

Axes: n images, m captions or other queries, R resamples.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rwkvclip_eval.metrics.roots import beta_quantile, root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 1000
"""Bootstrap resamples: their standard deviation then moves by 2.2 % with the seed."""

Z = 1.959963984540054
"""97.5 % point of the standard normal distribution."""

Z_ONE_SIDED = 1.6448536269514722
"""Its 95 % point."""

EXACT_BELOW = 15
"""Hits or misses below which the exact 90 % interval is computed: from 11 on Wilson's holds it."""

FEW = 10
"""Fewer images' worth of hits, or of misses, and an interval is conservative."""

WIDER = 1.15
"""Times a plain normal interval's width from which on an interval is called conservative."""

FEW_IN_CLASS = 5
"""Fewer images of a class (positives of a label) say little about the variance inside it: it is bounded."""

_BOUND_WEIGHT = 0.5
"""Weight of a variance's upper bound beside its estimate, in images' worth."""

_BLOCK_ELEMENTS = 1 << 21


class Interval(NamedTuple):
    """A 95 % interval with how it was made, as records carry it.

    Attributes:
        low: lower end.
        high: upper end.
        method: its name.
        conservative: few images decide the number, so that the interval covers more than 95 %.
        resamples: of a bootstrap; None for all else.
        seed: of the bootstrap; None for all else.
    """

    low: float
    high: float
    method: str
    conservative: bool = False
    resamples: int | None = None
    seed: int | None = None


class Part(NamedTuple):
    """One number of an average.

    Attributes:
        value: the number.
        low: lower end of its interval; of a few-shot number that of its test images alone.
        high: upper end.
        seeds_variance: of a few-shot number, of the mean over its seeds; 0 of others.
        seeds_freedom: degrees of freedom of that variance; 0 of others.
    """

    value: float
    low: float
    high: float
    seeds_variance: float = 0.0
    seeds_freedom: float = 0.0


AVERAGE_METHOD = (
    "combined from the datasets' intervals as of independent samples (MOVER: Zou & Donner, Stat. Med. 2008), "
    "in which the seeds' part of few-shot numbers has the degrees of freedom of Welch and Satterthwaite"
)


def average(parts: Sequence[Part]) -> Interval:
    """Return the interval of a mean of numbers of independent samples, at least one.

    Distances to the ends add as squares. Ends of a few-shot number hold a factor for how little few seeds
    tell of their variance; those of all datasets tell more, so seeds' variances are added by themselves.
    """
    if len(parts) == 1:
        return Interval(parts[0].low, parts[0].high, AVERAGE_METHOD)
    mean, of_seeds = math.fsum(part.value for part in parts) / len(parts), _squared_half_width(parts)
    low = mean - math.sqrt(math.fsum((p.value - p.low) ** 2 for p in parts) + of_seeds) / len(parts)
    high = mean + math.sqrt(math.fsum((p.high - p.value) ** 2 for p in parts) + of_seeds) / len(parts)
    few = any(part.seeds_freedom for part in parts)
    return Interval(max(0.0, low) if few else low, min(1.0, high) if few else high, AVERAGE_METHOD)


def _squared_half_width(parts: Sequence[Part]) -> float:
    """Return t² · Σ variance of the seeds (Welch 1938, Satterthwaite 1946)."""
    total = math.fsum(part.seeds_variance for part in parts)
    if total == 0:
        return 0.0
    from scipy.special import stdtrit

    own = (part.seeds_variance**2 / part.seeds_freedom for part in parts if part.seeds_variance)
    return float(stdtrit(total**2 / math.fsum(own), 0.975)) ** 2 * total


def wilson(successes: float, n: float) -> Interval:
    """Return Wilson's score interval (1927) of a binomial proportion, at least as wide as the exact 90 % one.

    By itself Wilson's interval covers only 0.84 of some rates within a few hits of 0 or 1. The interval of
    Clopper and Pearson (1934) at 90 % misses no rate more often than one time in ten; it reaches further than
    Wilson's only where there are fewer than about ten hits or misses.

    Args:
        successes: hits among the n trials.
        n: trials; an effective number need not be whole.
    """
    low, high, widened = (float(found) for found in wilson_ends(successes, n))
    return Interval(
        low,
        high,
        "wilson, as wide as the exact 90 % interval" if widened else "wilson",
        conservative=min(successes, n - successes) < FEW,
    )


def wilson_ends(
    successes: ArrayLike, n: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return both ends of `wilson` and whether the exact interval widened it, of many proportions at once."""
    successes, n = np.asarray(successes, np.float64), np.asarray(n, np.float64)
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high, misses = centre - half, centre + half, n - successes
    if (np.minimum(successes, misses) >= EXACT_BELOW).all():
        return np.maximum(low, 0), np.minimum(high, 1), np.zeros(low.shape, bool)
    if low.ndim == 0:
        return _one_exact(float(successes), float(misses), float(low), float(high))
    # Slow to import.
    from scipy import special

    some, all_but = successes > 0, misses > 0
    # The exact ends are 0 and 1 where rounding would leave 1e-17.
    exact_low = np.where(some, special.betaincinv(np.where(some, successes, 1), misses + 1, 0.05), 0.0)
    exact_high = np.where(all_but, special.betaincinv(successes + 1, np.where(all_but, misses, 1), 0.95), 1.0)
    widened = (some & (exact_low < low)) | (all_but & (exact_high > high))
    return np.maximum(np.minimum(low, exact_low), 0), np.minimum(np.maximum(high, exact_high), 1), widened


def _one_exact(
    successes: float, misses: float, low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return what `wilson_ends` does of one proportion, of which Wilson's ends are known."""
    exact_low = beta_quantile(successes, misses + 1, 0.05) if successes > 0 else 0.0
    exact_high = beta_quantile(successes + 1, misses, 0.95) if misses > 0 else 1.0
    widened = (successes > 0 and exact_low < low) or (misses > 0 and exact_high > high)
    ends = max(min(low, exact_low), 0.0), min(max(high, exact_high), 1.0)
    return np.asarray(ends[0]), np.asarray(ends[1]), np.asarray(widened)


def mean_per_class(hit: NDArray[np.bool_], labels: NDArray[np.int64]) -> Interval:
    """Return a score interval of mean per-class accuracy, each class' own accuracy held fixed.

    A mean m is in the interval where the observed one lies within 1.96 standard deviations of it, or within
    1.645 and half an image's weight (which is more where a few images decide). The deviation is that of the
    class accuracies that are most likely if the mean is m: each moves from the observed one in proportion to
    its variance. For one class this is Wilson's interval, for classes that are all hits Wilson's of all their
    images. Variances are p (1 − p) / (n_c − 1), without bias at the observed accuracies.

    Classes of fewer than `FEW_IN_CLASS` images take the accuracy of all classes with as many images: one
    image says nothing of the variance inside its class, and one accuracy for all is the largest variance that
    their mean allows. Classes without images are left out.

    What else was simulated: the class-stratified bootstrap covers 0.00 at one image a class and 0.68 to 0.82
    at one to five; MOVER of each class' Wilson limits 0.76 and 0.81; a normal interval with half a hit and
    half a miss added to each class 0.91 at both, and 0.99 at the nearly pure classes of Caltech-101; this one
    without taking small classes together 0.53 and 0.87.

    Args:
        hit: [n] bool.
        labels: [n] int64.
    """
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=hit)[counts > 0]
    counts = counts[counts > 0]
    accuracy, alike = correct / counts, np.ones(len(counts))
    for size in range(1, FEW_IN_CLASS):
        same = counts == size
        if same.any():
            accuracy[same] = accuracy[same].mean()
            alike[same] = np.count_nonzero(same)
    images = np.maximum(counts - 1 / alike, 1)
    low, worth_low = _least_mean(accuracy, images, counts)
    misses, worth_high = _least_mean(1 - accuracy, images, counts)
    few = counts.min() < FEW_IN_CLASS or min(worth_low, worth_high) < FEW / 2
    # Nearly pure classes at few images each: what might have been missed is more than what was seen to vary.
    seen = Z * math.sqrt(float((accuracy * (1 - accuracy) / images).sum())) / len(counts)
    few = few or (1 - misses - low) / 2 > WIDER * seen
    return Interval(low, 1 - misses, "score over classes", conservative=bool(few))


def _least_mean(
    accuracy: NDArray[np.float64], images: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the lower end of `mean_per_class`, and how many images' worth of variance it rests on.

    That is n p (1 − p) of one class: about half as many as there are hits, where these are few.

    Args:
        accuracy: [K] observed accuracy p̂ of each class.
        images: [K] ν, of which the variance p (1 − p) / ν is.
        counts: [K] images of each class.
    """
    if not accuracy.any():
        return 0.0, math.inf

    def likely(log_pull: float) -> NDArray[np.float64]:
        """Return [K], the most likely accuracies of one mean: p̂ − p = λ p (1 − p) / ν, λ the pull."""
        a = math.exp(log_pull) / images
        p = 2 * accuracy / (1 + a + np.sqrt((1 - a) ** 2 + 4 * a * (1 - accuracy)))
        return np.minimum(p, 1)

    def scatter(p: NDArray[np.float64]) -> tuple[float, float]:
        """Return the standard deviation of their sum, and the weight of a typical image in it."""
        variances = p * (1 - p) / images
        variance = max(float(variances.sum()), 1e-300)
        return math.sqrt(variance), float((variances / counts).sum()) / variance

    def excess(log_pull: float) -> float:
        """Return by how much their sum lies further from the observed one than it may."""
        deviation, image = scatter(likely(log_pull))
        return math.exp(log_pull) * deviation**2 - max(Z * deviation, Z_ONE_SIDED * deviation + image / 2)

    lowest = likely(root(excess, -30, 30))
    deviation, image = scatter(lowest)
    return float(lowest.mean()), (deviation / image) ** 2


def recall(hit: NDArray[np.bool_], owner: NDArray[np.int64]) -> Interval:
    """Return the interval of a recall over queries that come several to an image, all drawn together.

    The variance is that between images (Cochran 1977, §11: a ratio of cluster totals), never taken as smaller
    than that of independent queries.

    Args:
        hit: [m] bool, one per query.
        owner: [m] image of each query, 0 … n−1, each at least once; `arange(n)` for image → text.
    """
    counts = np.bincount(owner)
    n, m = len(counts), len(hit)
    num_hits = int(np.count_nonzero(hit))
    if counts.max() == 1:
        return wilson(num_hits, m)
    value = num_hits / m
    residual = np.bincount(owner, weights=hit) - value * counts
    variance = float((residual**2).sum()) / m**2 * n / max(1, n - 1)
    # Captions of one image are at most all hits or all misses.
    fewest = m**2 / float((counts.astype(np.float64) ** 2).sum())
    return _proportion(value, variance, fewest, "wilson, captions clustered by image", most=m)


def median_rank(ranks: NDArray[np.int64], owner: NDArray[np.int64], num_candidates: int) -> Interval:
    """Return the interval of a median rank: the ranks at which the share of queries may reach one half.

    Woodruff's (1952): the interval of the share of ranks up to k, see `recall`, inverted. Ranks are whole, so
    that it is conservative where they are small, and may be a single one: where surely more than half of the
    queries rank first, the median is 1.

    Args:
        ranks: [m] ranks from 1, one per query.
        owner: [m] image of each query, see `recall`.
        num_candidates: the last rank there is.
    """
    seen = np.unique(ranks)
    low = bisect.bisect_left(seen, 0.5, key=lambda rank: recall(ranks <= rank, owner).high)
    high = bisect.bisect_right(seen, 0.5, key=lambda rank: recall(ranks <= rank, owner).low)
    first = int(seen[low])
    last = int(seen[high]) if high < len(seen) else num_candidates
    method = "ranks whose share may be one half"
    return Interval(float(first), float(last), method, conservative=last - first < FEW)


def mean_of(values: NDArray[np.float64]) -> Interval:
    """Return the interval of a mean of [n] values in [0, 1], one per image, such as 0, ½ and 1."""
    n, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1)) / n if n > 1 else mean * (1 - mean)
    return _proportion(mean, variance, n, "wilson, variance between images")


def area_under_curve(per_positive: NDArray[np.float64], per_negative: NDArray[np.float64]) -> Interval:
    """Return the interval of a ROC AUC by the variance of DeLong, DeLong and Clarke-Pearson (1988).

    Their normal interval covers 0.56 to 0.90 with few positives or near 1. Newcombe's (2006, method 5) covers
    where positives and negatives scatter alike, and 0.79 to 0.90 where they do not.

    Args:
        per_positive: for each positive, the fraction of negatives below it.
        per_negative: for each negative, the fraction of positives above it.
    """
    value = float(per_positive.mean())
    sizes = len(per_positive), len(per_negative)
    variance = sum(
        float(part.var(ddof=1)) / len(part) if len(part) > 1 else value * (1 - value)
        for part in (per_positive, per_negative)
    )
    return _proportion(value, variance, min(sizes), "wilson, DeLong's variance", most=math.prod(sizes))


def mean_over_labels(
    statistic: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
    positives: NDArray[np.int64],
    num_images: int,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Return the interval of a mean over labels (mean average precision) by a bootstrap over images.

    Average precision depends on how many images there are; this is the interval of its expectation at so
    many. Resamples repeat images, which raises average precision: their deviation is used, not their
    percentiles, which cover 0.46 to 0.90 at n = 79. Labels of fewer than `FEW_IN_CLASS` positives have their
    variance bounded by that of a proportion over their positives.

    Args:
        statistic: label and weights [R, n] → [R] values, NaN where a resample has none.
        positives: [K] images that have each label; labels that none has are left out.
        num_images: n.
        seed: of the bootstrap.
        num_resamples: R.
    """
    labels = np.flatnonzero(positives)
    positives = positives[labels]
    once = np.ones((1, num_images))
    values = np.array([float(statistic(int(label), once)[0]) for label in labels])
    few = positives < FEW_IN_CLASS
    variance = 0.0
    if few.any():
        mean = float(values[few].mean())
        variance += mean * (1 - mean) * float((1 / positives[few]).sum()) / len(labels) ** 2
    if not few.all():
        means = resampled_means(statistic, labels[~few], num_images, seed, num_resamples)
        variance += float(means.var(ddof=1)) * (np.count_nonzero(~few) / len(labels)) ** 2
    fewest = len(labels) ** 2 / float((1 / positives).sum())
    deviation = "largest variance" if few.all() else "bootstrap deviation over images"
    method = f"wilson, {deviation}, of the expected mAP of so many images"
    interval = _proportion(float(values.mean()), variance, fewest, method)
    interval = interval._replace(conservative=interval.conservative or bool(few.any()))
    return interval if few.all() else interval._replace(resamples=num_resamples, seed=seed)


def resampled_means(
    statistic: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
    labels: NDArray[np.int64],
    num_images: int,
    seed: int,
    num_resamples: int,
) -> NDArray[np.float64]:
    """Return [R], the mean over `labels` of each resample; 0 where it has no positive of any."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_ELEMENTS // num_images)
    means = []
    for start in range(0, num_resamples, block):
        weights = _draw(generator, min(block, num_resamples - start), num_images)
        values = np.stack([statistic(int(label), weights) for label in labels])
        present = ~np.isnan(values)
        means.append(np.where(present, values, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1))
    return np.concatenate(means)


def _proportion(
    value: float, variance: float, fewest: float, method: str, *, most: float = math.inf
) -> Interval:
    """Return `wilson` at the number of images of which a proportion would vary as `value` does.

    A variance estimated from a few hits or misses is often far too small: none at all where all are hits.
    So it is averaged with the largest it can be, `_BOUND_WEIGHT` images' worth beside the
    fewest · value · (1 − value) on which the estimate rests.

    Args:
        value: a mean of n quantities in [0, 1].
        variance: an estimate of its variance.
        fewest: the number of images at which a proportion varies as much as `value` can at most.
        method: name.
        most: the number of images that it is worth at most.
    """
    spread = value * (1 - value)
    n = (fewest * spread + _BOUND_WEIGHT) / (fewest * variance + _BOUND_WEIGHT / fewest)
    n = min(n, most)
    low, high = wilson(value * n, n)[:2]
    few = fewest * min(value, 1 - value) < FEW or fewest**2 * variance < FEW / 4
    return Interval(low, high, method, conservative=few)


def _draw(generator: np.random.Generator, num_resamples: int, num_images: int) -> NDArray[np.float64]:
    """Return [R, n], how often each resample of n images with replacement drew each image."""
    drawn = generator.integers(0, num_images, size=(num_resamples, num_images))
    drawn += np.arange(num_resamples)[:, None] * num_images
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_images)
    return counts.reshape(num_resamples, num_images).astype(np.float64)
