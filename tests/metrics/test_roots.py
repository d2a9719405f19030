"""Roots and quantiles are those of scipy."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from scipy import special

from rwkvclip_eval.metrics.intervals import EXACT_BELOW, wilson_ends
from rwkvclip_eval.metrics.roots import beta_quantile, beta_share, root

SIZES = (1, 2, 3, 7, 14, 15, 20, 29, 50, 100, 333, 1000, 10_000, 100_000, 1_000_000)


@pytest.mark.parametrize("n", SIZES)
def test_quantiles_of_few_hits_or_misses_are_those_of_scipy(n: int) -> None:
    few = [k for k in range(min(n, EXACT_BELOW) + 1)]
    for k, share in product({*few, *(n - k for k in few)}, (0.05, 0.95)):
        for a, b in ((k, n - k + 1), (k + 1, n - k), (k + 0.37, n - k + 0.41)):
            if min(a, b) > 0:
                assert abs(beta_quantile(a, b, share) - special.betaincinv(a, b, share)) < 1e-12, (a, b)


def test_shares_are_those_of_scipy() -> None:
    for a, b, x in product((0.5, 1, 3.7, 20, 300), (0.5, 2, 8.1, 90), (1e-6, 0.01, 0.3, 0.77, 0.999)):
        assert abs(beta_share(a, b, x) - special.betainc(a, b, x)) < 1e-12, (a, b, x)


@pytest.mark.parametrize("n", SIZES)
def test_one_proportion_has_the_ends_that_it_has_among_many(n: int) -> None:
    hits = np.unique(np.clip([0, 1, 2, 5, 9, 14, n // 2, n - 14, n - 3, n - 1, n], 0, n)).astype(float)
    many = wilson_ends(hits, np.full(len(hits), float(n)))
    for i, k in enumerate(hits):
        low, high, widened = wilson_ends(k, n)
        assert abs(low - many[0][i]) < 1e-12 and abs(high - many[1][i]) < 1e-12
        assert widened == many[2][i]


@pytest.mark.parametrize("place", [-29.5, -1.0, 0.0, 1e-9, 0.3, 29.5])
def test_a_root_is_found_wherever_it_lies(place: float) -> None:
    calls = []

    def steep(x: float) -> float:
        calls.append(x)
        return math.expm1(x - place)

    assert abs(root(steep, -30, 30) - place) < 1e-11
    assert len(calls) < 40
    assert root(lambda x: x, 0, 1) == 0 and root(lambda x: x - 1, 0, 1) == 1


@pytest.mark.parametrize("place", [-3.3, 0.1234, 7.9])
def test_a_root_beside_a_flat_stretch_is_found(place: float) -> None:
    calls = []

    def flat(x: float) -> float:
        calls.append(x)
        return max(x - place, 0.0) ** 2 - 1e-150

    assert abs(root(flat, -30, 30) - place) < 1e-11
    assert len(calls) < 100


def test_intervals_of_a_small_run_load_no_scipy() -> None:
    code = """
import sys, numpy as np
from rwkvclip_eval.metrics import intervals
hit, labels = np.arange(40) % 5 == 0, np.arange(40) % 4
intervals.wilson(3, 40), intervals.wilson(38, 40), intervals.mean_per_class(hit, labels)
intervals.recall(hit, np.arange(40) // 2), intervals.median_rank(np.arange(1, 41), np.arange(40), 40)
assert not [name for name in sys.modules if name.startswith("scipy")], "scipy"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
