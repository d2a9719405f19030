"""The image tower of RWKV-CLIP: patch embedding, blocks with quad-directional shift, mean over patches.

Paper and official code as in `layers.py` (model/Image_rwkv.py); the released models have no class token
and no projection.

Axes: B batch, T patches, C width, H heads, N head width, h × w the patch grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rwkvclip_models.errors import UserError
from rwkvclip_models.layers import SpatialMix, channel_mix, drop_path, in_pieces
from rwkvclip_models.ops import Shift, shift_lerp

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_models.config import RWKVCLIPConfig


class ImageChannelMix(nn.Module):
    """Feed-forward half of a block: static lerp with the shifted tokens, squared ReLU, gate."""

    def __init__(self, width: int, hidden_width: int, implementation: str) -> None:
        super().__init__()
        self.implementation = implementation
        self.spatial_mix_k = nn.Parameter(torch.empty(1, 1, width))
        self.spatial_mix_r = nn.Parameter(torch.empty(1, 1, width))
        self.key = nn.Linear(width, hidden_width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor, shift: Shift, residual: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the mix [B, T, C] of x [B, T, C], times `scale` [B] if given, added to `residual`."""
        x_k, x_r = self.lerps(x, shift)
        return self.output_of(x_k, x_r, residual, scale)

    def lerps(self, x: Tensor, shift: Shift) -> Tensor:
        """Return x lerped with its shifted tokens [2, B, T, C], for key and receptance."""
        mix = 1 - torch.cat([self.spatial_mix_k[0], self.spatial_mix_r[0]])
        return shift_lerp(x, mix, shift, implementation=self.implementation)

    def output_of(self, x_k: Tensor, x_r: Tensor, residual: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the mix [B, T, C] of the lerps [B, T, C], times `scale` if given, added to `residual`."""
        linears = self.key, self.receptance, self.value
        return channel_mix(x_k, x_r, linears, self.implementation, residual, scale)


class ImageBlock(nn.Module):
    """Pre-norm residual block; the first of the tower normalises its input once more."""

    def __init__(self, config: RWKVCLIPConfig, layer: int, implementation: str) -> None:
        super().__init__()
        width = config.image_embed_dims
        self.heads = config.image_num_heads
        self.drop_path_rate = config.drop_path_rate * layer / max(config.image_depth - 1, 1)
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.ln0 = nn.LayerNorm(width) if layer == 0 else None
        self.att = SpatialMix(
            width,
            width,
            config.image_num_heads,
            eps=1e-5,
            linears=("key", "value", "receptance", "gate", "output"),
            implementation=implementation,
        )
        self.ffn = ImageChannelMix(width, config.image_hidden_rate * width, implementation)

    def forward(self, x: Tensor, grid: tuple[int, int], draws: Tensor | None = None) -> Tensor:
        """Return the tokens [B, h·w, C] after this block; `draws` [2, B] decide its drop path."""
        if self.ln0 is not None:
            x = self.ln0(x)
        shift = Shift(*grid, self.heads, 4)
        mixed = self.att(self.ln1(x), shift)
        for_mix, for_channels = (None, None) if draws is None else draws
        scale = drop_path(mixed, self.drop_path_rate, self.training, for_mix)
        x = x + mixed if scale is None else torch.addcmul(x, mixed, scale[:, None, None])
        z = self.ln2(x)
        scale = drop_path(z, self.drop_path_rate, self.training, for_channels)
        added: Tensor = self.ffn(z, shift, x, scale)
        return added


class PatchEmbedding(nn.Module):
    """Projects each patch; images are padded with zeros at the bottom and right to whole patches."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return [B, C, h, w] of pixels [B, 3, height, width]."""
        down, right = (-size % self.patch_size for size in pixels.shape[-2:])
        patches: Tensor = self.projection(F.pad(pixels, (0, right, 0, down)) if down or right else pixels)
        return patches


class ImageTower(nn.Module):
    """Pixels to one un-normalised embedding per image."""

    def __init__(self, config: RWKVCLIPConfig, implementation: str = "auto") -> None:
        super().__init__()
        width = config.image_embed_dims
        side = -(-config.input_size // config.image_patch_size)
        self.grid = (side, side)
        self.with_cp = config.with_cp
        self.pos_embed = nn.Parameter(torch.empty(1, side * side, width))
        self.patch_embed = PatchEmbedding(width, config.image_patch_size)
        self.layers = nn.ModuleList(
            ImageBlock(config, layer, implementation) for layer in range(config.image_depth)
        )
        self.ln1 = nn.LayerNorm(width)
        self._init_weights()

    def forward(self, pixels: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return [B, C] of pixels [B, 3, height, width] of any size.

        In training `draws`, uniform ones in [0, 1) [layers, 2, B], decide on drop path: a layer's mix of
        tokens or of channels leaves a sample as it is where its draw is below the layer's rate. Without them
        torch's generator does.

        Raises:
            UserError: pixels are not [B, 3, height, width].
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3:
            raise UserError(f"Expected pixels [B, 3, height, width], got {list(pixels.shape)}.")
        height, width = (-(-size // self.patch_embed.patch_size) for size in pixels.shape[-2:])
        if draws is not None:
            return self._encode(pixels, draws)
        return in_pieces(self._encode, pixels, height * width, self.ln1)

    def _encode(self, pixels: Tensor, draws: Tensor | None = None) -> Tensor:
        patches = self.patch_embed(pixels)
        grid = (patches.shape[2], patches.shape[3])
        x = patches.flatten(2).transpose(1, 2) + self._positions(grid)
        for number, layer in enumerate(self.layers):
            own = None if draws is None else draws[number]
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, grid, own, use_reentrant=False)
            else:
                x = layer(x, grid, own)
        pooled: Tensor = self.ln1(x).mean(dim=1)
        return pooled

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings [1, h·w, C], interpolated where the grid is another."""
        if grid == self.grid:
            return self.pos_embed
        table = torch.unflatten(self.pos_embed, 1, self.grid).permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Set the official initial values; linear layers keep PyTorch's."""
        nn.init.zeros_(self.pos_embed)
        for layer, block in enumerate(self.layers):
            assert isinstance(block, ImageBlock)
            att, ffn = block.att, block.ffn
            att.init_ramps(layer, len(self.layers))
            for low_rank in (att.time_maa_w1, att.time_maa_w2, att.time_decay_w1, att.time_decay_w2):
                nn.init.uniform_(low_rank, -1e-4, 1e-4)
            width = ffn.spatial_mix_k.shape[-1]
            ramp = (torch.arange(width, dtype=torch.float64) / width) ** (1 - layer / len(self.layers))
            ffn.spatial_mix_k.copy_(ramp)
            ffn.spatial_mix_r.copy_(ramp)
