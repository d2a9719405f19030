"""Pieces both towers share: token shift, spatial mix, drop path.

RWKV-CLIP (https://arxiv.org/abs/2406.06973); official code: github.com/deepglint/RWKV-CLIP,
model/Image_rwkv.py and model/Text_rwkv.py. Released checkpoints follow the code where the paper differs,
and so does this file; parameter names are the official ones.

Axes: B batch, T tokens, C width, H heads, N head width (C = H·N), h × w the token grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from rwkvclip_models.ops import bi_wkv6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MIX_RANK = 32
"""Rank of each data-dependent lerp."""
DECAY_RANK = 64
"""Rank of the data-dependent decay."""

Moves = tuple[tuple[int, int], ...]
"""(grid axis, ±1) per equal group of a head's channels: +1 takes the neighbour before, −1 the one after."""


class _ShiftDelta(torch.autograd.Function):
    """s(x) − x for x [B, h, w, H, N]; the adjoint moves the other way."""

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


def shift_delta(x: Tensor, grid: tuple[int, int], heads: int, moves: Moves) -> Tensor:
    """Return s(x) − x [B, T, C]: each channel group of every head moved one token, zeros at the border.

    Args:
        x: [B, T, C] with T = h·w.
        grid: (h, w).
        heads: H; groups are formed inside each head's N channels.
        moves: one move per group; grid axis 1 is h, 2 is w.
    """
    b, t, c = x.shape
    delta: Tensor = _ShiftDelta.apply(x.view(b, *grid, heads, c // heads), moves)
    return delta.view(b, t, c)


class SpatialMix(nn.Module):
    """RWKV-6 time mix made bidirectional: data-dependent lerp, Bi-WKV, group norm, gate, output.

    Args:
        width: C of input and output.
        inner_width: H·N.
        heads: H.
        eps: of the group norm.
        linears: the five projections in the order of the official state dict.
        implementation: of Bi-WKV.
    """

    def __init__(
        self,
        width: int,
        inner_width: int,
        heads: int,
        *,
        eps: float,
        linears: Sequence[str],
        implementation: str,
    ) -> None:
        super().__init__()
        self.implementation = implementation
        for name in "xwkvrg":
            self.register_parameter(f"time_maa_{name}", nn.Parameter(torch.empty(1, 1, width)))
        self.time_maa_w1 = nn.Parameter(torch.empty(width, 5 * MIX_RANK))
        self.time_maa_w2 = nn.Parameter(torch.empty(5, MIX_RANK, width))
        self.time_decay = nn.Parameter(torch.empty(1, 1, inner_width))
        self.time_decay_w1 = nn.Parameter(torch.empty(width, DECAY_RANK))
        self.time_decay_w2 = nn.Parameter(torch.empty(DECAY_RANK, inner_width))
        self.time_faaaa = nn.Parameter(torch.empty(heads, inner_width // heads))
        for name in linears:
            ends = (inner_width, width) if name == "output" else (width, inner_width)
            self.add_module(name, nn.Linear(*ends, bias=False))
        self.ln_x = nn.GroupNorm(heads, inner_width, eps=eps)

    def forward(self, x: Tensor, delta: Tensor) -> Tensor:
        """Return the mix [B, T, C] of x [B, T, C] and delta = s(x) − x."""
        b, t, c = x.shape
        x, delta = x.reshape(b * t, c), delta.reshape(b * t, c)
        low_rank = torch.tanh(torch.addcmul(x, delta, self.get_parameter("time_maa_x")[0]) @ self.time_maa_w1)
        base = torch.cat([self.get_parameter(f"time_maa_{name}") for name in "wkvrg"])
        mixes = torch.baddbmm(base, low_rank.view(b * t, 5, MIX_RANK).transpose(0, 1), self.time_maa_w2)
        x_w, x_k, x_v, x_r, x_g = torch.addcmul(x, delta, mixes)
        r, k, v = self._linear("receptance", x_r), self._linear("key", x_k), self._linear("value", x_v)
        gate = F.silu(self._linear("gate", x_g))
        # Decay and bonus stay float32 whatever the precision: rounded to bfloat16 they change the model.
        exact = torch.promote_types(r.dtype, torch.float32)
        w = self.time_decay[0].to(exact) + (torch.tanh(x_w @ self.time_decay_w1) @ self.time_decay_w2).to(
            exact
        )
        r, k, v, w = (z.view(b, t, *self.time_faaaa.shape) for z in (r, k, v, w))
        y = bi_wkv6(r, k, v, w, self.time_faaaa.to(exact), implementation=self.implementation)
        out = self._linear("output", self.ln_x(y.reshape(gate.shape)) * gate)
        return out.view(b, t, c)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(name)(x)
        return y

    @torch.no_grad()
    def init_ramps(self, layer: int, depth: int) -> None:
        """Set mixes, decay and bonus to their depth-dependent initial values (RWKV-6 convention)."""
        width, inner_width = self.time_maa_w1.shape[0], self.time_decay.numel()
        late = layer / max(depth - 1, 1)
        early = 1 - layer / depth
        channel = torch.arange(width, dtype=torch.float64) / width
        for name in "xwkvrg":
            power = early / 2 if name in "rg" else early
            offset = 0.3 * late if name == "v" else 0.0
            self.get_parameter(f"time_maa_{name}").copy_(1 - channel**power - offset)
        inner = torch.arange(inner_width, dtype=torch.float64)
        ramp = inner / max(inner_width - 1, 1)
        self.time_decay.copy_(-6 + 5 * ramp ** (0.7 + 1.3 * late))
        zigzag = ((inner + 1) % 3 - 1) * 0.1
        self.time_faaaa.copy_((late * (1 - ramp) + zigzag).view_as(self.time_faaaa))


def channel_mix(x_k: Tensor, x_r: Tensor, key: nn.Linear, receptance: nn.Linear, value: nn.Linear) -> Tensor:
    """Return sigmoid(receptance(x_r)) · value(relu(key(x_k))²), all [B, T, C]."""
    hidden = key(x_k)
    hidden = F.relu(hidden).square() if hidden.requires_grad else hidden.relu_().square_()
    gated: Tensor = torch.sigmoid(receptance(x_r)) * value(hidden)
    return gated


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x with whole samples zeroed with probability `rate` and the rest scaled by 1/(1 − rate)."""
    if rate == 0 or not training:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - rate)
    return x * keep.div_(1 - rate)
