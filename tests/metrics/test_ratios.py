"""Ratios of times: intervals that cover, and verdicts."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from rwkvclip_eval.metrics.ratios import (
    Estimate,
    LogRatio,
    geometric_mean,
    mean_ratio,
    paired_ratio,
    speed_verdict,
    unpaired_ratio,
)


def estimate(value, low, high, n=5):
    return Estimate(value=value, low=low, high=high, n=n)


def test_the_interval_of_a_geometric_mean_is_scipys_t_interval_of_the_logs():
    values = [1.0, 1.1, 0.9, 1.3, 1.05]
    low, high = ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    found = geometric_mean(values)
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)), rel=1e-12)
    assert found.value == pytest.approx(np.exp(np.mean(np.log(values))))


def test_what_slows_both_falls_out_of_a_ratio():
    drift = np.array([1.0, 3.0, 0.5, 2.0, 7.0])
    found = paired_ratio(list(2 * drift), list(drift))
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_intervals_of_ratios_cover_the_true_one():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        drift = rng.lognormal(0, 0.5, 5)
        ours, theirs = 0.8 * drift * rng.lognormal(0, 0.02, 5), drift * rng.lognormal(0, 0.02, 5)
        found = paired_ratio(list(ours), list(theirs))
        covered += found.low <= 0.8 <= found.high
    # Two-sided binomial bounds of 2,000 at 0.95, four standard errors.
    assert 0.93 <= covered / 2000 <= 0.97


def test_one_repeat_says_nothing_of_its_spread():
    found = geometric_mean([2.0])
    assert (found.value, found.low, found.high) == (2.0, 0.0, np.inf)
    assert speed_verdict(found, margin=0.05) == "AMBIGUOUS"


@pytest.mark.parametrize("values", [[], [0.0], [-1.0], [float("nan")]])
def test_times_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="positive numbers"):
        geometric_mean(values)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (estimate(1.30, 1.27, 1.33), "FASTER"),
        (estimate(0.70, 0.68, 0.72), "SLOWER"),
        (estimate(1.01, 0.99, 1.03), "SAME"),
        # Beyond 1, yet no difference that counts.
        (estimate(1.02, 1.01, 1.03), "SAME"),
        (estimate(1.04, 0.998, 1.085), "AMBIGUOUS"),
        (estimate(1.05, 1.02, 1.08), "FASTER"),
        # Too wide for a quiet machine, however far from 1.
        (estimate(2.00, 1.80, 2.22), "AMBIGUOUS"),
        (estimate(1.30, 1.27, 1.33, n=4), "AMBIGUOUS"),
    ],
)
def test_a_verdict_needs_a_narrow_interval_on_one_side(ratio, verdict):
    assert speed_verdict(ratio, margin=0.05) == verdict


def test_a_disturbed_measurement_has_no_verdict():
    assert speed_verdict(estimate(1.30, 1.27, 1.33), margin=0.05, noisy=True) == "AMBIGUOUS"


def test_an_unpaired_ratio_has_the_interval_of_welchs_t_test():
    a, b = [1.0, 1.1, 0.9, 1.05, 1.2], [2.0, 2.5, 1.5, 2.2]
    found = unpaired_ratio(geometric_mean(b), geometric_mean(a))
    test = ttest_ind(np.log(b), np.log(a), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found.ends() == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.freedom == pytest.approx(test.df)
    assert found.p_above == pytest.approx(test.pvalue / 2)
    assert found.p_below == pytest.approx(1 - test.pvalue / 2)


def test_a_mean_of_ratios_measured_apart_is_that_of_their_logarithms():
    one, two = LogRatio(0.2, 0.03, 8), LogRatio(0.4, 0.04, 8)
    found = mean_ratio([one, two])
    assert found.mean == pytest.approx(0.3)
    assert found.error == pytest.approx(0.025)
    assert 8 < found.freedom < 16


def test_repeats_without_spread_have_an_interval_without_width():
    found = unpaired_ratio(geometric_mean([2.0, 2.0]), geometric_mean([1.0, 1.0]))
    assert found.ends() == pytest.approx((2.0, 2.0))
    assert (found.p_above, found.p_below) == (0.0, 1.0)
    assert mean_ratio([found]).ends() == pytest.approx((2.0, 2.0))
