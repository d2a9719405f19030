"""Newton's method where features are few: its products in float32, its way to weak λ, what follows it."""

import numpy as np
import pytest
import torch

from rwkvclip_eval.logistic import fit_logistic, objective, solver
from rwkvclip_eval.logistic import newton as newton_module
from rwkvclip_eval.logistic.newton import newton
from rwkvclip_eval.logistic.solver import Solver


def overlapping(n=300, num_features=12, num_classes=40, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((num_classes, num_features))
    y = np.append(np.arange(num_classes), rng.integers(0, num_classes, n - num_classes))
    return (means[y] + rng.standard_normal((n, num_features))).astype(np.float32), y


def float64_objective(x, y, **options):
    made = Solver(x, y, num_classes=int(y.max()) + 1, **options)
    return made, made.objective(torch.float64, 1)


@pytest.mark.parametrize("margin", [3.0, 18.0, 40.0])
def test_float32_products_keep_the_curvature_of_samples_that_are_all_but_certain(margin):
    x, y = overlapping(num_classes=4)
    _, function = float64_objective(x, y)
    # Every sample is told from the others by its intercept alone, so each is as certain.
    point = torch.zeros(1, function.basis.shape[1] + 1, 4, dtype=torch.float64)
    point[0, -1, 0] = margin
    theta, l2 = point.view(1, -1), torch.zeros(1, dtype=torch.float64)
    d = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = function.hessian(theta, l2)(d)
    narrow = function.hessian(theta, l2, narrow=True)(d.float())
    assert narrow.dtype == torch.float32
    assert (narrow - exact).norm() <= 1e-5 * exact.norm()


def test_multilabel_products_keep_the_curvature_of_labels_that_are_all_but_certain():
    x, y = overlapping(num_classes=3)
    made = Solver(x, np.eye(3, dtype=np.int64)[y], num_classes=3, multilabel=True)
    function = made.objective(torch.float64, 1)
    d = torch.randn(1, 3 * (function.basis.shape[1] + 1), dtype=torch.float64)
    for intercept in (-45.0, 45.0):
        point = torch.zeros(1, function.basis.shape[1] + 1, 3, dtype=torch.float64)
        point[0, -1] = intercept
        found = function.hessian(point.view(1, -1), torch.zeros(1, dtype=torch.float64))(d)
        rows = torch.cat([torch.from_numpy(x).double() - made.problem.shift, torch.ones(len(x), 1)], 1)
        rows[:, :-1] = rows[:, :-1] @ function.basis
        expected = np.exp(-45.0) * rows.T @ (rows @ d.view(-1, 3))
        assert torch.allclose(found.view(-1, 3), expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("l2", [1e-6, 1e-3, 1.0])
def test_few_features_are_solved_by_newtons_method_to_the_optimum_of_l_bfgs(monkeypatch, l2, multilabel):
    x, y = overlapping(num_classes=20)
    labels = np.eye(20, dtype=np.int64)[y] if multilabel else y
    common = {"num_classes": 20, "multilabel": multilabel, "relative_gap": 1e-10}
    with monkeypatch.context() as patch:
        patch.setattr(solver._Group, "_descend", lambda *_: pytest.fail("L-BFGS was needed"))
        [found] = fit_logistic(x, labels, [l2], **common)
    [reference] = fit_logistic(x, labels, [l2], dtype=torch.float64, **common)
    assert found.status == reference.status == "converged"
    assert abs(found.objective - reference.objective) <= found.gap + reference.gap


@pytest.mark.parametrize("left", ["start", "way"])
def test_where_newtons_method_gives_up_l_bfgs_goes_on_from_there(monkeypatch, left):
    x, y = overlapping()
    common = {"num_classes": 40, "relative_gap": 1e-10}
    [expected] = fit_logistic(x, y, [1e-3], **common)
    original, asked = solver.follow, []

    def short(objective, theta, l2, **options):
        asked.append(l2)
        return original(objective, theta, l2, **options | {"max_passes": 40}) if left == "way" else theta

    monkeypatch.setattr(solver, "follow", short)
    [found] = fit_logistic(x, y, [1e-3], **common)
    assert asked == [1e-3]
    assert found.status == "converged"
    assert found.iterations > 1
    assert abs(found.objective - expected.objective) <= found.gap + expected.gap


def test_a_start_of_a_far_weaker_strength_does_not_stand_in_the_way():
    x, y = overlapping(num_classes=5)
    weak, strong = fit_logistic(x, y, [1e-4, 1e2], num_classes=5, relative_gap=1e-10)
    [again] = fit_logistic(x, y, [1e2], num_classes=5, relative_gap=1e-10, start=[weak])
    assert abs(again.objective - strong.objective) <= again.gap + strong.gap
    assert again.status == "converged"


def test_newtons_method_ends_where_it_is_told_to_and_within_its_passes():
    x, y = overlapping()
    made, function = float64_objective(x, y)
    start, asked = made.theta(None), []
    for limit in (10, 60):
        before = function.passes
        newton(function, start, 1e-4, relative_gap=1e-12, solved=lambda _: False, max_passes=limit)
        # The last step may have begun within them.
        assert function.passes - before <= limit + 200
    end = newton(
        function,
        start,
        1.0,
        relative_gap=1e-6,
        solved=lambda point: asked.append(point) or True,
        narrow=True,
    )
    assert len(asked) == 1
    assert made.prove(end, 1.0, 1e-6)[0].relative <= 1e-5


@pytest.mark.parametrize("first", [True, False])
def test_next_to_no_numbers_below_the_normal_ones_enter_float32_products(monkeypatch, first):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 20
    x = (6 * rng.standard_normal((20, 16)))[y] + rng.standard_normal((200, 16))
    original, seen, faint = objective.product, [], []

    def watched(a, b):
        for numbers in (a, b):
            if numbers.dtype == torch.float32:
                seen.append(numbers.numel())
                small = numbers.abs() < torch.finfo(torch.float32).tiny
                faint.append(int((small & (numbers != 0)).sum()))
        return original(a, b)

    monkeypatch.setattr(objective, "product", watched)
    monkeypatch.setattr(solver._Group, "_newton_first", lambda *_: first)
    fit_logistic(x.astype(np.float32), y, [1e-8], num_classes=20, relative_gap=1e-10)
    assert sum(seen) > 1e5
    assert sum(faint) <= 1e-4 * sum(seen)


def test_where_conjugate_gradients_come_to_no_end_steps_are_exact(monkeypatch):
    # Beyond the features that Newton's method begins with: a third of the samples twice, under two labels.
    rng = np.random.default_rng([1062, 77])
    y = np.arange(143) % 3
    x = 100 * (rng.standard_normal((3, 110))[y] + rng.standard_normal((143, 110)))
    x[:47] = x[47:94]
    y[:47] = rng.integers(0, 3, 47)
    made = []
    exactly = newton_module._exactly

    def kept(product, gradient):
        made.append(exactly(product, gradient))
        left = product(made[-1]) + gradient
        assert left.norm() <= 1e-3 * gradient.norm()
        return made[-1]

    monkeypatch.setattr(newton_module, "_exactly", kept)
    start = None
    for l2 in (1e2, 1.0, 1e-2, 1e-4, 1e-6):
        [start] = fit_logistic(
            x.astype(np.float32), y, [l2], num_classes=3, relative_gap=1e-10, start=[start]
        )
        assert start.status == "converged"
    assert made
