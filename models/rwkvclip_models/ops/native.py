"""Calls functions of a compiled library with tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


def call(library: ctypes.CDLL, name: str, *arguments: Tensor | float | ctypes.c_void_p | None) -> None:
    """Call `rwkvclip_NAME`: tensors and None as pointers, int as int64, float as double.

    Tensors must be contiguous; the caller keeps them alive.

    Raises:
        RuntimeError: the function reported an error.
    """
    if getattr(library, f"rwkvclip_{name}")(*map(_argument, arguments)):
        raise RuntimeError(f"{name}: {library.rwkvclip_error().decode()}")


def _argument(value: Tensor | float | ctypes.c_void_p | None) -> object:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.c_void_p):
        return value
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)
