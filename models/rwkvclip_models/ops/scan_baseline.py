"""The plain scans that benchmarks hold the kernels against; sources are `cuda/scan_baseline.*`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import build, native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


def prepare(device: str, operands: Sequence[Tensor], *, backward: bool) -> Callable[[], Tensor] | None:
    """Return a call of the scan on float32 r, k, v, w, u; None where there is none."""
    r, k, v, w, u = operands
    if device != "cpu" or backward:
        return None
    try:
        library = build.library("scan_baseline")
    except build.BuildError:
        return None
    y = torch.empty_like(r)

    def call() -> Tensor:
        native.call(library, "scan_baseline", r, k, v, w, u, y, *r.shape, torch.get_num_threads())
        return y

    return call
