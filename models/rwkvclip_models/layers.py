"""Pieces both towers share: spatial mix, channel mix, drop path.

RWKV-CLIP (https://arxiv.org/abs/2406.06973); official code: github.com/deepglint/RWKV-CLIP,
model/Image_rwkv.py and model/Text_rwkv.py. Released checkpoints follow the code where the paper differs,
and so does this file; parameter names are the official ones.

Axes: B batch, T tokens, C width, H heads, N head width (C = H·N), h × w the token grid.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rwkvclip_models.matmul import linear, pack
from rwkvclip_models.ops import (
    Shift,
    bi_wkv6,
    dynamic_lerp,
    gated_add,
    norm_gate,
    relu_square,
    shift_lerp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

MIX_RANK = 32
"""Rank of each data-dependent lerp."""
DECAY_RANK = 64
"""Rank of the data-dependent decay."""
NUM_MIXES = 5
"""Mixes of a token and its neighbours: for decay, key, value, receptance and gate."""
PIECE_BYTES = 24 << 20
"""Bytes of the mixes, the official towers' largest block, that a CPU makes at a time without gradients. More
fall out of its caches, and blocks over 32 MiB come from the system page by page each time (glibc)."""


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
        self.time_maa_w1 = nn.Parameter(torch.empty(width, NUM_MIXES * MIX_RANK))
        self.time_maa_w2 = nn.Parameter(torch.empty(NUM_MIXES, MIX_RANK, width))
        self.time_decay = nn.Parameter(torch.empty(1, 1, inner_width))
        self.time_decay_w1 = nn.Parameter(torch.empty(width, DECAY_RANK))
        self.time_decay_w2 = nn.Parameter(torch.empty(DECAY_RANK, inner_width))
        self.time_faaaa = nn.Parameter(torch.empty(heads, inner_width // heads))
        for name in linears:
            ends = (inner_width, width) if name == "output" else (width, inner_width)
            self.add_module(name, nn.Linear(*ends, bias=False))
        self.ln_x = nn.GroupNorm(heads, inner_width, eps=eps)

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        """Return the mix [B, T, C] of x [B, T, C]."""
        x_w, x_k, x_v, x_r, x_g = self.lerps(x, shift)
        r, k, v, w = self.operands(x_w, x_k, x_v, x_r)
        gate = self.gate_of(x_g)
        return self.output_of(self.recurrence(r, k, v, w), gate)

    def lerps(self, x: Tensor, shift: Shift, mixes: str = "wkvrg") -> Tensor:
        """Return x lerped with its shifted tokens [K, B, T, C], for each of `mixes`, the first of "wkvrg"."""
        b, t, c = x.shape
        run: dict[str, Any] = {"implementation": self.implementation}
        x_x = shift_lerp(x, self.get_parameter("time_maa_x")[0], shift, **run)
        low_rank = torch.tanh(linear(x_x.view(b * t, c), self.time_maa_w1, transposed=True, **run))
        low_rank = low_rank.view(b, t, NUM_MIXES * MIX_RANK)
        up: Tensor = self.time_maa_w2
        if len(mixes) < NUM_MIXES:
            low_rank, up = low_rank[..., : len(mixes) * MIX_RANK], up[: len(mixes)]
        base = torch.cat([self.get_parameter(f"time_maa_{name}")[0] for name in mixes])
        return dynamic_lerp(x, low_rank, base, up, shift, **run)

    def operands(
        self, x_w: Tensor, x_k: Tensor, x_v: Tensor, x_r: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Bi-WKV's r, k, v, w [B, T, H, N] of the lerps [B, T, C] for w, k, v, r."""
        r, k, v = self._linear("receptance", x_r), self._linear("key", x_k), self._linear("value", x_v)
        # Decay and bonus stay float32 whatever the precision: rounded to bfloat16 they change the model.
        exact = torch.promote_types(r.dtype, torch.float32)
        run: dict[str, Any] = {"implementation": self.implementation}
        low_rank = torch.tanh(linear(x_w, self.time_decay_w1, transposed=True, **run))
        w = linear(low_rank, self.time_decay_w2, transposed=True, **run).to(exact).add_(self.time_decay)
        r, k, v, w = (z.view(*z.shape[:2], *self.time_faaaa.shape) for z in (r, k, v, w))
        return r, k, v, w

    def recurrence(self, r: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return Bi-WKV's y [B, T, H, N] of its operands."""
        return bi_wkv6(r, k, v, w, self.bonus(w), implementation=self.implementation)

    def bonus(self, w: Tensor) -> Tensor:
        """Return Bi-WKV's u [H, N], in the dtype of w."""
        return self.time_faaaa.to(w.dtype)

    def gate_of(self, x_g: Tensor) -> Tensor:
        """Return the gate [B, T, H·N], before its SiLU, of the lerp for it [B, T, C]."""
        return self._linear("gate", x_g)

    def output_of(self, y: Tensor, gate: Tensor) -> Tensor:
        """Return the mix [B, T, C] of Bi-WKV's y [B, T, H, N] and the gate [B, T, H·N]."""
        return self._linear("output", self.normed(y, gate))

    def normed(self, y: Tensor, gate: Tensor) -> Tensor:
        """Return the normed y times the gate's SiLU [B, T, H·N]."""
        norm = self.ln_x
        return norm_gate(
            y.view(gate.shape),
            gate,
            norm.weight,
            norm.bias,
            heads=norm.num_groups,
            eps=norm.eps,
            implementation=self.implementation,
        )

    def _linear(self, name: str, x: Tensor) -> Tensor:
        module = self.get_submodule(name)
        assert isinstance(module, nn.Linear)
        return linear(x, module.weight, implementation=self.implementation)

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


def channel_mix(
    x_k: Tensor,
    x_r: Tensor,
    linears: tuple[nn.Linear, nn.Linear, nn.Linear],
    implementation: str,
    residual: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Return residual + scale · sigmoid(receptance(x_r)) · value(relu(key(x_k))²) [B, T, C].

    Args:
        x_k: tokens lerped with their shifted ones, for the key [B, T, C].
        x_r: as x_k, for the receptance.
        linears: key, receptance, value.
        implementation: of the elementwise operators.
        residual: [B, T, C].
        scale: of each sample [B]; 1 by default.
    """
    run: dict[str, Any] = {"implementation": implementation}
    key, receptance, value = (module.weight for module in linears)
    hidden = linear(x_k, key, **run)
    hidden = relu_square(hidden, overwrite=not hidden.requires_grad, **run)
    gate, mixed = linear(x_r, receptance, **run), linear(hidden, value, **run)
    return gated_add(residual, gate, mixed, scale, **run)


def pack_weights(tower: nn.Module, dtype: torch.dtype) -> None:
    """Pack every weight that `tower` multiplies by, for products in `dtype`; see `matmul.pack`."""
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            pack(module.weight, dtype)
        elif isinstance(module, SpatialMix):
            for weight in (module.time_maa_w1, module.time_decay_w1, module.time_decay_w2):
                pack(weight, dtype, transposed=True)


def drop_path(x: Tensor, rate: float, training: bool, draws: Tensor | None = None) -> Tensor | None:
    """Return factors [B] of samples of x: zero with probability `rate`, else 1/(1 − rate); None for ones.

    Args:
        x: samples [B, …].
        rate: probability of zero.
        training: False gives ones.
        draws: uniform ones in [0, 1) [B], below `rate` for zero; by default of torch's generator.
    """
    if rate == 0 or not training:
        return None
    if draws is not None:
        return (draws >= rate).to(x.dtype).div_(1 - rate)
    return x.new_empty(x.shape[0]).bernoulli_(1 - rate).div_(1 - rate)


def in_pieces(encode: Callable[[Tensor], Tensor], x: Tensor, num_tokens: int, norm: nn.LayerNorm) -> Tensor:
    """Return encode(x), on a CPU without gradients over equal pieces of the batch.

    The mixes of a piece take at most `PIECE_BYTES`, or it is one sample.

    Args:
        encode: treats every sample for itself.
        x: samples [B, …].
        num_tokens: of one sample.
        norm: one of the tower's, for its width and dtype.
    """
    # In training a pass without gradients is repeated with them, and draws alike only over the same batch.
    whole = norm.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if x.device.type != "cpu" or whole:
        return encode(x)
    _let_the_allocator_keep_blocks()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else norm.weight.dtype
    # A CPU's float16 passes through float32.
    size = 4 if dtype == torch.float16 else dtype.itemsize
    most = max(1, PIECE_BYTES // max(1, num_tokens * NUM_MIXES * norm.weight.numel() * size))
    pieces = -(-x.shape[0] // most)
    return encode(x) if pieces <= 1 else torch.cat([encode(piece) for piece in x.chunk(pieces)])


@functools.cache
def _let_the_allocator_keep_blocks() -> None:
    """Free one block of nearly 32 MiB: from then on glibc keeps freed blocks up to that size."""
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8, device="cpu")
