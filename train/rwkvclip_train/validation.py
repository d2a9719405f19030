"""The contrastive loss of pairs that training never sees, in eval mode, without augmentation and gradients.

The batches are the same at every step, as large as training's where there are as many pairs, and shared by
all processes: a loss of more negatives is another quantity.

Axes: B pairs of a batch over all processes, D embedding.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from rwkvclip_train.data.pairs import Pairs, load
from rwkvclip_train.evaluation import undisturbed
from rwkvclip_train.gradients import AUTOCAST, logit_scale_parameter
from rwkvclip_train.objectives.contrastive import global_contrastive_loss
from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from rwkvclip_train.data.pairs import Batch, Key, Part
    from rwkvclip_train.models import Trainee
    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe


class Validation:
    """Computes the validation loss of one run; all ranks call it together.

    Args:
        recipe: of the run.
        trainee: the model.
        ranks: of the run.
        parts: the pairs; at least two.
        num_workers: processes that decode images.

    Raises:
        RecipeError: there are fewer pairs than processes share.
    """

    def __init__(
        self, recipe: Recipe, trainee: Trainee, ranks: Ranks, parts: Sequence[Part], *, num_workers: int
    ) -> None:
        self.recipe, self.trainee, self.ranks, self.num_workers = recipe, trainee, ranks, num_workers
        self.pairs = Pairs(
            parts,
            image_size_px=trainee.image_size_px,
            tokenize=trainee.tokenize,
            augmentation=None,
            seed=recipe.seed,
        )
        shares = ranks.size * recipe.accumulation
        size = min(recipe.batch_size, len(self.pairs))
        if size < shares:
            raise RecipeError(
                f"Recipe {recipe.name}: validation holds {size} pairs, which {ranks.size} processes cannot "
                f"share in {recipe.accumulation} parts each; expected at least {shares}."
            )
        self.batch_size = size - size % shares
        self.num_batches = len(self.pairs) // self.batch_size

    def __call__(self) -> float:
        """Return the mean loss over the whole batches, in nats; what is left after them has no part."""
        module = self.trainee.module
        with _eval_mode(module), torch.no_grad(), undisturbed(self.ranks.device):
            loader = load(self.pairs, self._keys(), num_workers=self.num_workers)
            losses = [self._loss(module, loader) for _ in range(self.num_batches)]
        return float(np.mean(losses))

    def _keys(self) -> Iterator[list[Key]]:
        # Sources stand one after the other: a batch of neighbours would be of one of them.
        order = np.random.default_rng([self.recipe.seed, len(self.pairs)]).permutation(len(self.pairs))
        for batch in range(self.num_batches):
            samples = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            mine = np.split(samples, self.ranks.size)[self.ranks.rank]
            for part in np.split(mine, self.recipe.accumulation):
                yield [(0, int(sample)) for sample in part]

    def _loss(self, module: nn.Module, loader: Iterator[Batch]) -> float:
        made = [self._embed(module, next(loader)) for _ in range(self.recipe.accumulation)]
        image, text = (torch.cat([pair[which] for pair in made]) for which in (0, 1))
        return global_contrastive_loss(image, text, logit_scale_parameter(module).exp()).item()

    def _embed(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        device, dtype = self.ranks.device, AUTOCAST.get(self.recipe.precision)
        exact = torch.float64 if self.recipe.precision == "fp64" else torch.float32
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            image, text = module(batch.pixels.to(device, exact), batch.tokens.to(device))[:2]
        return image, text


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for a block; of its parts each is then as before."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
