"""P values equal those of the libraries, and of enumerated flips."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, binomtest, false_discovery_control

from rwkvclip_eval.compare import significance


@pytest.mark.parametrize("gained", [0, 1, 2, 5, 13, 60, 4000])
@pytest.mark.parametrize("lost", [0, 1, 3, 6, 13, 90, 4100])
def test_exact_p_values_equal_those_of_a_binomial_test(gained, lost):
    if gained + lost == 0:
        assert significance.worse(0, 0) == significance.either(0, 0) == 1
        return
    one_sided = binomtest(lost, gained + lost, alternative="greater").pvalue
    assert significance.worse(gained, lost) == pytest.approx(one_sided, rel=1e-9, abs=1e-300)
    two_sided = binomtest(lost, gained + lost).pvalue
    assert significance.either(gained, lost) == pytest.approx(two_sided, rel=1e-9, abs=1e-300)


def test_a_mid_p_counts_half_of_what_was_observed():
    tail = binom.sf(9, 12, 0.5) + binom.pmf(9, 12, 0.5) / 2
    assert significance.mid_p(3, 9) == pytest.approx(2 * tail)
    assert significance.mid_p(9, 3) == significance.mid_p(3, 9)
    assert significance.mid_p(4, 4) == pytest.approx(1)
    assert significance.mid_p(0, 0) == 1


def test_flips_of_one_weight_are_mcnemars_test():
    steps = np.array([0, -1, 0, -1, -1, 1, -1, 0]) / 8
    found = significance.of_flips(steps)
    assert found[:2] == (pytest.approx(binom.sf(3, 5, 0.5)), pytest.approx(significance.mid_p(1, 4)))
    assert significance.of_flips(np.zeros(4)) == (1, 1, 0)


def test_flips_of_several_weights_equal_all_flips_enumerated():
    steps = np.array([-3, -2, 1, -1, -3, 2, -2, 0, 1, -1])
    sizes = np.abs(steps[steps != 0])
    sums = np.array([np.dot(signs, sizes) for signs in itertools.product((-1, 1), repeat=len(sizes))])
    found = significance.of_flips(steps / 7)
    assert found.worse == pytest.approx(np.mean(sums <= steps.sum()), abs=0.01)
    middle = np.mean(sums < steps.sum()) + np.mean(sums == steps.sum()) / 2
    assert found.mid == pytest.approx(2 * middle, abs=0.01)


def test_drawn_flips_keep_their_level(monkeypatch):
    monkeypatch.setattr(significance, "NUM_FLIPS", 199)
    generator = np.random.default_rng(1)
    sizes = generator.choice([1 / 30, 1 / 33, 1 / 200], 40)
    p = [significance.of_flips(sizes * generator.choice([-1, 1], 40)).worse for _ in range(2000)]
    for level in (0.005, 0.05, 0.5):
        assert binom.sf(np.count_nonzero(np.array(p) <= level) - 1, 2000, level) > 1e-3


def test_holm_takes_one_step_after_the_other():
    adjusted = significance.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm(np.array([[0.6, 0.9], [0.01, 0.02]])) == pytest.approx(
        np.array([[1, 1], [0.02, 0.02]])
    )


def test_false_discoveries_are_adjusted_as_in_scipy():
    p = np.random.default_rng(0).random(30) ** 3
    assert significance.benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
