"""Fused elementwise operators in CUDA (`cuda/fused.cu`): outputs and gradients of tensors on one device.

Plain functions: no autograd, and the caller has checked shapes, dtypes and devices. Numbers are float32,
bfloat16 or float16, computed in float32 and rounded once; results repeat bit by bit.
Axes: B batch, T tokens, C width, H heads, N head width (C = H·N), K mixes, h × w the token grid (T = h·w).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build, native

if TYPE_CHECKING:
    from torch import Tensor


def shift_lerp(x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int) -> Tensor:
    """Return x + (s(x) − x) ∘ mix_k [K, B, T, C], s moving each head's channel groups by one token.

    Args:
        x: [B, T, C].
        mix: [K, C] (K ≤ 8 for gradients) or [K, B, T, C], in x's dtype.
        h: rows of the grid.
        w: its columns.
        heads: H.
        directions: 4 takes the neighbours to the left, to the right, above and below; 2 those before
            and after.
    """
    x, mix = x.contiguous(), mix.contiguous()
    out = x.new_empty((mix.shape[0], *x.shape))
    sizes = _shift_sizes(x, mix, h, w, heads, directions)
    native.queue("shift_lerp", x, mix, out, *sizes, on=x)
    return out


def shift_lerp_backward(
    grad_out: Tensor, x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and mix, shaped as these, from that of `shift_lerp`'s output."""
    grad_out, x, mix = grad_out.contiguous(), x.contiguous(), mix.contiguous()
    gx, gmix = torch.empty_like(x), torch.empty_like(mix)
    partial = _partial_sums(x, mix) if mix.dim() == 2 else None
    sizes = _shift_sizes(x, mix, h, w, heads, directions)
    native.queue("shift_lerp_backward", grad_out, x, mix, gx, gmix, partial, *sizes, on=x)
    return gx, gmix


def norm_gate(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float) -> Tensor:
    """Return (group_norm(y) · weight + bias) · silu(gate) [B, T, C], each head's N channels a group.

    Args:
        y: [B, T, C].
        gate: [B, T, C], before its SiLU.
        weight: [C]; it and the bias, of one dtype, may keep another than y.
        bias: [C].
        heads: H; N is at most 128.
        eps: added to the variance.
    """
    y, gate, weight, bias = (z.contiguous() for z in (y, gate, weight, bias))
    out = torch.empty_like(y)
    native.queue("norm_gate", y, gate, weight, bias, out, *_norm_sizes(y, weight, heads, eps), on=y)
    return out


def norm_gate_backward(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, gate, weight and bias from that of `norm_gate`'s output."""
    grad, y, gate, weight, bias = (z.contiguous() for z in (grad, y, gate, weight, bias))
    gy, ggate = torch.empty_like(y), torch.empty_like(y)
    gparameters = weight.new_empty((2, *weight.shape))
    tensors = (grad, y, gate, weight, bias, gy, ggate, gparameters, _partial_sums(y, gparameters))
    native.queue("norm_gate_backward", *tensors, *_norm_sizes(y, weight, heads, eps), on=y)
    # Results of an operator of torch may not share memory.
    return gy, ggate, gparameters[0].clone(), gparameters[1].clone()


def relu_square(x: Tensor) -> Tensor:
    """Return max(x, 0)², in x's shape."""
    x = x.contiguous()
    out = torch.empty_like(x)
    native.queue("relu_square", x, out, x.numel(), native.DTYPE_CODES[x.dtype], on=x)
    return out


def relu_square_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return 2 · grad · max(x, 0), the gradient of x."""
    grad, x = grad.contiguous(), x.contiguous()
    gx = torch.empty_like(x)
    native.queue("relu_square_backward", grad, x, gx, x.numel(), native.DTYPE_CODES[x.dtype], on=x)
    return gx


def _shift_sizes(x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int) -> tuple[int, ...]:
    code = native.DTYPE_CODES[x.dtype]
    return x.shape[0], h, w, x.shape[2], heads, directions, mix.shape[0], int(mix.dim() == 4), code


def _norm_sizes(y: Tensor, weight: Tensor, heads: int, eps: float) -> tuple[float, ...]:
    codes = (native.DTYPE_CODES[z.dtype] for z in (y, weight))
    return y.shape[0] * y.shape[1], y.shape[2], heads, float(eps), *codes


def _partial_sums(x: Tensor, total: Tensor) -> Tensor:
    """Return float32 scratch for sums of `total`'s shape over the tokens of x."""
    parts = build.library("cuda").rwkvclip_num_parts(ctypes.c_int64(x.shape[0] * x.shape[1]))
    return x.new_empty((parts, *total.shape), dtype=torch.float32)
