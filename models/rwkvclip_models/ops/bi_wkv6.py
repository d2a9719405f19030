"""The Bi-WKV operator: checks its operands and hands them to one of the implementations.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.errors import UserError
from rwkvclip_models.ops.blocked import bi_wkv6_torch
from rwkvclip_models.ops.reference import bi_wkv6_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "reference": bi_wkv6_reference,
    "torch": bi_wkv6_torch,
}


@dataclass(frozen=True, kw_only=True)
class ImplementationStatus:
    """Whether one implementation can run here."""

    name: str
    """As `bi_wkv6(implementation=…)` takes it."""
    available: bool
    """Whether it can run on this machine."""
    reason: str = ""
    """Why it cannot; empty when available."""
    cure: str = ""
    """What to do about it; empty when available."""


def implementations() -> list[ImplementationStatus]:
    """Return the known implementations and whether they can run here."""
    return [ImplementationStatus(name=name, available=True) for name in _IMPLEMENTATIONS]


def resolve(implementation: str = "auto", *, device: torch.device | str = "cpu") -> str:
    """Return the name of the implementation that `bi_wkv6` runs for operands on `device`; never "auto".

    "auto" is "torch" on every device.

    Raises:
        UserError: there is no such implementation.
    """
    if implementation == "auto":
        return "torch"
    if implementation not in _IMPLEMENTATIONS:
        known = ["auto", *_IMPLEMENTATIONS]
        near = difflib.get_close_matches(implementation, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"Unknown Bi-WKV implementation {implementation!r}.{hint} Known: {', '.join(known)}.")
    return implementation


def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, *, implementation: str = "auto") -> Tensor:
    """Return y [B, T, H, N] of the bidirectional WKV-6 recurrence, in the dtype of `r`.

    y_t = r_t · [diag(u) k_tᵀ v_t + Σ_{i≠t} diag(Π_{j strictly between} d_j) k_iᵀ v_i], d = exp(−exp(w)),
    accumulated in float32 (float64 for float64 operands). Under autocast r, k, v are cast, w and u are not.

    Args:
        r: receptance [B, T, H, N]; any strides.
        k: key, like r.
        v: value, like r.
        w: raw decay [B, T, H, N], float32 (float64 beside float64 operands): bfloat16 corrupts decays.
        u: bonus of the current token [H, N], dtype as w.
        implementation: "auto", "reference" or "torch".

    Raises:
        UserError: unknown implementation, or operands whose shapes, dtypes or devices do not fit.
    """
    if torch.is_autocast_enabled(r.device.type) and r.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(r.device.type)
        r, k, v = r.to(dtype), k.to(dtype), v.to(dtype)
    _check(r, k, v, w, u)
    return _IMPLEMENTATIONS[resolve(implementation, device=r.device)](r, k, v, w, u)


def _check(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> None:
    if r.dim() != 4 or r.shape[1] == 0:
        raise UserError(f"bi_wkv6 expects r of shape [B, T, H, N] with T ≥ 1, got {list(r.shape)}.")
    for name, x in (("k", k), ("v", v), ("w", w)):
        if x.shape != r.shape:
            raise UserError(f"bi_wkv6 expects {name} of r's shape {list(r.shape)}, got {list(x.shape)}.")
    if u.shape != r.shape[2:]:
        raise UserError(f"bi_wkv6 expects u of shape [H, N] = {list(r.shape[2:])}, got {list(u.shape)}.")
    if not r.is_floating_point() or k.dtype != r.dtype or v.dtype != r.dtype:
        raise UserError(f"bi_wkv6 expects r, k, v of one float dtype, got {r.dtype}, {k.dtype}, {v.dtype}.")
    wanted = torch.promote_types(r.dtype, torch.float32)
    for name, x in (("w", w), ("u", u)):
        if x.dtype != wanted:
            raise UserError(f"bi_wkv6 expects {name} in {wanted} beside {r.dtype} operands, got {x.dtype}.")
    devices = {x.device for x in (r, k, v, w, u)}
    if len(devices) > 1:
        raise UserError(f"bi_wkv6 expects its operands on one device, got {', '.join(map(str, devices))}.")


def check(implementation: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the largest relative error of an implementation against the float64 reference.

    Output and all five gradients count, each as max |difference| / max |reference|, on one fixed random
    problem (B 2, T 49, H 2, N 80) whose operands are exact in `dtype`.

    Raises:
        UserError: unknown implementation.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (2, 49, 2, 80)
    r, k, v, gy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    w = torch.empty(shape).uniform_(-6, 1, generator=generator)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)

    def run(name: str, operands: list[Tensor], weight: Tensor) -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in operands]
        y = bi_wkv6(*leaves, implementation=name)
        return [y.detach(), *torch.autograd.grad(y, leaves, weight)]

    low = torch.promote_types(dtype, torch.float32)
    exact = run("reference", [x.double() for x in (r, k, v, w, u)], gy.double())
    here = [x.to(device) for x in (r, k, v, w.to(low), u.to(low))]
    ran = run(resolve(implementation, device=device), here, gy.to(device))
    return max(
        float((a.cpu().double() - b).abs().max() / b.abs().max()) for a, b in zip(ran, exact, strict=True)
    )
