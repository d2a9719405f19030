"""Metrics of ranked scores: average precision and ROC AUC.

Axes: n samples, K labels, g distinct scores, R weightings (bootstrap resamples).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CHANCE_DRAWS = 10
"""Random scorings that give the chance level of mean average precision; over 20 labels two digits hold."""


class PrecisionRecall(NamedTuple):
    """Counts at every distinct score, the highest first.

    Attributes:
        true_positives: [R, g] positives among the samples that score at least so much.
        predicted: [R, g] samples that score at least so much.
        positives: [R] positives in all.
    """

    true_positives: NDArray[np.float64]
    predicted: NDArray[np.float64]
    positives: NDArray[np.float64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """[R, g]; 0 where nothing is predicted yet."""
        precision: NDArray[np.float64] = self.true_positives / np.maximum(self.predicted, 1)
        return precision


def precision_recall(
    scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> PrecisionRecall:
    """Return the counts behind the precision-recall curve; samples of equal score enter together.

    Args:
        scores: [n] finite.
        positive: [n] bool.
        weights: [R, n] whole numbers, how often each sample counts; once each by default (R = 1).
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    counted = np.ones((1, len(scores))) if weights is None else weights[:, order]
    hit = np.cumsum(counted * positive[order], axis=1)
    return PrecisionRecall(hit[:, ends], np.cumsum(counted, axis=1)[:, ends], hit[:, -1])


def average_precision(curve: PrecisionRecall) -> NDArray[np.float64]:
    """Return [R], the area under the precision-recall curve, not interpolated; NaN without positives.

    The sum of precision × step in recall, as scikit-learn's `average_precision_score`. (The VOC development
    kit of 2010 on interpolates the precision first, which gives slightly larger values.)
    """
    steps = np.diff(curve.true_positives, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = (steps * curve.precision).sum(axis=1) / curve.positives
    return area


def eleven_point_average_precision(curve: PrecisionRecall) -> NDArray[np.float64]:
    """Return [R], the 11-point interpolated average precision of VOC2007; NaN without positives.

    The mean over recalls t = 0, 0.1, …, 1 of the highest precision at any recall ≥ t (Everingham et al.,
    IJCV 2010, section 4.2).
    """
    envelope = np.maximum.accumulate(curve.precision[:, ::-1], axis=1)[:, ::-1]
    total = np.zeros(len(envelope))
    for tenth in range(11):
        # recall ≥ t in whole numbers: 10·TP ≥ tenth·positives. Counts grow with g: the first that holds.
        reached = 10 * curve.true_positives >= tenth * curve.positives[:, None]
        total += np.take_along_axis(envelope, reached.argmax(axis=1)[:, None], axis=1)[:, 0]
    total[curve.positives == 0] = np.nan
    mean: NDArray[np.float64] = total / 11
    return mean


def mean_average_precision(
    scores: NDArray[Any], labels: NDArray[Any], form: Callable[[PrecisionRecall], NDArray[np.float64]]
) -> float:
    """Return the mean over labels that some image has; images for which a label is left open are left out.

    Args:
        scores: [n, K] finite.
        labels: [n, K] 0, 1 and −1 for open.
        form: `average_precision` or `eleven_point_average_precision`.
    """
    values = []
    for k in range(labels.shape[1]):
        known = labels[:, k] >= 0
        positive = labels[known, k] == 1
        if positive.any():
            values.append(float(form(precision_recall(scores[known, k], positive))[0]))
    return float(np.mean(values)) if values else 0.0


def chance_mean_average_precision(
    labels: NDArray[Any], form: Callable[[PrecisionRecall], NDArray[np.float64]]
) -> float:
    """Return the expected mean average precision of scores at random, estimated from seeded draws.

    That is near the positives' share for the area; interpolation puts the 11-point form above it.
    """
    generator = np.random.default_rng(0)
    draws = [
        mean_average_precision(generator.random(labels.shape, np.float32), labels, form)
        for _ in range(CHANCE_DRAWS)
    ]
    return float(np.mean(draws))


class AreaUnderCurve(NamedTuple):
    """ROC AUC with what its variance is made of (DeLong, DeLong and Clarke-Pearson 1988).

    Attributes:
        value: chance that a positive scores above a negative, ties counted half.
        per_positive: for each positive, the fraction of negatives below it.
        per_negative: for each negative, the fraction of positives above it.
    """

    value: float
    per_positive: NDArray[np.float64]
    per_negative: NDArray[np.float64]


def roc_auc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> AreaUnderCurve:
    """Return the area under the ROC curve.

    Args:
        scores: [n] finite, higher for positives.
        positive: [n] bool, at least one of each kind.
    """
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    halves_below = _halves_below(below, scores[positive])
    # Whole numbers: 1 − fraction would lose the digits of the few pairs that are out of order.
    halves_above = 2 * len(above) - _halves_below(above, scores[~positive])
    return AreaUnderCurve(
        float(halves_below.sum() / (2 * len(above) * len(below))),
        halves_below / (2 * len(below)),
        halves_above / (2 * len(above)),
    )


def _halves_below(ascending: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each value twice the number of `ascending` below it, equal ones counted half."""
    below = np.searchsorted(ascending, values, side="left")
    not_above = np.searchsorted(ascending, values, side="right")
    return below + not_above
