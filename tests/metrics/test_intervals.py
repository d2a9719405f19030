"""Intervals in cases that can be checked; how often they cover is simulated in `test_coverage.py`."""

import numpy as np
import pytest
from scipy import special
from scipy.stats import binom, binomtest

from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.metrics import ranking


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (12, 30), (433, 1000), (21_650, 50_000)])
def test_wilson_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    found = statistics.wilson(successes, n)
    assert found[:2] == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.method, found.conservative) == ("wilson", min(successes, n - successes) < 10)


def test_wilson_of_few_hits_reaches_as_far_as_the_exact_interval_of_90_percent():
    exact = binomtest(2, 100).proportion_ci(0.9, method="exact")
    plain = binomtest(2, 100).proportion_ci(method="wilson")
    found = statistics.wilson(2, 100)
    assert found[:2] == pytest.approx((exact.low, plain.high), abs=1e-12)
    assert exact.low < plain.low
    assert found.method == "wilson, as wide as the exact 90 % interval"


def test_wilson_is_wider_than_the_exact_interval_wherever_that_is_not_computed():
    few = statistics.EXACT_BELOW
    for n in (2 * few, 57, 333, 10_000, 10_000_000):
        hits = np.unique(np.linspace(few, n - few, 500).round())
        low, high, widened = statistics.wilson_ends(hits, n)
        assert not widened.any()
        assert (low <= special.betaincinv(hits, n - hits + 1, 0.05)).all()
        assert (high >= special.betaincinv(hits + 1, n - hits, 0.95)).all()
    # One proportion among others that needs it.
    assert statistics.wilson_ends([few, 1], [100, 100])[2].tolist() == [False, True]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20, 100, 1000])
def test_wilson_covers_every_rate_and_95_percent_of_the_time_on_average(n):
    ends = np.array([statistics.wilson(hits, n)[:2] for hits in range(n + 1)])
    rates = np.append(np.linspace(0, 1, 2001), np.linspace(0, 10 / n, 500).clip(0, 1))
    covers = (ends[:, :1] <= rates) & (rates <= ends[:, 1:])
    coverage = (binom.pmf(np.arange(n + 1)[:, None], n, rates) * covers).sum(axis=0)
    assert coverage.min() >= 0.92
    assert coverage[:2001].mean() >= 0.95
    if n >= 100:
        assert coverage[:2001].mean() <= 0.955


def test_captions_of_one_image_do_not_count_as_independent():
    # Five captions that always agree carry the information of one.
    hit = np.random.default_rng(3).random(400) < 0.5
    clustered = statistics.recall(np.repeat(hit, 5), np.repeat(np.arange(400), 5))
    single = statistics.recall(hit, np.arange(400))
    assert clustered[:2] == pytest.approx(single[:2], abs=1e-3)
    naive = statistics.wilson(5 * hit.sum(), 2000)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_captions_that_do_not_agree_count_nearly_as_many():
    hit = np.random.default_rng(4).random(2000) < 0.5
    clustered = statistics.recall(hit, np.repeat(np.arange(400), 5))
    assert clustered[:2] == pytest.approx(statistics.wilson(hit.sum(), 2000)[:2], abs=3e-3)


def test_one_query_an_image_is_a_proportion():
    hit = np.random.default_rng(5).random(100) < 0.5
    assert statistics.recall(hit, np.arange(100)) == statistics.wilson(hit.sum(), 100)


def test_the_ends_of_a_median_are_the_ranks_whose_share_may_be_one_half():
    ranks = np.random.default_rng(6).permutation(1000)[:200] + 1
    found = statistics.median_rank(ranks, np.arange(200), 1000)
    # Wilson's interval holds one half for 87 to 113 of 200.
    assert statistics.wilson(86, 200).high < 0.5 < statistics.wilson(87, 200).high
    assert (found.low, found.high) == (np.sort(ranks)[86], np.sort(ranks)[113])


def test_a_median_that_surely_is_one_is_one_and_a_single_rank_says_little():
    assert statistics.median_rank(np.ones(50, int), np.arange(50), 60)[:2] == (1, 1)
    assert statistics.median_rank(np.array([3]), np.zeros(1, int), 60)[:2] == (3, 60)


def test_one_class_is_a_proportion():
    # The variance is that of n − 1 images.
    hit = np.arange(1000) < 700
    found = statistics.mean_per_class(hit, np.zeros(1000, int))
    assert found[:2] == pytest.approx(statistics.wilson(700, 1000)[:2], abs=2e-4)


def test_classes_that_are_all_hits_are_one_proportion():
    labels = np.repeat(np.arange(20), 31)
    found = statistics.mean_per_class(np.ones(620, bool), labels)
    assert found[:2] == pytest.approx(statistics.wilson(600, 600)[:2], abs=1e-9)


def test_one_image_a_class_is_a_proportion():
    hit = np.random.default_rng(7).random(102) < 0.6
    found = statistics.mean_per_class(hit, np.arange(102))
    assert found[:2] == pytest.approx(statistics.wilson(hit.sum(), 102)[:2], abs=1e-9)
    assert found.conservative


def test_every_accuracy_near_all_hits_is_covered_nine_times_in_ten():
    # Two classes of 20, exactly: every number of hits, and accuracies that miss 0.02 to 3 images.
    labels, hits = np.repeat([0, 1], 20), np.arange(14, 21)
    ends = np.array(
        [
            statistics.mean_per_class(np.tile(np.arange(20), 2) < np.repeat([one, other], 20), labels)[:2]
            for one in hits
            for other in hits
        ]
    )
    accuracy = 1 - np.linspace(0.02, 3, 300) / 40
    each = binom.pmf(hits[:, None], 20, accuracy)
    chance = (each[:, None] * each[None, :]).reshape(-1, len(accuracy))
    assert chance.sum(axis=0).min() > 0.999
    covers = (ends[:, :1] <= accuracy) & (accuracy <= ends[:, 1:])
    assert (chance * covers).sum(axis=0).min() > 0.9


def test_classes_without_images_are_left_out():
    labels = np.repeat([0, 3, 7], [20, 30, 40])
    hit = np.random.default_rng(8).random(90) < 0.6
    dense = np.repeat([0, 1, 2], [20, 30, 40])
    assert statistics.mean_per_class(hit, labels) == statistics.mean_per_class(hit, dense)


def test_hits_and_misses_exchanged_mirror_the_interval():
    labels = np.random.default_rng(9).integers(0, 20, 400)
    hit = np.random.default_rng(10).random(400) < np.linspace(0, 1, 20)[labels]
    found, mirrored = statistics.mean_per_class(hit, labels), statistics.mean_per_class(~hit, labels)
    assert found[:2] == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_no_interval_has_no_width(value):
    owner = np.repeat(np.arange(30), 5)
    hit = np.full(30, value == 1) if value != 0.5 else np.arange(30) < 15
    intervals = [
        statistics.wilson(value * 30, 30),
        statistics.recall(hit, np.arange(30)),
        statistics.recall(np.repeat(hit, 5), owner),
        statistics.mean_of(np.full(30, value)),
        statistics.area_under_curve(np.full(5, value), np.full(30, value)),
        # Each class is all hits, or all misses.
        statistics.mean_per_class(hit, np.repeat(np.arange(6), 5)),
        statistics.mean_per_class(hit, np.arange(30)),
        statistics.mean_over_labels(
            lambda label, weights: np.full(len(weights), value), np.array([8, 8]), 30, num_resamples=20
        ),
    ]
    for interval in intervals:
        assert interval.low < interval.high, interval
        assert interval.low <= value <= interval.high
        assert interval.high - interval.low < 1


def test_an_auc_and_that_of_the_negated_scores_mirror_each_other_in_the_last_digits():
    generator = np.random.default_rng(11)
    positive = np.arange(3005) < 5
    scores = generator.standard_normal(3005) + 4 * positive
    area, other = (ranking.roc_auc(sign * scores, positive) for sign in (1, -1))
    assert area.value > 0.99
    assert np.array_equal(area.per_positive, 1 - other.per_positive)
    # Exact multiples of a pair: 1 − fraction would be off in the last digits.
    assert np.array_equal(other.per_negative * 10, np.rint(other.per_negative * 10))
    assert np.array_equal(area.per_negative, np.rint(area.per_negative * 10) / 10)
    low, high = statistics.area_under_curve(area.per_positive, area.per_negative)[:2]
    mirrored = statistics.area_under_curve(other.per_positive, other.per_negative)
    assert (low, high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), rel=1e-12)


def test_a_bootstrap_repeats_exactly_and_names_its_seed_and_resamples(monkeypatch):
    generator = np.random.default_rng(12)
    scores, positive = generator.random((60, 4)), generator.random((60, 4)) < 0.3

    def interval(**options):
        def precision(label, weights):
            curve = ranking.precision_recall(scores[:, label], positive[:, label], weights)
            return ranking.average_precision(curve)

        return statistics.mean_over_labels(precision, positive.sum(axis=0), 60, num_resamples=50, **options)

    first = interval()
    assert first == interval()
    assert first[:2] != interval(seed=1)[:2]
    assert (first.resamples, first.seed, interval(seed=1).seed) == (50, 0, 1)
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 600)
    assert interval() == first


def test_labels_of_few_positives_take_their_largest_variance_and_no_bootstrap():
    values = np.array([0.4, 0.8])
    found = statistics.mean_over_labels(
        lambda label, weights: np.full(len(weights), values[label]), np.array([2, 4]), 50
    )
    # Mean 0.6, 0.24 (1/2 + 1/4) / 4 of variance: that of a proportion over 4 / (1/2 + 1/4) images.
    assert found[:2] == pytest.approx(statistics.wilson(0.6 * 16 / 3, 16 / 3)[:2], abs=1e-12)
    assert (found.resamples, found.seed, found.conservative) == (None, None, True)


def test_an_interval_says_when_few_images_decide_it():
    labels = np.repeat(np.arange(10), 20)
    hit = np.random.default_rng(13).random(200) < 0.7
    assert not statistics.mean_per_class(hit, labels).conservative
    lone = np.append(labels, 10)
    assert statistics.mean_per_class(np.append(hit, True), lone).conservative
    assert statistics.mean_per_class(labels == 0, labels).conservative
    assert not statistics.wilson(10, 100).conservative
    assert statistics.wilson(9, 100).conservative
