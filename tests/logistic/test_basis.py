"""Directions diagonalise the scatter, also of features whose scales lie far apart."""

import numpy as np
import pytest

from rwkvclip_eval.logistic import clip_grid, fit_logistic, scores, search_l2
from rwkvclip_eval.logistic.basis import make_basis
from rwkvclip_eval.logistic.problem import make_problem


def problem(x):
    labels = np.arange(len(x)) % 3
    given = {"num_classes": 3, "multilabel": False, "memory_budget": 64 << 20}
    return make_problem(x, labels, device="cpu", **given)


@pytest.mark.parametrize(("decades", "mixed"), [(0, True), (3, True), (8, True), (8, False), (12, False)])
def test_directions_are_orthonormal_and_none_varies_with_another_whatever_their_scales(decades, mixed):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 20)) * np.logspace(0, -decades, 20)
    if mixed:
        x = x @ np.linalg.qr(rng.standard_normal((20, 20)))[0]
    basis = make_basis(problem(x)).numpy()
    assert basis.shape == (20, 20)
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-13)
    turned = (x - x.mean(0)) @ basis
    variation = np.linalg.norm(turned, axis=0)
    assert (np.diff(variation) > 0).all()
    correlation = turned.T @ turned / np.outer(variation, variation)
    # Between two levels some digits of the smaller one are lost.
    np.testing.assert_allclose(correlation, np.eye(20), atol=max(1e-4, 10.0 ** (decades - 15)))


def test_directions_without_variation_are_left_out():
    rng = np.random.default_rng(0)
    few = rng.standard_normal((30, 80)).astype(np.float32)
    assert make_basis(problem(few)).shape == (80, 29)
    # Columns that are always zero, twice the same, and far from the origin.
    doubled = np.hstack([few[:, :8], few[:, :8] * 2, np.zeros((30, 5)), np.full((30, 1), 3.0)])
    assert make_basis(problem(doubled)).shape == (22, 8)
    assert make_basis(problem(np.full((30, 6), 0.1, np.float32))).shape == (6, 1)


def test_a_small_column_beside_a_large_one_is_learned_from_as_if_it_stood_alone():
    rng = np.random.default_rng(0)
    means, y, vy = 3 * rng.standard_normal((5, 8)), np.arange(300) % 5, np.arange(400) % 5
    x, vx = (1e-4 * (means[k] + rng.standard_normal((len(k), 8))).astype(np.float32) for k in (y, vy))
    large, also_large = (1e4 * rng.standard_normal((len(k), 1)).astype(np.float32) for k in (y, vy))

    def accuracy(logits, labels):
        return float((logits.argmax(1) == labels).mean())

    found = search_l2(
        np.hstack([x, large]), y, np.hstack([vx, also_large]), vy, num_classes=5, metric=accuracy
    )
    assert found.unsolved == 0
    [alone] = fit_logistic(x, y, [clip_grid()[0]], num_classes=5, relative_gap=1e-10)
    assert found.best.score >= accuracy(scores(vx, alone), vy) - 1 / 400
    assert found.best.score > 0.95
