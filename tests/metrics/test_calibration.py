"""Reliability and expected calibration error, against a loop over images and by simulated coverage."""

import math

import numpy as np
import pytest
from coverage_simulation import Draw, Point, check, simulate

from rwkvclip_eval.metrics.calibration import (
    NUM_BINS,
    calibration_interval,
    expected_calibration_error,
    reliability,
)

MANY = 400_000
ACCURACIES = {
    "calibrated": lambda c: c,
    "two points over": lambda c: np.clip(c - 0.02, 0, 1),
    "over in proportion": lambda c: 0.85 * c,
    "ten points under": lambda c: np.clip(c + 0.1, 0, 1),
    "over and under": lambda c: np.clip(c + 0.1 * np.sin(6 * c), 0, 1),
}
CONFIDENCES = {"spread": (1, 1), "sure": (6, 0.6), "unsure": (1.5, 8), "very sure": (30, 0.3)}


def by_image(confidence, hit, num_bins):
    """The expected calibration error, image after image."""
    bins = {}
    for c, h in zip(confidence, hit, strict=True):
        bins.setdefault(min(math.floor(c * num_bins), num_bins - 1), []).append((c, h))
    total = 0.0
    for members in bins.values():
        mean = sum(c for c, _ in members) / len(members)
        accuracy = sum(h for _, h in members) / len(members)
        total += len(members) * abs(accuracy - mean)
    return total / len(confidence)


@pytest.mark.parametrize("num_bins", [1, 2, 10, NUM_BINS])
@pytest.mark.parametrize("n", [1, 7, 500])
def test_the_error_is_that_of_a_loop_over_images(num_bins, n):
    generator = np.random.default_rng(n)
    confidence, hit = generator.random(n), generator.random(n) < 0.6
    confidence[0] = 1.0
    found = expected_calibration_error(reliability(confidence, hit, num_bins))
    assert found == pytest.approx(by_image(confidence, hit, num_bins), abs=1e-12)


def test_the_example_of_the_docstring_comes_out():
    confidence, hit = np.array([0.9, 0.9, 0.9, 0.5]), np.array([True, True, False, False])
    found = reliability(confidence, hit)
    assert expected_calibration_error(found) == pytest.approx(0.3)
    assert found.counts.sum() == 4 and np.count_nonzero(found.counts) == 2
    assert found.accuracy[found.counts == 3] == pytest.approx(2 / 3)
    assert np.isnan(found.accuracy[0])


def errors(confidences, accuracy, n):
    """A point: images drawn with confidences of a beta distribution, hits at the rate `accuracy` of them."""
    shape, of = CONFIDENCES[confidences], ACCURACIES[accuracy]
    many = np.random.default_rng(1).beta(*shape, MANY)
    bins = np.minimum((many * NUM_BINS).astype(int), NUM_BINS - 1)

    def near(generator):
        shift = generator.uniform(-1, 1) / n * (accuracy != "calibrated")
        gaps = np.bincount(bins, weights=np.clip(of(many) + shift, 0, 1) - many)
        return shift, float(np.abs(gaps).sum() / MANY)

    def draw(truth, generator):
        confidence = generator.beta(*shape, n)
        hit = generator.random(n) < np.clip(of(confidence) + truth[0], 0, 1)
        value = expected_calibration_error(reliability(confidence, hit))
        return Draw(calibration_interval(confidence, hit), value, truth[1])

    return Point(f"{confidences}, {accuracy}, {n} images", near, draw, at_most=0.99)


FEW = [errors(c, a, 1000) for c in CONFIDENCES for a in ACCURACIES]
ALL = [errors(c, a, n) for c in CONFIDENCES for a in ACCURACIES for n in (100, 300, 1000, 10_000)]


def named(points):
    return [pytest.param(point, id=point.name) for point in points]


@pytest.mark.parametrize("point", named(FEW))
def test_its_interval_covers_the_error_of_the_population(point):
    check(point, simulate(point, num_truths=4, num_draws=50))


@pytest.mark.slow
@pytest.mark.parametrize("point", named(ALL))
def test_its_interval_covers_the_error_of_the_population_at_length(point):
    check(point, simulate(point, num_truths=8, num_draws=200, seed=1))


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_an_interval_of_no_width_or_a_tenth_is_found_out(scale):
    point = errors("spread", "over in proportion", 1000)
    with pytest.raises(AssertionError, match="too little"):
        check(point, simulate(point, num_truths=4, num_draws=50, scale=scale))


def test_the_error_of_a_calibrated_model_is_not_told_from_none():
    generator = np.random.default_rng(0)
    confidence = generator.random(2000)
    interval = calibration_interval(confidence, generator.random(2000) < confidence)
    assert interval.low == 0 and interval.conservative
    assert 0 < interval.high < 0.05


@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 50])
def test_equal_confidences_and_outcomes_have_an_interval_around_their_error(hit, confidence, n):
    given = np.full(n, confidence), np.full(n, hit)
    value = expected_calibration_error(reliability(*given))
    interval = calibration_interval(*given)
    assert 0 <= interval.low <= value <= interval.high <= 1
