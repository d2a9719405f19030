"""torch's own check of the registered operators, for the tests of each implementation."""

import torch

from rwkvclip_models.ops import library

_SIZES = (2, 3, 2, 4)
"""Rows, columns, heads and directions of the tokens' grid."""


def _tokens(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def _recurrence(dtype=torch.float32):
    r, k, v = (_tokens(2, 5, 2, 16, dtype=dtype) for _ in range(3))
    return r, k, v, _tokens(2, 5, 2, 16), _tokens(2, 16)


RECURRENCE = {
    "bi_wkv6": ("bi_wkv6", _recurrence),
    "bi_wkv6 of bfloat16": ("bi_wkv6", lambda: _recurrence(torch.bfloat16)),
}
ELEMENTWISE = {
    "shift_lerp": ("shift_lerp", lambda: (_tokens(2, 6, 32), _tokens(2, 32), *_SIZES)),
    "shift_lerp of texts, mixes per token": (
        "shift_lerp",
        lambda: (_tokens(2, 6, 32), _tokens(5, 2, 6, 32), 6, 1, 2, 2),
    ),
    "norm_gate": (
        "norm_gate",
        lambda: (_tokens(2, 6, 32), _tokens(2, 6, 32), _tokens(32), _tokens(32), 2, 1e-5),
    ),
    "relu_square": ("relu_square", lambda: (_tokens(2, 6, 32),)),
}
ON_CPU_ALONE = {
    "dynamic_lerp": (
        "dynamic_lerp",
        lambda: (_tokens(2, 6, 32), _tokens(2, 6, 80), _tokens(5, 32), _tokens(5, 16, 32), *_SIZES),
    ),
    "gated_add": ("gated_add", lambda: (_tokens(2, 6), _tokens(2, 6), _tokens(2, 6), None)),
    "gated_add, scaled": (
        "gated_add",
        lambda: (_tokens(2, 16), _tokens(2, 16), _tokens(2, 16), torch.tensor([0.0, 2.0])),
    ),
    "relu_square_": ("relu_square_", lambda: (_tokens(2, 6).detach(),)),
}
CASES = RECURRENCE | ELEMENTWISE | ON_CPU_ALONE


def check(case, implementation, device="cpu"):
    """Run `torch.library.opcheck`: schema, gradient's registration, shapes without data, compilation."""
    name, operands = CASES[case]
    arguments = [
        x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x
        for x in operands()
    ]
    found = torch.library.opcheck(getattr(library, name), (*arguments, implementation))
    assert set(found.values()) == {"SUCCESS"}, found
