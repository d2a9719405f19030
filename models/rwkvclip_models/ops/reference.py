"""Bi-WKV as its definition reads: two sequential scans. Slow, plain, and what every kernel is tested against.

Equations: `cuda/README.md`. Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_RAW_DECAY = 80.0
"""exp(−exp(w)) is zero far below this w; above it exp(w) overflows, and gradients are no numbers."""


def bi_wkv6_reference(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return y [B, T, H, N] in the dtype of `r`; computed in float64 for float64 `r`, else in float32.

    Args:
        r: receptance [B, T, H, N].
        k: key [B, T, H, N].
        v: value [B, T, H, N].
        w: raw decay [B, T, H, N]; the decay per step is exp(−exp(w)).
        u: bonus of the current token [H, N].
    """
    dtype = torch.promote_types(r.dtype, torch.float32)
    # A row of r times a matrix kᵀv: the key channel is the state's first axis.
    r_, k_, v_ = (x.to(dtype) for x in (r, k, v))
    decay = torch.exp(-torch.exp(w.to(dtype).clamp(max=MAX_RAW_DECAY))).unsqueeze(-1).unbind(1)
    kv = (k_.unsqueeze(-1) * v_.unsqueeze(-2)).unbind(1)
    num_tokens = r.shape[1]

    def scan(order: range) -> list[Tensor]:
        # Depends on w even for one token, so that its gradient is zero instead of absent.
        state = torch.zeros_like(kv[0]) * decay[0]
        seen = {}
        for t in order:
            seen[t] = state
            state = decay[t] * state + kv[t]
        return [seen[t] for t in range(num_tokens)]

    past, future = scan(range(num_tokens)), scan(range(num_tokens - 1, -1, -1))
    bonus = u.to(dtype).unsqueeze(-1)
    rows = [
        torch.einsum("bhi,bhij->bhj", r_t, before + after + bonus * kv_t)
        for r_t, before, after, kv_t in zip(r_.unbind(1), past, future, kv, strict=True)
    ]
    return torch.stack(rows, dim=1).to(r.dtype)
