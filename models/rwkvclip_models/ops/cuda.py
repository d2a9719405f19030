"""Bi-WKV in CUDA (`cuda/bi_wkv6.cu`): output and gradients of tensors on one device.

Plain functions: no autograd, and the caller has checked shapes, dtypes and devices. Work is queued on the
current stream, memory comes from torch's allocator, and results repeat bit by bit.
Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build, native

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT_BYTES = 16
"""Of operands: the kernels read several channels at once."""


def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return y [B, T, H, N] in the dtype of `r`, contiguous; sums are float32.

    Factors of matrix products enter as one bfloat16 number for bfloat16 operands, as the sum of two for
    float16 ones and of three for float32 ones.

    Args:
        r: receptance [B, T, H, N], float32, bfloat16 or float16; N a multiple of 16 up to 128.
        k: key, like r.
        v: value, like r.
        w: raw decay [B, T, H, N], float32; the decay per step is exp(−exp(w)).
        u: bonus of the current token [H, N], float32.

    Raises:
        RuntimeError: the device refused the work.
    """
    r, k, v, w, u = (_readable(x) for x in (r, k, v, w, u))
    y = torch.empty_like(r)
    workspace = w.new_empty(_sizes(r)[0])
    native.queue("bi_wkv6", r, k, v, w, u, y, workspace, *_shape(r), on=r)
    return y


def bi_wkv6_backward(
    gy: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of r, k, v in their dtype and of w, u in float32, all contiguous.

    Args:
        gy: gradient of y [B, T, H, N], dtype of r.
        r: receptance, as in `bi_wkv6`.
        k: key.
        v: value.
        w: raw decay.
        u: bonus.

    Raises:
        RuntimeError: the device refused the work.
    """
    gy, r, k, v, w, u = (_readable(x) for x in (gy, r, k, v, w, u))
    gr, gk, gv, gw = (torch.empty_like(x) for x in (r, k, v, w))
    _, floats, rows = _sizes(r)
    workspace = w.new_empty(floats)
    gu = w.new_empty((r.shape[0], rows, *u.shape))
    tensors = (gy, r, k, v, w, u, gr, gk, gv, gw, gu, workspace)
    native.queue("bi_wkv6_backward", *tensors, *_shape(r), on=r)
    return gr, gk, gv, gw, gu.sum((0, 1))


def _readable(x: Tensor) -> Tensor:
    x = x.contiguous()
    return x.clone() if x.data_ptr() % _ALIGNMENT_BYTES else x


def _shape(r: Tensor) -> tuple[int, ...]:
    return (*r.shape, native.DTYPE_CODES[r.dtype])


def _sizes(r: Tensor) -> tuple[int, int, int]:
    """Return the floats of workspace forward and backward need, and the rows of gu's partial sums."""
    sizes = [ctypes.c_int64() for _ in range(3)]
    native.call(build.library("cuda"), "bi_wkv6_sizes", *_shape(r), *map(ctypes.byref, sizes))
    forward, backward, rows = (size.value for size in sizes)
    return forward, backward, rows
