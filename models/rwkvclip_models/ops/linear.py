"""Products with weight matrices, by the faster of torch's two CPU libraries.

Axes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import register_flop_formula

from rwkvclip_models.ops.choice import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def linear(x: Tensor, weight: Tensor, *, implementation: str = "auto") -> Tensor:
    """Return x […, I] · weightᵀ, weight [O, I]; `product` where the implementation is "cpu".

    A compiler gets the plain product: TorchInductor chooses by itself and refuses the operator taken there.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling()
    return F.linear(x, weight) if plain or resolve(implementation) != "cpu" else product(x, weight)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x […, I] · weightᵀ, weight [O, I], whatever implementation the operators have.

    torch multiplies float32 on a CPU with MKL, which keeps to AVX2 on processors that are not Intel's; where
    those have AVX-512, oneDNN takes products without gradients (measured: `cuda/README.md`).
    """
    tracked = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != x.dtype or tracked
    if plain or torch.is_autocast_enabled("cpu") or not _mkl_is_held_back():
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


@functools.cache
def _mkl_is_held_back() -> bool:
    mkl: Any = torch.backends.mkl
    if not (mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "GenuineIntel" not in processor


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _linear_flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: Any, **__: Any) -> int:
        rows = 1
        for size in x_shape[:-1]:
            rows *= size
        return 2 * rows * weight_shape[0] * weight_shape[1]
