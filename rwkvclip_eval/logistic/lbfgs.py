"""CLIP's own solver: L-BFGS with a cap of 1000 iterations, as scikit-learn of 2021 ran it.

scikit-learn 0.24's `LogisticRegression(C=1/λ, max_iter=1000)` hands the *summed* loss to scipy's L-BFGS-B
with gtol = 1e-4 and scipy's other defaults (ftol 2.2e-9), in float64, from zeros, on features as they come.
Two classes are one vector, and several labels an image one run for each, as its one-vs-rest wrapper does.
Current versions minimise the mean with another ftol and stop elsewhere. What it returns at weak λ is where
the cap or ftol stopped it, not the optimum: protocols must not mix the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from rwkvclip_eval.logistic.certificate import certify
from rwkvclip_eval.logistic.objective import plan
from rwkvclip_eval.logistic.problem import make_problem
from rwkvclip_eval.logistic.solution import Solution, Status, assemble
from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from rwkvclip_eval.logistic.problem import Problem

MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-4
"""Largest component of the summed loss' gradient at which it stops: scikit-learn's default `tol`."""


def fit_lbfgs(
    features: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    l2: Sequence[float],
    *,
    num_classes: int,
    multilabel: bool = False,
    max_iterations: int = MAX_ITERATIONS,
    memory_budget: int = MEMORY_BUDGET,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Solution]:
    """Return where capped L-BFGS stops for every λ of `l2`, each from zeros; arguments as `fit_logistic`.

    `converged` means that L-BFGS stopped by its own rule; `gap` is proven all the same. With `multilabel` the
    iterations are those of the label that took most, and one label at the cap makes it the status of all.

    Raises:
        DamagedData: Data that cannot be fitted.
        ConfigError: A memory budget that is too small.
    """
    problem = make_problem(
        features,
        labels,
        num_classes=num_classes,
        multilabel=multilabel,
        memory_budget=memory_budget,
        device=device,
    )
    plan(problem, 1, torch.float64)
    solved = []
    for strength in l2:
        solved.append(_solve(problem, strength, max_iterations))
        if on_progress is not None:
            on_progress(len(solved), len(l2))
    return solved


def _solve(problem: Problem, l2: float, max_iterations: int) -> Solution:
    parts = [_minimise(part, l2, max_iterations) for part in _independent(problem)]
    weight = torch.cat([part.weight for part in parts], 1)
    intercept = torch.cat([part.intercept for part in parts]) + problem.shift.to(problem.device) @ weight
    certificate = certify(problem, weight, intercept, l2)
    status: Status = "converged" if all(part.stopped for part in parts) else "iteration_limit"
    iterations = max(part.iterations for part in parts)
    return assemble(problem, l2, weight, intercept, certificate, iterations, status)


def _independent(problem: Problem) -> Iterator[Problem]:
    """Yield the problems that share no parameter: one per label, else the whole."""
    if not problem.multilabel:
        yield problem
        return
    for k in range(len(problem.classes)):
        own = slice(k, k + 1)
        yield replace(
            problem,
            labels=problem.labels[:, own],
            classes=problem.classes[own],
            counts=problem.counts[own],
        )


class _End(NamedTuple):
    """Where L-BFGS stopped.

    Attributes:
        weight: [F, K], of plain features.
        intercept: [K].
        iterations: that it took.
        stopped: whether by its own rule.
    """

    weight: Tensor
    intercept: Tensor
    iterations: int
    stopped: bool


def _minimise(problem: Problem, l2: float, max_iterations: int) -> _End:
    from scipy.optimize import minimize

    _, num_features, num_classes = problem.shape
    shift = problem.shift.to(problem.device)

    def split(vector: NDArray[Any]) -> tuple[Tensor, Tensor]:
        cube = torch.from_numpy(vector).to(problem.device).view(num_features + 1, num_classes)
        return cube[:-1], cube[-1]

    def objective(vector: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        weight, intercept = split(vector)
        loss, slope = (
            0.0,
            torch.zeros(num_features + 1, num_classes, dtype=torch.float64, device=problem.device),
        )
        for part, block in problem.chunks(problem.proof_rows, torch.float64):
            plain = block + shift
            losses, residual = problem.losses_and_residual((plain @ weight + intercept)[:, None], part)
            loss += float(losses.sum())
            slope[:-1].addmm_(plain.T, residual[:, 0])
            slope[-1] += residual[:, 0].sum(0)
        slope[:-1] += l2 * weight
        return loss + l2 / 2 * float(weight.square().sum()), slope.cpu().numpy().ravel()

    found = minimize(
        objective,
        np.zeros((num_features + 1) * num_classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "gtol": GRADIENT_TOLERANCE},
    )
    # Status 1 is the cap; 2 an abnormal end, such as a line search that ran out of digits.
    return _End(*split(found.x), int(found.nit), found.status == 0)
