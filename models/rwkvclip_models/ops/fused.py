"""The elementwise work around Bi-WKV: token shift with lerps, group norm × gate, squared ReLU.

The eager forms (`eager.py`) are the reference; compiled and Triton implementations do each in one pass over
memory.

Axes: B batch, T = rows·columns tokens, H heads, N head width (C = H·N channels), K lerps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_models.errors import UserError
from rwkvclip_models.moved import forward
from rwkvclip_models.ops import eager, library
from rwkvclip_models.ops.choice import WIDTH_STEP, fused
from rwkvclip_models.ops.operands import (
    check_heads,
    check_reverse_mode,
    check_shape,
    check_shift,
    check_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_models.ops.eager import Shift

forward(__name__)


def shift_lerp(x: Tensor, mix: Tensor, shift: Shift, *, implementation: str = "auto") -> Tensor:
    """Return x + (s(x) − x)∘mix_k as [K, B, T, C], in the dtype of `x`.

    Args:
        x: [B, T, C]; kernels cast it under autocast, the eager form leaves that to the products.
        mix: weights of the shifted tokens, [K, C] or [K, B, T, C].
        shift: s.
        implementation: "auto", or a name of `implementations()`; the plain ones take the eager form.

    Raises:
        UserError: operands whose shapes or devices do not fit, or an implementation that cannot run them.
    """
    check_tensors("shift_lerp", x=x, mix=mix)
    check_shift("shift_lerp", x, *shift.sizes)
    own = mix.dim() == 4
    axes, shape = ("[K, B, T, C]", x.shape) if own else ("[K, C]", x.shape[2:])
    check_shape("shift_lerp", "mix", mix, axes, (*mix.shape[:1], *shape))
    chosen = fused(implementation, x, x.shape[-1] // shift.heads)
    if chosen is None:
        return eager.shift_lerp(x, mix, shift)
    check_reverse_mode("shift_lerp", x, mix)
    x = library.cast_for_autocast(x)
    out: Tensor = library.shift_lerp(x, mix.to(x.dtype), *shift.sizes, chosen)
    return out


def dynamic_lerp(
    x: Tensor, low_rank: Tensor, base: Tensor, up: Tensor, shift: Shift, *, implementation: str = "auto"
) -> Tensor:
    """Return `shift_lerp` with weights base_k + low_rank_k·up_k, [K, B, T, C].

    Args:
        x: [B, T, C].
        low_rank: [B, T, K·R].
        base: [K, C].
        up: [K, R, C].
        shift: as in `shift_lerp`.
        implementation: as in `shift_lerp`; "cpu" never writes the weights to memory.

    Raises:
        UserError: as in `shift_lerp`.
    """
    check_tensors("dynamic_lerp", x=x, low_rank=low_rank, base=base, up=up)
    check_shift("dynamic_lerp", x, *shift.sizes)
    check_shape("dynamic_lerp", "up", up, "[K, R, C]", (*up.shape[:2], x.shape[2]))
    lerps, rank = up.shape[:2]
    check_shape("dynamic_lerp", "base", base, "[K, C]", (lerps, x.shape[2]))
    check_shape("dynamic_lerp", "low_rank", low_rank, "[B, T, K·R]", (*x.shape[:2], lerps * rank))
    chosen = fused(implementation, x, x.shape[-1] // shift.heads)
    if chosen != "cpu" or rank % 16:
        weights = library.mixes(low_rank, base, up)
        return shift_lerp(x, weights, shift, implementation=implementation)
    check_reverse_mode("dynamic_lerp", x, low_rank, base, up)
    x = library.cast_for_autocast(x)
    out: Tensor = library.dynamic_lerp(x, low_rank.to(x.dtype), base, up, *shift.sizes, chosen)
    return out


def norm_gate(
    y: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    heads: int,
    eps: float,
    implementation: str = "auto",
) -> Tensor:
    """Return GroupNorm(y)·silu(gate) [B, T, C], one group per head; statistics in float32 at least.

    Args:
        y: [B, T, C].
        gate: [B, T, C], before its SiLU.
        weight: of the norm [C].
        bias: of the norm [C].
        heads: H.
        eps: of the norm.
        implementation: as in `shift_lerp`.

    Raises:
        UserError: as in `shift_lerp`.
    """
    check_tensors("norm_gate", y=y, gate=gate, weight=weight, bias=bias)
    check_heads("norm_gate", y, heads)
    check_shape("norm_gate", "gate", gate, "[B, T, C]", y.shape)
    for name, x in (("weight", weight), ("bias", bias)):
        check_shape("norm_gate", name, x, "[C]", y.shape[2:])
    if weight.dtype != bias.dtype:
        raise UserError(
            f"norm_gate expects weight and bias of one dtype, got {weight.dtype} and {bias.dtype}. Cast one."
        )
    chosen = fused(implementation, y, y.shape[-1] // heads)
    if chosen is None:
        return eager.norm_gate(y, gate, weight, bias, heads, eps)
    check_reverse_mode("norm_gate", y, gate, weight, bias)
    out: Tensor = library.norm_gate(y, gate.to(y.dtype), weight, bias, heads, eps, chosen)
    return out


def gated_add(
    residual: Tensor,
    gate: Tensor,
    value: Tensor,
    scale: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Return residual + scale·sigmoid(gate)·value, all of one shape but for scale.

    Args:
        residual: what is added to.
        gate: before its sigmoid.
        value: what is gated.
        scale: of each sample [B], which has no gradient; 1 by default.
        implementation: as in `shift_lerp`; only "cpu" does it in one pass.

    Raises:
        UserError: as in `shift_lerp`.
    """
    check_tensors("gated_add", residual=residual, gate=gate, value=value)
    for name, x in (("residual", residual), ("gate", gate)):
        check_shape("gated_add", name, x, "that of value", value.shape)
    if scale is not None:
        check_shape("gated_add", "scale", scale, "[B]", value.shape[:1])
    chosen = fused(implementation, value, None)
    ragged = scale is not None and value[:1].numel() % WIDTH_STEP != 0
    if chosen != "cpu" or ragged or not residual.dtype == gate.dtype == value.dtype:
        return eager.gated_add(residual, gate, value, scale)
    check_reverse_mode("gated_add", residual, gate, value)
    out: Tensor = library.gated_add(residual, gate, value, scale, chosen)
    return out


def relu_square(x: Tensor, *, implementation: str = "auto", overwrite: bool = False) -> Tensor:
    """Return relu(x)².

    Args:
        x: of any shape.
        implementation: as in `shift_lerp`.
        overwrite: the result may take the place of x, which then must not be used again; for inference.

    Raises:
        UserError: as in `shift_lerp`.
    """
    check_tensors("relu_square", x=x)
    chosen = fused(implementation, x, None)
    if chosen is None:
        return eager.relu_square(x)
    check_reverse_mode("relu_square", x)
    if overwrite and chosen == "cpu":
        library.relu_square_(x, chosen)
        return x
    out: Tensor = library.relu_square(x, chosen)
    return out
