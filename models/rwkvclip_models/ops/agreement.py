"""Whether an implementation computes what it should: its largest error against float64.

Axes: B batch, T tokens, H heads, N head width, C = H·N channels, K lerps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rwkvclip_models.ops import library
from rwkvclip_models.ops.bi_wkv6 import run
from rwkvclip_models.ops.choice import PLAIN, resolve
from rwkvclip_models.ops.fused import Shift, norm_gate, relu_square, shift_lerp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SHIFT = Shift(7, 7, 2, 4)
WIDTH = 80
DEFINED_TOKENS = 77
"""Longest sequence that is held against the definition."""


def check(implementation: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the largest relative error of an implementation against the float64 reference.

    Output and all five gradients count, each as max |difference| / max |reference|, on one fixed random
    problem (B 2, T 49, H 2, N 80) whose operands are exact in `dtype`.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    name = resolve(implementation, device=device, dtype=dtype, width=WIDTH)
    return recurrence_error(name, device, dtype, SHIFT.rows * SHIFT.columns)


def check_fused(implementation: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the largest relative error of an implementation's elementwise operators against the eager forms.

    Outputs and all gradients count, each as max |difference| / max |eager in float64|, on one random problem
    (B 2, a grid of 7×7, H 2, N 80, K 5) with operands exact in `dtype`.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    return elementwise_error(resolve(implementation, device=device, dtype=dtype, width=WIDTH), device, dtype)


def recurrence_error(name: str, device: torch.device | str, dtype: torch.dtype, num_tokens: int) -> float:
    """Return the error of the recurrence in the implementation `name`, whatever is known of it."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_tokens, SHIFT.heads, WIDTH)
    r, k, v, gy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    w = torch.empty(shape).uniform_(-6, 1, generator=generator)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)

    def results(name: str, operands: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in operands]
        y = run(name, *leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, weight)]

    low = torch.promote_types(dtype, torch.float32)
    # The definition is slow at length, where the other plain form, held against it by tests, stands in.
    base = "reference" if num_tokens <= DEFINED_TOKENS else "torch"
    exact = results(base, [x.double() for x in (r, k, v, w, u)], gy.double())
    here = [x.to(device) for x in (r, k, v, w.to(low), u.to(low))]
    return _largest(results(name, here, gy.to(device)), exact)


def elementwise_error(
    name: str, device: torch.device | str, dtype: torch.dtype, shift: Shift = SHIFT
) -> float:
    """Return the error of the elementwise operators of the implementation `name`, whatever is known of it."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, shift.rows * shift.columns, shift.heads * WIDTH)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    def results(name: str, operands: Sequence[Tensor], grads: Tensor) -> list[Tensor]:
        leaves = [z.detach().clone().requires_grad_() for z in operands]
        outputs = _outputs(name, shift, *leaves)
        pulled = [torch.autograd.grad(y, leaves, grads.expand_as(y), allow_unused=True) for y in outputs]
        return [*(y.detach() for y in outputs), *(g for gs in pulled for g in gs if g is not None)]

    operands = [random(*shape), random(5, *shape), random(*shape), random(2, shape[2])]
    grads = random(*shape)
    exact = results("torch", [x.double() for x in operands], grads.double())
    return _largest(results(name, [x.to(device) for x in operands], grads.to(device)), exact)


def _outputs(name: str, shift: Shift, x: Tensor, mix: Tensor, gate: Tensor, weight: Tensor) -> list[Tensor]:
    eps = 1e-5
    if name in PLAIN:
        return [
            shift_lerp(x, mix, shift, implementation=name),
            shift_lerp(x, weight, shift, implementation=name),
            norm_gate(x, gate, weight[0], weight[1], heads=shift.heads, eps=eps, implementation=name),
            relu_square(x, implementation=name),
        ]
    return [
        library.shift_lerp(x, mix, *shift.sizes, name),
        library.shift_lerp(x, weight, *shift.sizes, name),
        library.norm_gate(x, gate, weight[0], weight[1], shift.heads, eps, name),
        library.relu_square(x, name),
    ]


def _largest(ran: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the largest error; NaN if one is."""
    errors = [(a.cpu().double() - b).abs().max() / b.abs().max() for a, b in zip(ran, exact, strict=True)]
    return float(torch.stack(errors).max())
