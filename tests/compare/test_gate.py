"""The verdict on cases that are clear, and what it says of each set."""

import itertools

import numpy as np
import pytest
from gate_cases import flips, gated, suite

from rwkvclip_eval.compare.gate import Gated, Outcomes, Rule, apply, judge, together
from rwkvclip_eval.compare.paired import area_under_curve, recall


def captions(num_images, gained, lost):
    """Retrieval with five captions an image, single ones of which were gained and lost."""
    before = np.ones(5 * num_images, bool)
    after = before.copy()
    before[: 5 * gained : 5] = False
    after[5 * gained : 5 * (gained + lost) : 5] = False
    difference = recall(before, after, np.repeat(np.arange(num_images), 5))
    return Gated(name="captions", dataset="captions", difference=difference)


@pytest.mark.parametrize("of", [gated, captions])
def test_flips_that_cancel_never_make_two_models_surer_to_be_alike(of):
    found = [judge([of(456, flips, flips)]) for flips in range(30)]
    for fewer, more in itertools.pairwise(found):
        assert more.low <= fewer.low < 0 < fewer.high <= more.high
        assert fewer.low == pytest.approx(-fewer.high)


@pytest.mark.parametrize("of", [gated, captions])
def test_every_loss_more_counts_against_the_candidate(of):
    lows = [judge([of(456, 0, lost)]).low for lost in range(60)]
    assert all(more < fewer for fewer, more in itertools.pairwise(lows))


def test_a_model_and_itself_pass():
    found = judge(suite(11, 10_000, 0.0))
    assert (found.verdict, found.exit_code) == ("PASS", 0)
    assert found.mean == 0
    assert set(found.sets) == {"not worse"}


def test_one_model_with_the_same_answers_passes_on_sets_of_any_size():
    tiny = suite(2, 30, 0.0)
    assert judge(tiny).verdict == "INCONCLUSIVE"
    found = judge(tiny, one_model=True)
    assert (found.verdict, found.why) == ("PASS", "both runs are of one model, and it gave the same answers")


@pytest.mark.parametrize("lost", [0, 1])
def test_one_model_with_other_answers_is_judged_as_two_are(lost):
    sets = [*suite(2, 30, 0.0), gated(30, 1, lost, "rounded")]
    assert judge(sets, one_model=True).verdict == judge(sets).verdict == "INCONCLUSIVE"


def test_a_loss_everywhere_is_a_regression():
    sets = [gated(10_000, 100, 300, f"set {k}") for k in range(5)]
    found = judge(sets)
    assert (found.verdict, found.exit_code) == ("REGRESSION", 1)
    assert found.mean == pytest.approx(-0.02)
    assert set(found.sets) == {"regressed"}
    assert found.high < -0.005


def test_one_set_that_regressed_is_a_regression_whatever_the_mean():
    sets = [*suite(10, 50_000, 0.02), gated(10_000, 50, 300, "pets")]
    found = judge(sets)
    assert (found.verdict, found.why) == ("REGRESSION", "regressed: pets")
    assert found.sets == ("not worse",) * 10 + ("regressed",)
    assert found.low > -0.005


def test_a_loss_within_the_margin_is_no_regression_however_sure():
    found = judge([gated(1_000_000, 1000, 2000)])
    assert found.adjusted[0] < 1e-9
    assert (found.verdict, found.sets) == ("PASS", ("worse within the margin",))


def test_a_set_too_small_for_the_margin_holds_nothing_up():
    found = judge([*suite(10, 50_000, 0.02), gated(1000, 10, 14, "small")])
    assert (found.verdict, found.sets[-1]) == ("PASS", "unresolved")


def test_a_suite_too_small_for_the_margin_is_inconclusive():
    found = judge([gated(200, 5, 6)])
    assert (found.verdict, found.exit_code) == ("INCONCLUSIVE", 3)
    assert found.low < -0.005 < found.high
    assert found.why.endswith("points, holds the margin")


def test_a_wider_margin_and_another_level_change_the_verdict():
    sets = [gated(2000, 30, 62)]
    assert judge(sets).verdict == "REGRESSION"
    assert judge(sets, Rule(margin=0.04)).verdict == "PASS"
    assert judge(sets, Rule(alpha=0.0005)).verdict == "INCONCLUSIVE"


def test_a_loss_that_repeating_the_baseline_makes_too_is_ambiguous():
    lost = gated(10_000, 20, 100, "pets", repeat=(20, 110))
    found = judge([lost])
    assert (found.verdict, found.exit_code) == ("AMBIGUOUS", 3)
    assert found.sets == ("within the noise",)
    quiet = gated(10_000, 20, 100, "pets", repeat=(1, 0))
    assert judge([quiet]).verdict == "REGRESSION"


def test_flips_that_cancelled_in_the_repeat_are_noise_too():
    assert gated(10_000, 0, 0, repeat=(400, 400)).noise == pytest.approx(1.96 * 800**0.5 / 10_000, rel=1e-3)
    assert gated(10_000, 0, 0, repeat=(0, 0)).noise == 0


def test_noise_as_large_as_the_margin_leaves_no_pass():
    assert judge([gated(10_000, 5, 5, repeat=(30, 90))]).verdict == "AMBIGUOUS"
    assert judge([gated(10_000, 5, 5, repeat=(3, 4))]).verdict == "PASS"
    # What is that much better passes however the baseline had come out.
    assert judge([gated(10_000, 400, 5, repeat=(30, 90))]).verdict == "PASS"


def test_without_a_repeat_no_noise_is_assumed():
    assert judge([gated(10_000, 50, 50)], Rule(margin=0.0)).verdict == "INCONCLUSIVE"
    assert judge([gated(10_000, 90, 10)], Rule(margin=0.0)).verdict == "PASS"


def test_an_area_that_repeats_exactly_makes_no_noise():
    parts = np.linspace(0, 1, 50), np.linspace(0, 1, 70)
    same = area_under_curve(parts, parts)
    assert Gated(name="memes", dataset="memes", difference=same, repeat=same).noise == 0


def test_numbers_of_the_same_images_are_not_taken_for_independent():
    distances = np.array([[3.0, 4.0, 12.0]])
    assert together(distances, np.array([0, 1, 2])) == pytest.approx(13)
    assert together(distances, np.array([0, 0, 1])) == pytest.approx((7**2 + 12**2) ** 0.5)
    apart = judge([gated(3000, 10, 20, name) for name in ("a", "b", "c", "d")])
    alike = judge([gated(3000, 10, 20, name, "one") for name in ("a", "b", "c", "d")])
    half_an_image = 0.5 / 3000 / 4
    reach, twice = (found.high - found.mean - half_an_image for found in (apart, alike))
    assert twice == pytest.approx(2 * reach)


def test_holms_correction_is_over_all_sets():
    difference = flips(1000, 10, 24)
    p = difference.significance.worse
    assert 0.025 / 4 < p < 0.025
    one, four = (judge([gated(1000, 10, 24, f"{k}") for k in range(n)]) for n in (1, 4))
    assert one.adjusted[0] == pytest.approx(p)
    assert four.adjusted == pytest.approx([4 * p] * 4)


def test_the_mean_s_interval_below_the_margin_is_enough():
    outcomes = Outcomes(*(np.array([[x, x]]) for x in (-0.02, -0.03, -0.01, 0.5)))
    found = apply(Rule(), outcomes, np.array([0, 1]), np.array([1000.0, 1000.0]))
    assert found.regression[0]
    assert found.mean_high[0] == pytest.approx(-0.02 + 0.01 / 2**0.5 + 0.5 / 1000 / 2, rel=1e-6)
    assert found.mean_low[0] == pytest.approx(-0.02 - 0.01 / 2**0.5 - 0.5 / 1000 / 2, rel=1e-6)


def test_of_many_sets_one_that_chance_would_give_is_not_regressed():
    rule = Rule(margin=0.0005)
    alone = gated(10_000, 8, 22, "unlucky")
    assert alone.difference.significance.worse < rule.level
    assert judge([alone], rule).sets == ("regressed",)
    among = judge([*suite(20, 10_000, 0.003), alone], rule)
    assert among.sets[-1] != "regressed"
    assert among.adjusted[-1] > rule.level
    assert among.verdict != "REGRESSION"
