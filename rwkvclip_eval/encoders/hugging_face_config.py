"""Reads the configuration of a Hugging Face model: of a kind listed here, of sane size, running no code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.errors import CheckpointError, ConfigError, shortened, shown
from rwkvclip_models.checkpoint import check_weights_file
from rwkvclip_models.config import CONFIG_LIMIT_BYTES
from rwkvclip_models.files import read_json, require_regular
from rwkvclip_models.limits import MAX_IMAGE_PX, check_parameters, check_sizes, num_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DUAL_ENCODERS = ("clip", "siglip")
# fmt: off
VISION_MODELS = frozenset((
    "aimv2_vision_model", "beit", "bit", "chinese_clip_vision_model", "clip_vision_model", "convnext",
    "convnextv2", "cvt", "data2vec-vision", "deit", "dinat", "dinov2", "dinov2_with_registers",
    "dinov3_convnext", "dinov3_vit", "efficientnet", "focalnet", "hgnet_v2", "hiera", "ijepa", "levit",
    "metaclip_2_vision_model", "mlcd_vision_model", "mobilenet_v1", "mobilenet_v2", "mobilevit",
    "mobilevitv2", "poolformer", "pvt", "pvt_v2", "regnet", "resnet", "segformer", "siglip2_vision_model",
    "siglip_vision_model", "swiftformer", "swin", "swinv2", "textnet", "vit", "vit_mae", "vit_msn",
))
# fmt: on
"""Those whose code takes no other model's name or file from its configuration."""
TEXT_MODELS = ("roberta", "xlm-roberta", "mt5", "bert", "m2m_100")
"""Text towers that open_clip can build."""
_ATTENTION = (None, "eager", "sdpa")
_SETTINGS_LIMIT_BYTES = 256 << 20
"""Of a tokenizer's file, the largest of a folder beside the weights."""


def check_folder(folder: Path, settings: Sequence[str], weights: Sequence[Path]) -> None:
    """Look at a model's files that its library will read.

    Raises:
        CheckpointError: one is no regular file, too large, or damaged.
        ConfigError: the image processor's settings ask for absurd sizes.
    """
    for file in sorted(path for pattern in settings for path in folder.glob(pattern)):
        size = require_regular(file, "model's file", error=CheckpointError).st_size
        if size > _SETTINGS_LIMIT_BYTES:
            raise CheckpointError(f"{file} has {size} bytes; at most {_SETTINGS_LIMIT_BYTES} are read.")
    for file in weights:
        check_weights_file(file)
    processor = folder / "preprocessor_config.json"
    if processor.exists():
        content = read_json(processor, what="preprocessing", limit=CONFIG_LIMIT_BYTES, error=ConfigError)
        if not isinstance(content, dict):
            raise ConfigError(f"{processor} must hold one JSON object, got {type(content).__name__}.")
        try:
            check_sizes(content, most=MAX_IMAGE_PX)
            for key in ("image_mean", "image_std"):
                _check_channels(key, content.get(key))
            _check_flags(content, {key: True for key in content if key.startswith("do_")})
        except ConfigError as error:
            raise ConfigError(f"In {processor}: {error}") from error


def _check_channels(key: str, value: Any) -> None:
    """Refuse what no image can be normalised with; null leaves it to the library."""
    numbers = value if isinstance(value, list) else [value]
    if value is None:
        return
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        raise ConfigError(f"{key} must be a list of numbers, got {shown(value)}.")
    if key == "image_std" and not all(one > 0 for one in numbers):
        raise ConfigError(f"{key} must be above 0, got {shown(value)}.")


def _check_flags(content: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "") -> None:
    """Refuse a number or text where the library's own value is true or false; null leaves it to that."""
    for key, usual in defaults.items():
        value = content.get(key)
        if isinstance(usual, dict) and isinstance(value, dict):
            _check_flags(value, usual, f"{where}{key}.")
        elif isinstance(usual, bool) and not isinstance(value, bool | None):
            raise ConfigError(f"{where}{key} must be true or false, got {shown(value)}.")


def read_config(folder: Path, text: str) -> Any:
    """Return the configuration in a model's folder.

    Args:
        folder: of the model.
        text: the model as given, for messages.

    Raises:
        ConfigError: it is none, too large, or of a kind that is not listed above.
    """
    from transformers import AutoConfig

    content = read_json(
        folder / "config.json", what="model configuration", limit=CONFIG_LIMIT_BYTES, error=ConfigError
    )
    if not isinstance(content, dict):
        raise ConfigError(
            f"{folder / 'config.json'} must hold one JSON object, got {type(content).__name__}."
        )
    kind = content.get("model_type")
    if kind not in (*DUAL_ENCODERS, *VISION_MODELS):
        raise ConfigError(
            f"Model {text!r} is a {shortened(str(kind))} model; `hf:` knows the dual encoders "
            f"{' and '.join(DUAL_ENCODERS)}, and vision-only models ({', '.join(sorted(VISION_MODELS))}). "
            "Give others as python:package.module:factory."
        )
    try:
        _check(content)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check(config.to_dict())
        _check_flags(content, type(config)().to_dict())
    except ConfigError as error:
        raise ConfigError(f"Model {text!r}, config.json: {error}") from error
    except Exception as error:  # that library raises what it likes on a file that does not fit
        raise ConfigError(
            f"Model {text!r}: transformers cannot read its config.json: {shortened(str(error), 500)}"
        ) from error
    return config


def check_text_model(name: str) -> None:
    """Look at the configuration of a text tower that open_clip will build, on the hub or in a folder.

    Raises:
        ConfigError: it is none, too large, or of a kind that open_clip does not build.
        OSError: it cannot be had.
    """
    from transformers import AutoConfig

    if Path(name).is_dir():
        check_folder(Path(name), ("*.json",), [])
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        _check(config.to_dict())
        _check_flags(config.to_dict(), type(config)().to_dict())
    except (OSError, ConfigError):
        raise
    except Exception as error:  # that library raises what it likes on a file that does not fit
        raise ConfigError(
            f"transformers cannot read the configuration: {shortened(str(error), 500)}"
        ) from error
    if config.model_type not in TEXT_MODELS:
        raise ConfigError(
            f"a {shortened(config.model_type)} model; text towers are of {', '.join(TEXT_MODELS)}."
        )
    num_parameters_of(config)


def num_parameters_of(config: Any) -> int:
    """Return how many parameters transformers' model of `config` has.

    Raises:
        ConfigError: it cannot be built, needs code of its own, or is too large.
    """
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # model code raises what it likes on sizes that do not fit
        raise ConfigError(
            f"transformers cannot build the model that config.json describes ({type(error).__name__}: "
            f"{shortened(str(error), 300)})."
        ) from error
    count = num_parameters(model)
    check_parameters(count)
    return count


def _check(content: dict[str, Any]) -> None:
    # What classes are called is no size.
    check_sizes({key: value for key, value in content.items() if key not in ("id2label", "label2id")})
    for key in ("attn_implementation", "_attn_implementation"):
        if content.get(key) not in _ATTENTION:
            raise ConfigError(f"{key} must be eager or sdpa, got {shown(content[key])}.")
    if content.get("quantization_config"):
        raise ConfigError("quantization_config: quantized weights cannot be read; save them as float32.")
