"""A training step of a CLIP-like model, to be timed: forward of both towers, loss, backward, AdamW.

Axes: B batch, D embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rwkvclip_eval.encoders.arithmetic import arithmetic
from rwkvclip_models.matmul import forget

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_eval.encoders.towers import Towers

LEARNING_RATE = 1e-6
"""So small that random weights stay what they are over a measurement."""


class TrainingStep:
    """One step of contrastive training on a batch that stays the same.

    Args:
        towers: of a model with text; its module is trained, and is in training mode from now on.
        pixels: [B, 3, H, W].
        tokens: [B, L].
        precision: `fp32`, `bf16` or `fp16` (without a gradient scaler: it does not change the work).
    """

    def __init__(self, towers: Towers, pixels: Tensor, tokens: Tensor, precision: str) -> None:
        assert towers.text is not None
        self._towers, self._pixels, self._tokens, self._precision = towers, pixels, tokens, precision
        self._text = towers.text
        module = towers.module.train().requires_grad_(True)
        for parameter in module.parameters():
            # Packed copies are for weights that stay, and take memory.
            forget(parameter)
        # One pass over all parameters where torch has it: every trainer of that size uses it.
        fused = pixels.device.type in ("cpu", "cuda")
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, fused=fused)
        scale = getattr(module, "logit_scale", None)
        self._scale = scale if isinstance(scale, torch.Tensor) else torch.tensor(math.log(100.0))

    def loss(self) -> Tensor:
        """Return the symmetric InfoNCE loss of the batch (Radford et al. 2021, figure 3)."""
        with arithmetic(self._pixels.device, self._precision):
            images = F.normalize(self._towers.image(self._pixels)[0], dim=-1)
            texts = F.normalize(self._text(self._tokens), dim=-1)
            logits = self._scale.exp() * images @ texts.mT
        targets = torch.arange(len(logits), device=logits.device)
        logits = logits.float()
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.mT, targets)) / 2

    def __call__(self) -> None:
        """Take one step."""
        self._optimizer.zero_grad(set_to_none=True)
        self.loss().backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self._optimizer.step()
