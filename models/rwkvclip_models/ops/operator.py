"""The Bi-WKV operator: checks its operands and hands them to one of the implementations.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rwkvclip_models.errors import UserError
from rwkvclip_models.ops import library
from rwkvclip_models.ops.choice import PLAIN, resolve
from rwkvclip_models.ops.native import DTYPE_CODES
from rwkvclip_models.ops.operands import check_reverse_mode, check_tensors

if TYPE_CHECKING:
    from torch import Tensor


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
        implementation: "auto", or a name of `implementations()`.

    Raises:
        UserError: an implementation that is unknown or cannot run these operands here, or operands whose
            shapes, dtypes or devices do not fit.
    """
    check_tensors("bi_wkv6", r=r, k=k, v=v, w=w, u=u)
    r, k, v = (library.cast_for_autocast(x) for x in (r, k, v))
    _check(r, k, v, w, u)
    name = resolve(implementation, device=r.device, dtype=r.dtype, width=r.shape[-1])
    if r.device.type == "meta":
        # Shapes alone: of the operator itself, so that what counts FLOPs counts the recurrence.
        name = "cpu"
    if name in PLAIN:
        return PLAIN[name](r, k, v, w, u)
    check_reverse_mode("bi_wkv6", r, k, v, w, u)
    y: Tensor = library.bi_wkv6(r, k, v, w, u, name)
    return y


def _check(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> None:
    if r.dim() != 4 or r.shape[1] == 0:
        raise UserError(f"bi_wkv6 expects r of shape [B, T, H, N] with T ≥ 1, got {list(r.shape)}.")
    for name, x in (("k", k), ("v", v), ("w", w)):
        if x.shape != r.shape:
            raise UserError(f"bi_wkv6 expects {name} of r's shape {list(r.shape)}, got {list(x.shape)}.")
    if u.shape != r.shape[2:]:
        raise UserError(f"bi_wkv6 expects u of shape [H, N] = {list(r.shape[2:])}, got {list(u.shape)}.")
    if r.dtype not in DTYPE_CODES or k.dtype != r.dtype or v.dtype != r.dtype:
        raise UserError(f"bi_wkv6 expects r, k, v of one float dtype, got {r.dtype}, {k.dtype}, {v.dtype}.")
    wanted = torch.promote_types(r.dtype, torch.float32)
    for name, x in (("w", w), ("u", u)):
        if x.dtype != wanted:
            raise UserError(f"bi_wkv6 expects {name} in {wanted} beside {r.dtype} operands, got {x.dtype}.")
