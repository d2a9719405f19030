"""Intervals of means over seeds that are judged on the same test images."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from seed_simulation import (
    NUM_SEEDS,
    SEED_VARIANCES,
    coverage,
    draw_hits,
    intervals_of,
    relative_width,
)

from rwkvclip_eval.metrics import seed_intervals as seed_statistics
from rwkvclip_eval.metrics.intervals import wilson
from rwkvclip_eval.metrics.ranking import roc_auc
from rwkvclip_eval.metrics.seed_intervals import of_area_under_curve, of_mean, of_mean_per_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rwkvclip_eval.metrics.seed_intervals import SeedInterval


def test_seeds_that_hit_the_same_images_tell_no_more_than_one_does() -> None:
    hit = np.arange(400) % 8 > 0
    found = of_mean(np.stack([hit] * 5))
    alone = wilson(350, 400)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=2e-4)
    assert (found.low, found.high) == (found.images_low, found.images_high)
    assert found.seeds_se == 0


def test_the_seeds_part_is_the_standard_error_of_their_scores() -> None:
    # Scores ¾ and ½: deviation ¼ / √2, over √2.
    found = of_mean(np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.bool_))
    assert found is not None
    assert found.seeds_se == pytest.approx(0.125)


def test_both_parts_are_those_of_the_two_way_analysis_of_variance() -> None:
    num_seeds, n = 6, 2000
    (hit,) = draw_hits(np.random.default_rng(0), 1, num_seeds, np.full(n, 0.6), 4).astype(float)
    found = of_mean(hit)
    assert found is not None
    rows, columns = hit.mean(axis=1, keepdims=True), hit.mean(axis=0, keepdims=True)
    rest = hit - rows - columns + hit.mean()
    of_seeds = n * rows.var(ddof=1)
    of_images = num_seeds * columns.var(ddof=1)
    of_rest = (rest**2).sum() / ((num_seeds - 1) * (n - 1))
    assert found.seeds_se**2 == pytest.approx(of_seeds / (num_seeds * n))
    half = (found.images_high - found.images_low) / 2
    assert half == pytest.approx(1.96 * np.sqrt((of_images - of_rest) / (num_seeds * n)), rel=0.01)


def test_one_seed_has_no_interval() -> None:
    assert of_mean(np.ones((1, 9))) is None
    assert of_mean_per_class(np.ones((1, 9), np.bool_), np.arange(9)) is None
    assert of_area_under_curve(np.ones((1, 9)), np.arange(9) > 2) is None


def test_an_image_that_no_seed_misses_leaves_an_interval_and_so_does_chance_agreement() -> None:
    """Whatever could have come out otherwise has a width, and the mean lies within."""
    half = np.arange(20) < 10
    shapes = {
        "all": np.ones((2, 20)),
        "none": np.zeros((2, 20)),
        "one image": np.ones((2, 1)),
        "each other's misses": np.stack([half, ~half]),
        "equal scores, other images": np.stack([np.roll(half, shift) for shift in (0, 4, 8)]),
        "one miss in all": np.arange(2000).reshape(2, 1000) > 0,
        "all or nothing": np.stack([np.ones(20), np.zeros(20)]),
    }
    for name, hit in shapes.items():
        labelled = np.arange(hit.shape[1]) % 5
        for found in (
            of_mean(hit),
            of_mean_per_class(hit, labelled),
            of_mean_per_class(hit, np.arange(hit.shape[1])),
            of_area_under_curve(hit, labelled == 0) if hit.shape[1] > 1 else of_mean(hit),
        ):
            assert found is not None
            assert found.high - found.low > 0.5 / hit.shape[1], name
            assert 0 <= found.low <= found.images_low <= found.images_high <= found.high <= 1, name
            assert found.images_low < found.images_high, name
            assert found.low <= hit.mean() + 1e-9 and hit.mean() <= found.high + 1e-9, name


def test_seeds_of_equal_scores_leave_a_standard_error_of_all_their_hits() -> None:
    first = np.arange(300) < 150
    found = of_mean(np.stack([first, ~first]))
    assert found is not None
    # That of 600 independent hits, half of them misses.
    assert (found.high - found.low) / 2 > 0.99 * (0.25 / 600) ** 0.5


def test_all_hits_leave_what_wilson_leaves_of_the_images_and_not_less_for_more_seeds() -> None:
    for num_seeds in (2, 10):
        found = of_mean(np.ones((num_seeds, 50)))
        assert found is not None
        assert (found.low, found.high) == pytest.approx(wilson(50, 50)[:2])


def check(
    found: list[SeedInterval],
    truth: float,
    means: NDArray[np.float64],
    num_seeds: int,
    most: float = 0.99,
    widest: float = 1.5,
) -> None:
    """Fail unless intervals of runs with these `means` [R] cover in 93 % to `most` and are not too wide."""
    share = coverage(found, truth)
    # Two standard errors of what so many runs can show of shares, and of the deviation of their means.
    least, above = (2 * np.sqrt(level * (1 - level) / len(found)) for level in (0.93, most))
    assert 0.93 - least <= share <= most + above, f"{num_seeds} seeds cover {share:.3f}"
    if num_seeds >= 5:
        assert relative_width(found, means) <= widest * (1 + 2 / np.sqrt(2 * len(found)))


def check_coverage(num_runs: int = 600) -> None:
    """Fail unless intervals of 300 images cover as they must."""
    generator = np.random.default_rng(2)
    for num_seeds in NUM_SEEDS:
        for seed_variance in SEED_VARIANCES:
            runs = draw_hits(generator, num_runs, num_seeds, np.full(300, 0.7), seed_variance)
            found = intervals_of(runs, of_mean)
            check(found, 0.7, runs.mean(axis=(1, 2)), num_seeds)


def test_intervals_cover_seeds_and_images_at_their_level_and_are_not_much_wider_than_needed() -> None:
    check_coverage()


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_the_check_of_coverage_fails_for_intervals_of_no_width_or_a_tenth(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    ends = seed_statistics._score_ends

    def narrowed(mean: float, multiple: float) -> tuple[float, float]:
        return tuple(mean + factor * (end - mean) for end in ends(mean, multiple))

    monkeypatch.setattr(seed_statistics, "_score_ends", narrowed)
    with pytest.raises(AssertionError, match="seeds cover"):
        check_coverage(200)


def test_the_check_of_coverage_fails_where_images_or_seeds_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(seed_statistics, "_images_share", lambda *_: 1e-9)
        with pytest.raises(AssertionError, match="seeds cover"):
            check_coverage(200)
    with monkeypatch.context() as patched:
        patched.setattr("scipy.special.stdtrit", lambda *_: 1e-9)
        with pytest.raises(AssertionError, match="seeds cover"):
            check_coverage(200)


PER_CLASS = {
    "37 classes of 20": np.full(37, 20),
    "60 classes of 1 to 50": np.random.default_rng(3).integers(1, 51, 60),
    "100 of 20, two of 1": np.array([20] * 100 + [1] * 2),
    "102 classes of one": np.ones(102, np.int64),
}


def check_mean_per_class(counts: NDArray[np.int64], num_runs: int) -> None:
    # One image says nothing of its class's variance; that among all images stands in, which is larger.
    most = 1.0 if counts.max() == 1 else 0.99
    generator = np.random.default_rng(4)
    of_class = generator.beta(3, 2, len(counts)).clip(0.03, 0.97)
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = 1 / (len(counts) * counts[labels])
    for num_seeds in NUM_SEEDS:
        for seed_variance in SEED_VARIANCES:
            runs = draw_hits(generator, num_runs, num_seeds, of_class[labels], seed_variance, weights=weights)
            found = intervals_of(runs, functools.partial(of_mean_per_class, labels=labels))
            means = (runs * weights).sum(axis=2).mean(axis=1)
            check(found, float(of_class.mean()), means, num_seeds, most)


@pytest.mark.parametrize("shape", ["37 classes of 20", "102 classes of one"])
def test_mean_per_class_covers_at_its_level(shape: str) -> None:
    check_mean_per_class(PER_CLASS[shape], 200)


@pytest.mark.slow
@pytest.mark.parametrize("shape", PER_CLASS)
def test_mean_per_class_covers_at_its_level_in_any_shape(shape: str) -> None:
    check_mean_per_class(PER_CLASS[shape], 1000)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.2, 0.9])
@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("n", [100, 500])
def test_accuracies_cover_at_their_level_in_any_shape(n: int, accuracy: float, shared: float) -> None:
    # Hits are whole: with a few misses in all, coverage moves in steps that no interval can follow.
    most, widest = (0.99, 1.5) if n * min(accuracy, 1 - accuracy) > 20 else (1.0, 1.6)
    generator = np.random.default_rng(5)
    for num_seeds in NUM_SEEDS:
        for seed_variance in SEED_VARIANCES:
            accuracies = np.full(n, accuracy)
            runs = draw_hits(generator, 2000, num_seeds, accuracies, seed_variance, shared=shared)
            found = intervals_of(runs, of_mean)
            check(found, accuracy, runs.mean(axis=(1, 2)), num_seeds, most, widest)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "accuracy"), [(20, 0.5), (20, 0.9), (20, 0.99), (200, 0.99), (1000, 0.99)])
def test_few_images_and_few_misses_are_covered(n: int, accuracy: float) -> None:
    generator = np.random.default_rng(6)
    for num_seeds in NUM_SEEDS:
        for seed_variance in SEED_VARIANCES:
            runs = draw_hits(generator, 2000, num_seeds, np.full(n, accuracy), seed_variance)
            share = coverage(intervals_of(runs, of_mean), accuracy)
            assert share >= 0.93, f"{num_seeds} seeds cover {share:.3f}"


def areas(
    generator: np.random.Generator, num_runs: int, num_seeds: int, positive: NDArray[np.bool_], spread: float
) -> NDArray[np.float64]:
    """Return [R, S, n] fractions of ROC AUC, of seeds whose separation varies by `spread`."""
    shape = (num_runs, num_seeds, len(positive))
    scores = (
        positive * (1.2 + spread * generator.standard_normal((num_runs, num_seeds, 1)))
        + generator.standard_normal((num_runs, 1, len(positive))) / np.sqrt(2)
        + generator.standard_normal(shape) / np.sqrt(2)
    )
    found = np.empty(shape)
    for index in np.ndindex(num_runs, num_seeds):
        area = roc_auc(scores[index], positive)
        found[index][positive], found[index][~positive] = area.per_positive, area.per_negative
    return found


def check_area(num_positive: int, num_negative: int, num_runs: int, most: float) -> None:
    from scipy.special import ndtr

    generator = np.random.default_rng(7)
    positive = np.arange(num_positive + num_negative) < num_positive
    for num_seeds in NUM_SEEDS:
        for spread in (0.0, 0.2, 0.5):
            fractions = areas(generator, num_runs, num_seeds, positive, spread)
            truth = float(ndtr(1.2 / np.sqrt(2 + spread**2)))
            found = intervals_of(fractions, functools.partial(of_area_under_curve, positive=positive))
            check(found, truth, fractions[:, :, positive].mean(axis=(1, 2)), num_seeds, most)


def test_the_area_under_the_curve_of_two_classes_is_covered() -> None:
    check_area(60, 90, 200, most=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("num_positive", "num_negative"), [(250, 250), (40, 300), (20, 20)])
def test_the_area_under_the_curve_is_covered_in_any_shape(num_positive: int, num_negative: int) -> None:
    check_area(num_positive, num_negative, 1000, most=0.995)


def test_seeds_and_images_of_a_run_give_the_same_interval_in_any_order() -> None:
    generator = np.random.default_rng(8)
    (hit,) = draw_hits(generator, 1, 3, np.full(60, 0.6), 1)
    labels: NDArray[np.int64] = generator.integers(0, 9, 60)
    order: NDArray[Any] = generator.permutation(60)
    found = of_mean_per_class(hit, labels)
    assert of_mean_per_class(hit[::-1][:, order], labels[order]) == pytest.approx(found)


def test_a_few_classes_of_few_images_beside_large_ones_are_covered():
    # The small classes are nearly all of the variance, and seeds that hit the same images tell nothing more.
    rng = np.random.default_rng(0)
    sizes = np.array([200] * 10 + [3] * 2)
    labels = np.repeat(np.arange(12), sizes)
    covered = 0
    for _ in range(400):
        rates = np.append(rng.uniform(0.92, 0.98, 10), rng.uniform(0.3, 0.7, 2))
        hit = np.tile(rng.random(len(labels)) < rates[labels], (10, 1))
        interval = seed_statistics.of_mean_per_class(hit, labels)
        covered += interval.low <= rates.mean() <= interval.high
    assert covered / 400 >= 0.92
