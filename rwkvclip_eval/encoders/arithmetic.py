"""In which arithmetic the towers run: precisions, and float32 that is float32."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> None:
    """Refuse a precision other than fp32, bf16 and fp16.

    Raises:
        UserError: it is none of them.
    """
    if precision not in _AUTOCAST:
        raise UserError(unknown_name("precision", precision, _AUTOCAST))


def product_dtype(precision: str) -> torch.dtype:
    """Return the dtype in which `precision` multiplies matrices."""
    return _AUTOCAST[precision] or torch.float32


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Run a block in `precision` on `device`, whatever settings surround it, and put them back.

    fp32 is IEEE float32: TF32 and an enclosing autocast are off. bf16 and fp16 are autocast: weights stay
    float32 and matrix products and convolutions are cast, so that the decays and bonuses of Bi-WKV, norms
    and reductions keep float32.
    """
    if device.type == "meta":
        # Shapes alone, which have no arithmetic.
        yield
        return
    dtype = _AUTOCAST[precision]
    # Without the cache, since casts cached inside inference mode would break a training step that
    # follows under the same outer autocast.
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
    with _ieee_float32(), autocast:
        yield


@contextlib.contextmanager
def _ieee_float32() -> Iterator[None]:
    # PyTorch has two sets of switches, and reading the older raises where a program mixed them.
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    new = [(part, part.fp32_precision) for part in parts]
    old_matmul: str | None = None
    old_cudnn: bool | None = None
    with contextlib.suppress(RuntimeError):
        old_matmul = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        old_cudnn = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for part, _ in new:
        part.fp32_precision = "ieee"
    try:
        yield
    finally:
        if old_matmul is not None:
            torch.set_float32_matmul_precision(old_matmul)
        if old_cudnn is not None:
            torch.backends.cudnn.allow_tf32 = old_cudnn
        for part, precision in new:
            part.fp32_precision = precision
