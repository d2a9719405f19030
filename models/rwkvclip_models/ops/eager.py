"""The elementwise work around Bi-WKV in plain torch: the reference of `fused.py`, and its form on any device.

Axes: B batch, T = rows·columns tokens, H heads, N head width (C = H·N channels), K lerps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Moves = tuple[tuple[int, int], ...]
"""(grid axis, ±1) per equal group of a head's channels: +1 takes the neighbour before, −1 the one after."""

MOVES: dict[int, Moves] = {4: ((2, 1), (2, -1), (1, 1), (1, -1)), 2: ((1, 1), (1, -1))}
"""By number of directions. Four (images): from left, right, above, below. Two (texts): from before, after."""


@dataclass(frozen=True)
class Shift:
    """How tokens are shifted.

    Attributes:
        rows: of the token grid; a text is a column of T rows.
        columns: of the token grid.
        heads: H; groups of channels are formed inside each head.
        directions: 4 or 2, a key of `MOVES`.
    """

    rows: int
    columns: int
    heads: int
    directions: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """As the operators of `library` take them."""
        return self.rows, self.columns, self.heads, self.directions


class _ShiftDelta(torch.autograd.Function):
    """s(x) − x for x [B, rows, columns, H, N]; the adjoint moves the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moves: Moves) -> Tensor:
        ctx.moves = moves
        shifted = torch.empty_like(x, memory_format=torch.contiguous_format)
        width, groups = x.shape[-1], len(moves)
        for i, (axis, step) in enumerate(moves):
            channels = slice(width * i // groups, width * (i + 1) // groups)
            source, target = x[..., channels], shifted[..., channels]
            rest = x.shape[axis] - 1
            target.narrow(axis, 0 if step > 0 else rest, 1).zero_()
            if rest:
                to, origin = (1, 0) if step > 0 else (0, 1)
                target.narrow(axis, to, rest).copy_(source.narrow(axis, origin, rest))
        return shifted.sub_(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _ShiftDelta.apply(g, tuple((axis, -step) for axis, step in ctx.moves)), None


def shift_delta(x: Tensor, shift: Shift) -> Tensor:
    """Return s(x) − x [B, T, C]: each channel group of every head moved one token, zeros at the border."""
    b, t, c = x.shape
    grid = x.reshape(b, shift.rows, shift.columns, shift.heads, c // shift.heads)
    delta: Tensor = _ShiftDelta.apply(grid, MOVES[shift.directions])
    return delta.view(b, t, c)


def shift_lerp(x: Tensor, mix: Tensor, shift: Shift) -> Tensor:
    """Return x + (s(x) − x)∘mix_k as [K, B, T, C] of x [B, T, C] and mix [K, C] or [K, B, T, C]."""
    weights = mix if mix.dim() == 4 else mix[:, None, None]
    return torch.addcmul(x, shift_delta(x, shift), weights.to(x.dtype))


def norm_gate(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float) -> Tensor:
    """Return GroupNorm(y)·silu(gate) of y and gate [B, T, C], one group per head; weight and bias [C]."""
    normed = F.group_norm(y.flatten(0, 1), heads, weight, bias, eps)
    return normed.view_as(y) * F.silu(gate)


def gated_add(residual: Tensor, gate: Tensor, value: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return residual + scale·sigmoid(gate)·value, all of one shape but for scale [B]; 1 by default."""
    opened = torch.sigmoid(gate) * value
    if scale is None:
        return residual + opened
    return residual + opened * scale.to(opened.dtype).view(-1, *(1,) * (opened.dim() - 1))


def relu_square(x: Tensor) -> Tensor:
    """Return relu(x)²."""
    return F.relu(x).square()
