"""Newton's method: from the start where features are few, and where L-BFGS comes to an end.

Steps solve the Newton equation by preconditioned conjugate gradients, ever more exactly (Dembo, Eisenstat and
Steihaug 1982, doi:10.1137/0719025). With every class' block of the Hessian inverted whole, tens of products
with it do what takes L-BFGS a thousand iterations at weak λ. The gradient is float64 throughout, so products
in float32 (`narrow`) cost steps, not digits: what a step misses is the next one's.

A weak λ is approached by way of stronger ones (`follow`): solutions move along a smooth path in log λ, and
the line through the last two points begins close to the next (predictor and corrector; Allgower and Georg
1990, doi:10.1007/978-3-642-61257-2). Of each step from afar a line search would leave little.

Where conjugate gradients come to no end or nowhere (the same features under several labels, and hardly any
λ), and a strength has few numbers, the equation is solved exactly.

Axes as in `objective.py`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from rwkvclip_eval.logistic.certificate import NO_GAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rwkvclip_eval.logistic.objective import Objective
    from rwkvclip_eval.logistic.preconditioner import Preconditioner

MAX_STEPS = 200
MAX_PASSES = 20_000
"""Passes over the data in all: ten times the evaluations that L-BFGS has."""

_OF_ONE_STEP = 2000

_DENSE = 1024
"""Most numbers D of a strength of which the Hessian is made whole, by D products, where conjugate gradients
come to no end, or half of the patience is gone."""

_SINGULAR = 1e-17
"""Eigenvalue of the Hessian, its diagonal brought to 1, from which on nothing bends: intercepts that all
classes share."""

_NEAR = 1e6
"""Estimated relative gap from which on that is not done: of so weak a λ float64 sees nothing."""

_MAX_HALVINGS = 20

_PATIENCE = 12
"""Steps without halving the gradient, or a tenth less of the objective, after which no more is hoped for."""

_STAGES = 2
"""Strengths a decade on the way to a weak one. With 4 it took as long; straight away, 2.5 times."""

_ON_THE_WAY = 1.0
"""Estimated relative gap that is enough there; 10 left the path, and took 1.8 times as long."""

_AHEAD = 0.8
"""Share of the last move by which the next point is guessed; with 1 it took 1.1 times as long."""


def follow(
    objective: Objective,
    theta: Tensor,
    l2: float,
    *,
    origin: float,
    relative_gap: float,
    solved: Callable[[Tensor], bool],
    max_passes: int,
) -> Tensor:
    """Return what `newton` reaches at strength `l2` by way of those between it and `origin`.

    Args: as `newton`, with products in float32, but:
        theta: start, near the solution of strength `origin`.
        origin: where it is not the stronger one, the way is straight.
    """
    # Features that are constant bend nothing, and have no way to follow.
    count = max(1, math.ceil(_STAGES * math.log10(origin / l2))) if origin > 0 else 1
    before, end = None, objective.passes + max_passes
    for stage in range(1, count + 1):
        guess = theta if before is None else theta + _AHEAD * (theta - before)
        last, before = stage == count, theta
        theta = newton(
            objective,
            guess,
            l2 if last else origin * (l2 / origin) ** (stage / count),
            relative_gap=relative_gap if last else _ON_THE_WAY,
            # A guess is not a point of the path before a step has mended it.
            solved=solved if last else partial(_differs, guess),
            narrow=True,
            max_passes=end - objective.passes,
        )
        if objective.passes >= end:
            break
    return theta


def _differs(guess: Tensor, point: Tensor) -> bool:
    return not torch.equal(guess, point)


def newton(
    objective: Objective,
    theta: Tensor,
    l2: float,
    *,
    relative_gap: float,
    solved: Callable[[Tensor], bool],
    narrow: bool = False,
    max_passes: int = MAX_PASSES,
) -> Tensor:
    """Return the point [D] float64 that Newton steps from `theta` [D] reach.

    Args:
        objective: in float64.
        theta: start.
        l2: strength.
        relative_gap: estimated gap, as in `Certificate`, from which on `solved` is asked.
        solved: whether a point [D] will do; true ends the steps.
        narrow: products with the Hessian in float32, where the objective holds features so.
        max_passes: over the data, after which no further step begins.
    """
    strength = torch.tensor([l2], dtype=torch.float64, device=theta.device)
    point, before, price = theta[None], objective.passes, objective.coupling_price
    value, gradient = objective(point, strength)
    estimate = _estimate(objective, point, value, gradient, l2)
    whole = not narrow and point.shape[1] <= _DENSE
    first, least, lowest, since = 0.0, float("inf"), float("inf"), 0
    products = price
    if estimate <= relative_gap and solved(point[0]):
        return point[0]
    for _ in range(MAX_STEPS):
        if objective.passes - before >= max_passes:
            break
        # A preconditioner serves as many products as making it costs; in one step, thrice as many.
        fresh = products >= price
        if fresh:
            precondition, products = objective.preconditioner(point, strength), 0
        step = _solve(
            objective.hessian(point, strength, narrow=narrow),
            precondition.to(torch.float32) if narrow else precondition,
            gradient,
            first=first,
            # A step need not lead further than to a hundredth of the gap that is wanted.
            least=(0.01 * relative_gap / estimate) ** 0.5 if estimate > 0 else 1.0,
            dtype=torch.float32 if narrow else torch.float64,
            most=_OF_ONE_STEP if fresh else 3 * price,
        )
        products += step.products
        endless = fresh and not step.reached
        if whole and estimate < _NEAR and (endless or since > _PATIENCE // 2):
            step = step._replace(vector=_exactly(objective.hessian(point, strength), gradient))
        first = first or step.size
        if step.size < least / 2 or float(value) < 0.9 * lowest:
            least, lowest, since = min(least, step.size), float(value), 0
        since += 1
        found = _search(objective, point, strength, value, gradient, step.vector)
        if found is None or since > _PATIENCE:
            solved(point[0])
            break
        point, value, gradient = found
        estimate = _estimate(objective, point, value, gradient, l2)
        if estimate <= relative_gap and solved(point[0]):
            break
    return point[0]


def _estimate(objective: Objective, point: Tensor, value: Tensor, gradient: Tensor, l2: float) -> float:
    """Return the relative gap that `certify` may find: that of an intercept which is optimal."""
    split, constant = -objective.problem.shape[2], objective.problem.null_objective
    penalty = l2 / 2 * float(point[:, :split].square().sum())
    # Divided before it is squared: λ may be so weak that squares vanish.
    gap = float((gradient[:, :split] / (2 * l2) ** 0.5).square().sum())
    return gap / min(float(value), max(penalty, constant - float(value), NO_GAIN * constant))


def _search(
    objective: Objective, point: Tensor, l2: Tensor, value: Tensor, gradient: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return point, objective and gradient where `step`, halved as often as needed, leads; None: nowhere."""
    fall, length = float((gradient * step).sum()), 1.0
    if not fall < 0:
        return None
    for _ in range(_MAX_HALVINGS):
        moved = point + length * step
        new_value, new_gradient = objective(moved, l2)
        end = float((new_gradient * step).sum())
        # Near the optimum values agree to rounding, and the slope decides.
        flatter = abs(end) <= 0.5 * abs(fall) and bool(new_value <= value * (1 + 1e-13))
        if flatter or bool(new_value <= value + 1e-4 * length * fall):
            return moved, new_value, new_gradient
        length /= 2
    return None


class _Step(NamedTuple):
    """An approximate solution of the Newton equation.

    Attributes:
        vector: [1, D] float64.
        size: root of gᵀ M⁻¹ g, the gradient in the norm of the preconditioner M.
        products: with the Hessian, that it took.
        reached: whether it is as exact as it should be.
    """

    vector: Tensor
    size: float
    products: int
    reached: bool


def _solve(
    product: Callable[[Tensor], Tensor],
    precondition: Preconditioner,
    gradient: Tensor,
    *,
    first: float,
    least: float,
    dtype: torch.dtype,
    most: int,
) -> _Step:
    """Return d with H d ≈ −gradient by conjugate gradients, the more exact the smaller the gradient.

    Args:
        product: d [1, D] → H d, in `dtype`.
        precondition: M⁻¹, likewise.
        gradient: [1, D].
        first: size of the first gradient, as `_Step` measures it; 0 if this is it.
        least: share of the gradient that may be left in any case.
        dtype: of all vectors but the gradient and the result.
        most: products.
    """
    # Of unit size: squares of tiny gradients vanish, in float32 sooner.
    scale = max(float(gradient.abs().max()), 1e-300)
    residual = (-gradient / scale).to(dtype)
    step, better = torch.zeros_like(residual), precondition(residual)
    direction, energy = better.clone(), float((residual * better).sum())
    size = scale * max(energy, 0.0) ** 0.5
    accuracy = min(0.1, max(least, (size / first) ** 0.5)) if first > 0 else 0.1
    wanted, products, reached = accuracy**2 * energy, 0, energy == 0
    while products < most and 0 < energy < float("inf"):
        bent = product(direction)
        products += 1
        bend = float((direction * bent).sum())
        if not bend > 0:
            break
        length = energy / bend
        step += length * direction
        residual -= length * bent
        better = precondition(residual)
        before, energy = energy, float((residual * better).sum())
        if energy <= wanted:
            reached = True
            break
        direction = better + (energy / before) * direction
    return _Step(scale * step.double(), size, products, reached)


def _exactly(product: Callable[[Tensor], Tensor], gradient: Tensor) -> Tensor:
    """Return d [1, D] with H d = −`gradient` [1, D] float64, H made of its products with every axis."""
    axes = torch.eye(gradient.shape[1], dtype=torch.float64, device=gradient.device)
    hessian = torch.cat([product(axis[None]) for axis in axes])
    root = hessian.diagonal().clamp_min(1e-300).sqrt()
    eigenvalues, vectors = torch.linalg.eigh((hessian + hessian.T) / 2 / root / root[:, None])
    bent = eigenvalues > _SINGULAR
    along = (-gradient / root @ vectors[:, bent]) / eigenvalues[bent]
    step: Tensor = along @ vectors[:, bent].T / root
    return step
