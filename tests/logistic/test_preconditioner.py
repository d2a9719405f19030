"""The initial inverse Hessian of the solver against the Hessian itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rwkvclip_eval.logistic import fit_logistic, solver
from rwkvclip_eval.logistic.basis import make_basis
from rwkvclip_eval.logistic.descent import descend
from rwkvclip_eval.logistic.objective import LEAD, WHOLE, Objective, plan
from rwkvclip_eval.logistic.preconditioner import make_preconditioner
from rwkvclip_eval.logistic.problem import make_problem

BUDGET = 64 << 20
FEATURES, CLASSES = 6, 4


def objective(*, multilabel, dtype=torch.float64, **division):
    rng = np.random.default_rng(0)
    # More rows than are multiplied at a time, not a multiple of them.
    x = rng.standard_normal((700, FEATURES)) @ rng.standard_normal((FEATURES, FEATURES)) + 1
    y = rng.integers(0, 2, (700, CLASSES)) if multilabel else rng.integers(0, CLASSES, 700)
    given = make_problem(x, y, num_classes=CLASSES, multilabel=multilabel, memory_budget=BUDGET, device="cpu")
    return Objective(given, make_basis(given), dtype, replace(plan(given, 2, dtype), **division))


def points(strengths=2):
    torch.manual_seed(0)
    return 0.3 * torch.randn(strengths, (FEATURES + 1) * CLASSES, dtype=torch.float64)


def hessian(function, theta, l2):
    """[D, D] float64 by finite differences of the gradient, which is tested against scikit-learn."""
    columns, step = [], 1e-5
    for unit in torch.eye(len(theta), dtype=torch.float64):
        ends = [function((theta + sign * step * unit)[None], l2[None])[1][0] for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns)


@pytest.mark.parametrize("multilabel", [False, True], ids=["multinomial", "multilabel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("division", [{}, {"rows": 300}, {"resident": False, "anchored": False}], ids=str)
def test_diagonal_and_blocks_are_those_of_the_hessian(multilabel, division, dtype):
    theta, lead = points(), 3
    diagonal, blocks = objective(multilabel=multilabel, dtype=dtype, **division).curvature(
        theta.to(dtype), lead
    )
    function = objective(multilabel=multilabel)
    assert blocks.shape == (2, CLASSES, lead, lead)
    for j in range(2):
        whole = hessian(function, theta[j], torch.tensor(0.0, dtype=torch.float64))
        assert torch.allclose(diagonal[j], whole.diagonal(), rtol=1e-5)
        whole = whole.view(FEATURES + 1, CLASSES, FEATURES + 1, CLASSES)
        for k in range(CLASSES):
            expected = whole[-lead:, k, -lead:, k]
            assert torch.allclose(blocks[j, k].double(), expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_with_all_directions_leading_a_multilabel_hessian_is_inverted(dtype):
    function = objective(multilabel=True, dtype=dtype)
    theta, l2 = points().to(dtype), torch.tensor([0.1, 10.0], dtype=torch.float64)
    precondition = function.preconditioner(theta, l2)
    reference = objective(multilabel=True)
    for j in range(2):
        whole = hessian(reference, theta[j].double(), l2[j])
        wanted = points()[j].to(dtype)
        given = torch.stack([whole.to(dtype) @ wanted] * 2)
        assert torch.allclose(precondition(given)[j], wanted, rtol=1e-3, atol=1e-3)


def test_steps_hold_nothing_that_all_classes_share():
    precondition = objective(multilabel=False).preconditioner(points(), torch.ones(2, dtype=torch.float64))
    step = precondition(torch.randn(2, (FEATURES + 1) * CLASSES, dtype=torch.float64))
    assert step.abs().max() > 0.01
    assert step.view(2, -1, CLASSES).sum(-1).abs().max() < 1e-12
    # Symmetric and positive, as L-BFGS needs it.
    a, b = (torch.randn(2, (FEATURES + 1) * CLASSES, dtype=torch.float64) for _ in range(2))
    assert torch.allclose((a * precondition(b)).sum(1), (b * precondition(a)).sum(1), rtol=1e-4)
    assert ((a * precondition(a)).sum(1) > 0).all()


def test_a_start_whose_weights_share_a_part_reaches_the_same_optimum():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, FEATURES)), rng.integers(0, CLASSES, 200)
    common = {"num_classes": CLASSES, "relative_gap": 1e-10}
    [plain] = fit_logistic(x, y, [0.5], **common)
    [moved] = fit_logistic(x, y, [0.5], start=[replace(plain, weight=plain.weight + 3)], **common)
    assert moved.status == "converged"
    assert abs(moved.objective - plain.objective) <= moved.gap + plain.gap


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [9.0, float("nan"), float("inf")])
def test_a_class_whose_correlations_are_no_such_goes_by_its_diagonal(wrong, device):
    blocks = torch.tensor([[[4.0, 2.0], [2.0, 4.0]], [[4.0, wrong], [wrong, 4.0]]], device=device)
    precondition = make_preconditioner(
        torch.full((1, 4), 4.0, dtype=torch.float64, device=device),
        blocks[None],
        torch.zeros(1, dtype=torch.float64, device=device),
        num_classes=2,
        multilabel=True,
        dtype=torch.float64,
    )
    step = precondition(torch.ones(1, 4, dtype=torch.float64, device=device)).view(2, 2).cpu()
    # [[4, 2], [2, 4]]⁻¹ (1, 1) = (1/6, 1/6); by the diagonal, 1/4.
    assert torch.allclose(step, torch.tensor([[1 / 6, 1 / 4], [1 / 6, 1 / 4]]).double(), rtol=1e-4)


def test_a_class_that_is_certain_everywhere_has_finite_steps():
    function, theta = objective(multilabel=False), points()
    theta[:, -CLASSES] = 1e4
    _, blocks = function.curvature(theta, 3)
    assert (blocks[:, 0] == 0).all()
    precondition = function.preconditioner(theta, torch.ones(2, dtype=torch.float64))
    assert precondition(torch.ones_like(theta)).isfinite().all()


def test_the_preconditioner_of_some_strengths_is_that_of_those_alone():
    function, theta = objective(multilabel=False), points(3)
    l2 = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    chosen = torch.tensor([True, False, True])
    alone = function.preconditioner(theta[chosen], l2[chosen])
    part = function.preconditioner(theta, l2).of(chosen)
    assert torch.allclose(part(theta[chosen]), alone(theta[chosen]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("multilabel", [False, True], ids=["multinomial", "multilabel"])
def test_what_is_preconditioned_stays_as_it_was(multilabel):
    precondition = objective(multilabel=multilabel).preconditioner(points(), torch.ones(2).double())
    assert precondition.inverse is not None
    for one in (precondition, precondition.diagonal_only()):
        given = points()
        assert not torch.equal(one(given), given)
        assert torch.equal(given, points())


@pytest.mark.parametrize("wrong", [float("nan"), -1.0])
def test_a_direction_that_does_not_descend_is_replaced_by_the_diagonals(wrong, monkeypatch):
    function, theta, l2 = objective(multilabel=False), points(), torch.ones(2, dtype=torch.float64)
    made = Objective.preconditioner

    def broken(self, *given):
        precondition = made(self, *given)
        return replace(precondition, inverse=torch.full_like(precondition.inverse, wrong))

    monkeypatch.setattr(Objective, "preconditioner", broken)
    before, _ = function(theta, l2)
    going = {"trigger": [0.0, 0.0], "max_iterations": [5, 5], "check": lambda *_: 0.0}
    reached, _ = descend(function, theta.clone(), l2, **going)
    assert (function(reached, l2)[0] < before).all()


def test_two_classes_and_a_single_direction_are_solved():
    rng = np.random.default_rng(0)
    x = np.outer(rng.standard_normal(100), [1.0, 2.0, 3.0])
    y = (x[:, 0] + rng.standard_normal(100) > 0).astype(int)
    [solution] = fit_logistic(x, y, [1e-2], num_classes=2, relative_gap=1e-10)
    assert solution.status == "converged"


@pytest.mark.parametrize("kind", ["multinomial", "pair", "multilabel"])
def test_the_product_with_the_labels_is_that_of_centred_features(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, FEATURES)) + 3
    classes = 2 if kind == "pair" else CLASSES
    y = rng.integers(0, 2, (500, classes)) if kind == "multilabel" else rng.integers(0, classes, 500)
    common = {"num_classes": classes, "multilabel": kind == "multilabel", "device": "cpu"}
    smallest = make_problem(x, y, memory_budget=BUDGET, **common).smallest_budget
    given = make_problem(x, y, memory_budget=smallest, **common)
    assert given.proof_rows < 250
    target = {"multinomial": np.eye(classes)[y] if kind == "multinomial" else None, "multilabel": y}
    expected = (x - x.mean(0)).T @ (y[:, None] if kind == "pair" else target[kind])
    assert np.allclose(given.label_product.numpy(), expected, rtol=1e-10, atol=1e-10)


def crossed(num_features=50):
    """Classes that need directions in which others differ little: their Hessians are far from diagonal."""
    rng = np.random.default_rng(0)
    y = np.arange(2000) % 20
    spread = np.logspace(0, -2, num_features)
    means = rng.standard_normal((20, num_features))
    return ((means[y] + rng.standard_normal((2000, num_features))) * spread).astype(np.float32), y


@pytest.mark.parametrize("l2", [1e-2, 1e-4])
def test_coupled_directions_take_at_most_half_the_iterations(monkeypatch, l2):
    x, y = crossed()
    common = {"num_classes": 20, "relative_gap": 1e-8}
    # Of so few features Newton's method would leave nothing to L-BFGS.
    monkeypatch.setattr(solver, "WHOLE", 0)
    [coupled] = fit_logistic(x, y, [l2], **common)
    with monkeypatch.context() as patch:
        patch.setattr(solver, "plan", lambda *given: replace(plan(*given), lead=0))
        [alone] = fit_logistic(x, y, [l2], **common)
    assert coupled.status == "converged"
    assert coupled.iterations <= alone.iterations / 2
    assert coupled.objective <= alone.objective + coupled.gap


def test_directions_are_coupled_where_memory_allows():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 100), dtype=np.float32), np.arange(50) % 20

    def lead(budget):
        given = make_problem(x, y, num_classes=20, multilabel=False, memory_budget=budget, device="cpu")
        return plan(given, 1, torch.float32).lead

    given = make_problem(x, y, num_classes=20, multilabel=False, memory_budget=BUDGET, device="cpu")
    assert lead(BUDGET) == LEAD + 1
    assert 0 < lead(given.smallest_budget) < LEAD
    [ample] = fit_logistic(x, y, [1.0], num_classes=20)
    [scarce] = fit_logistic(x, y, [1.0], num_classes=20, memory_budget=given.smallest_budget)
    assert abs(ample.objective - scarce.objective) <= ample.gap + scarce.gap


@pytest.mark.parametrize(("num_features", "lead"), [(WHOLE, WHOLE + 1), (WHOLE + 1, LEAD + 1)])
def test_at_zero_weights_nothing_is_coupled_and_then_all_of_few_features(monkeypatch, num_features, lead):
    asked = []
    original = Objective.curvature
    monkeypatch.setattr(
        Objective, "curvature", lambda self, theta, lead: asked.append(lead) or original(self, theta, lead)
    )
    x, y = crossed(num_features)
    fit_logistic(x, y, [1e-2], num_classes=20)
    coupled = [number for number in asked if number]
    assert asked[0] == 0
    assert asked[-len(coupled) :] == coupled
    assert set(coupled) == {lead}
