"""The elementwise work around Bi-WKV as Triton kernels; importing this file imports Triton.

Everything is computed in float32 and rounded once. Sums over tokens are taken per chunk of tokens and
then over the chunks, always in the same order.

Axes: B batch, T tokens, C width, H heads, N head width (C = H·N), h × w the token grid, K lerps.
"""

# The kernels' bodies are Triton's language, which has no types to check.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from rwkvclip_models.ops.triton_support import device_of

if TYPE_CHECKING:
    from torch import Tensor

ELEMENTS = 4096
"""Elements of an operand per program."""

CHANNELS = 128
"""Channels per program of the token shift: the widest contiguous piece that suits any C."""


def shift_lerp(x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int) -> Tensor:
    """Return x + (s(x) − x)∘mix_k for every k: [K, B, T, C].

    s moves equal groups of each head's channels by one token, with zeros at the border.

    Args:
        x: [B, T, C] with T = h·w.
        mix: [K, C], or [K, B, T, C] if it depends on the token.
        h: rows of the grid; T for text.
        w: columns of the grid; 1 for text.
        heads: H.
        directions: 4 takes the token left, right, above and below; 2 the token before and after.
    """
    x, mix = x.contiguous(), mix.contiguous()
    out = x.new_empty(mix.shape[0], *x.shape)
    plan = _Shift(x, mix, h, w, heads, directions)
    if out.numel():
        with device_of(x):
            _shift_lerp_kernel[plan.grid](x, mix, out, **plan.options)
    return out


def shift_lerp_backward(
    grad_out: Tensor, x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and mix; grad_out [K, B, T, C], the rest as in `shift_lerp`."""
    grad_out, x, mix = grad_out.contiguous(), x.contiguous(), mix.contiguous()
    gx = torch.empty_like(x)
    plan = _Shift(x, mix, h, w, heads, directions)
    gmix = torch.empty_like(mix)
    if not plan.per_token:
        gmix = gmix.new_empty(plan.chunks, *mix.shape, dtype=torch.float32)
    if grad_out.numel():
        with device_of(x):
            _shift_lerp_backward_kernel[plan.grid](grad_out, x, mix, gx, gmix, **plan.options)
    return gx, gmix if plan.per_token else gmix.sum(0).to(mix.dtype)


def norm_gate(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float) -> Tensor:
    """Return (GroupNorm of y over each head's channels · weight + bias) · silu(gate): [B, T, C].

    Args:
        y: [B, T, C].
        gate: like y.
        weight: [C].
        bias: [C].
        heads: H, the number of groups.
        eps: added to the variance.
    """
    y, gate, weight, bias = (x.contiguous() for x in (y, gate, weight, bias))
    out = torch.empty_like(y)
    plan = _Norm(y, heads, eps)
    if out.numel():
        with device_of(y):
            _norm_gate_kernel[plan.grid](y, gate, weight, bias, out, **plan.options)
    return out


def norm_gate_backward(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, gate, weight and bias; grad [B, T, C], the rest as in `norm_gate`."""
    grad, y, gate, weight, bias = (x.contiguous() for x in (grad, y, gate, weight, bias))
    gy, ggate = torch.empty_like(y), torch.empty_like(gate)
    plan = _Norm(y, heads, eps)
    gaffine = y.new_empty(2, plan.chunks, y.shape[2], dtype=torch.float32)
    if y.numel():
        with device_of(y):
            _norm_gate_backward_kernel[plan.grid](
                grad, y, gate, weight, bias, gy, ggate, *gaffine, **plan.options
            )
    # Results of an operator of torch may not share memory.
    gweight, gbias = (part.sum(0) for part in gaffine)
    return gy, ggate, gweight.to(weight.dtype), gbias.to(bias.dtype)


def relu_square(x: Tensor) -> Tensor:
    """Return relu(x)², of x's shape."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel():
        with device_of(x):
            _relu_square_kernel[(triton.cdiv(x.numel(), ELEMENTS),)](
                x, out, x.numel(), ELEMENTS, enable_fp_fusion=True
            )
    return out


def relu_square_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return grad · 2 relu(x)."""
    grad, x = grad.contiguous(), x.contiguous()
    gx = torch.empty_like(x)
    if x.numel():
        with device_of(x):
            _relu_square_backward_kernel[(triton.cdiv(x.numel(), ELEMENTS),)](
                grad, x, gx, x.numel(), ELEMENTS, enable_fp_fusion=True
            )
    return gx


class _Shift:
    """How x [B, T, C] is cut, and the arguments both kernels of the token shift share."""

    def __init__(self, x: Tensor, mix: Tensor, h: int, w: int, heads: int, directions: int) -> None:
        tokens, width = x.shape[0] * x.shape[1], x.shape[2]
        self.per_token = mix.dim() == 4
        # Half as many registers for what a mix per token adds; the others' sums want long chunks.
        rows = ELEMENTS // CHANNELS // (2 if self.per_token else 1)
        self.chunks = triton.cdiv(tokens, rows)
        self.grid = (self.chunks * triton.cdiv(width, CHANNELS),)
        self.options = {
            "tokens": tokens,
            "width": width,
            "N": width // heads,
            "h": h,
            "w": w,
            "LERPS": mix.shape[0],
            "DIRECTIONS": directions,
            "PER_TOKEN": self.per_token,
            "ROWS": rows,
            "CHANNELS": CHANNELS,
            "num_warps": 8,
            "enable_fp_fusion": True,
        }


class _Norm:
    """How y [B, T, C] is cut, and the arguments both kernels of norm and gate share."""

    def __init__(self, y: Tensor, heads: int, eps: float) -> None:
        tokens, width = y.shape[0] * y.shape[1], y.shape[2] // heads
        padded = triton.next_power_of_2(width)
        rows = max(1, ELEMENTS // padded)
        self.chunks = triton.cdiv(tokens, rows)
        self.grid = (self.chunks * heads,)
        self.options = {
            "tokens": tokens,
            "heads": heads,
            "eps": eps,
            "N": width,
            "PADDED": padded,
            "ROWS": rows,
            "num_warps": 4,
            "enable_fp_fusion": True,
        }


@triton.jit
def _load(x, offsets, exists):
    return tl.load(x + offsets, mask=exists, other=0).to(tl.float32)


@triton.jit
def _shift_tile(tokens, width, N, h, w, DIRECTIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return this program's chunk, channels, first offset, offsets from there, and where elements are.

    Then, in elements, how far off lies the token each channel takes, and the one it is taken by; zero
    where the border leaves none.
    """
    pieces = tl.cdiv(width, CHANNELS)
    chunk = (tl.program_id(0) // pieces).to(tl.int64)
    channel = tl.program_id(0) % pieces * CHANNELS + tl.arange(0, CHANNELS)
    i = tl.arange(0, ROWS)
    exists = (i < tokens - chunk * ROWS)[:, None] & (channel < width)[None, :]
    # Only the start needs 64 bits.
    place = (chunk * ROWS % (h * w)).to(tl.int32) + i
    column = (place % w)[:, None]
    row = (place // w % h)[:, None]
    left = tl.where(column > 0, -width, 0)
    right = tl.where(column < w - 1, width, 0)
    # A text of T tokens is a grid of T rows.
    above = tl.where(row > 0, -w * width, 0)
    below = tl.where(row < h - 1, w * width, 0)
    n = (channel % N)[None, :]
    if DIRECTIONS == 4:
        first = n < N // 4
        second = n < N * 2 // 4
        third = n < N * 3 // 4
        takes = tl.where(second, tl.where(first, left, right), tl.where(third, above, below))
        taken = tl.where(second, tl.where(first, right, left), tl.where(third, below, above))
    else:
        takes = tl.where(n < N // 2, above, below)
        taken = tl.where(n < N // 2, below, above)
    return chunk, channel, chunk * ROWS * width, i[:, None] * width + channel[None, :], exists, takes, taken


@triton.jit
def _shift_lerp_kernel(
    x, mix, out, tokens, width, N, h, w,
    LERPS: tl.constexpr, DIRECTIONS: tl.constexpr, PER_TOKEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    _, channel, start, at, exists, takes, _ = _shift_tile(tokens, width, N, h, w, DIRECTIONS, ROWS, CHANNELS)
    x_ = _load(x + start, at, exists)
    delta = _load(x + start, at + takes, exists & (takes != 0)) - x_
    size = tl.full((), width, tl.int64) * tokens
    for i in tl.range(LERPS):
        if PER_TOKEN:
            mix_ = _load(mix + start + i * size, at, exists)
        else:
            mix_ = _load(mix + i * width, channel, channel < width)[None, :]
        tl.store(out + start + i * size + at, x_ + delta * mix_, mask=exists)


@triton.jit
def _shift_lerp_backward_kernel(
    grad, x, mix, gx, gmix, tokens, width, N, h, w,
    LERPS: tl.constexpr, DIRECTIONS: tl.constexpr, PER_TOKEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Without a mix per token, gmix is [chunks, K, C] float32, to be summed."""
    chunk, channel, start, at, exists, takes, taken = _shift_tile(
        tokens, width, N, h, w, DIRECTIONS, ROWS, CHANNELS
    )
    is_taken = exists & (taken != 0)
    delta = _load(x + start, at + takes, exists & (takes != 0)) - _load(x + start, at, exists)
    g_x = tl.zeros((ROWS, CHANNELS), tl.float32)
    size = tl.full((), width, tl.int64) * tokens
    for i in tl.range(LERPS):
        lerp = start + i * size
        g = _load(grad + lerp, at, exists)
        g_there = _load(grad + lerp, at + taken, is_taken)
        if PER_TOKEN:
            mix_ = _load(mix + lerp, at, exists)
            mix_there = _load(mix + lerp, at + taken, is_taken)
            tl.store(gmix + lerp + at, g * delta, mask=exists)
        else:
            mix_ = _load(mix + i * width, channel, channel < width)[None, :]
            mix_there = mix_
            total = tl.sum(g * delta, axis=0)
            tl.store(gmix + (chunk * LERPS + i) * width + channel, total, mask=channel < width)
        g_x += g * (1 - mix_) + g_there * mix_there
    tl.store(gx + start + at, g_x, mask=exists)


@triton.jit
def _norm_tile(tokens, heads, N: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Return this program's chunk, channels [N padded], which exist, and offsets of a tile and its mask."""
    program = tl.program_id(0)
    chunk = (program // heads).to(tl.int64)
    head = program % heads
    n = tl.arange(0, PADDED)
    token = chunk * ROWS + tl.arange(0, ROWS)
    at = (token[:, None] * heads + head) * N + n[None, :]
    return chunk, head * N + n, n < N, at, (token < tokens)[:, None] & (n < N)[None, :]


@triton.jit
def _normalise(y, exists, eps, N: tl.constexpr):
    """Return y [rows, N padded] with mean 0 and variance 1 in every row, and 1/standard deviation."""
    centred = tl.where(exists, y - (tl.sum(y, axis=1) / N)[:, None], 0.0)
    scale = 1 / tl.sqrt_rn(tl.sum(centred * centred, axis=1) / N + eps)
    return centred * scale[:, None], scale[:, None]


@triton.jit
def _norm_gate_kernel(
    y, gate, weight, bias, out, tokens, heads, eps,
    N: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    _, channel, held, at, exists = _norm_tile(tokens, heads, N, PADDED, ROWS)
    normal, _ = _normalise(_load(y, at, exists), exists, eps, N)
    gate_ = _load(gate, at, exists)
    affine = normal * _load(weight, channel, held)[None, :] + _load(bias, channel, held)[None, :]
    tl.store(out + at, affine * gate_ * tl.sigmoid(gate_), mask=exists)


@triton.jit
def _norm_gate_backward_kernel(
    grad, y, gate, weight, bias, gy, ggate, gweight, gbias, tokens, heads, eps,
    N: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradients of weight and bias are [chunks, C], to be summed."""
    chunk, channel, held, at, exists = _norm_tile(tokens, heads, N, PADDED, ROWS)
    normal, scale = _normalise(_load(y, at, exists), exists, eps, N)
    weight_ = _load(weight, channel, held)[None, :]
    affine = normal * weight_ + _load(bias, channel, held)[None, :]
    g = _load(grad, at, exists)
    gate_ = _load(gate, at, exists)
    open_ = tl.sigmoid(gate_)
    tl.store(ggate + at, g * affine * open_ * (1 + gate_ * (1 - open_)), mask=exists)
    g_affine = g * gate_ * open_
    row = chunk * heads * N + channel
    tl.store(gweight + row, tl.sum(g_affine * normal, axis=0), mask=held)
    tl.store(gbias + row, tl.sum(g_affine, axis=0), mask=held)
    g_normal = g_affine * weight_
    mean = (tl.sum(g_normal, axis=1) / N)[:, None]
    along = (tl.sum(g_normal * normal, axis=1) / N)[:, None]
    tl.store(gy + at, scale * (g_normal - mean - normal * along), mask=exists)


@triton.jit
def _relu_square_kernel(x, out, size, ELEMENTS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    x_ = _load(x, at, at < size)
    tl.store(out + at, tl.where(x_ < 0, 0.0, x_ * x_), mask=at < size)


@triton.jit
def _relu_square_backward_kernel(grad, x, gx, size, ELEMENTS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    x_ = _load(x, at, at < size)
    tl.store(gx + at, tl.where(x_ <= 0, 0.0, 2 * x_ * _load(grad, at, at < size)), mask=at < size)
