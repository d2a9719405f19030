"""What every implementation takes for granted of its operands; kernels read memory by these sizes.

Tests of shapes only: a compiler turns them into guards, and no operand's data is looked at.

Axes: B batch, T tokens, C channels, K lerps, R rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rwkvclip_models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_tensors(operator: str, **tensors: Tensor) -> None:
    """Check that operands are dense tensors on one device.

    Raises:
        UserError: one is something else, or they lie on several devices.
    """
    first = next(iter(tensors.values()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise UserError(
                f"{operator} expects {name} to be a torch tensor, got {type(x).__name__}. "
                "Convert it, for example with torch.as_tensor."
            )
        if x.layout != torch.strided:
            raise UserError(f"{operator} expects {name} to be dense, got {x.layout}. Call to_dense() on it.")
    if any(x.device != first.device for x in tensors.values()):
        found = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
        raise UserError(f"{operator} expects its operands on one device, got {found}. Move them to one.")


def check_reverse_mode(operator: str, *tensors: Tensor) -> None:
    """Check that no operand carries a forward-mode tangent: torch would drop it in silence.

    Raises:
        UserError: one does.
    """
    if torch.compiler.is_compiling():
        return
    unpack: Any = forward_ad.unpack_dual
    if any(unpack(x).tangent is not None for x in tensors):
        raise UserError(
            f"{operator} has no forward-mode derivative (torch.func.jvp, jacfwd). Use reverse mode "
            "(torch.func.vjp, jacrev), or the reference implementation of Bi-WKV."
        )


def check_shape(operator: str, name: str, x: Tensor, axes: str, shape: Sequence[int]) -> None:
    """Check the shape of an operand, called `axes` in words.

    Raises:
        UserError: it is another.
    """
    if x.shape != tuple(shape):
        raise UserError(
            f"{operator} expects {name} of shape {axes} = {list(shape)}, got {list(x.shape)}. "
            "Reshape or expand it; nothing is broadcast."
        )


def check_heads(operator: str, x: Tensor, heads: int) -> None:
    """Check that x is [B, T, C] and its channels divide into heads.

    Raises:
        UserError: it is not.
    """
    if x.dim() != 3:
        raise UserError(f"{operator} expects tokens of shape [B, T, C], got {list(x.shape)}. Reshape them.")
    if heads < 1 or x.shape[2] % heads:
        raise UserError(
            f"{operator} expects channels that divide into its heads, got {x.shape[2]} channels and {heads} "
            "heads. Choose another number of heads."
        )


def check_shift(operator: str, x: Tensor, rows: int, columns: int, heads: int, directions: int) -> None:
    """Check that x [B, T, C] is a grid of rows × columns tokens that can be shifted.

    Raises:
        UserError: it is not.
    """
    check_heads(operator, x, heads)
    if rows < 1 or columns < 1 or x.shape[1] != rows * columns:
        raise UserError(
            f"{operator} expects T = rows·columns tokens, got {x.shape[1]} for a grid of {rows}×{columns}. "
            "Give the shift the grid of these tokens."
        )
    if directions not in (2, 4):
        raise UserError(f"{operator} expects a shift in 2 or 4 directions, got {directions}.")
