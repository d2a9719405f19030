"""Checks a configuration in open_clip's form, so that nothing in it runs, fetches or floods anything."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from rwkvclip_eval.errors import ConfigError, joined, shown
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import came, misfits
from rwkvclip_models.config import CONFIG_LIMIT_BYTES
from rwkvclip_models.files import read_json
from rwkvclip_models.limits import MAX_IMAGE_PX, MAX_WIDTH, check_sizes
from rwkvclip_models.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHARES = ("patch_dropout", "timm_drop", "timm_drop_path")
"""Of patches, units or blocks that training leaves out."""
_NEEDED = ("embed_dim", "vision_cfg", "text_cfg")


_Size = Annotated[int, Field(ge=1, le=MAX_IMAGE_PX)]
_Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class _TokenizerOptions(BaseModel):
    """The options a file may give a tokenizer; others of its library load files or run code."""

    model_config = ConfigDict(extra="forbid", strict=True)

    clean: str = Field("lower", pattern="^(canonicalize|lower|whitespace)$")
    strip_sep_token: bool = False
    language: str = Field("", max_length=100)
    additional_special_tokens: list[str] = Field([], max_length=1000)
    reduction_mask: str = Field("", pattern="^(simple|random|shuffle|syntax)?$")


class _Config(BaseModel):
    """What open_clip's models take."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    embed_dim: int = Field(ge=1, le=MAX_WIDTH)
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    multimodal_cfg: dict[str, Any] | None = None
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False


class _Preprocess(BaseModel):
    """What open_clip's transform takes; its own checks are assertions without a word."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    size: _Size | list[_Size] = 224
    mode: Literal["RGB"] = "RGB"
    mean: _Channels = []
    std: _Channels = []
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = Field(0, ge=0, le=255)

    @field_validator("size")
    @classmethod
    def _two_sides(cls, size: int | list[int]) -> int | list[int]:
        if isinstance(size, list) and len(size) != 2:
            raise ValueError("expected a number of px, or height and width")
        return size

    @field_validator("std")
    @classmethod
    def _divides(cls, std: list[float]) -> list[float]:
        if not all(one > 0 for one in std):
            raise ValueError(f"standard deviations are above 0, got {shown(std)}")
        return std


def read_open_clip_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's and the preprocessing's configuration in the JSON file at `path`.

    Raises:
        ConfigError: it is none; keys, limits and what came are named.
    """
    content = read_json(path, what="model configuration", limit=CONFIG_LIMIT_BYTES, error=ConfigError)
    config = content.get("model_cfg", content) if isinstance(content, dict) else {}
    missing = [key for key in _NEEDED if not isinstance(config, dict) or key not in config]
    if missing:
        raise ConfigError(
            f"{path.name} is not an open_clip model configuration: it lacks {', '.join(missing)}. "
            "An RWKV-CLIP configuration is given without `open_clip:`."
        )
    if "model_cfg" not in content:
        config = {key: value for key, value in config.items() if key != "preprocess_cfg"}
    check_open_clip_config(config, path.name)
    preprocess = content.get("preprocess_cfg") or {}
    if not isinstance(preprocess, dict):
        raise ConfigError(f"In {path.name}: preprocess_cfg must be a mapping{came(preprocess)}.")
    try:
        _Preprocess.model_validate(preprocess)
    except ValidationError as error:
        problems = [f"preprocess_cfg.{problem}" for problem in misfits(error)]
        raise ConfigError(f"In {path.name}: {joined(problems, '; ')}.") from error
    return config, preprocess


def check_open_clip_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration with an unknown key, a value of another type, an absurd size or a risky option.

    Args:
        config: open_clip's `model_cfg`.
        where: its name for messages.

    Raises:
        ConfigError: it has one; all are named.
    """
    import open_clip
    import timm
    from open_clip.coca_model import MultimodalCfg

    parts = {
        "vision_cfg": open_clip.CLIPVisionCfg,
        "text_cfg": open_clip.CLIPTextCfg,
        "multimodal_cfg": MultimodalCfg,
    }
    problems: list[str] = []
    try:
        check_sizes(config)
        _Config.model_validate(config)
    except ValidationError as error:
        problems += misfits(error)
    except ConfigError as error:
        problems.append(str(error).removesuffix("."))
    if not problems:
        for key, kind in parts.items():
            problems += [f"{key}.{problem}" for problem in _misfits_of(config.get(key) or {}, kind)]
    if not problems:
        vision, text = config["vision_cfg"], config["text_cfg"]
        problems += [
            f"vision_cfg.{key}: expected 0 ≤ x < 1{came(vision[key])}"
            for key in _SHARES
            if not 0 <= (vision.get(key) or 0) < 1
        ]
        vocabulary = text.get("vocab_size", VOCABULARY)
        if (vocabulary or 0) < VOCABULARY and not (
            text.get("hf_model_name") or text.get("hf_tokenizer_name")
        ):
            problems.append(
                f"text_cfg.vocab_size: expected {VOCABULARY} or more, the tokens that CLIP's tokenizer gives"
                f"{came(vocabulary)}"
            )
        try:
            _TokenizerOptions.model_validate(text.get("tokenizer_kwargs") or {})
        except ValidationError as error:
            problems += [f"text_cfg.tokenizer_kwargs.{problem}" for problem in misfits(error)]
        name = vision.get("timm_model_name")
        # Names with a scheme would have timm read or fetch other files.
        if name and not timm.is_model(name):
            near = timm.list_models(f"{str(name)[:4]}*")
            problems.append(f"vision_cfg.timm_model_name: {unknown_name('timm model', name, near)}")
    if problems:
        raise ConfigError(f"In {where}: {joined(problems, '; ')}.")


def _misfits_of(values: Mapping[str, Any], kind: Any) -> list[str]:
    """Return what of `values` does not fit open_clip's dataclass `kind`."""
    known = {field.name for field in dataclasses.fields(kind)}
    problems = [unknown_name("key", str(key), known) for key in values if key not in known]
    given = {key: value for key, value in values.items() if key in known}
    try:
        # As JSON, where a list may stand for a tuple and nothing else for anything.
        TypeAdapter(kind).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        # A default of None for what is called a mapping is open_clip's way.
        problems += [text for text in misfits(error) if not text.endswith("(got None)")]
    return problems
