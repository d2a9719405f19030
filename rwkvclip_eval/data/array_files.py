"""Reads arrays of .npy files only after their header was compared with what is expected and with the size."""

from __future__ import annotations

import io
import math
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER_BYTES = 4096
"""A header of ours has 128; numpy reads one as Python text, which takes long where it is long."""

Array = np.ndarray[Any, Any]


class WrongArray(ValueError):
    """A .npy file that is none, or holds another array; the text says what was expected and what came."""


def map_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Return the array of a regular file, mapped from disk and read-only.

    Args:
        path: the file; a link is not followed.
        dtype: element type expected, in this machine's byte order.
        shape: shape expected.

    Raises:
        WrongArray: it holds another type or shape, or is cut off or longer than its header says.
        OSError: it cannot be read.
    """
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        raise WrongArray("expected a file of its own, found a link or something else")
    with path.open("rb") as stream:
        found = _header(stream.read(MAX_HEADER_BYTES))
    if found.kind != np.dtype(dtype) or found.shape != shape or found.columns_first:
        raise WrongArray(f"expected {np.dtype(dtype)} {list(shape)}, found {found.kind} {list(found.shape)}")
    size = found.offset + math.prod(shape) * found.kind.itemsize
    if state.st_size != size:
        raise WrongArray(f"expected {size} bytes, found {state.st_size}")
    return np.memmap(path, dtype, "r", found.offset, shape)


def small_array(content: bytes) -> Array:
    """Return the array of a .npy file's bytes: plain numbers, as many as there are bytes for.

    Raises:
        WrongArray: they are none, or not what the header says.
    """
    found = _header(content[:MAX_HEADER_BYTES])
    if found.kind.kind not in "biuf":
        raise WrongArray(f"expected plain numbers, found {found.kind}")
    size, there = math.prod(found.shape) * found.kind.itemsize, len(content) - found.offset
    if size != there:
        raise WrongArray(f"the header says {found.kind} {list(found.shape)}, {there} bytes follow it")
    flat = np.frombuffer(content, found.kind, offset=found.offset)
    return flat.reshape(found.shape, order="F" if found.columns_first else "C")


class _Header(NamedTuple):
    """What the header of a `.npy` file says.

    Attributes:
        shape: of the array.
        columns_first: whether the numbers lie in Fortran's order.
        kind: dtype of the numbers.
        offset: where the numbers begin, in bytes.
    """

    shape: tuple[int, ...]
    columns_first: bool
    kind: np.dtype[Any]
    offset: int


def _header(start: bytes) -> _Header:
    """Return what the first bytes of a file say of its array."""
    stream = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(stream)
        known = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, columns_first, kind = known[version](stream, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # A damaged header raises what Python's parser does, and more.
        raise WrongArray("it is no .npy file of an array of numbers") from error
    if any(axis < 0 for axis in shape):
        raise WrongArray(f"no array has the shape {list(shape)}")
    return _Header(shape, columns_first, kind, stream.tell())
