"""The long examination of the elementwise operators: every implementation against the eager forms in float64.

Axes: B batch, T = rows·columns tokens, H heads, N head width (C = H·N channels), K lerps, R rank of a lerp.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from rwkvclip_models import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from rwkvclip_models.ops import Shift

GRIDS = ((1, 1, 4), (7, 7, 4), (14, 14, 4), (5, 3, 4), (77, 1, 2))
"""Rows, columns and directions of the token shift: the released towers' and odd ones."""
WIDTHS = (16, 80)
LERPS, RANK = 5, 32

OPERATORS: dict[str, tuple[str, ...]] = {
    "shift_lerp": ("x", "mix"),
    "shift_lerp per token": ("x", "mixes"),
    "dynamic_lerp": ("x", "low_rank", "base", "up"),
    "norm_gate": ("x", "gate", "weight", "bias"),
    "gated_add": ("residual", "gate", "x"),
    "relu_square": ("x",),
}
"""Operator → its operands, by the names of `operands`."""


def operands(batch: int, heads: int, width: int, grid: tuple[int, int, int]) -> dict[str, Tensor]:
    """Return float32 operands that are exact in bfloat16; those with tokens are not contiguous."""
    rows, columns, _ = grid
    tokens, channels = rows * columns, heads * width
    generator = torch.Generator().manual_seed(1000 * width + tokens)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).bfloat16().float()

    found = {name: random(tokens, batch, channels).transpose(0, 1) for name in ("x", "gate", "residual")}
    return found | {
        "mix": random(LERPS, channels),
        "mixes": random(LERPS, batch, tokens, channels),
        "low_rank": random(batch, tokens, LERPS * RANK, scale=0.125),
        "base": random(LERPS, channels),
        "up": random(LERPS, RANK, channels, scale=0.125),
        "weight": random(channels),
        "bias": random(channels),
    }


def run(implementation: str, given: dict[str, Tensor], heads: int, shift: Shift) -> dict[str, Tensor]:
    """Return each operator's output and the gradients of its operands for an output gradient of ±1."""
    calls: dict[str, Callable[..., Tensor]] = {
        "shift_lerp": partial(ops.shift_lerp, shift=shift),
        "shift_lerp per token": partial(ops.shift_lerp, shift=shift),
        "dynamic_lerp": partial(ops.dynamic_lerp, shift=shift),
        "norm_gate": partial(ops.norm_gate, heads=heads, eps=1e-5),
        "gated_add": ops.gated_add,
        "relu_square": ops.relu_square,
    }
    found = {}
    for operator, names in OPERATORS.items():
        leaves = [given[name].detach().requires_grad_() for name in names]
        y = calls[operator](*leaves, implementation=implementation)
        found[f"{operator} y"] = y.detach()
        # Not contiguous, and exact in every dtype. Signs differ by token: with ones the sum of s(x) − x over
        # tokens cancels to what crosses the border, and its rounding would be judged against that remnant.
        signs = 1 - 2 * (torch.arange(y.shape[-2], device=y.device) % 3 == 1).to(y.dtype)
        weight = signs[:, None].expand_as(y)
        gradients: Sequence[Tensor] = torch.autograd.grad(y, leaves, weight)
        found |= {f"{operator} grad {name}": g for name, g in zip(names, gradients, strict=True)}
    return found
