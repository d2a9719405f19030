"""Has transformers' CLIP take images and texts of other sizes than its own, to time it.

Its image tower interpolates its positions itself where it is asked to; those of texts are interpolated here,
so that shapes and work are those of a model of that length. What it gives means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rwkvclip_eval.errors import UserError


@dataclass
class ClipSizes:
    """The sizes that a `CLIPModel` takes.

    Attributes:
        model: the whole.
        interpolate: whether images of other sizes than its own are to come; unasked they are refused.
    """

    model: Any
    interpolate: bool = False

    def take(self, size: tuple[int, int], length: int) -> None:
        """Take images of (height, width) px and texts of so many tokens from now on.

        Raises:
            UserError: such images hold no patch.
        """
        vision = self.model.config.vision_config
        patch = vision.patch_size
        if min(size) < patch:
            raise UserError(f"Images of {size[0]}×{size[1]} px hold no patch of {patch}×{patch} px.")
        self.interpolate = size != (vision.image_size, vision.image_size)
        _lengthen(self.model.text_model.embeddings, length)


def _lengthen(embeddings: Any, length: int) -> None:
    """Give the embeddings of tokens at least so many positions."""
    positions = embeddings.position_embedding.weight
    if len(positions) >= length:
        return
    with torch.no_grad():
        resized = F.interpolate(positions.detach().float().mT[None], size=length, mode="linear")[0].mT
    longer = nn.Embedding(len(resized), resized.shape[1], device="meta")
    weight = resized.to(positions.dtype).contiguous()
    longer.weight = nn.Parameter(weight, requires_grad=positions.requires_grad)
    embeddings.position_embedding = longer
    embeddings.position_ids = torch.arange(length, device=positions.device)[None]
