"""CLIP's own solver: L-BFGS with a cap of 1000 iterations, as scikit-learn of 2021 ran it.

scikit-learn 0.24's `LogisticRegression(C=1/λ, max_iter=1000)` hands the *summed* loss to scipy's L-BFGS-B
with gtol = 1e-4 and scipy's other defaults (ftol 2.2e-9), in float64, from zeros, on features as they come.
Current versions minimise the mean with another ftol and stop elsewhere. What it returns at weak λ is where
the cap or ftol stopped it, not the optimum: protocols must not mix the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.probe.certificate import certify
from rwkvclip_eval.probe.descent import plan
from rwkvclip_eval.probe.logistic import Solution, Status, assemble
from rwkvclip_eval.probe.problem import make_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.probe.problem import Problem

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

    `converged` means that L-BFGS stopped by its own rule; `gap` is proven all the same.

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
    from scipy.optimize import minimize

    _, num_features, num_classes = problem.shape
    shift = problem.shift.to(problem.device)

    def split(vector: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
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
            chunk_loss, residual = problem.loss_and_residual((plain @ weight + intercept)[:, None], part)
            loss += float(chunk_loss)
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
    weight, plain = split(found.x)
    intercept = plain + shift @ weight
    certificate = certify(problem, weight, intercept, l2)
    status: Status = "iteration_limit" if found.nit >= max_iterations or found.status == 1 else "converged"
    return assemble(problem, l2, weight, intercept, certificate, int(found.nit), status)
