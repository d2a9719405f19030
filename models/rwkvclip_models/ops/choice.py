"""Which implementation of the operators runs: what there is, what "auto" means, what cannot be had."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.errors import UserError, near_matches
from rwkvclip_models.ops import build, trial, triton_support
from rwkvclip_models.ops.blocked import bi_wkv6_torch
from rwkvclip_models.ops.compilers import BuildError
from rwkvclip_models.ops.reference import bi_wkv6_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

PLAIN: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "reference": bi_wkv6_reference,
    "torch": bi_wkv6_torch,
}
"""Plain torch on any device; the elementwise operators beside them are the eager forms."""

KERNELS = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}
"""Compiled and Triton implementations, with the kind of device each is made for."""

AUTO = {"cpu": ("cpu", "torch"), "cuda": ("cuda", "triton", "torch")}
"""Per kind of device, fastest first; "torch" on all others. Measurements: `cuda/README.md`."""

MAX_WIDTH, WIDTH_STEP = 128, 16
"""Head widths the kernels take: multiples of the step up to the most."""


@dataclass(frozen=True, kw_only=True)
class ImplementationStatus:
    """Whether one implementation can run here.

    Attributes:
        name: as `bi_wkv6(implementation=…)` takes it.
        available: whether it can run on this machine.
        reason: why it cannot; empty when available.
        cure: what to do about it; empty when available.
    """

    name: str
    available: bool
    reason: str = ""
    cure: str = ""


class ImplementationWarning(UserWarning):
    """A slower implementation runs than this device could have."""


def implementations() -> list[ImplementationStatus]:
    """Return the known implementations and whether they can run here; builds and tries what is new here."""
    return [status(name) for name in (*PLAIN, *KERNELS)]


_trusted: set[str] = set()


def trust(name: str) -> None:
    """Take an implementation without its trial: in the process of that trial, before anything asks."""
    _trusted.add(name)


@functools.cache
def status(name: str) -> ImplementationStatus:
    """Return whether one implementation can run here; to find out, they are built and tried."""
    reason, cure = "", ""
    if KERNELS.get(name) == "cuda" and not torch.cuda.is_available():
        reason, cure = "torch sees no NVIDIA GPU.", "Use it on a machine with one."
    elif name == "triton":
        available, reason, cure = triton_support.status()
        reason += "." * (not available)
    elif name in {"cpu", "cuda"}:
        try:
            build.library(name)
        except BuildError as error:
            reason, cure = error.reason, error.cure
    if not reason and name in KERNELS and name not in _trusted:
        on_gpu = KERNELS[name] == "cuda"
        reason, cure = trial.verdict(name, f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu")
    return ImplementationStatus(name=name, available=not reason, reason=reason, cure=cure)


def known(implementation: str) -> str:
    """Return the name of an implementation, whether or not it can run here.

    Raises:
        UserError: there is no such implementation.
    """
    names = ["auto", *PLAIN, *KERNELS]
    if implementation in names:
        return implementation
    hint = near_matches(implementation, names)
    raise UserError(f"Unknown Bi-WKV implementation {implementation!r}.{hint} Known: {', '.join(names)}.")


def resolve(
    implementation: str = "auto",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    width: int = WIDTH_STEP,
) -> str:
    """Return the name of the implementation that runs for operands like these; never "auto".

    "auto" takes the first of `AUTO` that can; where that is not the first of all, one `ImplementationWarning`
    says why.

    Args:
        implementation: "auto" or a name of `implementations()`.
        device: of the operands.
        dtype: of r, k, v.
        width: N, of a head.

    Raises:
        UserError: there is no such implementation, or the one named cannot run these operands here.
    """
    name: str = _resolve(implementation, torch.device(device).type, dtype, _constant(width))
    return name


def fused(implementation: str, x: Tensor, width: int | None) -> str | None:
    """Return who runs an elementwise operator on `x` with heads of `width`; None for the eager form."""
    width = WIDTH_STEP if width is None else _constant(width)
    name = _resolve(implementation, x.device.type, x.dtype, width)
    return name if name in KERNELS else None


def _constant(width: int) -> int:
    """Return a width that is as good as this one, and a constant for a compiler where this is a symbol."""
    fits = width % WIDTH_STEP == 0 and 0 < width <= MAX_WIDTH
    return WIDTH_STEP if fits else int(width)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]  # untyped in torch
def _resolve(implementation: object, kind: str, dtype: torch.dtype, width: int) -> str:
    if not isinstance(implementation, str):
        names = ", ".join(("auto", *PLAIN, *KERNELS))
        raise UserError(f"A Bi-WKV implementation is one of {names}, got {implementation!r}.")
    return _decide(implementation, kind, dtype, width)


@functools.cache
def _decide(implementation: str, kind: str, dtype: torch.dtype, width: int) -> str:
    if implementation == "auto":
        refused: list[tuple[str, str, str]] = []
        for name in AUTO.get(kind, ("torch",)):
            why = _obstacle(name, kind, dtype, width)
            if why is None:
                _warn(name, refused)
                return name
            refused.append((name, *why))
        raise AssertionError("the torch implementation takes everything")
    known(implementation)
    why = _obstacle(implementation, kind, dtype, width)
    if why is not None:
        reason, cure = why
        raise UserError(f"Bi-WKV implementation {implementation!r} cannot run: {reason} {cure}")
    return implementation


def _obstacle(name: str, kind: str, dtype: torch.dtype, width: int) -> tuple[str, str] | None:
    """Return why an implementation cannot run such operands and what to do; None if it can."""
    if name in PLAIN:
        return None
    if KERNELS[name] != kind:
        return (
            f"it works on {KERNELS[name]} tensors, got {kind}.",
            f"Move the model and its inputs (on the command line: --device {KERNELS[name]}), "
            "or use 'auto' or 'torch'.",
        )
    if width % WIDTH_STEP or not 0 < width <= MAX_WIDTH:
        return (
            f"its heads are multiples of {WIDTH_STEP} up to {MAX_WIDTH} wide, got {width}.",
            "Use 'torch', which takes any width.",
        )
    if dtype not in dtypes_of(name):
        wanted = ", ".join(str(x).removeprefix("torch.") for x in dtypes_of(name))
        return f"it takes {wanted}, got {dtype}.", "Use 'torch', which takes any."
    found = status(name)
    return None if found.available else (found.reason, found.cure)


def devices_of(name: str) -> tuple[str, ...]:
    """Return the kinds of device an implementation is made for; empty for any."""
    return (KERNELS[name],) if name in KERNELS else ()


def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    """Return the dtypes of r, k, v that an implementation takes."""
    low = (torch.float32, torch.bfloat16, torch.float16)
    return low if KERNELS.get(name) == "cuda" else (*low, torch.float64)


_warned: set[str] = set()


def _warn(chosen: str, refused: Iterable[tuple[str, str, str]]) -> None:
    why = " Nor ".join(f"{name!r}: {reason} {cure}" for name, reason, cure in refused)
    text = f"Bi-WKV runs in the slower implementation {chosen!r}, not {why}"
    if why and text not in _warned:
        _warned.add(text)
        warnings.warn(text, ImplementationWarning, stacklevel=2)
