"""Fused elementwise operators in CUDA (`cuda/fused.cu`): outputs and gradients of tensors on one device.

Plain functions: no autograd, and the caller has checked shapes, dtypes and devices. Numbers are float32,
bfloat16 or float16, computed in float32 and rounded once; results repeat bit by bit.
Axes: B batch, T tokens, C width, H heads, N head width (C = H·N), K mixes, h × w the token grid (T = h·w).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.errors import UserError
from rwkvclip_models.ops.build import library

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


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
    _run("shift_lerp", (x, mix, out), _shift_sizes(x, mix, h, w, heads, directions))
    return out


def shift_lerp_backward(
    grad_out: Tensor, x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and mix, shaped as these, from that of `shift_lerp`'s output."""
    grad_out, x, mix = grad_out.contiguous(), x.contiguous(), mix.contiguous()
    gx, gmix = torch.empty_like(x), torch.empty_like(mix)
    partial = _partial_sums(x, mix) if mix.dim() == 2 else None
    tensors = (grad_out, x, mix, gx, gmix, partial)
    _run("shift_lerp_backward", tensors, _shift_sizes(x, mix, h, w, heads, directions))
    return gx, gmix


def norm_gate(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float) -> Tensor:
    """Return (group_norm(y) · weight + bias) · silu(gate) [B, T, C], each head's N channels a group.

    Args:
        y: [B, T, C].
        gate: [B, T, C], before its SiLU.
        weight: [C]; it and the bias may keep another dtype than y.
        bias: [C].
        heads: H; N is at most 128.
        eps: added to the variance.
    """
    y, gate, weight, bias = (z.contiguous() for z in (y, gate, weight, bias))
    out = torch.empty_like(y)
    _run("norm_gate", (y, gate, weight, bias, out), _norm_sizes(y, heads), eps, weight)
    return out


def norm_gate_backward(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, gate, weight and bias from that of `norm_gate`'s output."""
    grad, y, gate, weight, bias = (z.contiguous() for z in (grad, y, gate, weight, bias))
    gy, ggate = torch.empty_like(y), torch.empty_like(y)
    gparameters = weight.new_empty((2, *weight.shape))
    tensors = (grad, y, gate, weight, bias, gy, ggate, gparameters, _partial_sums(y, gparameters))
    _run("norm_gate_backward", tensors, _norm_sizes(y, heads), eps, weight)
    # Results of an operator of torch may not share memory.
    return gy, ggate, gparameters[0].clone(), gparameters[1].clone()


def relu_square(x: Tensor) -> Tensor:
    """Return max(x, 0)², in x's shape."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _run("relu_square", (x, out), (x.numel(),))
    return out


def relu_square_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return 2 · grad · max(x, 0), the gradient of x."""
    grad, x = grad.contiguous(), x.contiguous()
    gx = torch.empty_like(x)
    _run("relu_square_backward", (grad, x, gx), (x.numel(),))
    return gx


def _shift_sizes(x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int) -> tuple[int, ...]:
    return x.shape[0], h, w, x.shape[2], heads, directions, mix.shape[0], int(mix.dim() == 4)


def _norm_sizes(y: Tensor, heads: int) -> tuple[int, ...]:
    return y.shape[0] * y.shape[1], y.shape[2], heads


def _partial_sums(x: Tensor, total: Tensor) -> Tensor:
    """Return float32 scratch for sums of `total`'s shape over the tokens of x."""
    parts = library("cuda").rwkvclip_num_parts(ctypes.c_int64(x.shape[0] * x.shape[1]))
    return x.new_empty((parts, *total.shape), dtype=torch.float32)


def _run(
    name: str,
    tensors: tuple[Tensor | None, ...],
    sizes: tuple[int, ...],
    eps: float | None = None,
    parameter: Tensor | None = None,
) -> None:
    """Queue one operator on the current stream of its tensors' device."""
    first = tensors[0]
    assert first is not None
    cuda = library("cuda")
    arguments: list[object] = [ctypes.c_void_p(None if z is None else z.data_ptr()) for z in tensors]
    arguments += map(ctypes.c_int64, sizes)
    if eps is not None:
        arguments.append(ctypes.c_double(eps))
    arguments += [ctypes.c_int64(_DTYPES[z.dtype]) for z in (first, parameter) if z is not None]
    # Tensors of the CPU come with kernels compiled for it, which know no streams.
    stream = torch.cuda.current_stream(first.device).cuda_stream if first.is_cuda else 0
    with torch.cuda.device(first.get_device()):
        code = getattr(cuda, f"rwkvclip_{name}")(*arguments, ctypes.c_void_p(stream))
    if code != 0:
        cuda.rwkvclip_error.restype = ctypes.c_char_p
        raise UserError(f"{name} failed on {first.device}: {cuda.rwkvclip_error().decode()}.")
