"""Simulated few-shot runs: hits of several seeds on the same test images, with known truth.

Image i of seed s is a hit where μ + a_s + b_i + e_si > 0, all normal: a_s is how good the seed is, b_i how
easy the image is for every seed, e_si what is left. Axes: R runs, S seeds, n images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rwkvclip_eval.metrics.seed_intervals import SeedInterval

NUM_SEEDS = (2, 3, 5, 10)
SEED_VARIANCES = (0, 1, 4)
"""Variance of the seeds' true scores, in variances that the choice of images gives one seed's score."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(81)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def draw_hits(
    generator: np.random.Generator,
    num_runs: int,
    num_seeds: int,
    accuracies: NDArray[np.float64],
    seed_variance: float,
    *,
    weights: NDArray[np.float64] | None = None,
    shared: float = 0.5,
) -> NDArray[np.bool_]:
    """Return [R, S, n] hits.

    Args:
        generator: source of randomness.
        num_runs: R.
        num_seeds: S.
        accuracies: [n], expected hits over seeds and images like this one.
        seed_variance: see `SEED_VARIANCES`.
        weights: [n] of the images in the score; 1/n by default.
        shared: b's part of the variance of b + e.
    """
    n = len(accuracies)
    deviation = seed_deviation(accuracies, np.full(n, 1 / n) if weights is None else weights, seed_variance)
    hidden = (
        ndtri(accuracies) * np.sqrt(1 + deviation**2)
        + deviation * generator.standard_normal((num_runs, num_seeds, 1))
        + np.sqrt(shared) * generator.standard_normal((num_runs, 1, n))
        + np.sqrt(1 - shared) * generator.standard_normal((num_runs, num_seeds, n))
    )
    found: NDArray[np.bool_] = hidden > 0
    return found


def draw_pairs(
    generator: np.random.Generator,
    num_seeds: int,
    baseline: NDArray[np.float64],
    candidate: NDArray[np.float64],
    seed_variance: float,
    *,
    common: float,
    weights: NDArray[np.float64],
    shared: float = 0.5,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return [S, n] hits of two models of the same seeds on the same images.

    Args:
        generator: source of randomness.
        num_seeds: S.
        baseline: [n], expected hits over seeds and images like this one.
        candidate: [n], those of the other model.
        seed_variance: see `SEED_VARIANCES`.
        common: part of each variance that both models have from the same draw.
        weights: [n] of the images in the score.
        shared: b's part of the variance of b + e.
    """
    shapes = (num_seeds, 1), (1, len(baseline)), (num_seeds, len(baseline))
    scales = np.sqrt(shared), np.sqrt(1 - shared)
    both = [generator.standard_normal(shape) for shape in shapes]
    found = []
    for accuracies in (baseline, candidate):
        deviation = seed_deviation(accuracies, weights, seed_variance)
        hidden = ndtri(accuracies) * np.sqrt(1 + deviation**2)
        for scale, shape, drawn in zip((deviation, *scales), shapes, both, strict=True):
            own = generator.standard_normal(shape)
            hidden = hidden + scale * (np.sqrt(common) * drawn + np.sqrt(1 - common) * own)
        found.append(hidden > 0)
    return found[0], found[1]


def seed_deviation(
    accuracies: NDArray[np.float64], weights: NDArray[np.float64], seed_variance: float
) -> float:
    """Return the standard deviation of a_s that gives the seeds' true scores so much variance."""
    if not seed_variance:
        return 0.0
    kinds, counted = np.unique(np.stack([accuracies, weights]), axis=1, return_counts=True)
    by_images = float((weights**2 * accuracies * (1 - accuracies)).sum())

    def excess(deviation: float) -> float:
        places = ndtri(kinds[0]) * np.sqrt(1 + deviation**2)
        scores = (ndtr(places + deviation * _NODES[:, None]) * kinds[1] * counted).sum(axis=1)
        return (
            float((_WEIGHTS * scores**2).sum() - (_WEIGHTS * scores).sum() ** 2) / by_images - seed_variance
        )

    return float(brentq(excess, 0, 20))


def coverage(intervals: list[SeedInterval], truth: float) -> float:
    """Return the share of the intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for low, high, *_ in intervals]))


def relative_width(intervals: list[SeedInterval], means: NDArray[np.float64]) -> float:
    """Return the mean width against that of the normal interval of the variance that `means` [R] have."""
    return float(np.mean([high - low for low, high, *_ in intervals]) / (2 * 1.96 * means.std()))


def intervals_of(runs: NDArray[Any], of: Callable[[NDArray[Any]], SeedInterval | None]) -> list[SeedInterval]:
    """Return the interval of each of the runs [R, S, n]."""
    found = [of(run) for run in runs]
    assert None not in found
    return [interval for interval in found if interval is not None]
