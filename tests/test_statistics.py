import numpy as np
import pytest
from scipy.stats import binomtest

from rwkvclip_eval import statistics


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (433, 1000), (21_650, 50_000)]
)
def test_wilson_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    low, high, method = statistics.wilson(successes, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert method == "wilson"


def test_wilson_of_eight_in_ten_is_the_textbook_value():
    assert statistics.wilson(8, 10)[:2] == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_bootstraps_repeat_exactly_and_move_with_the_seed():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 200)
    hit = generator.random(200) < 0.6
    assert statistics.mean_per_class(hit, labels) == statistics.mean_per_class(hit, labels)
    assert statistics.mean_per_class(hit, labels) != statistics.mean_per_class(hit, labels, seed=1)
    ranks, owner = generator.geometric(0.2, 200), np.repeat(np.arange(40), 5)
    assert statistics.retrieval(ranks, owner, (1, 5)) == statistics.retrieval(ranks, owner, (1, 5))
    assert statistics.retrieval(ranks, owner, (1, 5)) != statistics.retrieval(ranks, owner, (1, 5), seed=1)


def test_bootstrap_blocks_do_not_change_the_interval(monkeypatch):
    ranks, owner = np.random.default_rng(0).geometric(0.2, 200), np.repeat(np.arange(40), 5)
    whole = statistics.retrieval(ranks, owner, (1, 5))
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 1000)
    assert statistics.retrieval(ranks, owner, (1, 5)) == whole


def test_drawing_binomials_is_resampling_within_classes():
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1, 3], [5, 20, 40])
    hit = generator.random(65) < 0.5
    rows = [np.flatnonzero(labels == c) for c in (0, 1, 3)]
    resampled = [
        np.mean([hit[generator.choice(members, len(members))].mean() for members in rows])
        for _ in range(4000)
    ]
    expected = np.percentile(resampled, [2.5, 97.5])
    assert statistics.mean_per_class(hit, labels, num_resamples=20_000)[:2] == pytest.approx(
        expected, abs=0.02
    )


def test_median_of_a_resample_is_the_median_of_the_repeated_values():
    generator = np.random.default_rng(2)
    values = np.sort(generator.geometric(0.1, 31))
    weights = generator.integers(0, 4, (50, 31)).astype(float)
    weights[:, 0] += 1
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert statistics._weighted_median(values, weights).tolist() == expected


def test_captions_of_one_image_do_not_count_as_independent():
    # Five captions that always agree carry the information of one.
    hit = np.random.default_rng(3).random(100) < 0.5
    ranks = np.where(np.repeat(hit, 5), 1, 9)
    (clustered,), _ = statistics.retrieval(ranks, np.repeat(np.arange(100), 5), (1,))
    (single,), _ = statistics.retrieval(np.where(hit, 1, 9), np.arange(100), (1,))
    assert clustered[:2] == pytest.approx(single[:2], abs=1e-12)
    naive = statistics.wilson(int((ranks == 1).sum()), 500)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_a_perfect_score_still_has_an_interval():
    ranks, owner = np.ones(50, int), np.repeat(np.arange(10), 5)
    (interval,), median = statistics.retrieval(ranks, owner, (1,))
    assert interval == statistics.wilson(10, 10)
    assert (median.low, median.high) == (1, 1)
    labels = np.repeat([0, 1], [5, 20])
    # Two classes of 5 and 20: 4 / (1/5 + 1/20) = 16 images' worth.
    assert statistics.mean_per_class(np.ones(25, bool), labels) == statistics.wilson(16, 16)
    assert statistics.mean_per_class(np.zeros(25, bool), labels) == statistics.wilson(0, 16)


def test_mean_per_class_interval_covers_the_truth_at_its_level():
    generator = np.random.default_rng(4)
    truth = generator.uniform(0.3, 0.9, 20)
    labels = np.repeat(np.arange(20), generator.integers(15, 60, 20))
    covered = 0
    for _ in range(400):
        hit = generator.random(len(labels)) < truth[labels]
        low, high, _ = statistics.mean_per_class(hit, labels, num_resamples=400)
        covered += low <= truth.mean() <= high
    # Three standard errors of a 95 % rate over 400 trials are 3.3 points; the bootstrap is slightly narrow.
    assert 0.91 <= covered / 400 <= 0.985


def test_retrieval_intervals_cover_the_truth_at_their_level_for_correlated_captions():
    generator = np.random.default_rng(5)
    owner = np.repeat(np.arange(150), 5)
    covered = np.zeros(2)
    for _ in range(300):
        # Rank = 1 + Poisson(μ) with one μ per image: captions of an image are hard or easy together.
        ranks = 1 + generator.poisson(generator.gamma(0.7, 6, 150)[owner])
        (recall,), median = statistics.retrieval(ranks, owner, (1,), num_resamples=300)
        # P(rank 1) = E exp(−μ) = (1 + 6)^−0.7; the median is that of 1 + negative binomial, 3.
        covered += recall.low <= 7**-0.7 <= recall.high, median.low <= 3 <= median.high
    assert 0.91 <= covered[0] / 300 <= 0.985
    # Ranks are whole numbers, so the interval of the median is wider than its level.
    assert covered[1] / 300 >= 0.93
