"""Bi-WKV of a sequence in pieces: what tokens of other pieces add, from a state of fixed size.

The state of a direction is Σ_i diag(Π d) k_iᵀ v_i over the tokens passed, with the decays strictly between
token i and the edge of the piece. One pass in each direction carries it from piece to piece; what they add to
`bi_wkv6` of each piece makes Bi-WKV of the whole sequence. Equations: `cuda/README.md`.

Axes: B batch, T tokens of a piece, H heads, N head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_models.ops.blocked import to_edges, without_autocast

if TYPE_CHECKING:
    from torch import Tensor


def carried(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, state: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Return what the tokens passed add to y [B, T, H, N], and the state [B, H, N, N] after this piece.

    Computed in the dtype of w, whatever autocast says.

    Args:
        r: receptance [B, T, H, N] of the piece.
        k: key, like r.
        v: value, like r.
        w: raw decay, like r, in float32 or float64.
        state: of the pieces passed [B, H, N, N], key channels first; zeros before the first. In w's dtype.
        reverse: whether the pieces passed come after this one; else they come before it.
    """
    with without_autocast(r):
        before, after, total = to_edges(w)
        near, far = (after, before) if reverse else (before, after)
        r, k, v = (x.to(w.dtype).transpose(1, 2) for x in (r, k, v))
        return ((r * near) @ state).transpose(1, 2), total * state + (k * far).mT @ v
