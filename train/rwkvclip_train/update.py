"""One optimizer step: unscale, clip, refuse what is not finite, move the weights, hold the logit scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from rwkvclip_train.gradients import logit_scale_parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from rwkvclip_train.data.pairs import Batch, Pairs
    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe

MAX_LOGIT_SCALE = math.log(100)
"""CLIP keeps the multiplier of the cosine similarity at 100 or less."""

MIN_LOSS_SCALE = 2.0**-14
"""A gradient that is too large for float16 at this loss scale is so at any."""

Outcome = Literal["taken", "overflowed", "bad"]


class Update:
    """Moves the weights of one run.

    Args:
        model: with its gradients, times the scaler's scale.
        optimizer: of its parameters.
        scaler: of fp16's loss; disabled in other precisions.
        clip_norm: largest L2 norm of the gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        clip_norm: float,
    ) -> None:
        self.optimizer, self.scaler, self.clip_norm = optimizer, scaler, clip_norm
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._log_scale = logit_scale_parameter(model)

    def __call__(self, loss: float) -> tuple[Outcome, float]:
        """Take a step, and return what became of it and the gradient's norm before clipping.

        `bad`: loss or gradient are not finite, and no weight has moved. `overflowed`: float16 gradients did
        at this loss scale, which is halved; no weight has moved.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm).item()
        if math.isfinite(loss) and math.isfinite(norm):
            outcome: Outcome = "taken"
            self.scaler.step(self.optimizer)
            with torch.no_grad():
                self._log_scale.clamp_(0, MAX_LOGIT_SCALE)
        elif math.isfinite(loss) and self.scaler.is_enabled() and self.scaler.get_scale() > MIN_LOSS_SCALE:
            outcome = "overflowed"
        else:
            outcome = "bad"
        self.scaler.update()
        return outcome, norm


def not_finite(
    recipe: Recipe,
    pairs: Pairs,
    ranks: Ranks,
    step: int,
    num_steps: int,
    batches: Sequence[Batch],
    loss: float,
    grad_norm: float,
    finite: Tensor,
) -> str:
    """Return what to say of a step whose loss or gradient is not finite; all ranks ask."""
    keys = torch.cat([batch.keys for batch in batches]).to(ranks.device)
    rows = ranks.gather(torch.cat([keys, finite[:, None].to(keys)], dim=1)).tolist()
    bad = [(epoch, sample) for epoch, sample, is_finite in rows if not is_finite]
    named = [f"{pairs.name(key)} {key}" for key in (bad or [(rows[0][0], rows[0][1])])[:8]]
    which = (
        f"{len(bad)} of {len(rows)} pairs have embeddings that are not finite, with (epoch, sample): "
        f"{', '.join(named)}{', …' if len(bad) > 8 else ''}"
        if bad
        else f"the embeddings of all {len(rows)} pairs are finite; the first, with (epoch, sample), is "
        f"{named[0]}"
    )
    return (
        f"{recipe.name}: the loss is {loss:g} and the norm of its gradient {grad_norm:g} at step {step + 1} "
        f"of {num_steps}; the step was not taken. {which}. Lower lr ({recipe.lr:g}), raise warmup_fraction "
        f"({recipe.warmup_fraction:g}) or use precision fp32, in a new --out folder; --skip-bad N leaves out "
        "N such steps."
    )
