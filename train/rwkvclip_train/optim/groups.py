"""Which parameters decay: the groups that AdamW is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

if TYPE_CHECKING:
    from collections.abc import Iterator

MAPS = frozenset(
    {
        *("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"),
        *("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "proj", "text_projection"),
    }
)
"""Last parts of the names of linear and low-rank maps that are parameters of their own."""


def parameter_groups(
    model: nn.Module, decay: Literal["all", "matrices"], weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups of the parameters that are trained, in the model's order.

    Args:
        model: parameters that want no gradient are left out.
        decay: all: every parameter, as in the official script, logit scale and biases included. matrices: the
            weights of linear and low-rank maps, convolutions among them; not embeddings of tokens and
            positions, mixes, decays, bonuses, gains, biases and the logit scale.
        weight_decay: of those that decay; 0 for the others, in a second group.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if decay == "all":
        return [{"params": [p for _, p in named], "weight_decay": weight_decay}]
    maps = set(_maps(model))
    return [
        {"params": [p for name, p in named if name in maps], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in maps], "weight_decay": 0.0},
    ]


def _maps(model: nn.Module) -> Iterator[str]:
    """Yield the names of the weights of linear and low-rank maps."""
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(path, recurse=False):
            leaf = name.rpartition(".")[2]
            if leaf in MAPS or (leaf == "weight" and isinstance(module, nn.Linear | _ConvNd)):
                yield name
