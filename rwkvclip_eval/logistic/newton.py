"""Newton's method where L-BFGS comes to an end: contradictory samples at weak λ bend too unevenly for it.

Steps solve the Newton equation by preconditioned conjugate gradients, ever more exactly (Dembo, Eisenstat and
Steihaug 1982, doi:10.1137/0719025), in float64. Each product with the Hessian costs as much as a gradient.

Axes as in `objective.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rwkvclip_eval.logistic.objective import Objective

MAX_STEPS = 200
MAX_PRODUCTS = 20_000
"""Products with the Hessian in all: ten times the evaluations that L-BFGS has."""

_OF_ONE_STEP = 2000
_MAX_HALVINGS = 20


def newton(objective: Objective, theta: Tensor, l2: float, solved: Callable[[Tensor], bool]) -> Tensor:
    """Return the point [D] float64 that Newton steps from `theta` [D] reach.

    Args:
        objective: in float64.
        theta: start.
        l2: strength.
        solved: asked after every step that gains less than a millionth; true ends the steps.
    """
    strength = torch.tensor([l2], dtype=torch.float64, device=theta.device)
    point = theta[None]
    value, gradient = objective(point, strength)
    first, before = float(gradient.norm()), objective.passes
    for _ in range(MAX_STEPS):
        if objective.passes - before > MAX_PRODUCTS:
            break
        size = float(gradient.norm())
        step = _solve(objective, point, strength, gradient, min(0.1, (size / max(first, 1e-300)) ** 0.5))
        fall = float((gradient * step).sum())
        if not fall < 0:
            break
        length = 1.0
        for _ in range(_MAX_HALVINGS):
            moved = point + length * step
            new_value, new_gradient = objective(moved, strength)
            end = float((new_gradient * step).sum())
            # Near the optimum values agree to rounding, and the slope decides.
            flatter = abs(end) <= 0.5 * abs(fall) and new_value <= value * (1 + 1e-13)
            if new_value <= value + 1e-4 * length * fall or flatter:
                break
            length /= 2
        else:
            break
        gained = float(value - new_value)
        point, value, gradient = moved, new_value, new_gradient
        if gained <= 1e-6 * float(value) and solved(point[0]):
            break
    return point[0]


def _solve(objective: Objective, point: Tensor, l2: Tensor, gradient: Tensor, accuracy: float) -> Tensor:
    """Return d [1, D] with H d ≈ −gradient, whose residual is at most `accuracy` of the gradient."""
    product, precondition = objective.hessian(point, l2), objective.preconditioner(point, l2)
    step, residual = torch.zeros_like(gradient), -gradient
    wanted = accuracy * float(residual.norm())
    better = precondition(residual)
    direction, energy = better.clone(), float((residual * better).sum())
    for _ in range(_OF_ONE_STEP):
        bent = product(direction)
        bend = float((direction * bent).sum())
        if not bend > 0:
            break
        length = energy / bend
        step += length * direction
        residual = residual - length * bent
        if float(residual.norm()) <= wanted:
            break
        better = precondition(residual)
        before, energy = energy, float((residual * better).sum())
        # Squares of tiny gradients vanish.
        if not 0 < energy < float("inf") or not before > 0:
            break
        direction = better + (energy / before) * direction
    return step
