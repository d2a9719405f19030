"""Products with weight matrices, by the faster of torch's two CPU libraries.

Axes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import register_flop_formula
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from torch import Tensor


def linear(x: Tensor, weight: Tensor, *, transposed: bool = False, implementation: str = "auto") -> Tensor:
    """Return x […, I] · weightᵀ, weight [O, I] ([I, O] if `transposed`), from its packed form if it has one.

    Where the implementation is not "cpu", by torch. A compiler gets the plain product: TorchInductor chooses
    by itself and refuses the operator taken there.
    """
    matrix = weight.t() if transposed else weight
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.linear(x, matrix)
    packed = _packed.get(weight)
    if packed is None and x.dtype != torch.float32:
        return F.linear(x, matrix)
    # The solver takes `product` alone, and needs none of the operators.
    from rwkvclip_models.ops.choice import resolve

    if resolve(implementation) != "cpu":
        return F.linear(x, matrix)
    if packed is None or _tracked(x, weight) or not packed.serves(weight, x, transposed):
        return product(x, matrix)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(packed.dtype), packed.weight, None, "none", [], "")
    return y


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x […, I] · weightᵀ, weight [O, I], whatever implementation the operators have.

    torch multiplies float32 on a CPU with MKL, which keeps to AVX2 on processors that are not Intel's; where
    those have AVX-512, oneDNN takes products without gradients (measured: `cuda/README.md`).
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != x.dtype
    if plain or _tracked(x, weight) or torch.is_autocast_enabled("cpu") or not _mkl_is_held_back():
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


def _tracked(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


@dataclass(frozen=True)
class _Packed:
    """A weight in the order in which oneDNN multiplies it, and what it was made of.

    Attributes:
        weight: in that order.
        dtype: in which it multiplies.
        transposed: whether it is of the transposed weight.
        source: an alias, so that nothing else comes to lie at its address.
        version: torch's count of the source's changes when it was made.
    """

    weight: Tensor
    dtype: torch.dtype
    transposed: bool
    source: Tensor
    version: int

    def serves(self, weight: Tensor, x: Tensor, transposed: bool) -> bool:
        """Whether this is what x is to be multiplied by; forgets a weight that changed or moved."""
        if (weight.data_ptr(), weight._version) != (self.source.data_ptr(), self.version):
            del _packed[weight]
            return False
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        return (self.dtype, self.transposed) == (dtype, transposed) and (autocast or weight.dtype == dtype)


_packed: MutableMapping[Tensor, _Packed] = WeakTensorKeyDictionary()
"""What is packed, by weight; an entry goes when its weight does."""

_ROWS = 2048
"""Rows of a product for which oneDNN chooses the order; with others it is as fast."""


def pack(weight: Tensor, dtype: torch.dtype, *, transposed: bool = False) -> None:
    """Have `linear` multiply `weight` in `dtype` from a copy that lies as oneDNN reads it.

    Without one it is put in order for every product anew. The copy goes when the weight does, or once it has
    changed in place or been moved. What torch does not count as a change must not happen to a packed weight:
    writing to it through `.data`, NumPy or DLPack. Nothing happens where oneDNN is not what multiplies.
    """
    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    # A weight born in inference mode counts no changes.
    if weight.device.type != "cpu" or reorder is None or weight.is_inference():
        return
    by_onednn: dict[torch.dtype, Callable[[], bool]] = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float32: _mkl_is_held_back,
    }
    if dtype not in by_onednn or not by_onednn[dtype]():
        return
    with torch.no_grad():
        matrix = (weight.t() if transposed else weight).to(dtype).contiguous()
        packed = reorder(matrix, _ROWS)
    _packed[weight] = _Packed(packed, dtype, transposed, weight.detach(), weight._version)


def forget(weight: Tensor) -> None:
    """Drop the packed copy of `weight`, where there is one."""
    _packed.pop(weight, None)


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
