"""Evaluations near an anchor agree with those in float64, to the rounding of what changed."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvclip_eval.logistic import descent, fit_logistic, solver
from rwkvclip_eval.logistic.basis import make_basis
from rwkvclip_eval.logistic.objective import Objective, plan
from rwkvclip_eval.logistic.problem import make_problem

BUDGET = 64 << 20


def problem(*, multilabel=False, memory_budget=BUDGET, n=300, num_features=40, num_classes=7):
    rng = np.random.default_rng(0)
    # Variances over six decades: rounding relative to the largest would drown the smallest.
    x = rng.standard_normal((n, num_features)) * np.logspace(0, -3, num_features)
    y = rng.integers(0, 2, (n, num_classes)) if multilabel else np.arange(n) % num_classes
    return make_problem(
        x, y, num_classes=num_classes, multilabel=multilabel, memory_budget=memory_budget, device="cpu"
    )


def objective(given, strengths):
    division = plan(given, strengths, torch.float64)
    return Objective(given, make_basis(given), torch.float64, division)


def points(function, strengths):
    torch.manual_seed(0)
    num_classes = function.problem.shape[2]
    return torch.randn(strengths, (function.basis.shape[1] + 1) * num_classes, dtype=torch.float64)


@pytest.mark.parametrize("multilabel", [False, True], ids=["multinomial", "multilabel"])
@pytest.mark.parametrize("strengths", [1, 3])
def test_near_an_anchor_the_error_is_rounding_of_the_distance(strengths, multilabel):
    near = objective(problem(multilabel=multilabel), strengths)
    l2 = torch.logspace(-6, 0, strengths, dtype=torch.float64)
    theta = points(near, strengths)
    *_, anchor = near.anchor(theta, l2)
    for distance in (1e-1, 1e-4, 1e-7):
        moved = theta + distance * torch.randn_like(theta)
        value, gradient = near(moved, l2)
        close_value, close_gradient = near(moved, l2, anchor)
        assert near(theta, l2)[1].norm() > 1
        assert (close_value - value).abs().max() <= 1e-5 * distance * value.max()
        # By direction: those of small variance must not drown in the rounding of the large ones.
        num_classes = near.problem.shape[2]
        error, size = (
            (g.view(strengths, -1, num_classes).norm(dim=2)) for g in (close_gradient - gradient, gradient)
        )
        assert (error <= 1e-5 * distance * size).all()
        # Not a comparison of the function with itself: float32 has rounded something.
        assert distance < 1e-6 or (error > 0).any()


@pytest.mark.parametrize("strengths", [1, 2])
def test_an_anchor_is_the_float64_evaluation_and_stays_as_it_was(strengths):
    near = objective(problem(), strengths)
    l2, theta = torch.full((strengths,), 0.5, dtype=torch.float64), points(near, strengths)
    value, gradient, anchor = near.anchor(theta, l2)
    expected, slope = near(theta, l2)
    assert torch.allclose(value, expected, rtol=1e-14)
    assert torch.allclose(gradient, slope, rtol=1e-12, atol=1e-12)
    before = [part.clone() for part in vars(anchor).values()]
    near(theta + 0.1, l2, anchor)
    gradient.zero_()
    theta.zero_()
    for part, copy in zip(vars(anchor).values(), before, strict=True):
        assert torch.equal(part, copy)


def test_anchors_of_chosen_strengths_are_those_of_the_strengths_alone():
    near = objective(problem(), 3)
    l2, theta = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64), points(near, 3)
    *_, anchor = near.anchor(theta, l2)
    moved = theta + 1e-3
    whole = near(moved, l2, anchor)
    for chosen in (torch.tensor([True, False, True]), torch.tensor([2, 0])):
        value, gradient = near(moved[chosen], l2[chosen], anchor.of(chosen))
        assert torch.allclose(value, whole[0][chosen], rtol=1e-9)
        assert torch.allclose(gradient, whole[1][chosen], rtol=1e-6, atol=1e-6)


def test_anchors_are_made_in_float64_where_memory_allows():
    ample = problem(n=20000)
    scarce = problem(n=20000, memory_budget=ample.smallest_budget)
    assert plan(ample, 2, torch.float64).anchored
    assert not plan(ample, 2, torch.float32).anchored
    assert not plan(scarce, 1, torch.float64).anchored


def hard_problem():
    rng = np.random.default_rng(1)
    y = np.arange(400) % 8
    return rng.standard_normal((8, 30))[y] + 2 * rng.standard_normal((400, 30)), y


def count(monkeypatch, name):
    """Count the calls of a method of `Objective`; those of `__call__` only beside an anchor."""
    calls, original = [], getattr(Objective, name)

    def counted(self, *given):
        if name != "__call__" or (len(given) == 3 and given[2] is not None):
            calls.append(len(given[1]))
        return original(self, *given)

    monkeypatch.setattr(Objective, name, counted)
    return calls


@pytest.mark.parametrize("age", [2, 40])
def test_optima_with_and_without_anchors_agree_within_their_gaps(monkeypatch, age):
    x, y = hard_problem()
    l2 = [1e-3, 1e-2, 1.0]
    common = {"num_classes": 8, "relative_gap": 1e-10}
    monkeypatch.setattr(descent, "_ANCHORED", age)
    # Of so few features Newton's method would leave nothing to L-BFGS.
    monkeypatch.setattr(solver, "WHOLE", 0)
    with monkeypatch.context() as patch:
        anchors, beside = count(patch, "anchor"), count(patch, "__call__")
        near = fit_logistic(x, y, l2, **common)
    assert len(anchors) > 2
    assert len(beside) > len(anchors)
    monkeypatch.setattr(solver, "plan", lambda *given: replace(plan(*given), anchored=False))
    anchors = count(monkeypatch, "anchor")
    for anchored, whole in zip(near, fit_logistic(x, y, l2, **common), strict=True):
        assert anchored.status == whole.status == "converged"
        assert abs(anchored.objective - whole.objective) <= anchored.gap + whole.gap
    assert anchors == []


ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(ROOT / folder) for folder in (".", "models", "train"))


def test_a_probe_compiles_no_operator_of_the_towers(monkeypatch):
    x, y = hard_problem()
    choice = importlib.import_module("rwkvclip_models.ops.choice")
    monkeypatch.setattr(choice, "resolve", lambda *_: pytest.fail("it asked for one"))
    [solution] = fit_logistic(x, y, [1.0], num_classes=8)
    assert solution.status == "converged"


def test_the_solver_loads_no_operator_for_its_products():
    code = "import sys, rwkvclip_eval.logistic; sys.exit('rwkvclip_models.ops' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PATHS}).returncode == 0
    )
