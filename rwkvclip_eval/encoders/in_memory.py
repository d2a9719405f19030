"""Evaluates a module that is in memory already, inside a training loop for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rwkvclip_eval.encoders import open_clip, rwkv_clip
from rwkvclip_eval.encoders.spec import EncoderSpec
from rwkvclip_eval.encoders.towers import Towers, build, describe_module, scalar
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.towers import Preprocess, Tokenize

# CLIP clamps its learned scale at this value.
_DEFAULT_LOGIT_SCALE = 100.0


def as_encoder(
    module: nn.Module,
    *,
    name: str,
    preprocess: Preprocess | None = None,
    tokenize: Tokenize | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
) -> Encoder:
    """Return an encoder of `module` as its weights are now; make another after training on.

    Encoding leaves the module's training flags, the random generators and all global switches as they
    were. DistributedDataParallel and torch.compile wrappers are looked through.

    Args:
        module: an `RWKVCLIP`, an open_clip model, or any module with `encode_image` ([B, 3, H, W] → [B, D],
            or a pair with probe features [B, F] second) and, unless it is vision-only, `encode_text`
            ([B, L] → [B, D]). Its `logit_scale` is a parameter of the scale's logarithm, as in CLIP, or a
            plain number of the scale itself; without one 100 is taken.
        name: display name.
        preprocess: picklable, PIL image → [3, H, W] float32; may be left out for the two known kinds.
        tokenize: texts → [B, L] int64; may be left out for the two known kinds.
        device: moves the module there; by default it stays where its parameters are.
        precision: fp32, bf16 or fp16.

    Raises:
        UserError: the module lacks what it needs, or fails on one image.
    """
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{name}: expected a spec, an Encoder or a torch module, got {type(module).__name__}."
        )
    module = unwrapped(module)
    first = next(module.parameters(), None)
    where = first.device if first is not None else torch.device("cpu")
    spec = EncoderSpec(text=name, model=name, name=name)
    towers = module_towers(module, name=name, preprocess=preprocess, tokenize=tokenize, in_memory=True)
    return build(towers, spec, device=where if device is None else device, precision=precision)


def module_towers(
    module: nn.Module,
    *,
    name: str,
    preprocess: Preprocess | None,
    tokenize: Tokenize | None,
    in_memory: bool,
    config: object = None,
    checkpoint_sha256: str | None = None,
    trained: bool = True,
) -> Towers:
    """Return the towers of a module with `encode_image` and perhaps `encode_text`.

    Raises:
        UserError: it has no `encode_image`, or its preprocessing or tokenizer must be given.
    """
    common: dict[str, Any] = {
        "in_memory": in_memory,
        "trained": trained,
        "checkpoint_sha256": checkpoint_sha256,
    }
    if rwkv_clip.is_rwkv_clip(module):
        return rwkv_clip.towers(module, preprocess=preprocess, tokenize=tokenize, **common)
    if open_clip.is_open_clip(module):
        return open_clip.towers(module, preprocess=preprocess, tokenize=tokenize, **common)
    if not callable(getattr(module, "encode_image", None)):
        raise UserError(f"{name}: {type(module).__name__} has no encode_image(pixels) method.")
    if preprocess is None:
        raise UserError(f"{name}: give preprocess=, a function from a PIL image to [3, H, W] float32.")
    encode_text = getattr(module, "encode_text", None)
    if (encode_text is None) != (tokenize is None):
        lacking = "tokenize=" if tokenize is None else "an encode_text(tokens) method"
        raise UserError(f"{name}: a model with a text tower also needs {lacking}; a vision-only one neither.")
    return Towers(
        family="python",
        module=module,
        image=lambda pixels: _image_features(cast("Any", module).encode_image(pixels)),
        preprocess=preprocess,
        text=encode_text,
        tokenize=tokenize,
        logit_scale=_logit_scale(module),
        logit_bias=scalar(getattr(module, "logit_bias", None)),
        config=[config, *describe_module(module)],
        **common,
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and torch.compile wrappers."""
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = cast("nn.Module", module._orig_mod)
        else:
            return module


def _image_features(output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return output, output
    if not isinstance(output, tuple) or len(output) != 2:
        raise UserError(
            f"encode_image must return [B, D] or a pair (embedding, probe), got {type(output).__name__}."
        )
    return output[0], output[1]


def _logit_scale(module: nn.Module) -> float:
    value = getattr(module, "logit_scale", None)
    if value is None:
        return _DEFAULT_LOGIT_SCALE
    if isinstance(value, torch.Tensor):
        return float(value.detach().float().exp().item())
    return float(value)
