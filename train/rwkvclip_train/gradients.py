"""The gradients of one step over the batch of all processes, in one pass or in several.

In several passes, all embeddings are made first, without gradients; the loss gives the gradient of each of
them; then every pass is repeated and takes its own on to the weights. The result is that of one pass, in the
memory of a part (Gao et al. 2021, arXiv:2101.06983).

Axes: B pairs over all processes, b pairs of this one, D embedding.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from rwkvclip_train.objectives.contrastive import global_contrastive_loss
from rwkvclip_train.order import drop_path_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from rwkvclip_train.data.pairs import Batch
    from rwkvclip_train.models import Trainee
    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision → what autocast computes in."""


class StepLoss(NamedTuple):
    """What a step's passes gave beside gradients.

    Attributes:
        loss: over the whole batch, the same on every rank.
        finite: whether all numbers of a pair's embeddings are [b] bool.
    """

    loss: float
    finite: Tensor


class StepGradients:
    """Computes the gradients of the steps of one run.

    Args:
        trainee: the model.
        ranks: of the run.
        recipe: of the run.
        scaler: of fp16's loss.
    """

    def __init__(self, trainee: Trainee, ranks: Ranks, recipe: Recipe, scaler: torch.amp.GradScaler) -> None:
        self.trainee, self.ranks, self.recipe, self.scaler = trainee, ranks, recipe, scaler
        # Not every parameter of every CLIP has a part in its embeddings.
        self.model = ranks.data_parallel(trainee.module, unused=trainee.family != "rwkv-clip")
        self._dtype = AUTOCAST.get(recipe.precision)
        self._input_dtype = torch.float64 if recipe.precision == "fp64" else torch.float32

    def __call__(self, step: int, batches: Sequence[Batch]) -> StepLoss:
        """Add the gradients of `step`, times the scaler's scale, to the weights'; the mean over ranks.

        Args:
            step: from 0.
            batches: of each pass, in order.
        """
        several = len(batches) > 1
        with torch.set_grad_enabled(not several):
            made = [self._embed(self.trainee.module if several else self.model, step, b) for b in batches]
        # The loss sees leaves: what it leaves there is handed on to the towers, at once or pass by pass.
        image, text = (torch.cat([_exact(pair[i]) for pair in made]).requires_grad_() for i in (0, 1))
        log_scale = logit_scale_parameter(self.trainee.module)
        loss = global_contrastive_loss(
            image, text, log_scale.exp(), tower_gradient_scale=self.recipe.tower_gradient_scale
        )
        torch.autograd.backward(self.scaler.scale(loss))
        self.ranks.average(log_scale.grad)
        assert image.grad is not None and text.grad is not None
        shares = [len(batch.keys) for batch in batches]
        for part, grads in enumerate(
            zip(torch.split(image.grad, shares), torch.split(text.grad, shares), strict=True)
        ):
            last = part == len(batches) - 1
            with contextlib.nullcontext() if last else self._local():
                outputs = self._embed(self.model, step, batches[part]) if several else made[0]
                learning = [
                    (o, g.to(o.dtype)) for o, g in zip(outputs, grads, strict=True) if o.requires_grad
                ]
                if learning:
                    torch.autograd.backward([o for o, _ in learning], [g for _, g in learning])
        return StepLoss(loss.item(), image.detach().isfinite().all(1) & text.detach().isfinite().all(1))

    def _embed(self, module: nn.Module, step: int, batch: Batch) -> tuple[Tensor, Tensor]:
        device, samples = self.ranks.device, batch.keys[:, 1].numpy()
        inputs = [
            batch.pixels.to(device, self._input_dtype, non_blocking=True),
            batch.tokens.to(device, non_blocking=True),
        ]
        if self.trainee.drop_path_layers:
            draws = drop_path_draws(self.recipe.seed, step, samples, self.trainee.drop_path_layers)
            inputs.append(torch.from_numpy(draws).to(device, torch.float32, non_blocking=True))
        # What else draws (dropout, other families' drop path) does so alike whenever this pass is repeated.
        torch.manual_seed(
            int(
                np.random.SeedSequence([self.recipe.seed, step, *batch.keys[0].tolist()]).generate_state(1)[0]
            )
        )
        with torch.autocast(device.type, self._dtype, enabled=self._dtype is not None):
            image, text = module(*inputs)[:2]
        return image, text

    def _local(self) -> contextlib.AbstractContextManager[object]:
        """Return what keeps gradients on this rank until the last pass."""
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if no_sync else contextlib.nullcontext()


def logit_scale_parameter(model: nn.Module) -> Tensor:
    """Return the model's logarithm of the logit scale, a scalar parameter."""
    parameter = model.logit_scale
    assert isinstance(parameter, torch.Tensor)
    return parameter


def _exact(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
