"""The compiled CPU implementation; sources in `cuda/*_cpu.cpp`, equations in `cuda/README.md`.

float32, bfloat16 and float64 are read and written as they are, float16 goes through float32. Work is shared
by torch's number of threads.

Axes: B batch, T tokens, H heads, N head width, C channels, K lerps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build, native

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = 64
"""Partial sums of a gradient over rows: fixed, so that results do not depend on the number of threads."""
_LARGE_PARTS = 16
"""The same of gradients of low-rank factors, which are larger: over samples."""


def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return y [B, T, H, N] in r's dtype; operands as `library.bi_wkv6` takes them."""
    dtype = _stored(r)
    r_, k_, v_ = (_ready(x, dtype) for x in (r, k, v))
    y = torch.empty_like(r_)
    _run("bi_wkv6_forward", dtype, r_, k_, v_, _exact(w, dtype), _exact(u, dtype), y, *r.shape)
    return y.to(r.dtype)


def bi_wkv6_backward(
    gy: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of r, k, v, w [B, T, H, N] and u [H, N], each in its operand's dtype."""
    dtype = _stored(r)
    operands = [_ready(x, dtype) for x in (gy, r, k, v)]
    w_, u_ = _exact(w, dtype), _exact(u, dtype)
    gr, gk, gv = (torch.empty_like(operands[0]) for _ in range(3))
    gw, gu = torch.empty_like(w_), w_.new_empty(r.shape[0], *u.shape)
    _run("bi_wkv6_backward", dtype, *operands, w_, u_, gr, gk, gv, gw, gu, *r.shape)
    return gr.to(r.dtype), gk.to(r.dtype), gv.to(r.dtype), gw.to(w.dtype), gu.sum(0).to(u.dtype)


def shift_lerp(x: Tensor, mix: Tensor, rows: int, columns: int, heads: int, directions: int) -> Tensor:
    """Return x + (s(x) − x)∘mix_k as [K, B, T, C]; operands as `library.shift_lerp` takes them."""
    dtype = _stored(x)
    out = x.new_empty(mix.shape[0], *x.shape, dtype=dtype)
    sizes = (mix.shape[0], x.shape[0], rows, columns, x.shape[2], heads, directions)
    _run("shift_lerp", dtype, _ready(x, dtype), *_either(mix, dtype), out, *sizes)
    return out.to(x.dtype)


def dynamic_lerp(
    x: Tensor,
    low_rank: Tensor,
    base: Tensor,
    up: Tensor,
    rows: int,
    columns: int,
    heads: int,
    directions: int,
) -> Tensor:
    """Return x + (s(x) − x)∘(base_k + low_rank_k·up_k) as [K, B, T, C]; as `library.dynamic_lerp`."""
    dtype = _stored(x)
    lerps, rank, channels = up.shape
    out = x.new_empty(lerps, *x.shape, dtype=dtype)
    operands = _ready(x, dtype), _ready(low_rank, dtype), _exact(base, dtype), _exact(up, dtype)
    _run(
        "dynamic_lerp",
        dtype,
        *operands,
        out,
        lerps,
        rank,
        x.shape[0],
        rows,
        columns,
        channels,
        heads,
        directions,
    )
    return out.to(x.dtype)


def dynamic_lerp_backward(
    grad: Tensor,
    x: Tensor,
    low_rank: Tensor,
    base: Tensor,
    up: Tensor,
    rows: int,
    columns: int,
    heads: int,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, low_rank, base and up."""
    dtype = _stored(x)
    lerps, rank, channels = up.shape
    grad_, x_, low_rank_ = (_ready(z, dtype) for z in (grad, x, low_rank))
    base_, up_ = _exact(base, dtype), _exact(up, dtype)
    gx, g_low_rank = torch.empty_like(x_), torch.empty_like(low_rank_)
    parts = max(1, min(_LARGE_PARTS, x.shape[0]))
    g_base, g_up = (z.new_empty(parts, *z.shape) for z in (base_, up_))
    sizes = (parts, lerps, rank, x.shape[0], rows, columns, channels, heads, directions)
    operands = grad_, x_, low_rank_, base_, up_
    _run("dynamic_lerp_backward", dtype, *operands, gx, g_low_rank, g_base, g_up, *sizes)
    sums = g_base.sum(0).to(base.dtype), g_up.sum(0).to(up.dtype)
    return gx.to(x.dtype), g_low_rank.to(low_rank.dtype), *sums


def shift_lerp_backward(
    grad: Tensor, x: Tensor, mix: Tensor, rows: int, columns: int, heads: int, directions: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and mix."""
    dtype = _stored(x)
    x_, (shared, own) = _ready(x, dtype), _either(mix, dtype)
    gx = torch.empty_like(x_)
    sizes = (mix.shape[0], x.shape[0], rows, columns, x.shape[2], heads, directions)
    g_own = None if own is None else torch.empty_like(own)
    g_shared = None if shared is None else shared.new_empty(x.shape[0], *shared.shape)
    _run("shift_lerp_backward", dtype, _ready(grad, dtype), x_, shared, own, gx, g_shared, g_own, *sizes)
    g_mix = g_own if g_shared is None else g_shared.sum(0)
    assert g_mix is not None
    return gx.to(x.dtype), g_mix.to(mix.dtype)


def norm_gate(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float) -> Tensor:
    """Return (GroupNorm of each head of y)·silu(gate) [B, T, C]; operands as in `library.norm_gate`."""
    dtype = _stored(y)
    y_, gate_ = _ready(y, dtype), _ready(gate, dtype)
    out = torch.empty_like(y_)
    sizes = (y.numel() // y.shape[-1], y.shape[-1], heads, eps)
    _run("norm_gate", dtype, y_, gate_, _exact(weight, dtype), _exact(bias, dtype), out, *sizes)
    return out.to(y.dtype)


def norm_gate_backward(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, gate, weight and bias."""
    dtype = _stored(y)
    operands = [_ready(x, dtype) for x in (grad, y, gate)]
    weight_, bias_ = _exact(weight, dtype), _exact(bias, dtype)
    gy, g_gate = torch.empty_like(operands[0]), torch.empty_like(operands[0])
    g_weight, g_bias = (weight_.new_empty(_PARTS, weight.numel()) for _ in range(2))
    sizes = (_PARTS, y.numel() // y.shape[-1], y.shape[-1], heads, eps)
    _run("norm_gate_backward", dtype, *operands, weight_, bias_, gy, g_gate, g_weight, g_bias, *sizes)
    sums = g_weight.sum(0).to(weight.dtype), g_bias.sum(0).to(bias.dtype)
    return gy.to(y.dtype), g_gate.to(gate.dtype), *sums


def gated_add(residual: Tensor, gate: Tensor, value: Tensor, scale: Tensor | None) -> Tensor:
    """Return residual + scale·sigmoid(gate)·value; operands as `library.gated_add` takes them."""
    dtype = _stored(residual)
    operands = [_ready(x, dtype) for x in (residual, gate, value)]
    out = torch.empty_like(operands[0])
    _run("gated_add", dtype, *operands, *_scaled(scale, out, dtype), out.numel())
    return out.to(residual.dtype)


def gated_add_backward(
    grad: Tensor, gate: Tensor, value: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and value."""
    dtype = _stored(gate)
    operands = [_ready(x, dtype) for x in (grad, gate, value)]
    g_gate, g_value = torch.empty_like(operands[0]), torch.empty_like(operands[0])
    scale_, _, each = _scaled(scale, g_gate, dtype)
    _run("gated_add_backward", dtype, *operands, scale_, g_gate, g_value, each, g_gate.numel())
    return g_gate.to(gate.dtype), g_value.to(value.dtype)


def _scaled(scale: Tensor | None, out: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor, int]:
    """Return the scale to hand over, `out`, and how many elements each factor is for."""
    if scale is None:
        return None, out, 1
    return _exact(scale, dtype), out, out.numel() // max(1, scale.numel())


def relu_square_(x: Tensor) -> None:
    """Replace contiguous x by relu(x)²."""
    if x.dtype == torch.float16 or not x.is_contiguous():
        x.copy_(relu_square(x))
    else:
        _run("relu_square", x.dtype, x, x, x.numel())


def relu_square(x: Tensor) -> Tensor:
    """Return relu(x)²."""
    dtype = _stored(x)
    out = torch.empty(x.shape, dtype=dtype)
    _run("relu_square", dtype, _ready(x, dtype), out, x.numel())
    return out.to(x.dtype)


def relu_square_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of x."""
    dtype = _stored(x)
    gx = torch.empty(x.shape, dtype=dtype)
    _run("relu_square_backward", dtype, _ready(grad, dtype), _ready(x, dtype), gx, x.numel())
    return gx.to(x.dtype)


def _run(name: str, dtype: torch.dtype, *arguments: Tensor | float | None) -> None:
    codes = native.DTYPE_CODES[dtype], torch.get_num_threads()
    native.call(build.library("cpu"), name, *arguments, *codes)


def _stored(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def _ready(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).contiguous()


def _exact(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(torch.promote_types(dtype, torch.float32)).contiguous()


def _either(mix: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return mix [K, C] as the first of two arguments, [K, B, T, C] as the second."""
    return (_exact(mix, dtype), None) if mix.dim() == 2 else (None, _ready(mix, dtype))
