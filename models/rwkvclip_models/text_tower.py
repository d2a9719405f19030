"""The text tower of RWKV-CLIP: token embedding, blocks with bidirectional shift, mean of unit-norm tokens.

Paper and official code as in `layers.py` (model/Text_rwkv.py). There is no position embedding, no
projection and no end-of-text pooling: every position counts, padding (id 0) too.

Axes: B batch, T tokens, C width, H heads, N head width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rwkvclip_models.errors import UserError
from rwkvclip_models.layers import SpatialMix, channel_mix, in_pieces
from rwkvclip_models.ops import Shift, shift_lerp

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_models.config import RWKVCLIPConfig


class TextChannelMix(nn.Module):
    """Feed-forward half of a block: static lerp with the shifted tokens, squared ReLU, gate."""

    def __init__(self, width: int, hidden_width: int, implementation: str) -> None:
        super().__init__()
        self.implementation = implementation
        self.time_maa_k = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_r = nn.Parameter(torch.empty(1, 1, width))
        self.key = nn.Linear(width, hidden_width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor, shift: Shift, residual: Tensor) -> Tensor:
        """Return the mix [B, T, C] of x [B, T, C], added to `residual`."""
        x_k, x_r = self.lerps(x, shift)
        linears = self.key, self.receptance, self.value
        return channel_mix(x_k, x_r, linears, self.implementation, residual)

    def lerps(self, x: Tensor, shift: Shift) -> Tensor:
        """Return x lerped with its shifted tokens [2, B, T, C], for key and receptance."""
        mix = torch.cat([self.time_maa_k[0], self.time_maa_r[0]])
        return shift_lerp(x, mix, shift, implementation=self.implementation)


class TextBlock(nn.Module):
    """Pre-norm residual block; the first of the tower normalises its input once more."""

    def __init__(self, config: RWKVCLIPConfig, layer: int, implementation: str) -> None:
        super().__init__()
        width = config.n_embd
        self.shift_heads = width // config.head_size
        self.dropout = config.dropout
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.ln0 = nn.LayerNorm(width) if layer == 0 else None
        self.att = SpatialMix(
            width,
            config.dim_att,
            config.dim_att // config.head_size,
            eps=1e-5 * config.head_size_divisor**2,
            linears=("receptance", "key", "value", "output", "gate"),
            implementation=implementation,
        )
        self.ffn = TextChannelMix(width, config.dim_ffn, implementation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, C] after this block."""
        if self.ln0 is not None:
            x = self.ln0(x)
        shift = Shift(x.shape[1], 1, self.shift_heads, 2)
        x = F.dropout(x + self.att(self.ln1(x), shift), self.dropout, self.training)
        return F.dropout(self.ffn(self.ln2(x), shift, residual=x), self.dropout, self.training)


class TextTower(nn.Module):
    """Token ids to one un-normalised embedding per text."""

    def __init__(self, config: RWKVCLIPConfig, implementation: str = "auto") -> None:
        super().__init__()
        self.context_length = config.ctx_len
        self.with_cp = config.with_cp
        self.emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(
            TextBlock(config, layer, implementation) for layer in range(config.n_layer)
        )
        self.ln_out = nn.LayerNorm(config.n_embd)
        self._init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, C] of tokens [B, T] (ids, 1 ≤ T ≤ context length).

        Raises:
            UserError: tokens are not [B, T] or T is out of range.
        """
        if tokens.dim() != 2 or not 1 <= tokens.shape[1] <= self.context_length:
            raise UserError(
                f"Expected token ids [B, T] with T from 1 to {self.context_length}, got {list(tokens.shape)}."
            )
        return in_pieces(self._encode, tokens, tokens.shape[1], self.ln_out)

    def _encode(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        for block in self.blocks:
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return F.normalize(self.ln_out(x), dim=-1).mean(dim=1)

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Set the official initial values, which pass through bfloat16."""
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        scales = {"att.key": 0.1, "att.gate": 0.1, "ffn.key": 0.5}
        zeros = {"att.output", "ffn.value", "ffn.receptance"}
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, TextBlock)
            att, ffn = block.att, block.ffn
            att.init_ramps(layer, len(self.blocks))
            nn.init.zeros_(att.time_maa_w1)
            nn.init.zeros_(att.time_decay_w1)
            nn.init.uniform_(att.time_maa_w2, -0.01, 0.01)
            nn.init.uniform_(att.time_decay_w2, -0.01, 0.01)
            nn.init.constant_(att.ln_x.weight, ((1 + layer) / len(self.blocks)) ** 0.7)
            for mix in (ffn.time_maa_k, ffn.time_maa_r):
                mix.copy_(att.get_parameter("time_maa_x"))
            for name, module in block.named_modules():
                if name in zeros and isinstance(module, nn.Linear):
                    nn.init.zeros_(module.weight)
                elif isinstance(module, nn.Linear):
                    outputs, inputs = module.weight.shape
                    gain = math.sqrt(max(outputs / inputs, 1))
                    nn.init.orthogonal_(module.weight, gain=gain * scales.get(name, 1.0))
        for parameter in self.parameters():
            parameter.copy_(parameter.bfloat16())
