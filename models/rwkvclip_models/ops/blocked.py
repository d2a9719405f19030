"""Bi-WKV as one T×T matrix per head, built in a tree of blocks; plain torch on any device.

The weight of token s in the output of token t is Σ_n r_tn k_sn Π_{strictly between} d_n. For two
adjacent blocks of b tokens the product splits at their common boundary into a factor of t alone and
one of s alone, so every off-diagonal block is one small matrix product; blocks double until they hold
all T tokens. The factors are products of decays in (0, 1]: nothing is divided, nothing overflows, and
what underflows is zero. Equations: `cuda/README.md`.

Axes: B batch, T tokens, H heads, N head width, M = B·H, b tokens in a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from rwkvclip_models.ops.reference import MAX_RAW_DECAY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

MAX_DENSE_TOKENS = 256
"""Longest sequence served by one T×T matrix; longer ones are cut and carry a state from piece to piece."""

CACHE_ELEMENTS = 1 << 18
"""Elements per operand and CPU thread of a batch chunk; its working set stays within the caches."""

ACCELERATOR_ELEMENTS = 1 << 25
"""Elements per operand of a batch chunk on other devices; bounds the workspace."""


def bi_wkv6_torch(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return y [B, T, H, N] in the dtype of `r`; arguments as in `reference.bi_wkv6_reference`.

    Work and memory are linear in T beyond `MAX_DENSE_TOKENS`. First derivatives only.
    """
    batch, num_tokens = r.shape[0], len(range(r.shape[1]))  # a constant, even where a compiler has a symbol
    if num_tokens <= MAX_DENSE_TOKENS:
        y: Tensor = _Dense.apply(r, k, v, w, u)
        return y
    pieces = -(-num_tokens // MAX_DENSE_TOKENS)
    length = -(-num_tokens // pieces)
    padding = pieces * length - num_tokens
    cut = [torch.unflatten(F.pad(x, (0, 0, 0, 0, 0, padding)), 1, (pieces, length)) for x in (r, k, v, w)]
    r, k, v, w = (x.flatten(0, 1) for x in cut)
    inside = torch.unflatten(bi_wkv6_torch(r, k, v, w, u), 0, (batch, pieces))
    with without_autocast(r):
        across = _across(*cut)
    return (inside + across.to(inside.dtype)).flatten(1, 2)[:, :num_tokens]


def _across(r: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Return what tokens of other pieces add to y; all [B, pieces, length, H, N]."""
    dtype = torch.promote_types(r.dtype, torch.float32)
    r, k, v = (x.to(dtype).transpose(2, 3) for x in (r, k, v))
    before, after, total = to_edges(w.to(dtype))

    def carry(states: Tensor, order: range) -> Tensor:
        state = torch.zeros_like(states[:, 0])
        seen = {}
        for i in order:
            seen[i] = state
            state = total[:, i] * state + states[:, i]
        return torch.stack([seen[i] for i in range(states.shape[1])], dim=1)

    pieces = r.shape[1]
    past = carry((k * after).mT @ v, range(pieces))
    future = carry((k * before).mT @ v, range(pieces - 1, -1, -1))
    return ((r * before) @ past + (r * after) @ future).transpose(2, 3)


def to_edges(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return products of the decays exp(−exp(w)) of a piece, w […, T, H, N].

    They are of the decays before each token and after it, both […, H, T, N] and exclusive of the token, and
    of all of them […, H, N, 1]. Sums of logarithms of one sign: nothing is subtracted, and what underflows
    is zero.
    """
    log_decay = torch.exp(w.clamp(max=MAX_RAW_DECAY)).neg().transpose(-3, -2)
    # Exclusive sums, from shifted terms: a difference of inclusive sums would cancel.
    zero = torch.zeros_like(log_decay[..., :1, :])
    before = torch.cat([zero, log_decay[..., :-1, :]], dim=-2).cumsum_(-2).exp_()
    after = torch.cat([log_decay[..., 1:, :], zero], dim=-2).flip(-2).cumsum_(-2).flip(-2).exp_()
    return before, after, log_decay.sum(-2).exp().unsqueeze(-1)


@dataclass(frozen=True)
class _Join:
    """Equal pairs of adjacent blocks.

    Attributes:
        start: their first token.
        count: of pairs.
        left: tokens of each first block.
        right: tokens of each second block.
    """

    start: int
    count: int
    left: int
    right: int

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return views [M, count, left, …] and [M, count, right, …] of x [M, T, …]."""
        width = self.left + self.right
        pairs = torch.unflatten(x.narrow(1, self.start, self.count * width), 1, (self.count, width))
        return pairs.narrow(2, 0, self.left), pairs.narrow(2, self.left, self.right)

    def corners(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of a [M, T, T]: rows right × columns left, and left × right."""
        width = self.left + self.right
        for axis in (1, 2):
            a = a.narrow(axis, self.start, self.count * width)
        grid = torch.unflatten(torch.unflatten(a, 2, (self.count, width)), 1, (self.count, width))
        pairs = grid.diagonal(dim1=1, dim2=3).movedim(-1, 1)
        return pairs[:, :, self.left :, : self.left], pairs[:, :, : self.left, self.left :]


def _joins(num_tokens: int) -> Iterator[_Join]:
    """Yield the joins of the tree, smallest blocks first; a ragged last block waits for a partner."""
    b = 1
    while b < num_tokens:
        count, rest = divmod(num_tokens, 2 * b)
        if count:
            yield _Join(0, count, b, b)
        if rest > b:
            yield _Join(count * 2 * b, 1, b, rest - b)
        b *= 2


class _Factors:
    """Products of decays from each token to the edges of its block, exclusive of the token.

    `to_end` serves tokens left of a boundary, `from_start` tokens right of it; both [M, T, N].
    """

    def __init__(self, decay: Tensor) -> None:
        self.decay = decay
        self.to_end = torch.ones_like(decay)
        self.from_start = torch.ones_like(decay)

    def facing(self, join: _Join) -> tuple[Tensor, Tensor]:
        """Return views of the factors toward a boundary: [M, count, left, N] and [M, count, right, N]."""
        return join.halves(self.to_end)[0], join.halves(self.from_start)[1]

    def grow(self, join: _Join) -> None:
        """Make the factors those of the joined blocks."""
        decay_left, decay_right = join.halves(self.decay)
        left_end, right_end = join.halves(self.to_end)
        left_start, right_start = join.halves(self.from_start)
        left_total = left_start[:, :, -1:] * decay_left[:, :, -1:]
        right_total = right_end[:, :, :1] * decay_right[:, :, :1]
        left_end *= right_total
        right_start *= left_total


class _Dense(torch.autograd.Function):
    """y for T ≤ MAX_DENSE_TOKENS; keeps only its inputs and computes the rest again in backward."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(r, k, v, w, u)
        y = torch.empty_like(r, memory_format=torch.contiguous_format)
        dtype = torch.promote_types(r.dtype, torch.float32)
        bonus = u.to(dtype)
        with without_autocast(r):
            for rows in _chunks(r):
                r_, k_, v_, w_ = (_by_head(x[rows], dtype) for x in (r, k, v, w))
                factors = _Factors(w_.clamp_(max=MAX_RAW_DECAY).exp_().neg_().exp_())
                a = r_.new_empty(r_.shape[0], r_.shape[1], r_.shape[1])
                _put_bonus(a, r_, k_, bonus)
                for join in _joins(r_.shape[1]):
                    facing = factors.facing(join)
                    r_left, r_right = _times(join.halves(r_), facing)
                    k_left, k_right = _times(join.halves(k_), facing)
                    lower, upper = join.corners(a)
                    lower.copy_(r_right @ k_left.mT)
                    upper.copy_(r_left @ k_right.mT)
                    factors.grow(join)
                y[rows] = _by_token(a @ v_, bonus)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = _DenseBackward.apply(gy, *ctx.saved_tensors)
        return gradients


class _DenseBackward(torch.autograd.Function):
    """The gradients of r, k, v, w, u; a function of its own so that its derivative is refused, never lost."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
    ) -> tuple[Tensor, ...]:
        gr, gk, gv, gw = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (r, k, v, w))
        dtype = torch.promote_types(r.dtype, torch.float32)
        bonus = u.to(dtype)
        gu = torch.zeros_like(bonus)
        with without_autocast(r):
            for rows in _chunks(r):
                r_, k_, v_, w_, gy_ = (_by_head(x[rows], dtype) for x in (r, k, v, w, gy))
                rate = w_.clamp_(max=MAX_RAW_DECAY).exp_()
                factors = _Factors(rate.neg().exp_())
                ga = gy_ @ v_.mT
                a = torch.empty_like(ga)
                _put_bonus(a, r_, k_, bonus)
                g_diagonal = ga.diagonal(dim1=1, dim2=2).unsqueeze(-1)
                by_bonus = g_diagonal * _per_head(bonus, r_)
                gr_, gk_ = by_bonus * k_, by_bonus * r_
                g_log = torch.zeros_like(r_)
                gu += _heads((g_diagonal * r_ * k_).sum(1), bonus).sum(0)
                for join in _joins(r_.shape[1]):
                    facing = factors.facing(join)
                    r_left, r_right = _times(join.halves(r_), facing)
                    k_left, k_right = _times(join.halves(k_), facing)
                    lower, upper = join.corners(a)
                    lower.copy_(r_right @ k_left.mT)
                    upper.copy_(r_left @ k_right.mT)
                    g_lower, g_upper = join.corners(ga)
                    gr_left, gr_right = g_upper @ k_right, g_lower @ k_left
                    gk_left, gk_right = g_lower.mT @ r_right, g_upper.mT @ r_left
                    # d/d(log factor), then to every decay the factor is a product of: those after a
                    # left token, those before a right token.
                    g_left = gr_left * r_left + gk_left * k_left
                    g_right = gr_right * r_right + gk_right * k_right
                    log_left, log_right = join.halves(g_log)
                    log_left += g_left.new_ones(join.left, join.left).tril(-1) @ g_left
                    log_right += g_right.new_ones(join.right, join.right).triu(1) @ g_right
                    for total, parts in ((gr_, (gr_left, gr_right)), (gk_, (gk_left, gk_right))):
                        for half, part, factor in zip(join.halves(total), parts, facing, strict=True):
                            half.addcmul_(part, factor)
                    factors.grow(join)
                for whole, part in ((gr, gr_), (gk, gk_), (gv, a.mT @ gy_), (gw, g_log.mul_(rate).neg_())):
                    whole[rows] = _by_token(part, bonus)
        return gr, gk, gv, gw, gu.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(
            "Bi-WKV's torch implementation has no second derivatives; the reference implementation has."
        )


def _chunks(r: Tensor) -> Iterator[slice]:
    """Yield slices of the batch whose operands stay in cache (CPU) or bound the workspace (elsewhere)."""
    batch, num_tokens, heads, width = r.shape
    if torch.compiler.is_compiling():
        yield slice(None)  # the batch may be a symbol, which no loop can run to
        return
    on_cpu = r.device.type == "cpu"
    elements = CACHE_ELEMENTS * torch.get_num_threads() if on_cpu else ACCELERATOR_ELEMENTS
    most = max(1, elements // max(1, num_tokens * heads * width))
    pieces = -(-batch // most) if r.numel() else 0
    for i in range(pieces):
        yield slice(batch * i // pieces, batch * (i + 1) // pieces)


def without_autocast(x: Tensor) -> torch.autocast:
    """Return the context in which autocast is off on the device of x."""
    # Torch has no autocast for "meta".
    return torch.autocast("cpu" if x.device.type == "meta" else x.device.type, enabled=False)


def _times(halves: tuple[Tensor, Tensor], factors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return halves[0] * factors[0], halves[1] * factors[1]


def _by_head(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous copy [M, T, N] of x [B, T, H, N]."""
    copied = torch.empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3], dtype=dtype, device=x.device)
    return copied.copy_(x.transpose(1, 2)).flatten(0, 1)


def _heads(x: Tensor, bonus: Tensor) -> Tensor:
    """Return x [M, …] as [B, H, …]."""
    return torch.unflatten(x, 0, (x.shape[0] // bonus.shape[0], bonus.shape[0]))


def _by_token(x: Tensor, bonus: Tensor) -> Tensor:
    """Return x [M, T, N] as a view [B, T, H, N]."""
    return _heads(x, bonus).transpose(1, 2)


def _per_head(bonus: Tensor, like: Tensor) -> Tensor:
    """Return bonus [H, N] as [M, 1, N]."""
    return bonus.repeat(like.shape[0] // bonus.shape[0], 1).unsqueeze(1)


def _put_bonus(a: Tensor, r: Tensor, k: Tensor, bonus: Tensor) -> None:
    """Write the current token's weight r·(u∘k) to the diagonal of a [M, T, T]."""
    a.diagonal(dim1=1, dim2=2).copy_((r * k * _per_head(bonus, r)).sum(-1))
