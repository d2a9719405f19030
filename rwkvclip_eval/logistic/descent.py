"""Preconditioned L-BFGS on many strengths at once: two matrix products per iteration for all of them.

L-BFGS (Liu and Nocedal 1989, doi:10.1007/BF01589116) in coordinates where features are centred and rotated
by the eigenvectors of their scatter matrix, from the inverse Hessian of `preconditioner.py`, which makes the
number of iterations depend little on the spectrum.

The line search looks at the slope along the direction, not at differences of objectives: the slope keeps its
digits near the optimum, where objectives agree to rounding.

Axes as in `objective.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.logistic.certificate import NO_GAIN
from rwkvclip_eval.logistic.problem import MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from rwkvclip_eval.logistic.objective import Anchor, Objective
    from rwkvclip_eval.logistic.preconditioner import Preconditioner

_FLATTER = 0.7
"""A step is accepted when the slope at its end is at most this share of the initial descent, uphill."""

_MAX_HALVINGS = 12

_ANCHORED = 40
"""Iterations that are measured from one anchor. With 10, 25 and 60 a solver took as long."""

_REFRESHED = 20
"""Iterations after which the preconditioner is made afresh, and once after half of them: the Hessian moves,
fastest at the start. Refreshed ever more seldom, the weakest λ of small problems end far from the optimum."""

_PATIENCE = {torch.float32: 10, torch.float64: 200}
"""Iterations without halving of the estimate, or a tenth less of the objective, after which a precision is
used up. float32 has a successor, and where it gets stuck at weak λ 20 iterations ended no better than 10."""


@dataclass
class _Batch:
    """State of the strengths under way; every tensor's first axis is the strength.

    Attributes:
        index: which of those asked for they are.
        l2: the strengths.
        theta: points [J, D].
        objective: its values there.
        gradient: its gradients there, [J, D].
        trigger: estimated relative gap at which they are checked next.
        least: smallest estimate when there was last progress.
        lowest: smallest objective then.
        since: iterations since.
        stuck: line searches in a row that found nothing better.
        precondition: the first Hessian of the recursion, inverted.
        anchor: float64 evaluation from which changes are measured; None where all is evaluated whole.
        steps: the last steps, changes of the gradient and inverses of their products, oldest first.
    """

    index: Tensor
    l2: Tensor
    theta: Tensor
    objective: Tensor
    gradient: Tensor
    trigger: Tensor
    least: Tensor
    lowest: Tensor
    since: Tensor
    stuck: Tensor
    precondition: Preconditioner
    anchor: Anchor | None = None
    steps: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def keep(self, mask: Tensor) -> None:
        """Drop the strengths where `mask` [J] is false."""
        for name in (
            "index",
            "l2",
            "theta",
            "objective",
            "gradient",
            "trigger",
            "least",
            "lowest",
            "since",
            "stuck",
        ):
            setattr(self, name, getattr(self, name)[mask])
        self.precondition = self.precondition.of(mask)
        self.anchor = self.anchor and self.anchor.of(mask)
        self.steps = [(s[mask], y[mask], r[mask]) for s, y, r in self.steps]

    def direction(self) -> Tensor:
        """Two-loop recursion for all strengths: −H⁻¹ gradient, [J, D]."""
        q, alphas = self.gradient.clone(), []
        for step, change, inverse in reversed(self.steps):
            alpha = _dot(step, q) * inverse
            alphas.append(alpha)
            q.addcmul_(change, alpha[:, None].to(q), value=-1)
        q = self.precondition(q)
        if self.steps:
            _, change, inverse = self.steps[-1]
            length = _dot(change, self.precondition(change)) * inverse
            q *= torch.where(length > 0, 1 / length, 1.0)[:, None].to(q)
        for (step, change, inverse), alpha in zip(self.steps, reversed(alphas), strict=True):
            q.addcmul_(step, (alpha - _dot(change, q) * inverse)[:, None].to(q))
        result: Tensor = q.neg_()
        return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows, [J] float64."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products.double()


def descend(
    objective: Objective,
    theta: Tensor,
    l2: Tensor,
    *,
    trigger: Sequence[float],
    max_iterations: Sequence[int],
    check: Callable[[int, Tensor, float, int], float | None],
    on_iteration: Callable[[], None] | None = None,
) -> tuple[Tensor, list[int]]:
    """Minimise for strengths `l2` [J] from `theta` [J, D].

    Args:
        objective: gives loss and gradient.
        theta: start.
        l2: strengths, float64.
        trigger: estimated relative gap (as in `Certificate`) at which `check` is first called for each.
        max_iterations: iterations after which each strength is given up.
        check: called with (strength index, point [D], estimated relative gap, iterations); returns the next
            trigger, or None to end this strength.
        on_iteration: called after every iteration.

    Returns:
        Points [J, D] and iterations of each strength.
    """
    problem, count = objective.problem, len(l2)
    num_classes = problem.shape[2]
    final, iterations = theta.clone(), [0] * count
    value, gradient, anchor = _evaluate(objective, theta, l2)
    batch = _Batch(
        index=torch.arange(count, device=theta.device),
        l2=l2,
        theta=theta,
        objective=value,
        gradient=gradient,
        trigger=torch.tensor(trigger, dtype=l2.dtype, device=l2.device),
        least=torch.full_like(l2, torch.inf),
        lowest=value.clone(),
        since=torch.zeros_like(l2),
        stuck=torch.zeros_like(l2),
        precondition=objective.preconditioner(theta, l2),
        anchor=anchor,
    )
    split = objective.basis.shape[1] * num_classes
    iteration = 0
    limits = torch.tensor(max_iterations, device=theta.device)
    while True:
        if iteration and (iteration % _REFRESHED == 0 or iteration == _REFRESHED // 2):
            batch.precondition = objective.preconditioner(batch.theta, batch.l2)
        slope = batch.gradient.double()
        estimate = (slope[:, :split] / (2 * batch.l2[:, None]).sqrt()).square().sum(1)
        estimate += (slope[:, split:] / batch.precondition.root[:, split:].double()).square().sum(1) / 2
        penalty = batch.l2 / 2 * batch.theta[:, :split].double().square().sum(1)
        gain = torch.maximum(penalty, problem.null_objective - batch.objective)
        estimate /= torch.minimum(batch.objective, gain.clamp_min(NO_GAIN * problem.null_objective))
        better = (estimate < 0.5 * batch.least) | (batch.objective < 0.9 * batch.lowest)
        batch.least = torch.where(better, torch.minimum(estimate, batch.least), batch.least)
        batch.lowest = torch.where(better, batch.objective, batch.lowest)
        batch.since = torch.where(better, 0, batch.since + 1)
        ready = estimate <= batch.trigger
        spent = (batch.since > _PATIENCE[theta.dtype]) | (batch.stuck > 1) | ~torch.isfinite(batch.objective)
        going = torch.ones_like(ready)
        for j in (ready | spent).nonzero()[:, 0].tolist():
            if ready[j]:
                following = check(int(batch.index[j]), batch.theta[j], float(estimate[j]), iteration)
                going[j] = following is not None
                batch.trigger[j] = following or 0.0
            if spent[j]:
                going[j] = False
        going &= iteration < limits[batch.index]
        for j in (~going).nonzero()[:, 0].tolist():
            place = int(batch.index[j])
            final[place], iterations[place] = batch.theta[j], iteration
        if not bool(going.all()):
            batch.keep(going)
        if on_iteration is not None:
            on_iteration()
        if not len(batch.l2):
            return final, iterations
        stuck = _advance(objective, batch)
        iteration += 1
        batch.stuck = torch.where(stuck, batch.stuck + 1, 0)
        afresh = bool(stuck.any())
        if batch.anchor is not None and (afresh or iteration % _ANCHORED == 0):
            batch.objective, batch.gradient, batch.anchor = _evaluate(objective, batch.theta, batch.l2)
        if afresh:
            # What it learned far from here, or beside an old anchor, may be what leads nowhere.
            batch.precondition = objective.preconditioner(batch.theta, batch.l2)
            for _, _, inverse in batch.steps:
                inverse[stuck] = 0.0


def _evaluate(objective: Objective, theta: Tensor, l2: Tensor) -> tuple[Tensor, Tensor, Anchor | None]:
    """Return objectives, gradients and, where the objective makes one, the anchor at `theta`."""
    return objective.anchor(theta, l2) if objective.anchored else (*objective(theta, l2), None)


def _advance(objective: Objective, batch: _Batch) -> Tensor:
    """One step of every strength; return where no acceptable step was found [J]."""
    direction = batch.direction()
    fall = _dot(batch.gradient, direction)
    bad = ~(fall < 0)
    if bool(bad.any()):
        steepest = -batch.precondition.diagonal_only()(batch.gradient)
        direction[bad] = steepest[bad]
        fall = _dot(batch.gradient, direction)
    length = torch.ones_like(batch.l2)
    theta = batch.theta + direction
    value, gradient = objective(theta, batch.l2, batch.anchor)
    # Every sample's loss is rounded, so a sum of tiny losses is not known to its own last digit. Beside an
    # anchor the change of the loss has float32's digits; near the optimum the slope alone decides.
    loss_dtype = theta.dtype if batch.anchor is None else torch.float32
    noise = 4 * torch.finfo(loss_dtype).eps * batch.objective.abs()
    noise += 4 * torch.finfo(theta.dtype).eps * objective.problem.shape[0]
    stuck = torch.zeros_like(bad)
    for attempt in range(_MAX_HALVINGS + 1):
        end = _dot(gradient, direction)
        accepted = (end <= _FLATTER * fall.abs()) & (value <= batch.objective + noise)
        redo = (~accepted).nonzero()[:, 0]
        if not len(redo):
            break
        if attempt == _MAX_HALVINGS:
            stuck = ~accepted
            theta[redo], value[redo], gradient[redo] = (
                batch.theta[redo],
                batch.objective[redo],
                batch.gradient[redo],
            )
            break
        # Where the slope, taken as linear, would vanish.
        shrink = (fall[redo] / (fall[redo] - end[redo])).nan_to_num(0.1).clamp(0.1, 0.7)
        length[redo] *= shrink
        theta[redo] = batch.theta[redo] + length[redo, None].to(theta) * direction[redo]
        value[redo], gradient[redo] = objective(
            theta[redo], batch.l2[redo], batch.anchor and batch.anchor.of(redo)
        )
    step, change = theta - batch.theta, gradient - batch.gradient
    bend = _dot(step, change)
    # A pair without curvature (rounding) would spoil the recursion; weight 0 leaves it out.
    inverse = torch.where(bend > 0, 1 / bend, 0.0)
    batch.steps = [*batch.steps, (step, change, inverse)][-MEMORY:]
    batch.theta, batch.objective, batch.gradient = theta, value, gradient
    return stuck
