"""Objectives and gaps in the tails, against Newton's method in extended precision."""

import numpy as np
import pytest
import torch

from rwkvclip_eval.logistic import certificate, fit_logistic
from rwkvclip_eval.logistic.certificate import certify
from rwkvclip_eval.logistic.problem import make_problem

LONG = np.longdouble
STRENGTHS = [1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]

pytestmark = pytest.mark.skipif(
    np.finfo(LONG).eps > 2e-19, reason="this platform's long double is not longer than double"
)


def solve(matrix, right):
    """Gaussian elimination with pivots, in the precision of its arguments (numpy's own is double)."""
    rows = np.concatenate([matrix, right[:, None]], 1)
    for k in range(len(rows)):
        pivot = k + int(np.abs(rows[k:, k]).argmax())
        rows[[k, pivot]] = rows[[pivot, k]]
        rows[k + 1 :] -= rows[k + 1 :, k : k + 1] / rows[k, k] * rows[k]
    for k in reversed(range(len(rows))):
        rows[k, -1] = (rows[k, -1] - rows[k, k + 1 : -1] @ rows[k + 1 :, -1]) / rows[k, k]
    return rows[:, -1]


def minimum(function, point):
    """Least value that damped Newton steps reach, and where; `function` gives value, slope, Hessian."""
    value, slope, hessian = function(point)
    for _ in range(200):
        step, length = solve(hessian, slope), LONG(1)
        while length > 1e-6 and not (new := function(point - length * step))[0] < value:
            length /= 2
        if not new[0] < value:
            break
        point, (value, slope, hessian) = point - length * step, new
    # Where values no longer fall, steps still do.
    return value, point - solve(hessian, slope)


def binary(x, y, l2):
    """Σ log(1 + exp(−s z)) + λ/2 ‖w‖² of [w, b]; y 0/1."""
    wide = np.concatenate([x, np.ones((len(x), 1), LONG)], 1)
    sign = np.where(y > 0, LONG(-1), LONG(1))
    ridge = np.append(np.full(x.shape[1], LONG(l2)), LONG(0))

    def function(point):
        z = sign * (wide @ point)
        wrong = np.where(z > 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))
        loss = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        value = loss.sum() + (ridge * point**2).sum() / 2
        hessian = (wide * (wrong * (1 - wrong))[:, None]).T @ wide + np.diag(ridge)
        return value, wide.T @ (sign * wrong) + ridge * point, hessian

    return function


def multinomial(x, y, classes, l2):
    """Σ CE + λ/2 ‖W‖² of [W, b] row by row, the last intercept held at 0."""
    wide = np.concatenate([x, np.ones((len(x), 1), LONG)], 1)
    ridge = np.full((wide.shape[1], classes), LONG(l2))
    ridge[-1] = 0
    size = ridge.size - 1

    def function(point):
        cube = np.append(point, LONG(0)).reshape(ridge.shape)
        z = wide @ cube
        top = z.max(1)
        own = z[np.arange(len(y)), y]
        others = np.exp(z - top[:, None])
        others[np.arange(len(y)), y] = 0
        rest = others.sum(1)
        total = rest + np.exp(own - top)
        loss = np.where(own == top, np.log1p(rest), np.log(total) + top - own)
        residual = others / total[:, None]
        residual[np.arange(len(y)), y] = -rest / total
        p = residual.copy()
        p[np.arange(len(y)), y] += 1
        value = loss.sum() + (ridge * cube**2).sum() / 2
        slope = wide.T @ residual + ridge * cube
        hessian = -np.einsum("nf,nk,ng,nj->fkgj", wide, p, wide, p)
        diagonal = np.abs(residual) * (1 - np.abs(residual)) + p**2
        for k in range(classes):
            hessian[:, k, :, k] += (wide * diagonal[:, k, None]).T @ wide
        flat = hessian.reshape(ridge.size, ridge.size)[:size, :size] + np.diag(ridge.ravel()[:size])
        return value, slope.ravel()[:size], flat

    return function


def separable(kind, seed, n=24):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    if kind == "two classes":
        y = (x @ [1, -0.5] + 0.1 * rng.standard_normal(n) > 0.2).astype(np.int64)
        y[:2] = 0, 1
        x += np.where(y > 0, 0.4, -0.4)[:, None]
        return x, y, 2
    if kind == "multilabel":
        y = np.stack([x[:, 0] > 0.1, x[:, 1] < -0.1, x.sum(1) > 0], 1).astype(np.int64)
        y[0], y[1] = 1, 0
        return np.where(y[:, :1] > 0, x + np.array([0.3, 0]), x), y, 3
    y = np.arange(n) % 3
    return x / 5 + np.array([[2, 0], [-1, 1.7], [-1, -1.7]])[y], y, 3


def optimum(kind, x, y, classes, solution):
    """In long double: the least objective, W and b there, and the objective at the solution's own numbers."""
    given = np.asarray(x, LONG)
    weight, offset = solution.weight.numpy().astype(LONG), solution.intercept.numpy().astype(LONG)
    if kind == "three classes":
        function = multinomial(given, y, classes, solution.l2)
        point = np.concatenate([weight, offset[None] - offset[-1]]).ravel()[:-1]
        least, best = minimum(function, point)
        cube = np.append(best, LONG(0)).reshape(-1, classes)
        return least, cube[:-1], cube[-1], function(point)[0]
    if kind == "two classes":
        weight, offset, y = weight[:, 1:] - weight[:, :1], offset[1:] - offset[:1], y[:, None]
    least = own = LONG(0)
    columns = []
    for k in range(y.shape[1]):
        function, point = binary(given, y[:, k], solution.l2), np.append(weight[:, k], offset[k])
        value, best = minimum(function, point)
        least, own = least + value, own + function(point)[0]
        columns.append(best)
    return least, np.stack(columns, 1)[:-1], np.stack(columns, 1)[-1], own


@pytest.mark.parametrize("kind", ["two classes", "multilabel", "three classes"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_near_separable_problems_lose_nothing_of_their_tiny_losses(kind, seed):
    x, y, classes = separable(kind, seed)
    for solution in fit_logistic(
        x, y, STRENGTHS, num_classes=classes, multilabel=kind == "multilabel", relative_gap=1e-9
    ):
        least, *_, own = optimum(kind, x, y, classes, solution)
        assert solution.status == "converged"
        assert abs(solution.objective - own) <= 1e-13 * own
        assert own - least <= solution.gap
        assert solution.objective - solution.gap <= least
        assert solution.gap <= 2e-9 * least


def test_where_only_rounding_is_left_the_gap_covers_it_and_would_not_without_its_terms(monkeypatch):
    cases = []
    for kind in ("two classes", "multilabel", "three classes"):
        for seed in range(4):
            # Labels that contradict each other: a large loss, whose sum has lost most.
            x, y, classes = separable(kind, seed, n=600)
            y[:200] = y[np.random.default_rng(seed).permutation(200)]
            common = {"num_classes": classes, "multilabel": kind == "multilabel"}
            problem = make_problem(x, y, memory_budget=1 << 28, device="cpu", **common)
            for solution in fit_logistic(x, y, STRENGTHS[3:], **common):
                least, weight, offset, _ = optimum(kind, x, y, classes, solution)
                # The optimum itself, rounded to double: what is left of the gap is rounding.
                weight = torch.from_numpy(weight.astype(np.float64))
                offset = torch.from_numpy(offset.astype(np.float64)) + problem.shift @ weight
                cases.append((problem, weight, offset, solution.l2, least))

    def missed():
        proofs = [(certify(*given), least) for *given, least in cases]
        return sum(proof.objective - least > proof.gap for proof, least in proofs)

    assert missed() == 0
    monkeypatch.setattr(certificate, "_EPS", 0.0)
    assert missed() >= 5


@pytest.mark.parametrize("multilabel", [False, True])
def test_losses_and_residuals_keep_their_digits_however_far_the_logits(multilabel):
    margins = np.array([0.0, 1.0, 19.0, 21.0, 35.0, 36.8, 60.0, 300.0, 700.0])
    n = 2 * len(margins)
    x, y = np.zeros((n, 1)), np.arange(n) % 2
    labels = np.stack([y, 1 - y], 1) if multilabel else y
    problem = make_problem(
        np.column_stack([x, np.arange(n)]),
        labels if multilabel else np.arange(n) % 3,
        num_classes=2 if multilabel else 3,
        multilabel=multilabel,
        memory_budget=1 << 28,
        device="cpu",
    )
    from mpmath import mp, mpf

    mp.dps = 700
    for sign in (1, -1):
        z = torch.from_numpy(sign * np.repeat(margins, 2))
        if multilabel:
            logits = torch.stack([z, -z], 1)
            losses, residual = problem.losses_and_residual(logits.clone()[:, None], slice(0, n))
            for row in range(n):
                for k in range(2):
                    target, value = int(labels[row, k]), mpf(float(logits[row, k]))
                    exact = mp.log1p(mp.exp(-value if target else value))
                    slope = 1 / (1 + mp.exp(-value)) - target
                    assert abs(mpf(float(losses[row, 0, k])) - exact) <= 2e-15 * exact
                    assert abs(mpf(float(residual[row, 0, k])) - slope) <= 2e-15 * abs(slope)
            continue
        own = torch.arange(n) % 3
        logits = torch.zeros(n, 3, dtype=torch.float64).scatter(1, own[:, None], z[:, None])
        logits[:, 0] += 0.25
        losses, residual = problem.losses_and_residual(logits.clone()[:, None], slice(0, n))
        for row in range(n):
            values = [mpf(float(v)) for v in logits[row]]
            total, label = sum(mp.exp(v) for v in values), int(own[row])
            others = sum(mp.exp(v) for k, v in enumerate(values) if k != label)
            exact = mp.log1p(others / mp.exp(values[label]))
            assert abs(mpf(float(losses[row, 0])) - exact) <= 2e-15 * exact
            for k in range(3):
                slope = -others / total if k == label else mp.exp(values[k]) / total
                assert abs(mpf(float(residual[row, 0, k])) - slope) <= 2e-15 * abs(slope)
