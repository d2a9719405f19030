"""Paired differences of cases that can be counted by hand."""

import itertools
import json

import numpy as np
import pytest

from rwkvclip_eval.compare import difference, paired, significance
from rwkvclip_eval.metrics import classification, intervals, ranking

GENERATOR = np.random.default_rng(0)
BEFORE = GENERATOR.random(200) < 0.6
AFTER = np.where(GENERATOR.random(200) < 0.9, BEFORE, ~BEFORE)
LABELS = GENERATOR.integers(0, 7, 200)
RANKS = GENERATOR.integers(1, 40, 200)


def test_top_1_counts_what_was_gained_and_lost():
    before, after = np.array([1, 1, 1, 0, 0, 1, 1, 1], bool), np.array([1, 0, 0, 1, 0, 1, 0, 1], bool)
    found = paired.hits(before, after)
    assert (found.value, found.gained, found.lost) == (-2 / 8, 1, 3)
    assert found.low < -2 / 8 < found.high
    assert found.significance.worse == 5 / 16
    assert found.variance == pytest.approx(4 / 64)
    assert found.images == pytest.approx(8)
    assert found.discordance == pytest.approx(4 / 8)


def test_only_losses_reach_as_far_down_as_the_interval_of_their_share():
    before, after = np.ones(100, bool), np.arange(100) >= 7
    assert paired.hits(before, after).low == pytest.approx(-intervals.wilson(7, 100).high)


def test_what_is_better_one_way_is_as_much_worse_the_other():
    one, other = paired.hits(BEFORE, AFTER), paired.hits(AFTER, BEFORE)
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low))
    one, other = (paired.mean_per_class(*pair, LABELS) for pair in ((BEFORE, AFTER), (AFTER, BEFORE)))
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low))


def test_mean_per_class_is_the_difference_of_the_means():
    found = paired.mean_per_class(BEFORE, AFTER, LABELS)
    values = [classification.mean_per_class_accuracy(hit, LABELS) for hit in (BEFORE, AFTER)]
    assert found.value == pytest.approx(values[1] - values[0])


def test_one_class_is_top_1():
    zeros = np.zeros(200, np.int64)
    one, other = paired.mean_per_class(BEFORE, AFTER, zeros), paired.hits(BEFORE, AFTER)
    assert one[:3] == pytest.approx(other[:3], abs=0.02)
    assert one.significance == other.significance


def test_one_caption_an_image_is_top_1():
    assert paired.recall(BEFORE, AFTER, np.arange(200)) == paired.hits(BEFORE, AFTER)


def test_captions_that_change_together_say_no_more_than_one():
    alone = paired.hits(BEFORE, AFTER)
    owner = np.repeat(np.arange(200), 5)
    together = paired.recall(np.repeat(BEFORE, 5), np.repeat(AFTER, 5), owner)
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert together.significance == alone.significance
    assert together.images == pytest.approx(alone.images)


def flip(sides, rows, *, by=1.0):
    before, after = sides
    before[rows[::2]] -= by
    after[rows[1::2]] -= by
    return before, after


UNEVEN = np.repeat(np.arange(12), [500] * 10 + [2, 2])
KINDS = {
    "hits": lambda rows: paired.hits(*(x > 0.5 for x in flip(np.ones((2, 500)), rows))),
    "mean_of": lambda rows: paired.mean_of(*flip(np.ones((2, 500)), rows, by=0.5)),
    "mean_per_class": lambda rows: paired.mean_per_class(
        *(x > 0.5 for x in flip(np.ones((2, len(UNEVEN))), rows)), UNEVEN
    ),
    "recall": lambda rows: paired.recall(
        *(x > 0.5 for x in flip(np.ones((2, 2500)), 5 * rows)), np.repeat(np.arange(500), 5)
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_interval_grows_with_every_pair_of_flips_from_none_on(monkeypatch, name):
    monkeypatch.setattr(significance, "NUM_FLIPS", 99)
    found = [KINDS[name](np.arange(2 * pairs)) for pairs in range(40)]
    assert found[0].high == pytest.approx(found[0].unseen)
    for fewer, more in itertools.pairwise(found):
        assert more.low < fewer.low and fewer.high < more.high
        # What an image weighs is learned from those that differ, in small steps.
        assert 1 - 1e-9 <= more.images / fewer.images < 1.2
        assert more.fewest == fewer.fewest == pytest.approx(found[0].images)


def test_nothing_seen_of_n_images_leaves_what_the_exact_bound_leaves():
    for captions in (1, 5):
        none = np.ones(456 * captions, bool)
        found = paired.recall(none, none, np.repeat(np.arange(456), captions))
        # The rate at which no event among 456 images has a chance of 2.5 %.
        exact = 1 - 0.025 ** (1 / 456)
        assert exact < -found.low < 1.06 * exact


def test_area_under_the_curve_pairs_images():
    scores = GENERATOR.standard_normal(200)
    positive = GENERATOR.random(200) < 0.4
    scores[positive] += 1
    noisy = scores + 0.1 * GENERATOR.standard_normal(200)
    areas = [ranking.roc_auc(s, positive) for s in (scores, noisy)]
    found = paired.area_under_curve(areas[0][1:], areas[1][1:])
    assert found.value == pytest.approx(areas[1].value - areas[0].value)
    single = intervals.area_under_curve(*areas[0][1:])
    assert found.high - found.low < 0.5 * (single.high - single.low)


def seeds(values):
    from rwkvclip_eval.metrics import seed_intervals

    return seed_intervals.of_mean(values)


SAME = {
    "hits": paired.hits(BEFORE, BEFORE),
    "mean_of": paired.mean_of(BEFORE / 2, BEFORE / 2),
    "mean_per_class": paired.mean_per_class(BEFORE, BEFORE, LABELS),
    "recall": paired.recall(BEFORE, BEFORE, np.arange(200) // 2),
    "median_rank": paired.median_rank(RANKS, RANKS, np.arange(200), 40),
    "area_under_curve": paired.area_under_curve(*[(np.ones(20), np.ones(30))] * 2),
    "mean_over_labels": paired.mean_over_labels(
        *[lambda label, weights: np.full(len(weights), 0.7)] * 2, np.array([9, 20]), 50, num_resamples=20
    ),
    "over_seeds": paired.over_seeds(*[np.tile(BEFORE, (3, 1))] * 2, seeds, 0.0, 200.0),
}


@pytest.mark.parametrize("name", SAME)
def test_a_model_and_itself_differ_by_nothing_within_an_interval_of_some_width(name):
    found = SAME[name]
    assert found.value == 0
    assert found.low < 0 < found.high
    assert (found.gained, found.lost) == (0, 0)
    assert found.significance in (None, (pytest.approx(0.5), 1, 0), (1, 1, 0))


@pytest.mark.parametrize("images", [20, 1000])
def test_what_a_difference_says_can_be_written_as_json(images):
    # Many images decide, and few.
    generator = np.random.default_rng(0)
    one, other = generator.random((2, 3 * images)) < 0.5
    owner = np.repeat(np.arange(images), 3)
    for found in (
        paired.recall(one, other, owner),
        paired.hits(one, other),
        paired.mean_of(one.astype(float), other.astype(float)),
        paired.mean_per_class(one, other, owner % 3),
        paired.median_rank(1 + 3 * one.astype(np.int64), 1 + 3 * other.astype(np.int64), owner, images),
    ):
        assert json.loads(json.dumps(found._asdict()))["value"] == found.value


def test_medians_that_could_not_be_others_differ_by_nothing_for_certain():
    ones = np.ones(200, np.int64)
    found = paired.median_rank(ones, ones, np.arange(200), 200)
    assert (found.low, found.high) == (0, 0)


def test_a_single_seed_has_no_interval():
    assert paired.over_seeds(BEFORE[None], AFTER[None], seeds, 0.0, 200.0) is None


def test_a_nearly_normal_difference_is_as_significant_as_its_interval_says():
    assert difference.of_smooth(-1.96, 1.0)[:2] == (
        pytest.approx(0.025, rel=1e-3),
        pytest.approx(0.05, rel=1e-3),
    )
    assert difference.of_smooth(1.96, 1.0).worse == pytest.approx(0.975, rel=1e-3)
    # Two degrees of freedom of three seeds alone: t at 2.5 % is 4.303.
    assert difference.of_smooth(-4.303, 1e-12, 3, 1.0).worse == pytest.approx(0.025, rel=1e-3)


def test_holm_on_no_p_is_no_p():
    assert significance.holm(np.empty(0)).shape == (0,)
