"""RWKV-CLIP towers, the Bi-WKV operator and checkpoint loading.

Names are imported when first used, so that importing this package (or its `errors` and `resources`)
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rwkvclip_models.moved import PATHS, install

if TYPE_CHECKING:
    from rwkvclip_models.checkpoint import checkpoint_file, checkpoint_sha256, read_checkpoint
    from rwkvclip_models.config import RWKVCLIPConfig, config_names, load_config
    from rwkvclip_models.errors import CheckpointError, ConfigError, UserError
    from rwkvclip_models.model import RWKVCLIP, load_model, save_checkpoint
    from rwkvclip_models.pixel_rows import PixelRows
    from rwkvclip_models.streaming import encode_image_streaming
    from rwkvclip_models.tokenizer import tokenize
    from rwkvclip_models.transforms import eval_transform

install(PATHS)

_MODULES = {
    "checkpoint": ("checkpoint_file", "checkpoint_sha256", "read_checkpoint"),
    "config": ("RWKVCLIPConfig", "config_names", "load_config"),
    "errors": ("CheckpointError", "ConfigError", "UserError"),
    "model": ("RWKVCLIP", "load_model", "save_checkpoint"),
    "pixel_rows": ("PixelRows",),
    "streaming": ("encode_image_streaming",),
    "tokenizer": ("tokenize",),
    "transforms": ("eval_transform",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "RWKVCLIP",
    "CheckpointError",
    "ConfigError",
    "PixelRows",
    "RWKVCLIPConfig",
    "UserError",
    "checkpoint_file",
    "checkpoint_sha256",
    "config_names",
    "encode_image_streaming",
    "eval_transform",
    "load_config",
    "load_model",
    "read_checkpoint",
    "save_checkpoint",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
