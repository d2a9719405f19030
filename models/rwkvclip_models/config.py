"""Model configurations: the official JSON keys, checked; and the configurations shipped with the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvclip_models.errors import ConfigError, joined, near_matches, shortened, shown
from rwkvclip_models.files import read_json
from rwkvclip_models.limits import MIN_CONTEXT, check_parameters, check_sizes

CONFIG_LIMIT_BYTES = 1 << 20
MAX_PARAMETERS = 2_000_000_000
"""Of both towers; the released ones have fewer than 200 million."""
_SHIPPED = Path(__file__).parent / "configs"

_IGNORED = {"workers", "precision", "data_type", "text_initialization", "text_num_head", "tiny_att_layer"}
"""Keys of official files that do not shape the model."""

_SWITCHES = {"image_output_cls_token", "image_with_cls_token"}
_ONLY_OFF = {*_SWITCHES, "pos_emb", "head_qk", "tiny_att_dim"}
"""Official switches that are off in every released model; only that value is supported."""


@dataclass(frozen=True, kw_only=True)
class RWKVCLIPConfig:
    """The official configuration keys that shape the model.

    Attributes:
        input_size: image height and width in px; sets the number of position embeddings.
        image_depth: blocks of the image tower.
        image_embed_dims: width of the image tower and of the embedding.
        image_patch_size: patch height and width in px.
        image_hidden_rate: channel-mix width of the image tower as a multiple of its width.
        image_num_heads: heads of the image tower.
        ctx_len: longest text, in tokens.
        vocab_size: rows of the token embedding.
        head_size: head width of the text tower.
        n_layer: blocks of the text tower.
        n_embd: width of the text tower; equals image_embed_dims, there is no projection.
        head_size_divisor: the text tower's group norm has eps 1e-5 times its square.
        dim_att: width of r, k, v in the text tower; 0: n_embd.
        dim_ffn: channel-mix width of the text tower; 0: 3.5 × n_embd, rounded down to a multiple of 32.
        drop_path_rate: stochastic depth of the last image block in training; rises linearly from 0.
        dropout: dropout after each half block of the text tower in training.
        with_cp: activation checkpointing in training.
    """

    input_size: int
    image_depth: int
    image_embed_dims: int
    image_patch_size: int
    image_hidden_rate: int
    image_num_heads: int
    ctx_len: int
    vocab_size: int
    head_size: int
    n_layer: int
    n_embd: int
    head_size_divisor: int = 8
    dim_att: int = 0
    dim_ffn: int = 0
    drop_path_rate: float = 0.0
    dropout: float = 0.0
    with_cp: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("drop_path_rate", "dropout"):
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                    raise ConfigError(f"{field.name} must be a number in [0, 1), got {shown(value)}.")
            elif field.name == "with_cp":
                if not isinstance(value, bool):
                    raise ConfigError(f"with_cp must be true or false, got {shown(value)}.")
            else:
                least = 0 if field.default == 0 else MIN_CONTEXT if field.name == "ctx_len" else 1
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise ConfigError(
                        f"{field.name} must be a whole number of at least {least}, got {shown(value)}."
                    )
        check_sizes(self.to_dict())
        if self.dim_att == 0:
            object.__setattr__(self, "dim_att", self.n_embd)
        if self.dim_ffn == 0:
            object.__setattr__(self, "dim_ffn", int(self.n_embd * 3.5) // 32 * 32)
        check_parameters(self.most_parameters(), MAX_PARAMETERS)
        if self.image_embed_dims != self.n_embd:
            raise ConfigError(
                f"image_embed_dims ({self.image_embed_dims}) and n_embd ({self.n_embd}) must be equal: "
                "the towers share the embedding space without a projection."
            )
        for width, heads, names in (
            (self.image_embed_dims, self.image_num_heads, "image_embed_dims / image_num_heads"),
            (self.dim_att, self.dim_att // self.head_size, "dim_att / (dim_att // head_size)"),
            (self.n_embd, self.n_embd // self.head_size, "n_embd / (n_embd // head_size)"),
        ):
            if heads < 1 or width % heads or (width // heads) % 4:
                raise ConfigError(f"{names} must be a head width divisible by 4, got {width} / {heads}.")
        if self.dim_ffn < 1 or self.image_patch_size > self.input_size:
            raise ConfigError(
                f"n_embd ({self.n_embd}) is too small for a dim_ffn of its own, or image_patch_size "
                f"({self.image_patch_size}) is larger than input_size ({self.input_size})."
            )
        if self.dim_att % self.head_size or self.n_embd % self.head_size:
            raise ConfigError(f"dim_att and n_embd must be multiples of head_size ({self.head_size}).")

    def most_parameters(self) -> int:
        """Return a little more parameters than both towers have."""
        image = self.image_depth * self.image_embed_dims**2 * (8 + 3 * self.image_hidden_rate)
        text = self.n_layer * self.n_embd * (8 * self.dim_att + 3 * self.dim_ffn)
        positions = (self.input_size // self.image_patch_size) ** 2 + 3 * self.image_patch_size**2
        return image + text + (positions + self.vocab_size) * self.n_embd

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration under its official keys, ready for JSON."""
        return dataclasses.asdict(self)


def config_names() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def load_config(config: str | Path | Mapping[str, Any] | RWKVCLIPConfig) -> RWKVCLIPConfig:
    """Return the configuration for a shipped name, the path of an official-format JSON, or a mapping.

    Raises:
        ConfigError: no such name or file, not JSON, a key missing, unknown or of an impossible value.
    """
    if isinstance(config, RWKVCLIPConfig):
        return config
    if isinstance(config, Mapping):
        return _from_mapping(config, "the configuration")
    name = str(config)
    path = _SHIPPED / f"{name}.json" if name in config_names() else Path(name)
    if not path.exists():
        hint = near_matches(name, config_names())
        raise ConfigError(
            f"No configuration {shortened(name)!r}.{hint} Give one of {', '.join(config_names())}, "
            "or the path of a JSON file."
        )
    content = read_json(path, what="model configuration", limit=CONFIG_LIMIT_BYTES, error=ConfigError)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold one JSON object, got {type(content).__name__}.")
    return _from_mapping(content, str(path))


def _from_mapping(values: Mapping[str, Any], where: str) -> RWKVCLIPConfig:
    fields = dataclasses.fields(RWKVCLIPConfig)
    known = {field.name for field in fields}
    problems = [f"{key} is missing" for key in _required(fields) if key not in values]
    for key, value in values.items():
        if key in _SWITCHES and not isinstance(value, bool):
            problems.append(f"{key} must be true or false, got {shown(value)}")
        elif key in _ONLY_OFF and value:
            problems.append(f"{key} = {shown(value)} is not supported: released models have it off")
        elif key not in known | _IGNORED | _ONLY_OFF:
            key = shortened(str(key))
            hint = near_matches(key, known).strip().replace("Did", "did")
            problems.append(f"{key!r} is unknown" + (f" ({hint})" if hint else ""))
    if problems:
        raise ConfigError(f"In {where}: {joined(problems, '; ')}.")
    try:
        return RWKVCLIPConfig(**{key: value for key, value in values.items() if key in known})
    except ConfigError as error:
        raise ConfigError(f"In {where}: {error}") from error


def _required(fields: tuple[dataclasses.Field[Any], ...]) -> list[str]:
    return [field.name for field in fields if field.default is dataclasses.MISSING]
