"""The plain scans that benchmarks hold the kernels against; sources are `cuda/scan_baseline.*`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build, native
from rwkvclip_models.ops.compilers import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


def prepare(device: str, operands: Sequence[Tensor], *, backward: bool) -> Callable[[], Tensor] | None:
    """Return a call of the scan on float32 r, k, v, w, u [B, T, H, N]; None where there is none.

    The CPU's has no backward pass. The call returns y or, going backward with a gradient of ones, that of r.
    """
    r, k, v, w, u = operands
    try:
        if device == "cuda":
            return _on_gpu(build.library("cuda"), r, k, v, w, u, backward)
        if device != "cpu" or backward:
            return None
        library = build.library("scan_baseline")
    except BuildError:
        return None
    y = torch.empty_like(r)

    def call() -> Tensor:
        native.call(library, "scan_baseline", r, k, v, w, u, y, *r.shape, torch.get_num_threads())
        return y

    return call


def _on_gpu(
    library: ctypes.CDLL, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, backward: bool
) -> Callable[[], Tensor]:
    y, gy, gr, gk, gv, gw, scratch = (torch.ones_like(w) for _ in range(7))
    gu = w.new_empty(r.shape[0], *u.shape)

    def stream() -> ctypes.c_void_p:
        return ctypes.c_void_p(torch.cuda.current_stream(r.device).cuda_stream)

    def call() -> Tensor:
        native.call(library, "scan_forward", r, k, v, w, u, y, *r.shape, stream())
        if not backward:
            return y
        operands = (gy, r, k, v, w, u, gr, gk, gv, gw, gu, scratch)
        native.call(library, "scan_backward", *operands, *r.shape, stream())
        return gr

    return call
