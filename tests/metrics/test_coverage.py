"""Every interval the product prints covers the truth as `coverage_simulation` demands."""

import ast
from pathlib import Path

import pytest
from coverage_simulation import check, check_found_out, named, simulate
from interval_points import FURTHER, POINTS, PRECISIONS, PRECISIONS_FURTHER, PRECISIONS_LARGE

import rwkvclip_eval

PRECISION = "mean_over_labels"
ELSEWHERE = {
    "_proportion": "behind recall, mean_of, area_under_curve and mean_over_labels",
    "of_mean": "test_seed_intervals.py",
    "of_mean_per_class": "test_seed_intervals.py",
    "of_area_under_curve": "test_seed_intervals.py",
    "_interval": "behind those three",
    "_mean": "copies them into few-shot numbers",
    "_padded": "Wilson's, moved as the number is",
    "_with_number": "copies them into records",
    "calibration_interval": "test_calibration.py",
    "records_of": "of speed: test_ratios.py",
}


@pytest.mark.parametrize("point", named(POINTS))
def test_intervals_cover_the_truth(point):
    check(point, simulate(point, num_truths=8, num_draws=50))


@pytest.mark.parametrize("point", named({PRECISION: PRECISIONS}))
def test_intervals_of_mean_average_precision_cover_its_expectation(point):
    check(point, simulate(point, num_truths=1, num_draws=60))


@pytest.mark.slow
@pytest.mark.parametrize("point", named(POINTS) + named(FURTHER))
def test_intervals_cover_the_truth_at_length(point):
    check(point, simulate(point, num_truths=20, num_draws=200, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("point", named({PRECISION: PRECISIONS_FURTHER}))
def test_intervals_of_mean_average_precision_cover_its_expectation_at_length(point):
    check(point, simulate(point, num_truths=3, num_draws=150, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("point", named({PRECISION: PRECISIONS_LARGE}))
def test_intervals_of_mean_average_precision_cover_its_expectation_on_large_sets(point):
    check(point, simulate(point, num_truths=1, num_draws=60, seed=1))


@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("point", [*(pytest.param(group[0], id=name) for name, group in POINTS.items())])
def test_intervals_of_no_width_or_a_tenth_are_found_out(point, scale):
    check_found_out(point, 8, 50, scale)


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_intervals_of_mean_average_precision_of_no_width_or_a_tenth_are_found_out(scale):
    check_found_out(PRECISIONS[0], 1, 20, scale)


def makers(path):
    """Names of the functions of a file that return an interval or fill one into a record."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            filled = {k.arg for call in ast.walk(node) if isinstance(call, ast.Call) for k in call.keywords}
            returned = ast.unparse(node.returns) if node.returns else ""
            if "Interval" in returned or "ci_low" in filled:
                yield node.name


def test_every_function_that_makes_an_interval_is_simulated():
    """A new one fails here until its coverage is simulated above, or beside what it belongs to."""
    package = Path(rwkvclip_eval.__file__).parent
    found = {name for path in sorted(package.rglob("*.py")) for name in makers(path)}
    assert found - {*POINTS, PRECISION} == set(ELSEWHERE)
