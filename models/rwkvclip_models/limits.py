"""What a model's configuration may ask for: far above every model there is, far below what ends a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rwkvclip_models.errors import ConfigError, shortened, shown

MAX_BLOCKS = 512
MAX_WIDTH = 32_768
MAX_IMAGE_PX = 4_096
MAX_VOCABULARY = 10_000_000
MAX_PARAMETERS = 20_000_000_000
_MAX_FLOAT = 1e9
_MAX_TEXT = 10_000
_MAX_ENTRIES = 200_000

# In a key's name → the largest whole number that it may stand for; the first that fits counts.
_LIMITS = (
    (re.compile(r"layer|depth|block|stage|expert"), MAX_BLOCKS),
    (re.compile(r"vocab|token|labels?$|_id$"), MAX_VOCABULARY),
    (re.compile(r"image_size|input_size|_px$"), MAX_IMAGE_PX),
    (re.compile(""), MAX_WIDTH),
)


def check_sizes(config: Mapping[str, Any], most: int | None = None) -> None:
    """Refuse a configuration with a number that no model has, however deep it stands in it.

    Args:
        config: what its JSON says.
        most: limit of every whole number; by default what `limit_of` says of its key.

    Raises:
        ConfigError: a count, width or other number is too large; key, limit and number are named.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    for _ in range(_MAX_ENTRIES):
        if not waiting:
            return
        key, value = waiting.pop()
        said = shortened(key)
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}" if key else str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, inner) for inner in value]
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            raise ConfigError(f"{said} has at most {_MAX_TEXT} characters, got {len(value)}.")
        elif isinstance(value, int) and abs(value) > (limit := most or limit_of(key)):
            raise ConfigError(f"{said} is at most {limit}, got {shown(value)}.")
        elif isinstance(value, float) and not abs(value) <= _MAX_FLOAT:
            raise ConfigError(f"{said} is at most {_MAX_FLOAT:g}, got {value}.")
    raise ConfigError(f"more than {_MAX_ENTRIES} entries.")


def limit_of(key: str) -> int:
    """Return the largest whole number that `key` may stand for."""
    name = key.rpartition(".")[2]
    return next(limit for pattern, limit in _LIMITS if pattern.search(name))


def check_parameters(count: int) -> None:
    """Refuse a model of more parameters than any there is.

    Raises:
        ConfigError: it has; the number is named.
    """
    if count > MAX_PARAMETERS:
        raise ConfigError(f"about {count:.2g} parameters; at most {MAX_PARAMETERS:.2g} are built.")
