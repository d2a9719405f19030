"""The operators as torch knows them: schemas, shapes without data, gradients, autocast, FLOPs.

Each runs in the compiled or Triton implementation it is told; plain torch forms never come here. Operands are
checked by the callers (`operator.py`, `fused.py`).

Axes: B batch, T tokens, H heads, N head width, C channels, K lerps.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

MODULES = {
    "cpu": ("cpu", "cpu"),
    "cuda": ("cuda", "cuda_fused"),
    "triton": ("triton_wkv", "triton_fused"),
}
"""Implementation → modules of its recurrence and of its elementwise operators."""


def recurrence(implementation: str) -> ModuleType:
    """Return the module with `bi_wkv6` and `bi_wkv6_backward` of an implementation."""
    return importlib.import_module(f"rwkvclip_models.ops.{MODULES[implementation][0]}")


def elementwise(implementation: str) -> ModuleType:
    """Return the module with an implementation's `shift_lerp`, `norm_gate`, `relu_square` and gradients."""
    return importlib.import_module(f"rwkvclip_models.ops.{MODULES[implementation][1]}")


@torch.library.custom_op("rwkvclip::bi_wkv6", mutates_args=())
def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, implementation: str) -> Tensor:
    """Return y [B, T, H, N], contiguous, in r's dtype."""
    y: Tensor = recurrence(implementation).bi_wkv6(r, k, v, w, u)
    return y


@torch.library.custom_op("rwkvclip::bi_wkv6_backward", mutates_args=())
def bi_wkv6_backward(
    gy: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, implementation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of r, k, v, w, u, contiguous, each in its operand's dtype."""
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = recurrence(implementation).bi_wkv6_backward(
        gy, r, k, v, w, u
    )
    return gradients


@torch.library.custom_op("rwkvclip::shift_lerp", mutates_args=())
def shift_lerp(
    x: Tensor, mix: Tensor, rows: int, columns: int, heads: int, directions: int, implementation: str
) -> Tensor:
    """Return x + (s(x) − x)∘mix_k as [K, B, T, C] of x [B, T, C] and mix [K, C] or [K, B, T, C]."""
    out: Tensor = elementwise(implementation).shift_lerp(x, mix, rows, columns, heads, directions)
    return out


@torch.library.custom_op("rwkvclip::dynamic_lerp", mutates_args=())
def dynamic_lerp(
    x: Tensor,
    low_rank: Tensor,
    base: Tensor,
    up: Tensor,
    rows: int,
    columns: int,
    heads: int,
    directions: int,
    implementation: str,
) -> Tensor:
    """Return x + (s(x) − x)∘(base_k + low_rank_k·up_k) as [K, B, T, C].

    x [B, T, C], low_rank [B, T, K·R], base [K, C], up [K, R, C]. Only "cpu" has it in one pass.
    """
    sizes = (rows, columns, heads, directions)
    out: Tensor = elementwise(implementation).dynamic_lerp(x, low_rank, base, up, *sizes)
    return out


@torch.library.custom_op("rwkvclip::dynamic_lerp_backward", mutates_args=())
def dynamic_lerp_backward(
    grad: Tensor,
    x: Tensor,
    low_rank: Tensor,
    base: Tensor,
    up: Tensor,
    rows: int,
    columns: int,
    heads: int,
    directions: int,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, low_rank, base and up."""
    sizes = (rows, columns, heads, directions)
    gradients: tuple[Tensor, Tensor, Tensor, Tensor] = elementwise(implementation).dynamic_lerp_backward(
        grad, x, low_rank, base, up, *sizes
    )
    return gradients


@torch.library.custom_op("rwkvclip::shift_lerp_backward", mutates_args=())
def shift_lerp_backward(
    grad: Tensor,
    x: Tensor,
    mix: Tensor,
    rows: int,
    columns: int,
    heads: int,
    directions: int,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and mix."""
    gradients: tuple[Tensor, Tensor] = elementwise(implementation).shift_lerp_backward(
        grad, x, mix, rows, columns, heads, directions
    )
    return gradients


@torch.library.custom_op("rwkvclip::norm_gate", mutates_args=())
def norm_gate(
    y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, heads: int, eps: float, implementation: str
) -> Tensor:
    """Return (GroupNorm of each head of y)·silu(gate) as [B, T, C] of y and gate [B, T, C]."""
    out: Tensor = elementwise(implementation).norm_gate(y, gate, weight, bias, heads, eps)
    return out


@torch.library.custom_op("rwkvclip::norm_gate_backward", mutates_args=())
def norm_gate_backward(
    grad: Tensor,
    y: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    heads: int,
    eps: float,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, gate, weight and bias."""
    gradients: tuple[Tensor, Tensor, Tensor, Tensor] = elementwise(implementation).norm_gate_backward(
        grad, y, gate, weight, bias, heads, eps
    )
    return gradients


@torch.library.custom_op("rwkvclip::relu_square", mutates_args=())
def relu_square(x: Tensor, implementation: str) -> Tensor:
    """Return relu(x)²."""
    out: Tensor = elementwise(implementation).relu_square(x)
    return out


@torch.library.custom_op("rwkvclip::relu_square_", mutates_args={"x"})
def relu_square_(x: Tensor, implementation: str) -> None:
    """Replace x by relu(x)², for inference. Only "cpu" has it."""
    elementwise(implementation).relu_square_(x)


@torch.library.custom_op("rwkvclip::gated_add", mutates_args=())
def gated_add(
    residual: Tensor, gate: Tensor, value: Tensor, scale: Tensor | None, implementation: str
) -> Tensor:
    """Return residual + scale·sigmoid(gate)·value, all of one shape and dtype but for scale [B].

    Without scale 1. Only "cpu" has it in one pass.
    """
    out: Tensor = elementwise(implementation).gated_add(residual, gate, value, scale)
    return out


@torch.library.custom_op("rwkvclip::gated_add_backward", mutates_args=())
def gated_add_backward(
    grad: Tensor, gate: Tensor, value: Tensor, scale: Tensor | None, implementation: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and value; that of the residual is `grad`."""
    gradients: tuple[Tensor, Tensor] = elementwise(implementation).gated_add_backward(
        grad, gate, value, scale
    )
    return gradients


@torch.library.custom_op("rwkvclip::relu_square_backward", mutates_args=())
def relu_square_backward(grad: Tensor, x: Tensor, implementation: str) -> Tensor:
    """Return the gradient of x."""
    gx: Tensor = elementwise(implementation).relu_square_backward(grad, x)
    return gx


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _register(
    forward: Any, backward: Any, num_tensors: int, forward_shape: Callable[..., Tensor] = _like
) -> None:
    """Register shapes and gradient of an operator differentiable in its first `num_tensors` operands."""

    def forward_fake(*operands: Any) -> Tensor:
        return forward_shape(*operands[:num_tensors])

    def backward_fake(_: Tensor, *operands: Any) -> Tensor | tuple[Tensor, ...]:
        gradients = tuple(_like(x) for x in operands[:num_tensors])
        return gradients if num_tensors > 1 else gradients[0]

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:num_tensors])
        ctx.rest = inputs[num_tensors:]

    def gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = backward(grad, *ctx.saved_tensors, *ctx.rest)
        gradients = (gradients,) if isinstance(gradients, Tensor) else tuple(gradients)
        return (*gradients, *(None for _ in ctx.rest))

    forward.register_fake(forward_fake)
    backward.register_fake(backward_fake)
    forward.register_autograd(gradient, setup_context=setup_context)


def mixes(low_rank: Tensor, base: Tensor, up: Tensor) -> Tensor:
    """Return base_k + low_rank_k·up_k as [K, B, T, C]."""
    lerps, rank, channels = up.shape
    by_lerp = low_rank.reshape(-1, lerps, rank).transpose(0, 1)
    weights = torch.baddbmm(base.to(by_lerp.dtype)[:, None], by_lerp, up.to(by_lerp.dtype))
    return weights.view(lerps, *low_rank.shape[:-1], channels)


def _gated_add_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad, *gated_add_backward(grad, *ctx.saved_tensors, ctx.implementation), None, None


def _gated_add_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])
    ctx.implementation = inputs[4]


gated_add.register_fake(lambda residual, *_: _like(residual))
gated_add_backward.register_fake(lambda grad, gate, value, *_: (_like(gate), _like(value)))
gated_add.register_autograd(_gated_add_gradient, setup_context=_gated_add_context)
relu_square_.register_fake(lambda *_: None)
_register(
    dynamic_lerp,
    dynamic_lerp_backward,
    4,
    lambda x, low_rank, base, up: x.new_empty(up.shape[0], *x.shape),
)
_register(bi_wkv6, bi_wkv6_backward, 5, lambda r, *_: _like(r))
_register(shift_lerp, shift_lerp_backward, 2, lambda x, mix: x.new_empty(mix.shape[0], *x.shape))
_register(norm_gate, norm_gate_backward, 4, lambda y, *_: _like(y))
_register(relu_square, relu_square_backward, 1)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Return x in autocast's dtype where that is on for its device; float64 stays."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x  # on "meta" torch refuses the question
    return x.to(torch.get_autocast_dtype(kind))


def _register_autocast() -> Any:
    """Register the rule; what it returns must stay alive."""
    internals: Any = torch._C
    define: Any = torch.library.Library
    definition = define("rwkvclip", "FRAGMENT")
    for key in ("AutocastCPU", "AutocastCUDA"):
        keys = internals.DispatchKeySet(internals._parse_dispatch_key(key))

        def rule(
            r: Tensor,
            k: Tensor,
            v: Tensor,
            w: Tensor,
            u: Tensor,
            implementation: str,
            keys: Any = keys,
        ) -> Tensor:
            # Never w and u: rounded, they are other decays.
            r, k, v = (cast_for_autocast(x) for x in (r, k, v))
            with internals._ExcludeDispatchKeyGuard(keys):
                y: Tensor = bi_wkv6(r, k, v, w, u, implementation)
            return y

        definition.impl("bi_wkv6", rule, key)
    return definition


_autocast = _register_autocast()


def flops(batch: int, num_tokens: int, heads: int, width: int) -> int:
    """Return the FLOPs of a forward pass by the recurrence, whatever form runs.

    Per token, head and direction each of the N² state elements is decayed, added to and read: three
    multiply-adds.
    """
    return 2 * 2 * 3 * batch * num_tokens * heads * width * width


@register_flop_formula(torch.ops.rwkvclip.bi_wkv6)
def _forward_flops(r_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return flops(*r_shape)


@register_flop_formula(torch.ops.rwkvclip.dynamic_lerp)
def _dynamic_lerp_flops(
    x_shape: Sequence[int], _: Any, __: Any, up_shape: Sequence[int], *___: Any, **____: Any
) -> int:
    """Those of the products with `up`; elementwise work counts nothing."""
    lerps, rank, channels = up_shape
    return 2 * x_shape[0] * x_shape[1] * lerps * rank * channels


@register_flop_formula(torch.ops.rwkvclip.dynamic_lerp_backward)
def _dynamic_lerp_backward_flops(_: Any, *shapes: Any, **__: Any) -> int:
    """Those of two products: for low_rank and for up; weights made again count nothing."""
    return 2 * _dynamic_lerp_flops(*shapes)


@register_flop_formula(torch.ops.rwkvclip.bi_wkv6_backward)
def _backward_flops(gy_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """By convention twice the forward pass."""
    return 2 * flops(*gy_shape)
