"""Bi-WKV as Triton kernels, forward and backward; importing this file imports Triton.

Equations: `cuda/README.md`. Tokens are cut into blocks. Inside a block the T×T matrix is built in a
tree as in `blocked.py`: at level l two halves of 2^l tokens meet, and the decays between a token of
one half and a token of the other split at the common boundary into one factor of each. What lies
outside a block reaches it through two N×N states: of the tokens before it and of those after it.

All factors are exp(−sum of rates), the sums run over exactly the decays meant: no exponent is positive,
no sum is a difference. The key channel, where the exponentials are, is walked in tiles that divide N;
the value channel only takes part in matrix products and is padded to a power of two in registers.

Axes: B batch, T tokens, H heads, N head width, M = B·H, b tokens in a block, c key channels in a tile.
"""

# The kernels' bodies are Triton's language, which has no types to check.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from rwkvclip_models.ops.reference import MAX_RAW_DECAY
from rwkvclip_models.ops.triton_support import device_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_BLOCK = 64
"""Tokens in a block of a long sequence; a shorter one is one block and needs no states."""

MAX_TILE = 32
"""Key channels in a tile; what one level of the tree keeps in registers grows with it."""

STATE_BYTES = 1 << 27
"""Workspace of the states; more heads than it holds take turns."""

_MAX_RAW_DECAY = tl.constexpr(MAX_RAW_DECAY)


def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return y [B, T, H, N] in the dtype of `r`, contiguous.

    Sums accumulate in float32; factors of matrix products enter in three tf32 parts for float32
    operands and in one for 16-bit operands, which tf32 holds exactly.

    Args:
        r: receptance [B, T, H, N], float32, bfloat16 or float16; N a multiple of 16 up to 128.
        k: key, like r.
        v: value, like r.
        w: raw decay [B, T, H, N], float32; the decay per step is exp(−exp(w)).
        u: bonus of the current token [H, N], float32.
    """
    r, k, v, w, u = (x.contiguous() for x in (r, k, v, w, u))
    y = torch.empty_like(r)
    plan = _Plan(r)
    with device_of(r):
        for first, count in plan.turns(num_pairs=1):
            states = plan.states(first, count, k, v, w)
            plan.forward(first, count, r, k, v, w, u, states, y)
    return y


def bi_wkv6_backward(
    gy: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of r, k, v in their dtype and of w, u in float32, all contiguous.

    Computed from the operands alone; bit-identical from call to call.

    Args:
        gy: gradient of y [B, T, H, N], dtype of r.
        r: receptance, as in `bi_wkv6`.
        k: key.
        v: value.
        w: raw decay.
        u: bonus.
    """
    gy, r, k, v, w, u = (x.contiguous() for x in (gy, r, k, v, w, u))
    gr, gk, gv, gw = (torch.empty_like(x) for x in (r, k, v, w))
    plan = _Plan(r)
    batch, _, heads, width = r.shape
    gu = u.new_empty(batch, heads, plan.blocks, width)
    with device_of(r):
        for first, count in plan.turns(num_pairs=2):
            of_keys = plan.states(first, count, k, v, w)
            of_receptances = plan.states(first, count, r, gy, w)
            _backward_kernel[(count * plan.blocks,)](
                gy, r, k, v, w, u, of_keys, of_receptances, gr, gk, gw, gu,
                first, count, *plan.sizes, **plan.options,
            )  # fmt: skip
            # gv = Aᵀ gy, and the transpose of A swaps receptance and key.
            plan.forward(first, count, k, r, gy, w, u, of_receptances, gv)
    return gr, gk, gv, gw, gu.sum((0, 2))


class _Plan:
    """How operands like r [B, T, H, N] are cut, and the arguments all kernels share."""

    def __init__(self, r: Tensor) -> None:
        batch, num_tokens, heads, width = r.shape
        block = min(max(16, triton.next_power_of_2(num_tokens)), MAX_BLOCK)
        self.num_heads = batch * heads
        self.blocks = -(-num_tokens // block)
        self.tile = min(width & -width, MAX_TILE)
        self.width = width
        self.sizes = (num_tokens, heads, self.blocks)
        self.options: dict[str, Any] = {
            "N": width,
            "VALUES": triton.next_power_of_2(width),
            "TILE": self.tile,
            "BLOCK": block,
            "STATES": self.blocks > 1,
            "PRECISION": "tf32x3" if r.dtype == torch.float32 else "tf32",
            "num_warps": 4 if block < MAX_BLOCK else 8,
            "num_stages": 1,
            "enable_fp_fusion": True,
        }

    def turns(self, num_pairs: int) -> list[tuple[int, int]]:
        """Return (first, count) of the heads served together, `num_pairs` of states each."""
        most = max(1, self.num_heads)
        if self.blocks > 1:
            most = max(1, STATE_BYTES // (num_pairs * 2 * self.blocks * self.width**2 * 4))
        return [(i, min(most, self.num_heads - i)) for i in range(0, self.num_heads, most)]

    def states(self, first: int, count: int, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return Σ kᵀv before and after each block, decayed to its edge: [2, count, blocks, N, N]."""
        if self.blocks == 1:
            return w.new_empty(0)
        states = w.new_empty(2, count, self.blocks, self.width, self.width)
        _states_kernel[(count * 2 * (self.width // self.tile),)](
            k, v, w, states, first, count, *self.sizes, **self.options
        )
        return states

    def forward(self, first: int, count: int, *operands: Tensor) -> None:
        """Write y for the heads of one turn; operands are r, k, v, w, u, the states of k and v, and y."""
        _forward_kernel[(count * self.blocks,)](*operands, first, count, *self.sizes, **self.options)


@triton.jit
def _token_offsets(head, block, T, H, N: tl.constexpr, BLOCK: tl.constexpr):
    """Return [b] where each token of the block starts in an operand, and which tokens exist."""
    token = block * BLOCK + tl.arange(0, BLOCK)
    batch = (head // H).to(tl.int64)
    return ((batch * T + token) * H + head % H) * N, token < T


@triton.jit
def _load(x, offsets, exists):
    return tl.load(x + offsets, mask=exists, other=0).to(tl.float32)


@triton.jit
def _load_rate(w, offsets, exists):
    """Return −log d = exp(w); zero where no token is."""
    raw = tl.load(w + offsets, mask=exists, other=float("-inf"))
    # A comparison instead of a minimum, which would drop NaN.
    return tl.exp(tl.where(raw > _MAX_RAW_DECAY, _MAX_RAW_DECAY, raw))


@triton.jit
def _factor(between, rate):
    """Return [b, c] the product of decays over the tokens j with between[token, j] = 1."""
    # Both parts fit tf32: a rate's first 11 bits and its last 13, of which it loses two.
    high = (rate.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    exponent = tl.dot(between, high, input_precision="tf32")
    return tl.exp(-tl.dot(between, rate - high, exponent, input_precision="tf32"))


@triton.jit
def _tree_level(level, BLOCK: tl.constexpr):
    """Return [b, b] the tokens between each one and the boundary its half meets at, and the pairs met."""
    t = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, BLOCK)[None, :]
    half_t = t >> level
    half_j = j >> level
    nearer = ((half_t & 1) == 1) & (j < t) | ((half_t & 1) == 0) & (j > t)
    between = ((half_t == half_j) & nearer).to(tl.float32)
    met = (half_t != half_j) & ((half_t >> 1) == (half_j >> 1))
    return between, met


@triton.jit
def _order(side, BLOCK: tl.constexpr):
    """Return [b, b] ones for the tokens before each one (side 0) or after it (side 1)."""
    t = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, BLOCK)[None, :]
    return ((side == 0) & (j < t) | (side == 1) & (j > t)).to(tl.float32)


@triton.jit
def _diagonal(x, BLOCK: tl.constexpr):
    t = tl.arange(0, BLOCK)
    return tl.where(t[:, None] == t[None, :], x[:, None], 0.0)


@triton.jit
def _log2(BLOCK: tl.constexpr) -> tl.constexpr:
    return 4 if BLOCK == 16 else (5 if BLOCK == 32 else 6)


@triton.jit
def _state_offsets(side, head, count, block, blocks, channel, value, N: tl.constexpr):
    """Return [c, N] offsets of a tile of the state on one side (0 before, 1 after) of a block."""
    index = ((side * count + head).to(tl.int64) * blocks + block) * N
    return (index + channel[:, None]) * N + value[None, :]


@triton.jit
def _states_kernel(
    k, v, w, states, first, count, T, H, blocks,
    N: tl.constexpr, VALUES: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    STATES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program per head, side and tile: carries [c, N] over the blocks, nearest last."""
    program = tl.program_id(0)
    tile = program % (N // TILE)
    side = program // (N // TILE) % 2
    head = program // (N // TILE) // 2
    channel = tile * TILE + tl.arange(0, TILE)
    value = tl.arange(0, VALUES)
    # To the end of this block from the tokens before the next one, to its start from those after.
    between = _order(1 - side, BLOCK)
    state = tl.zeros((TILE, VALUES), tl.float32)
    i = 0
    # A range needs a constant bound in the interpreter of Triton 3.6 under NumPy 2.5.
    while i < blocks:
        block = tl.where(side == 0, i, blocks - 1 - i)
        at = _state_offsets(side, head, count, block, blocks, channel, value, N)
        tl.store(states + at, state, mask=(value < N)[None, :])
        start, exists = _token_offsets(first + head, block, T, H, N, BLOCK)
        keys = start[:, None] + channel[None, :]
        rate = _load_rate(w, keys, exists[:, None])
        k_f = _load(k, keys, exists[:, None]) * _factor(between, rate)
        v_ = _load(v, start[:, None] + value[None, :], exists[:, None] & (value < N)[None, :])
        total = tl.exp(-tl.sum(rate, axis=0))
        state = total[:, None] * state + tl.dot(tl.trans(k_f), v_, input_precision=PRECISION)
        i += 1


@triton.jit
def _forward_kernel(
    r, k, v, w, u, states, y, first, count, T, H, blocks,
    N: tl.constexpr, VALUES: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    STATES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program per head and block."""
    program = tl.program_id(0)
    head = program // blocks
    block = program % blocks
    start, exists = _token_offsets(first + head, block, T, H, N, BLOCK)
    value = tl.arange(0, VALUES)
    a = tl.zeros((BLOCK, BLOCK), tl.float32)
    out = tl.zeros((BLOCK, VALUES), tl.float32)
    bonus = tl.zeros((BLOCK,), tl.float32)
    for c in tl.range(0, N, TILE, disable_licm=True):
        channel = c + tl.arange(0, TILE)
        keys = start[:, None] + channel[None, :]
        r_ = _load(r, keys, exists[:, None])
        k_ = _load(k, keys, exists[:, None])
        rate = _load_rate(w, keys, exists[:, None])
        u_ = tl.load(u + (first + head) % H * N + channel)
        bonus += tl.sum(r_ * k_ * u_[None, :], axis=1)
        for level in tl.range(_log2(BLOCK), disable_licm=True):
            between, met = _tree_level(level, BLOCK)
            f = _factor(between, rate)
            a += tl.where(met, tl.dot(r_ * f, tl.trans(k_ * f), input_precision=PRECISION), 0.0)
        if STATES:
            for side in tl.range(2, disable_licm=True):
                at = _state_offsets(side, head, count, block, blocks, channel, value, N)
                state = _load(states, at, (value < N)[None, :])
                f = _factor(_order(side, BLOCK), rate)
                out += tl.dot(r_ * f, state, input_precision=PRECISION)
    a += _diagonal(bonus, BLOCK)
    values = start[:, None] + value[None, :]
    held = exists[:, None] & (value < N)[None, :]
    out += tl.dot(a, _load(v, values, held), input_precision=PRECISION)
    tl.store(y + values, out, mask=held)


@triton.jit
def _backward_kernel(
    gy, r, k, v, w, u, of_keys, of_receptances, gr, gk, gw, gu, first, count, T, H, blocks,
    N: tl.constexpr, VALUES: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    STATES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program per head and block; gu holds one row [N] per program. gv is a forward pass."""
    program = tl.program_id(0)
    head = program // blocks
    block = program % blocks
    start, exists = _token_offsets(first + head, block, T, H, N, BLOCK)
    exists = exists[:, None]
    ga = tl.zeros((BLOCK, BLOCK), tl.float32)
    g_bonus = tl.zeros((BLOCK,), tl.float32)
    for c in tl.range(0, N, TILE, disable_licm=True):
        values = start[:, None] + (c + tl.arange(0, TILE))[None, :]
        gy_ = _load(gy, values, exists)
        v_ = _load(v, values, exists)
        ga += tl.dot(gy_, tl.trans(v_), input_precision=PRECISION)
        g_bonus += tl.sum(gy_ * v_, axis=1)
    for c in tl.range(0, N, TILE, disable_licm=True):
        channel = c + tl.arange(0, TILE)
        keys = start[:, None] + channel[None, :]
        r_ = _load(r, keys, exists)
        k_ = _load(k, keys, exists)
        rate = _load_rate(w, keys, exists)
        u_ = tl.load(u + (first + head) % H * N + channel)[None, :]
        gu_at = ((first + head).to(tl.int64) * blocks + block) * N + channel
        tl.store(gu + gu_at, tl.sum(g_bonus[:, None] * r_ * k_, axis=0))
        gr_ = g_bonus[:, None] * u_ * k_
        gk_ = g_bonus[:, None] * u_ * r_
        g_log = tl.zeros((BLOCK, TILE), tl.float32)
        for level in tl.range(_log2(BLOCK), disable_licm=True):
            between, met = _tree_level(level, BLOCK)
            f = _factor(between, rate)
            r_f = r_ * f
            k_f = k_ * f
            ga_met = tl.where(met, ga, 0.0)
            g_r_f = tl.dot(ga_met, k_f, input_precision=PRECISION)
            g_k_f = tl.dot(tl.trans(ga_met), r_f, input_precision=PRECISION)
            gr_ += f * g_r_f
            gk_ += f * g_k_f
            # d/d(log factor) goes to every decay the factor is a product of.
            g_log += tl.dot(tl.trans(between), r_f * g_r_f + k_f * g_k_f, input_precision=PRECISION)
        if STATES:
            across = tl.zeros((TILE,), tl.float32)
            for side in tl.range(2, disable_licm=True):
                g_r_f = tl.zeros((BLOCK, TILE), tl.float32)
                g_k_f = tl.zeros((BLOCK, TILE), tl.float32)
                for j in tl.range(0, N, TILE, disable_licm=True):
                    value = j + tl.arange(0, TILE)
                    at = _state_offsets(side, head, count, block, blocks, channel, value, N)
                    there = _state_offsets(1 - side, head, count, block, blocks, channel, value, N)
                    values = start[:, None] + value[None, :]
                    state = tl.load(of_keys + at)
                    g_r_f += tl.dot(_load(gy, values, exists), tl.trans(state), input_precision=PRECISION)
                    # Every pair of tokens on opposite sides of the block decays by all of it.
                    across += tl.sum(state * tl.load(of_receptances + there), axis=1)
                    state = tl.load(of_receptances + at)
                    g_k_f += tl.dot(_load(v, values, exists), tl.trans(state), input_precision=PRECISION)
                between = _order(side, BLOCK)
                f = _factor(between, rate)
                gr_ += f * g_r_f
                gk_ += f * g_k_f
                g_f = f * (r_ * g_r_f + k_ * g_k_f)
                g_log += tl.dot(tl.trans(between), g_f, input_precision=PRECISION)
            g_log += (tl.exp(-tl.sum(rate, axis=0)) * across)[None, :]
        tl.store(gr + keys, gr_, mask=exists)
        tl.store(gk + keys, gk_, mask=exists)
        tl.store(gw + keys, -rate * g_log, mask=exists)
