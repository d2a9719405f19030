"""The two flavours of training as data: what the official script does besides what its options say.

Each behaviour is a switch of its own. `corrected` has none of them, `official` all; a recipe, or `--set`, may
flip a single one. docs/official-and-corrected.md says what they change.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rwkvclip_eval.schema import Strict

Flavour = Literal["official", "corrected"]


class Quirks(Strict):
    """Behaviours of the official script that its options do not say; the flavour sets them all."""

    beta1_cycle: bool = Field(
        False,
        description="AdamW's first beta goes from .95 to .85 and back with the rate, whatever betas says",
    )
    tower_gradients_over_world_size: bool = Field(
        False,
        description="the towers' gradients are 1 / world_size of the true ones when they are clipped, and "
        "logit_scale's is whole: what DDP makes of features gathered without gradient",
    )
    text_decay_bfloat16: bool = Field(
        False,
        description="time_decay and time_faaaa of RWKV-CLIP's text tower are bfloat16 parameters, which "
        "steps of less than half a last digit leave where they are",
    )
    decay_everything: bool = Field(
        False,
        description="weight decay on every parameter, not just the weights of linear and low-rank maps",
    )
    accumulation_drops_batches: bool = Field(
        False, description="of accumulation's parts only the last moves the weights; the others are lost"
    )
    shuffle_buffer_order: bool = Field(
        False,
        description="samples come from a shuffle buffer of 16,384 over each rank's contiguous share, "
        "world_size shares in all, and the last batch of an epoch is filled up; false: an epoch is a "
        "permutation in whole batches",
    )


def with_flavour(content: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's keys as read, with the quirks of its flavour that it does not state."""
    stated = content.get("quirks", {})
    if content.get("flavour") != "official" or not isinstance(stated, dict):
        return content
    quirks: dict[str, Any] = dict.fromkeys(Quirks.model_fields, True)
    model = content.get("model")
    if isinstance(model, dict) and model.get("family") != "rwkv-clip":
        del quirks["text_decay_bfloat16"]
    return {**content, "quirks": {**quirks, **stated}}
