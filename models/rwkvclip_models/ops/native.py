"""Calls functions of a compiled library with tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build

if TYPE_CHECKING:
    from torch import Tensor

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


def call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Call `rwkvclip_NAME`: tensors and None as pointers, int as int64, float as double, others as they are.

    Tensors must be contiguous; the caller keeps them alive.

    Raises:
        RuntimeError: the function reported an error.
    """
    if getattr(library, f"rwkvclip_{name}")(*map(_argument, arguments)):
        raise RuntimeError(f"{name}: {library.rwkvclip_error().decode()}")


def queue(name: str, *arguments: object, on: Tensor) -> None:
    """Call `rwkvclip_NAME` of the CUDA library on the current stream of the device of `on`.

    Raises:
        RuntimeError: the device refused the work.
    """
    # Tensors of the CPU come with kernels compiled for it, which know no streams.
    stream = torch.cuda.current_stream(on.device).cuda_stream if on.is_cuda else 0
    with torch.cuda.device(on.get_device()):
        call(build.library("cuda"), name, *arguments, ctypes.c_void_p(stream))


def _argument(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p(None) if value is None else value
