"""From a spec to an encoder: finds the family, loads, checks that what came is an encoder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rwkvclip_eval.encoders.families import family_of
from rwkvclip_eval.encoders.spec import EncoderSpec, expand_specs
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from rwkvclip_eval.encoders.protocol import Encoder


def load_encoder(
    spec: str | EncoderSpec,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    implementation: str = "auto",
    offline: bool = False,
) -> Encoder:
    """Return the encoder that `spec` names.

    Args:
        spec: `NAME[=CHECKPOINT]` or a parsed spec; `list_models` shows the names.
        device: cpu, cuda, cuda:N or mps.
        precision: fp32 (IEEE, TF32 off), bf16 or fp16 (autocast: weights stay float32).
        implementation: of the Bi-WKV operator; families without it have no use for it.
        offline: open no socket; what is not in the local caches is an error.

    Raises:
        CheckpointError: weights are missing, unreadable, unsafe, not finite, or do not fit the model.
        ConfigError: the model's configuration is impossible.
        UserError: unknown name, impossible device or precision, or a spec that stands for several models.
    """
    from rwkvclip_eval.encoders.arithmetic import check_precision
    from rwkvclip_eval.encoders.checked import CheckedEncoder
    from rwkvclip_eval.encoders.python_factory import adopt
    from rwkvclip_models.device import resolve_device

    parsed = _one(spec) if isinstance(spec, str) else spec
    family = family_of(parsed)
    check_precision(precision)
    target = str(resolve_device(device))
    encoder = family.load(
        parsed, device=target, precision=precision, implementation=implementation, offline=offline
    )
    return encoder if isinstance(encoder, CheckedEncoder) else adopt(encoder, parsed)


def import_adapter(spec: str) -> None:
    """Import what loading `spec` would, so that loading takes no longer than it must.

    Raises:
        UserError: the spec names no model.
    """
    from rwkvclip_eval.encoders import checked, python_factory  # noqa: F401  # as `load_encoder` does

    if adapter := family_of(_one(spec)).adapter:
        importlib.import_module(adapter)


def prefetch(spec: str | EncoderSpec) -> list[str]:
    """Download weights, configurations and tokenizer of `spec` for offline use; return what was fetched.

    Raises:
        CheckpointError: something cannot be fetched.
        UserError: the spec names no model.
    """
    parsed = _one(spec) if isinstance(spec, str) else spec
    return family_of(parsed).prefetch(parsed)


def _one(text: str) -> EncoderSpec:
    specs = expand_specs([text])
    if len(specs) > 1:
        raise UserError(f"Model {text!r} stands for {len(specs)} checkpoints; load one of them.")
    return specs[0]
