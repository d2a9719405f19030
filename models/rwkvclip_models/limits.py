"""What a model's configuration may ask for: far above every model there is, far below what ends a machine."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvclip_models.errors import ConfigError, shortened, shown

if TYPE_CHECKING:
    from torch import nn

MAX_BLOCKS = 512
MAX_WIDTH = 32_768
MAX_IMAGE_PX = 4_096
MAX_PATCHES = 65_536
"""Of an image: 4,096 px in patches of 16."""
MAX_PATCH_PX = 512
MAX_RATIO = 64.0
"""Of a hidden layer's width to that around it."""
MAX_CONTEXT = 8_192
"""Tokens of a text; a causal mask has their square."""
MIN_CONTEXT = 3
"""Between the marks of start and end one token; in less, all texts are the same."""
MAX_VOCABULARY = 1_000_000
MAX_PARAMETERS = 20_000_000_000
BYTES_PER_PARAMETER = 4
"""Models are built in float32."""
_CONTROL_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MAX_FLOAT = 1e9
_MAX_TEXT = 10_000
_MAX_ENTRIES = 200_000

# In a key's name → the largest whole number that it may stand for; the first that fits counts.
_LIMITS = (
    (re.compile(r"layer|depth|block|stage|expert"), MAX_BLOCKS),
    (re.compile(r"context_length|ctx_len"), MAX_CONTEXT),
    (re.compile(r"vocab|token|labels?$|_id$"), MAX_VOCABULARY),
    (re.compile(r"patch_size$"), MAX_PATCH_PX),
    (re.compile(r"image_size|input_size|_px$"), MAX_IMAGE_PX),
    (re.compile(""), MAX_WIDTH),
)
_COUNTS = re.compile(r"^(num|n)_|layers$|depths?$|heads$|width$|_size$")
"""In a key's name: what is counted or measured, and so not negative."""
_SIDES = re.compile(r"(patch|image|input)_size$")
_CONTEXTS = re.compile(r"(^|\.)(context_length|ctx_len)$|text_config\.max_position_embeddings$")
_IMAGE_AND_PATCH = (("image_size", "patch_size"), ("input_size", "image_patch_size"))


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
            _check_patches(value, said)
            waiting += [(f"{key}.{name}" if key else str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, inner) for inner in value]
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            raise ConfigError(f"{said} has at most {_MAX_TEXT} characters, got {len(value)}.")
        elif isinstance(value, int) and value < 0 and _COUNTS.search(key.rpartition(".")[2]):
            raise ConfigError(f"{said} is at least 0, got {shown(value)}.")
        elif isinstance(value, int) and value < 1 and _SIDES.search(key):
            raise ConfigError(f"{said} is at least 1, got {shown(value)}.")
        elif isinstance(value, int) and _CONTEXTS.search(key) and value < MIN_CONTEXT:
            raise ConfigError(f"{said} is at least {MIN_CONTEXT} tokens, got {shown(value)}.")
        elif isinstance(value, int) and abs(value) > (limit := most or limit_of(key)):
            raise ConfigError(f"{said} is at most {limit}, got {shown(value)}.")
        elif isinstance(value, float) and key.endswith("ratio") and abs(value) > MAX_RATIO:
            raise ConfigError(f"{said} is at most {MAX_RATIO:g}, got {value}.")
        elif isinstance(value, float) and not abs(value) <= _MAX_FLOAT:
            raise ConfigError(f"{said} is at most {_MAX_FLOAT:g}, got {value}.")
    raise ConfigError(f"more than {_MAX_ENTRIES} entries.")


def limit_of(key: str) -> int:
    """Return the largest whole number that `key` may stand for."""
    name = key.rpartition(".")[2]
    return next(limit for pattern, limit in _LIMITS if pattern.search(name))


def _check_patches(config: Mapping[str, Any], where: str) -> None:
    """Refuse an image of no patch, or of more than there is room for, where both sizes are named."""
    for image, patch in _IMAGE_AND_PATCH:
        # Larger ones are told by their own limit.
        sides = [_sides(config.get(key), limit_of(key)) for key in (image, patch)]
        if not all(sides):
            continue
        count = math.prod(a // b for a, b in zip(*sides, strict=True))
        if not 0 < count <= MAX_PATCHES:
            raise ConfigError(
                f"{where + '.' if where else ''}{image} in patches of {patch} ({config[image]} and "
                f"{config[patch]} px) gives {count} patches; 1 to {MAX_PATCHES} are encoded."
            )


def _sides(size: Any, most: int) -> tuple[int, ...]:
    """Return height and width; nothing for what is no size, or larger than `most`."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    fits = len(sides) == 2 and all(isinstance(side, int) and 0 < side <= most for side in sides)
    return sides if fits else ()


def num_parameters(module: nn.Module) -> int:
    """Return how many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def check_parameters(count: int, most: int = MAX_PARAMETERS) -> None:
    """Refuse a model of more parameters than any there is.

    Args:
        count: of the model.
        most: parameters of the largest of its family, and more.

    Raises:
        ConfigError: it has; the number is named.
    """
    if count > most:
        raise ConfigError(f"about {count:.2g} parameters; at most {most:.2g} are built.")


def check_memory(count: int) -> None:
    """Refuse a model that does not fit into this machine's memory, before it is built there in float32.

    Args:
        count: parameters.

    Raises:
        ConfigError: it does not; both sizes are named.
    """
    needed, free = count * BYTES_PER_PARAMETER, free_memory()
    if free is not None and needed > free:
        raise ConfigError(
            f"about {count:.2g} parameters, which take {needed / 1e9:.1f} GB in float32; {free / 1e9:.1f} GB "
            "of memory are free."
        )


def free_memory() -> int | None:
    """Return the bytes of memory that a program may still take; None where the system does not say.

    Linux says, and a control group (version 2) may have less: of that its limit counts, since what it uses
    includes copies of files that make room.
    """
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").split("\n")
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        free.append(int(_CONTROL_GROUP_LIMIT.read_text(encoding="ascii")))
    return min(free, default=None)
