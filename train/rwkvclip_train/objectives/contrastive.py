"""The symmetric contrastive loss (InfoNCE) of CLIP, arXiv:2103.00020, figure 3.

Axes: B pairs, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the mean of the image→text and the text→image cross entropies, in nats.

    Row i of `image` and row i of `text` are a pair, every other row of the batch a negative. Computed in
    float32, of float64 embeddings in float64. The official code takes the mean of both directions;
    the paper of RWKV-CLIP writes their sum.

    Args:
        image: [B, D] image embeddings, of any norm.
        text: [B, D] text embeddings, of any norm.
        logit_scale: scalar multiplier of the cosine similarity (already exponentiated).

    Returns:
        Scalar; ln B for embeddings that say nothing.
    """
    exact = torch.promote_types(image.dtype, torch.float32)
    image = F.normalize(image.to(exact), dim=-1)
    text = F.normalize(text.to(exact), dim=-1)
    logits = logit_scale.to(exact) * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
