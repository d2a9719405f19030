"""Loss and gradient of many strengths at once, in coordinates where the features' scatter is diagonal.

Both take two matrix products, and nearly all of a solver's time. On a CPU a product in float64 takes a
multiple of what it takes in float32 (measured: `reports/measured/probe-speed-cpu.md`). So near a point whose
float64 evaluation is kept (an `Anchor`) only what has changed since is multiplied, in float32:
    X θ = X θ₀ + X (θ − θ₀),   Xᵀ R = Xᵀ R₀ + Xᵀ (R − R₀),   R = P − Y.
Rounding is then relative to the distance from the anchor, not to θ and R themselves, and the gradient goes on
shrinking as in float64 while the anchor moves along: the idea of iterative refinement (Wilkinson 1963,
Rounding Errors in Algebraic Processes). Whatever is lost, a certificate judges the end.

Axes as in `problem.py`; R directions in which the features vary; D = (R + 1) K numbers of one strength, the
intercept in the last K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.errors import ConfigError
from rwkvclip_eval.logistic.preconditioner import make_preconditioner
from rwkvclip_models.matmul import product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from rwkvclip_eval.logistic.preconditioner import Preconditioner
    from rwkvclip_eval.logistic.problem import Problem

LEAD = 32
"""Most directions, beside the intercept, that the preconditioner couples of more than `WHOLE` features. Of 16
to 96 none was faster on all problems measured (`reports/measured/probe-speed-cpu.md`)."""

WHOLE = 96
"""Most features of which it couples all directions, at a cost that grows by their square; of so few, Newton's
method begins in place of L-BFGS."""

_FAINT = 1e-30
"""Size below which numbers enter float32 products as 0: those below the normal ones (1e-38) take a processor
ten times as long, and probabilities at weak λ are often so small."""

_PAIR_ROWS = {"cpu": 256, "cuda": 8192}
"""Samples whose products of leading directions are made at a time: in a processor's cache, or on a GPU."""


@dataclass
class Plan:
    """How many strengths fit the memory budget together, and how their rows are cut.

    Attributes:
        strengths: strengths solved together.
        rows: rows of one chunk.
        resident: whether a rotated copy of all features is kept.
        anchored: whether evaluations are kept to measure others from; float64 on a CPU, if memory allows.
        turned: whether a float32 copy is kept transposed as well; on a CPU, if memory allows.
        lead: leading directions that the preconditioner couples, the intercept among them; 0 for none.
    """

    strengths: int
    rows: int
    resident: bool
    anchored: bool
    turned: bool
    lead: int


def plan(problem: Problem, num_strengths: int, dtype: torch.dtype) -> Plan:
    """Divide the memory budget among solver state, resident features, anchors and chunks.

    Raises:
        ConfigError: Not even one strength with short chunks fits; the text says what would.
    """
    n, num_features, num_classes = problem.shape
    smallest = problem.smallest_budget
    if problem.memory_budget < smallest:
        raise ConfigError(
            f"A memory budget of {problem.memory_budget / 2**20:.2f} MiB is too small for a probe of "
            f"{num_features} features and {problem.num_classes} classes; the smallest that works is "
            f"{math.ceil(smallest / 2**20 * 100) / 100:.2f} MiB."
        )
    free = problem.memory_budget - problem.shared_bytes
    one = problem.strength_bytes(dtype)
    strengths = min(num_strengths, max(1, int(0.6 * free) // one))
    free -= strengths * one
    copy = n * (num_features + 1) * dtype.itemsize
    resident = copy <= free // 2
    free -= copy * resident
    lead = (num_features if num_features <= WHOLE else LEAD) + 1
    while lead and _coupling_bytes(problem, strengths, lead) > free // 2:
        lead //= 2
    free -= _coupling_bytes(problem, strengths, lead)
    # An anchor's [n, J, K] and [R + 1, J, K], two each, twice while strengths leave it; features in float32.
    anchor_bytes = 2 * strengths * num_classes * 16 * (n + num_features + 1) + copy // 2
    anchored = resident and dtype == torch.float64 and problem.device.type == "cpu"
    anchored = anchored and anchor_bytes <= free // 2
    free -= anchor_bytes * anchored
    narrow = n * (num_features + 1) * torch.float32.itemsize
    turned = resident and problem.device.type == "cpu" and (anchored or dtype == torch.float32)
    turned = turned and narrow <= free // 2
    free -= narrow * turned
    return Plan(strengths, problem.chunk_rows(dtype, strengths, free), resident, anchored, turned, lead)


def _coupling_bytes(problem: Problem, num_strengths: int, lead: int) -> int:
    """Return the bytes that coupling L directions takes.

    Per strength blocks, one more product of them, inverses old and new; the factors of one; pairs.
    """
    rows = _PAIR_ROWS.get(problem.device.type, _PAIR_ROWS["cuda"])
    return torch.float32.itemsize * lead**2 * (4 * (num_strengths + 1) * problem.shape[2] + rows)


@dataclass
class Anchor:
    """An evaluation in float64 that others near it are measured from.

    Attributes:
        flat: [R + 1, J, K] float64, the point.
        logits: [n, J, K] float64.
        residual: [n, J, K] float64, P − Y.
        product: [R + 1, J, K] float64, Xᵀ (P − Y).
    """

    flat: Tensor
    logits: Tensor
    residual: Tensor
    product: Tensor

    def of(self, chosen: Tensor) -> Anchor:
        """Return the anchor of some strengths: a mask [J] or indices."""
        parts = (self.flat, self.logits, self.residual, self.product)
        return Anchor(*(part[:, chosen] for part in parts))


class Objective:
    """Loss and gradient of J strengths in rotated coordinates.

    Args:
        problem: training data.
        basis: its eigenvectors.
        dtype: precision of the points and of the products, save beside an anchor.
        division: division of the memory budget.
    """

    def __init__(self, problem: Problem, basis: Tensor, dtype: torch.dtype, division: Plan) -> None:
        self.problem, self.basis, self.dtype, self.rows = problem, basis, dtype, division.rows
        self.anchored = division.anchored
        self.passes = 0
        self._lead = min(division.lead, basis.shape[1] + 1)
        self._resident: Tensor | None = None
        if division.resident:
            shape = problem.shape[0], basis.shape[1] + 1
            self._resident = torch.empty(shape, dtype=dtype, device=problem.device)
            for part, block in self._rotated():
                self._resident[part] = block
        self._narrow = self._resident.float() if self.anchored and self._resident is not None else None
        narrow = self._resident if self._narrow is None else self._narrow
        self._turned: dict[int, Tensor] = {}
        if division.turned and narrow is not None:
            starts = range(0, len(narrow), self.rows)
            self._turned = {start: narrow[start : start + self.rows].T.contiguous() for start in starts}

    @property
    def whole(self) -> bool:
        """Whether the preconditioner couples all directions, and Hessians can be multiplied in float32."""
        return self._narrow is not None and self._lead == self.basis.shape[1] + 1

    @property
    def coupling_price(self) -> int:
        """Products with the Hessian that take as long as making the preconditioner."""
        return max(10, self._lead // 4)

    def _rotated(self) -> Iterator[tuple[slice, Tensor]]:
        # In float64: float32 would drown directions of small variance in the rounding of the large ones.
        for part, block in self.problem.chunks(self.rows, torch.float64):
            turned = block @ self.basis
            yield part, torch.cat([turned, turned.new_ones(len(turned), 1)], 1).to(self.dtype)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        if self._resident is None:
            yield from self._rotated()
            return
        for start in range(0, len(self._resident), self.rows):
            part = slice(start, min(start + self.rows, len(self._resident)))
            yield part, self._resident[part]

    def _backward(self, part: slice, rows: Tensor, residual: Tensor) -> Tensor:
        """Return Xᵀ R [R + 1, J, K] of `rows` [c, R + 1], those of `part`, and `residual` [c, J, K]."""
        # oneDNN would transpose both factors, for every product anew.
        turned = self._turned.get(part.start) if residual.dtype == torch.float32 else None
        if turned is None:
            return _backward(rows, residual)
        return product(turned, residual.flatten(1).T).view(-1, *residual.shape[1:])

    def _flat(self, theta: Tensor) -> Tensor:
        """Return `theta` [J, D] as [R + 1, J, K]."""
        cube = theta.view(len(theta), -1, self.problem.shape[2])
        return cube.transpose(0, 1).contiguous()

    def preconditioner(self, theta: Tensor, l2: Tensor) -> Preconditioner:
        """Return that of the points `theta` [J, D] with strengths `l2` [J] float64."""
        num_classes, multilabel = self.problem.shape[2], self.problem.multilabel
        # Where no weight differs from 0 no directions are coupled.
        lead = self._lead if bool(theta[:, :-num_classes].any()) else 0
        diagonal, blocks = self.curvature(theta, lead)
        return make_preconditioner(
            diagonal, blocks, l2, num_classes=num_classes, multilabel=multilabel, dtype=theta.dtype
        )

    def curvature(self, theta: Tensor, lead: int) -> tuple[Tensor, Tensor | None]:
        """Return parts of the Hessian of the loss at `theta` [J, D].

        Returns:
            The diagonal [J, D] float64; and of the `lead` last directions L, the block of each class
            [J, K, L, L] float32, without `lead` None.
        """
        self.passes += len(theta)
        flat = self._flat(theta)
        total = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
        columns = lead * (lead + 1) // 2
        blocks = torch.zeros(flat[0].numel(), columns, dtype=torch.float32, device=flat.device)
        # Made once: fresh memory costs more than the products that fill it.
        few = _PAIR_ROWS.get(flat.device.type, _PAIR_ROWS["cuda"])
        pairs = blocks.new_empty(min(few, self.rows), columns)
        for _, rows in self._chunks():
            p = _forward(rows, flat)
            if self.problem.multilabel:
                p.sigmoid_()
            else:
                p.sub_(p.amax(-1, keepdim=True)).exp_()
                p /= p.sum(-1, keepdim=True)
            weights = p.addcmul_(p, p, value=-1)
            total += _backward(rows.square(), weights)
            if lead:
                leading = rows[:, -lead:].float()
                for weight, x in zip(
                    torch.split(_without_faint(weights.flatten(1).float()), len(pairs)),
                    torch.split(leading, len(pairs)),
                    strict=True,
                ):
                    blocks += product(weight.T, _products_of_pairs(x, pairs[: len(x)]).T)
        shaped = _symmetric(blocks, lead).view(*flat.shape[1:], lead, lead) if lead else None
        return total.transpose(0, 1).reshape(theta.shape), shaped

    def hessian(self, theta: Tensor, l2: Tensor, *, narrow: bool = False) -> Callable[[Tensor], Tensor]:
        """Return the function d [J, D] → H d [J, D] at `theta` [J, D]; it holds P [n, J, K].

        With `narrow`, and where features are held in float32, it takes and gives float32. Every sample's part
        keeps its digits all the same: changes of logits are taken beside that of the likeliest class, so the
        small ones of a sample that is all but certain are not lost in its large one.
        """
        narrow = narrow and self._narrow is not None
        multilabel, dtype = self.problem.multilabel, torch.float32 if narrow else self.dtype
        flat = self._flat(theta)
        kept: list[tuple[slice, Tensor, Tensor | None]] = []
        for part, rows in self._chunks():
            logits = _forward(rows, flat)
            if multilabel:
                kept.append((part, (logits.sigmoid() * (-logits).sigmoid()).to(dtype), None))
            else:
                top = logits.argmax(-1, keepdim=True)
                kept.append((part, _without_faint(logits.softmax(-1).to(dtype)), top))

        def product(d: Tensor) -> Tensor:
            self.passes += len(d)
            along, total = self._flat(d), torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
            for (part, p, top), (_, wide) in zip(kept, self._chunks(), strict=True):
                rows = self._narrow[part] if narrow and self._narrow is not None else wide
                moved = _forward(rows, along)
                if top is None:
                    moved *= p
                else:
                    moved = moved.sub_(moved.gather(-1, top)).mul_(p)
                    moved.addcmul_(p, moved.sum(-1, keepdim=True), value=-1)
                total += self._backward(part, rows, moved)
            result = total.transpose(0, 1).clone(memory_format=torch.contiguous_format)
            result[:, :-1] += l2[:, None, None] * d.view(result.shape)[:, :-1]
            return result.to(dtype).view(d.shape)

        return product

    def __call__(self, theta: Tensor, l2: Tensor, anchor: Anchor | None = None) -> tuple[Tensor, Tensor]:
        """Return objectives [J] float64 and gradients [J, D] at `theta` [J, D]; `l2` [J] float64.

        With an `anchor` of the same strengths, products are float32 ones of what differs from it.
        """
        flat, loss = self._flat(theta), torch.zeros_like(l2)
        self.passes += len(theta)
        # Chunks are summed in float64, so their number costs no digits.
        if anchor is None:
            total = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
            for part, rows in self._chunks():
                losses, residual = self.problem.losses_and_residual(_forward(rows, flat), part)
                loss += _summed(losses)
                total += self._backward(part, rows, _without_faint(residual))
        else:
            assert self._narrow is not None, "only an anchored objective makes anchors"
            total, moved = anchor.product.clone(), (flat - anchor.flat).float()
            for part, _ in self._chunks():
                rows = self._narrow[part]
                logits = anchor.logits[part] + _forward(rows, moved)
                losses, residual = self.problem.losses_and_residual(logits, part)
                loss += _summed(losses)
                change = _without_faint(residual.sub_(anchor.residual[part]).float())
                total += self._backward(part, rows, change)
        return self._penalised(loss, total, theta, l2)

    def anchor(self, theta: Tensor, l2: Tensor) -> tuple[Tensor, Tensor, Anchor]:
        """Return what a call does, in float64 throughout, and the anchor at `theta`."""
        flat, loss = self._flat(theta), torch.zeros_like(l2)
        self.passes += len(theta)
        logits = flat.new_empty(self.problem.shape[0], *flat.shape[1:])
        anchor = Anchor(flat.clone(), logits, torch.empty_like(logits), torch.zeros_like(flat))
        for part, rows in self._chunks():
            logits[part] = _forward(rows, flat)
            losses, anchor.residual[part] = self.problem.losses_and_residual(logits[part].clone(), part)
            loss += _summed(losses)
            anchor.product += _backward(rows, anchor.residual[part])
        return *self._penalised(loss, anchor.product, theta, l2), anchor

    def _penalised(self, loss: Tensor, slope: Tensor, theta: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        # Cloned: an anchor keeps its slope.
        gradient = slope.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        weights = theta.view(gradient.shape)[:, :-1].double()
        gradient[:, :-1] += l2[:, None, None] * weights
        objective = loss + l2 / 2 * weights.square().sum((1, 2))
        return objective, gradient.to(self.dtype).view(theta.shape)


def _summed(losses: Tensor) -> Tensor:
    """Sum `losses` [c, J] or [c, J, K] over all but the strengths, in float64."""
    return losses.sum([axis for axis in range(losses.ndim) if axis != 1], dtype=torch.float64)


def _products_of_pairs(x: Tensor, out: Tensor) -> Tensor:
    """Write the products of `x` [c, L] of every pair of columns once, [c, L (L + 1) / 2], into `out`."""
    first, width = 0, x.shape[1]
    for j in range(width):
        torch.mul(x[:, j:], x[:, j, None], out=out[:, first : first + width - j])
        first += width - j
    return out


def _symmetric(halves: Tensor, width: int) -> Tensor:
    """Return the matrices [c, L²] whose rows from the diagonal on `halves` [c, L (L + 1) / 2] hold."""
    rows, columns = torch.triu_indices(width, width, device=halves.device)
    place = torch.empty(width, width, dtype=torch.int64, device=halves.device)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=halves.device)
    return halves[:, place.view(-1)]


def _without_faint(numbers: Tensor) -> Tensor:
    """Return `numbers` with 0 for those that would slow float32 products down; float64 as it is."""
    return torch.nn.functional.hardshrink(numbers, _FAINT) if numbers.dtype == torch.float32 else numbers


def _forward(rows: Tensor, flat: Tensor) -> Tensor:
    """X θ: [c, J, K] of rows [c, R + 1] and `flat` [R + 1, J, K]."""
    return product(rows, flat.flatten(1).T).view(len(rows), *flat.shape[1:])


def _backward(rows: Tensor, residual: Tensor) -> Tensor:
    """Xᵀ R: [R + 1, J, K] of rows [c, R + 1] and `residual` [c, J, K]."""
    return product(residual.flatten(1).T, rows.T).T.view(-1, *residual.shape[1:])
