"""Adapters: one file per model family behind the `Encoder` protocol.

`load_encoder` makes an encoder of `NAME[=CHECKPOINT]`, `as_encoder` of a module in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.encoders.families import (
    ENCODERS,
    EncoderFamily,
    family_of,
    list_models,
    register_encoder,
)
from rwkvclip_eval.encoders.load import load_encoder, prefetch
from rwkvclip_eval.encoders.protocol import (
    Encoder,
    EncoderInfo,
    ImageFeatures,
    make_fingerprint,
)
from rwkvclip_eval.encoders.spec import EncoderSpec, expand_specs, parse_spec

if TYPE_CHECKING:
    from rwkvclip_eval.encoders.checked import NonFiniteEmbedding
    from rwkvclip_eval.encoders.in_memory import as_encoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderFamily",
    "EncoderInfo",
    "EncoderSpec",
    "ImageFeatures",
    "NonFiniteEmbedding",
    "as_encoder",
    "expand_specs",
    "family_of",
    "list_models",
    "load_encoder",
    "make_fingerprint",
    "parse_spec",
    "prefetch",
    "register_encoder",
]


def __getattr__(name: str) -> Any:
    # These two need torch, which the names and specs above do not.
    if name == "as_encoder":
        from rwkvclip_eval.encoders.in_memory import as_encoder

        return as_encoder
    if name == "NonFiniteEmbedding":
        from rwkvclip_eval.encoders.checked import NonFiniteEmbedding

        return NonFiniteEmbedding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
