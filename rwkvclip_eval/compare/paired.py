"""95 % intervals of candidate − baseline, both judged on the same images: over the draw of test images.

What two models share, however hard an image is for both, drops out of their difference; what is left are the
images on which they differ. Every number that is a mean of hits is taken apart into what the candidate gained
and what it lost. Each of the two is a number of its own with an interval that `metrics.intervals` has, and
the two distances add as squares, less what gains and losses have to do with one another (MOVER: Zou and
Donner, Stat. Med. 2008). Nothing gained and nothing lost is thereby no certainty: an interval has no width
only where the number could not have come out otherwise. Nor is it less certain than a few flips: an image all
of whose captions would flip may be unseen though single captions flipped, so that gains and losses each reach
as far beyond what was seen as where nothing was (of n images 3.84 / n, about the exact 3.69 / n of no event
among n). Without that bound up to 3.7 % pass at a true loss of the margin
(`tests/compare/test_gate_errors.py`).

Areas under curves and average precision are no such means: theirs is an interval of nearly normal numbers.
Means over seeds have the interval of `metrics.seed_intervals`, of half of one more than the difference.

As with single models, they cover 0.93 at least on average over truths near the one at hand and 0.90 at every
single one (`tests/compare/test_paired_coverage.py`).

Axes: n images, m captions or other queries, S seeds, R resamples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.compare.difference import Difference, of_smooth, smooth
from rwkvclip_eval.compare.significance import of_flips
from rwkvclip_eval.metrics import intervals as single
from rwkvclip_eval.metrics import seed_intervals
from rwkvclip_eval.metrics.intervals import Interval, Z

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_FEW_RANKED = 100
"""Images below which intervals of medians cover more than 95 %."""

FEW_TOGETHER = 10
"""Images that differ between the models, from which on what they have in common, and weigh, is believed."""


def hits(baseline: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> Difference:
    """Return the difference of top-k accuracy.

    Args:
        baseline: [n] bool.
        candidate: [n] bool, of the same images.
    """
    n = len(baseline)
    gained, lost = (int(np.count_nonzero(x)) for x in _changes(baseline, candidate))
    together = _of_shares(gained / n, lost / n)
    gains, losses = single.wilson(gained, n), single.wilson(lost, n)
    steps, weights = _steps(baseline, candidate), np.full(n, 1 / n)
    unseen = single.wilson(0, n)
    return _of_parts((gained / n, gains), (lost / n, losses), unseen, together, steps, weights)


def mean_of(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> Difference:
    """Return the difference of a mean of [n] values in [0, 1], one per image, such as 0, ½ and 1."""
    n, steps = len(baseline), candidate - baseline
    up, down = np.maximum(steps, 0), np.maximum(-steps, 0)
    together = _correlation(up - up.mean(), down - down.mean())
    return _of_parts(
        (float(up.mean()), single.mean_of(up)),
        (float(down.mean()), single.mean_of(down)),
        single.mean_of(np.zeros(n)),
        together,
        steps,
        np.full(n, 1 / n),
    )


def mean_per_class(
    baseline: NDArray[np.bool_], candidate: NDArray[np.bool_], labels: NDArray[np.int64]
) -> Difference:
    """Return the difference of mean per-class accuracy. Classes without images are left out.

    Args:
        baseline: [n] bool.
        candidate: [n] bool, of the same images.
        labels: [n] int64.
    """
    counts = np.bincount(labels)
    present = counts > 0
    num_classes = int(np.count_nonzero(present))
    gained, lost = _changes(baseline, candidate)
    up, down = (np.bincount(labels, weights=x)[present] / counts[present] for x in (gained, lost))
    gain, loss = float(up.mean()), float(down.mean())
    spread = math.sqrt(
        float((up * (1 - up) / counts[present]).sum() * (down * (1 - down) / counts[present]).sum())
    )
    shared = float((up * down / counts[present]).sum()) / spread if spread > 0 else 0.0
    return _of_parts(
        (gain, single.mean_per_class(gained, labels)),
        (loss, single.mean_per_class(lost, labels)),
        single.mean_per_class(np.zeros_like(lost), labels),
        # Classes of one image say nothing of what is inside a class; all together do.
        max(-1.0, min(-shared, _of_shares(gain, loss))),
        _steps(baseline, candidate),
        1 / (num_classes * counts[labels]),
    )


def recall(baseline: NDArray[np.bool_], candidate: NDArray[np.bool_], owner: NDArray[np.int64]) -> Difference:
    """Return the difference of a recall over queries that come several to an image, all drawn together.

    Args:
        baseline: [m] bool, one per query.
        candidate: [m] bool, of the same queries.
        owner: [m] image of each query, 0 … n−1, each at least once.
    """
    m, counts = len(baseline), np.bincount(owner)
    if counts.max() == 1:
        return hits(baseline, candidate)
    gained, lost = _changes(baseline, candidate)
    up, down = (np.bincount(owner, weights=x) for x in (gained, lost))
    gain, loss = up.sum() / m, down.sum() / m
    found = _of_parts(
        (gain, single.recall(gained, owner)),
        (loss, single.recall(lost, owner)),
        single.recall(np.zeros_like(lost), owner),
        _believed(_correlation(up - gain * counts, down - loss * counts), int(np.count_nonzero(up + down))),
        (up - down) / counts,
        counts / m,
    )
    return found._replace(gained=int(np.count_nonzero(gained)), lost=int(np.count_nonzero(lost)))


def median_rank(
    baseline: NDArray[np.int64], candidate: NDArray[np.int64], owner: NDArray[np.int64], num_candidates: int
) -> Difference:
    """Return the difference of median ranks.

    From the intervals of both medians; what they have in common is told by the queries that one model ranks
    up to its median and the other does not.

    Args:
        baseline: [m] ranks from 1, one per query.
        candidate: [m], of the same queries.
        owner: [m] image of each query, see `recall`.
        num_candidates: the last rank there is.
    """
    (first, before), (second, after) = (
        (float(np.median(ranks)), single.median_rank(ranks, owner, num_candidates))
        for ranks in (baseline, candidate)
    )
    counts = np.bincount(owner)
    within = [np.bincount(owner, weights=r <= v) for r, v in ((baseline, first), (candidate, second))]
    residuals = [x - x.sum() / len(owner) * counts for x in within]
    common = _correlation(*residuals)
    # Two images' worth of queries might have differed where none did.
    common = min(common, 1 - 2 * Z / len(counts))
    below = _apart(second - after.low, before.high - first, common)
    above = _apart(after.high - second, first - before.low, common)
    value = second - first
    return Difference(
        value,
        # Medians are whole or halves.
        math.floor(2 * (value - below) + 1e-9) / 2,
        math.ceil(2 * (value + above) - 1e-9) / 2,
        "from both medians' intervals",
        conservative=before.conservative or below + above < single.FEW or len(counts) < _FEW_RANKED,
        significance=None,
        variance=((below + above) / (2 * Z)) ** 2,
        images=float(len(counts)),
        fewest=float(len(counts)),
        gained=int(np.count_nonzero(candidate < baseline)),
        lost=int(np.count_nonzero(candidate > baseline)),
    )


def area_under_curve(
    baseline: tuple[NDArray[np.float64], NDArray[np.float64]],
    candidate: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Difference:
    """Return the difference of ROC AUC by the paired variance of DeLong, DeLong and Clarke-Pearson (1988).

    Args:
        baseline: for each positive the fraction of negatives below it, for each negative that of positives
            above it (`metrics.ranking.AreaUnderCurve`).
        candidate: the same of the same images.
    """
    areas = [float(parts[0].mean()) for parts in (baseline, candidate)]
    steps = [after - before for before, after in zip(baseline, candidate, strict=True)]
    fewest = min(len(part) for part in steps)
    most = sum(area * (1 - area) for area in areas) / fewest
    variance = sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else most for part in steps)
    return smooth(areas[1] - areas[0], variance, most, fewest, "paired DeLong variance")


def mean_over_labels(
    baseline: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
    candidate: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
    positives: NDArray[np.int64],
    num_images: int,
    *,
    num_resamples: int = single.NUM_RESAMPLES,
) -> Difference:
    """Return the difference of a mean over labels (mean average precision), both on the same resamples.

    Args:
        baseline: see `metrics.intervals.mean_over_labels`.
        candidate: the same of the same images.
        positives: [K] images that have each label; labels that none has are left out.
        num_images: n.
        num_resamples: R.
    """
    labels, once = np.flatnonzero(positives), np.ones((1, num_images))
    positives = positives[labels]
    values = np.array([[float(of(int(k), once)[0]) for k in labels] for of in (baseline, candidate)])
    spread = float((values.mean(axis=1) * (1 - values.mean(axis=1))).sum())
    fewest = len(labels) ** 2 / float((1 / positives).sum())
    few = positives < single.FEW_IN_CLASS
    # What a bootstrap does not see: see `metrics.intervals.mean_over_labels`.
    variance = spread * float((1 / positives[few]).sum()) / len(labels) ** 2
    if not few.all():
        means = single.resampled_means(
            lambda label, weights: candidate(label, weights) - baseline(label, weights),
            labels[~few],
            num_images,
            0,
            num_resamples,
        )
        variance += float(means.var(ddof=1)) * (np.count_nonzero(~few) / len(labels)) ** 2
    value = float((values[1] - values[0]).mean())
    found = smooth(value, variance, spread / fewest, fewest, "paired bootstrap deviation over images")
    return found._replace(conservative=found.conservative or bool(few.any()))


def over_seeds(
    baseline: NDArray[Any],
    candidate: NDArray[Any],
    of: Callable[[NDArray[Any]], seed_intervals.SeedInterval | None],
    value: float,
    images: float,
) -> Difference | None:
    """Return the difference of a mean over seeds that share their test images; None for a single seed.

    Paired by seed and by image: what seeds' scores and images give both models alike drops out.

    Args:
        baseline: [S, n] in [0, 1], see `metrics.seed_intervals`.
        candidate: the same of the same seeds and images.
        of: makes the interval of one model's values.
        value: of the difference.
        images: that one seed's score is worth; see `Difference`.
    """
    interval = of((1 + np.asarray(candidate, np.float64) - baseline) / 2)
    if interval is None:
        return None
    by_images = (interval.images_high - interval.images_low) ** 2 / (4 * Z * Z)
    variance, seeds = 4 * by_images, len(baseline)
    return Difference(
        value,
        min(value, 2 * interval.low - 1),
        max(value, 2 * interval.high - 1),
        f"score interval over {seeds} seeds × test images",
        # Student's t of few seeds covers more wherever seeds vary little.
        conservative=seeds < single.FEW,
        significance=of_smooth(value, variance, seeds, 4 * interval.seeds_se**2),
        variance=variance,
        images=images,
        fewest=images,
        gained=int(np.count_nonzero(candidate > baseline)),
        lost=int(np.count_nonzero(candidate < baseline)),
        seeds=seeds,
        seeds_variance=4 * interval.seeds_se**2,
    )


def _changes(
    baseline: NDArray[np.bool_], candidate: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what the candidate gained and what it lost."""
    return candidate & ~baseline, baseline & ~candidate


def _steps(baseline: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> NDArray[np.int8]:
    return candidate.view(np.int8) - baseline.view(np.int8)


def _of_shares(gain: float, loss: float) -> float:
    """Return the correlation of the shares of images gained and lost, none of which is both."""
    if gain == 0 or loss == 0:
        return 0.0
    return -math.sqrt(gain * loss / ((1 - gain) * (1 - loss)))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the correlation of two residuals."""
    norm = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
    return max(-1.0, min(1.0, float((one * other).sum()) / norm)) if norm > 0 else 0.0


def _believed(correlation: float, num_differing: int) -> float:
    """Return a correlation of gains and losses, a positive one as far as images tell of it."""
    return correlation * num_differing / (num_differing + FEW_TOGETHER) if correlation > 0 else correlation


def _apart(one: float, other: float, correlation: float) -> float:
    """Return the distance of a difference from one end of its interval."""
    return math.sqrt(max(0.0, one * one + other * other - 2 * correlation * one * other))


def _of_parts(
    gain: tuple[float, Interval],
    loss: tuple[float, Interval],
    nothing: Interval,
    correlation: float,
    steps: NDArray[Any],
    weights: NDArray[np.float64],
) -> Difference:
    """Return the difference of what was gained and what was lost.

    Args:
        gain: share gained, and its interval.
        loss: share lost, and its interval.
        nothing: the interval where no image gains, or loses.
        correlation: of the two.
        steps: [n] candidate − baseline of each image.
        weights: [n] of the images, together 1.
    """
    (up, gains), (down, losses) = gain, loss
    value, unseen = up - down, nothing.high
    more_up, more_down = gains.high - up, losses.high - down
    below = _apart(up - gains.low, max(more_down, unseen), correlation)
    above = _apart(max(more_up, unseen), down - losses.low, correlation)
    weighted = steps * weights
    variance, squared = float((weighted**2).sum()), float((weights**2).sum())
    # A few images that differ do not tell what those weigh that do: beside them stand as many of any.
    share = FEW_TOGETHER / len(weights)
    return Difference(
        value,
        max(-1.0, value - below),
        min(1.0, value + above),
        f"gained less lost, each {gains.method.partition(',')[0]}",
        conservative=gains.conservative or losses.conservative or bool(min(more_up, more_down) < unseen),
        significance=of_flips(weighted),
        variance=variance,
        images=float((np.abs(weighted).sum() + share) / (variance + share * squared)),
        fewest=1 / squared,
        unseen=unseen,
        flips=True,
        gained=int(np.count_nonzero(steps > 0)),
        lost=int(np.count_nonzero(steps < 0)),
    )
