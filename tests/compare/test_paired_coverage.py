"""Every paired interval covers the true difference as `coverage_simulation` demands."""

import inspect

import pytest
from coverage_simulation import check, check_found_out, named, simulate
from paired_points import FURTHER, POINTS, PRECISIONS, PRECISIONS_FURTHER

from rwkvclip_eval.compare import paired, significance

PRECISION = "mean_over_labels"


@pytest.fixture(autouse=True)
def few_flips(monkeypatch):
    # Intervals need no p values, which take most of the time.
    monkeypatch.setattr(significance, "NUM_FLIPS", 9)


@pytest.mark.parametrize("point", named(POINTS))
def test_paired_intervals_cover_the_true_difference(point):
    check(point, simulate(point, num_truths=5, num_draws=40))


@pytest.mark.parametrize("point", named({PRECISION: PRECISIONS}))
def test_paired_intervals_of_mean_average_precision_cover_the_difference_of_expectations(point):
    check(point, simulate(point, num_truths=1, num_draws=30))


@pytest.mark.slow
@pytest.mark.parametrize("point", named(POINTS) + named(FURTHER))
def test_paired_intervals_cover_the_true_difference_at_length(point):
    check(point, simulate(point, num_truths=20, num_draws=200, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("point", named({PRECISION: PRECISIONS_FURTHER}))
def test_paired_intervals_of_mean_average_precision_cover_at_length(point):
    check(point, simulate(point, num_truths=3, num_draws=100, seed=1))


@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("point", [*(pytest.param(group[1], id=name) for name, group in POINTS.items())])
def test_paired_intervals_of_no_width_or_a_tenth_are_found_out(point, scale):
    check_found_out(point, 5, 40, scale)


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_paired_intervals_of_mean_average_precision_of_no_width_or_a_tenth_are_found_out(scale):
    check_found_out(PRECISIONS[0], 1, 20, scale)


def test_every_function_that_makes_a_paired_interval_is_simulated():
    """A new one fails here until its coverage is simulated above."""
    makers = {
        name
        for name, made in inspect.getmembers(paired, inspect.isfunction)
        if made.__module__ == paired.__name__
        and name[0] != "_"
        and str(inspect.signature(made).return_annotation).startswith("Difference")
    }
    assert makers == {*POINTS, PRECISION}
