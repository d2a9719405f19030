"""The interval of two methods over seeds and images covers the truth as `coverage_simulation` demands."""

import itertools

import pytest
from coverage_simulation import check, simulate
from group_points import EVEN, FURTHER, GROUPS, methods
from scipy.special import stdtrit

from rwkvclip_eval.compare.two_way import Varied

SHORT = [
    methods((seeds, seeds), EVEN, variance, paired=paired)
    for seeds, variance, paired in itertools.product((2, 5), (0, 4), (True, False))
]


def named(points):
    return [pytest.param(point, id=point.name) for point in points]


@pytest.mark.parametrize("point", named(SHORT))
def test_intervals_over_seeds_and_images_cover_the_difference(point):
    check(point, simulate(point, num_truths=2, num_draws=60))


@pytest.mark.slow
@pytest.mark.parametrize("point", named(GROUPS + FURTHER))
def test_intervals_over_seeds_and_images_cover_the_difference_at_length(point):
    check(point, simulate(point, num_truths=10, num_draws=400, seed=1))


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_intervals_over_seeds_of_no_width_or_a_tenth_are_found_out(scale):
    with pytest.raises(AssertionError, match="too little"):
        check(SHORT[-1], simulate(SHORT[-1], num_truths=2, num_draws=60, scale=scale))


def uncovered(point, num_draws):
    """Fail unless the rule finds that the point's intervals cover too little."""
    with pytest.raises(AssertionError, match="too little"):
        check(point, simulate(point, num_truths=2, num_draws=num_draws))


def of_seeds(draws):
    return [(float(one.values.var(ddof=1)) / len(one.values), len(one.values) - 1) for one in draws]


def test_seeds_variance_alone_does_not_do_for_ten_seeds(monkeypatch):
    """What the images give all runs alike does not shrink with the seeds."""

    def reach(self, level=0.025):
        ((variance, freedom),) = of_seeds(self.draws)
        return stdtrit(freedom, 1 - level) * variance**0.5

    monkeypatch.setattr(Varied, "reach", reach)
    uncovered(methods((10, 10), EVEN, 1), 80)


def test_images_alone_do_not_do_for_seeds_that_vary(monkeypatch):
    monkeypatch.setattr(Varied, "reach", lambda self, level=0.025: 1.96 * self.by_images**0.5)
    uncovered(methods((5, 5), EVEN, 4), 40)


def test_two_seeds_that_agree_by_chance_are_not_believed(monkeypatch):
    monkeypatch.setattr(Varied, "_by_seeds", property(lambda self: of_seeds(self.draws)))
    uncovered(methods((2, 2), EVEN, 4, common=0.5), 300)
