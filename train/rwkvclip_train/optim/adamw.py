"""AdamW as a recipe asks for it, and what it takes each step with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from rwkvclip_train.optim.groups import parameter_groups
from rwkvclip_train.optim.schedule import cycled_beta1, learning_rate

if TYPE_CHECKING:
    from torch import nn

    from rwkvclip_train.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return fused AdamW over the parameters of `model` that are trained, in the recipe's groups."""
    decay: Literal["all", "matrices"] = "all" if recipe.quirks.decay_everything else "matrices"
    groups = parameter_groups(model, decay, recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def set_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, num_steps: int
) -> tuple[float, tuple[float, float]]:
    """Give all groups the learning rate and the betas of `step` (from 0) of `num_steps`, and return them."""
    warmup = recipe.warmup_fraction
    lr = learning_rate(step, peak=recipe.lr, num_steps=num_steps, warmup_fraction=warmup)
    betas = recipe.betas
    if recipe.quirks.beta1_cycle:
        betas = (cycled_beta1(step, num_steps=num_steps, warmup_fraction=warmup), betas[1])
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = lr, betas
    return lr, betas
