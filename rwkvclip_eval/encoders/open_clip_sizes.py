"""Has open_clip's models take images and texts of other sizes than their own, to time them.

Positions are interpolated, so that shapes and work are those of a model of that size; what it gives means
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


def sizes_taker(model: Any) -> Callable[[tuple[int, int], int], None] | None:
    """Return what sets the sizes of a model of plain transformers; None for others."""
    text = model if isinstance(model, open_clip.CLIP) else getattr(model, "text", None)
    visual = getattr(model, "visual", None)
    learned = isinstance(getattr(visual, "positional_embedding", None), nn.Parameter)
    if not (isinstance(visual, VisionTransformer) and learned):
        return None
    if type(text) not in (open_clip.CLIP, TextTransformer) or getattr(text, "cls_emb", None) is not None:
        return None

    def take(size: tuple[int, int], length: int) -> None:
        _take_image(visual, size)
        if length:
            _take_text(text, length)

    return take


def _take_image(visual: Any, size: tuple[int, int]) -> None:
    patch = visual.conv1.stride
    grid = size[0] // patch[0], size[1] // patch[1]
    if 0 in grid:
        raise UserError(f"Images of {size[0]}×{size[1]} px hold no patch of {patch[0]}×{patch[1]} px.")
    _resample(visual, grid[0] * grid[1] + 1)


def _take_text(text: Any, length: int) -> None:
    _resample(text, length)
    if text.attn_mask is not None:
        mask = torch.full((length, length), float("-inf"), device=text.positional_embedding.device).triu(1)
        text.attn_mask = mask.to(text.attn_mask.dtype)
    text.context_length = length


def _resample(tower: Any, count: int) -> None:
    """Give a tower so many positions; which is where does not matter for its speed."""
    positions = tower.positional_embedding
    if len(positions) == count:
        return
    with torch.no_grad():
        resized = F.interpolate(positions.detach().float().mT[None], size=count, mode="linear")[0].mT
        resized = resized.to(positions.dtype).contiguous()
    tower.positional_embedding = nn.Parameter(resized, requires_grad=positions.requires_grad)
