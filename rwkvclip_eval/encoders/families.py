"""The registry of model families. Importing it loads no model library, since `models` needs names only."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.registry import Registry, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec


_CHECKPOINTS = {".pt", ".pth", ".bin", ".safetensors", ".ckpt"}


class LoadFunction(Protocol):
    """Makes the encoder of a spec; what a plugin registers."""

    def __call__(
        self, spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool
    ) -> Encoder:
        """Return the encoder on `device` in `precision`, without a network when `offline`."""
        ...


def _fetch_nothing(spec: EncoderSpec) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class EncoderFamily:
    """A way to load models.

    Attributes:
        load: makes the encoder.
        prefetch: downloads what `load` needs and returns what it fetched.
        family: shown by `models`.
        checkpoint: what CHECKPOINT may be, for `models`.
        example: a whole spec, for `models`.
        adapter: module that `load` imports when it is first called; empty where there is none.
    """

    load: LoadFunction
    prefetch: Callable[[EncoderSpec], list[str]] = _fetch_nothing
    family: str = "plugin"
    checkpoint: str = "optional"
    example: str = ""
    adapter: str = ""


ENCODERS: Registry[EncoderFamily] = Registry("model")
"""Model name → family. A name that ends in `:` stands for all specs it begins, `*.json` for files."""


def register_encoder(name: str, load: LoadFunction, **facts: Any) -> None:
    """Register a user's family: `NAME=CHECKPOINT` on the command line then calls `load`.

    Args:
        name: NAME; ending in `:` it stands for every `NAME:…`.
        load: `(spec, *, device, precision, implementation, offline) -> Encoder`.
        facts: other fields of `EncoderFamily`.

    Raises:
        UserError: the name is taken.
    """
    ENCODERS.register(name, EncoderFamily(load=load, **facts))


def family_of(spec: EncoderSpec) -> EncoderFamily:
    """Return the family that loads `spec`.

    Raises:
        UserError: there is none; the text lists near matches.
    """
    prefix, colon, _ = spec.model.partition(":")
    for name in (spec.model, f"{prefix}{colon}", f"*{PurePath(spec.model).suffix}"):
        if name in ENCODERS:
            return ENCODERS.get(name)
    if kind := _kind_of_path(spec.model):
        raise UserError(
            f"{spec.model!r} is {kind}, not the name of a model; write NAME={spec.model}, for example "
            f"'rwkv-clip-b32={spec.model}', or config.json={spec.model} with your own configuration. "
            "`rwkvclip-eval models` lists the names."
        )
    raise UserError(unknown_name("model", spec.model, ENCODERS))


def _kind_of_path(text: str) -> str:
    """Return what sort of path `text` is, empty where it looks like none."""
    path = PurePath(text)
    if any(sign in text for sign in "*?["):
        return "a pattern of files"
    # Path's own raises in folders that cannot be read.
    if (path.suffix or os.sep in text) and os.path.exists(text):  # noqa: PTH110
        return "a folder" if Path(text).is_dir() else "a file"
    return "the path of a checkpoint" if path.suffix in _CHECKPOINTS else ""


def list_models() -> list[dict[str, str]]:
    """Return one row per registered name: `name`, `family`, `checkpoint` (what it may be), `example`."""
    return [
        {"name": name, "family": entry.family, "checkpoint": entry.checkpoint, "example": entry.example}
        for name, entry in ((name, ENCODERS.get(name)) for name in ENCODERS)
    ]


def _built_in(names: dict[str, str], module: str, family: str, checkpoint: str) -> None:
    """Register names (→ examples) whose adapter is imported when first used."""
    path = f"rwkvclip_eval.encoders.{module}"

    def load(
        spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool
    ) -> Encoder:
        adapter = importlib.import_module(path)
        encoder: Encoder = adapter.load(
            spec, device=device, precision=precision, implementation=implementation, offline=offline
        )
        return encoder

    def prefetch(spec: EncoderSpec) -> list[str]:
        fetched: list[str] = importlib.import_module(path).prefetch(spec)
        return fetched

    for name, example in names.items():
        entry = EncoderFamily(
            load=load,
            prefetch=prefetch,
            family=family,
            checkpoint=checkpoint,
            example=example,
            adapter=path,
        )
        ENCODERS.register(name, entry)


_built_in(
    {
        "rwkv-clip-b32": "rwkv-clip-b32=model_31.pt",
        "rwkv-clip-b16": "rwkv-clip-b16=hf://owner/repo/model_31.pt",
        "*.json": "my_rwkv_clip.json=runs/x/epoch_*.pt",
    },
    "rwkv_clip",
    "rwkv-clip",
    "file (@ema for averaged weights), hf://owner/repo/file or random:SEED",
)
_built_in(
    {
        "clip-vit-b32": "clip-vit-b32=openai",
        "clip-vit-b16": "clip-vit-b16=openai",
        "clip-vit-l14": "clip-vit-l14=openai",
        "alip-vit-b32": "alip-vit-b32=alip.pt",
        "open_clip:": "open_clip:ViT-L-14=laion2b_s32b_b82k",
    },
    "open_clip",
    "open_clip",
    "pretrained tag, file (@ema for averaged weights), hf://owner/repo/file or random:SEED",
)
_built_in({"hf:": "hf:openai/clip-vit-base-patch32"}, "hugging_face", "hf", "none, or random:SEED")
_built_in(
    {"python:": "python:my_package.my_model:factory=epoch_5.pt"},
    "python_factory",
    "python",
    "whatever the factory takes, none or random:SEED",
)
_built_in({"mteb:": "mteb:openai/clip-vit-base-patch32"}, "mteb", "mteb", "none; needs the package mteb")
