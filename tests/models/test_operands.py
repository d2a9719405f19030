"""Operands that do not fit are refused before a kernel reads past their end."""

import numpy as np
import pytest
import torch

from rwkvclip_models import UserError
from rwkvclip_models.ops import (
    Shift,
    bi_wkv6,
    dynamic_lerp,
    gated_add,
    norm_gate,
    relu_square,
    shift_lerp,
)

EVERY = pytest.mark.parametrize("implementation", ["cpu", "torch", "auto"])
GRID = Shift(2, 2, 2, 4)


def zeros(*shape, **options):
    return torch.zeros(shape, **options)


@EVERY
@pytest.mark.parametrize(
    ("x", "mix", "shift", "message"),
    [
        ((1, 4, 32), (2, 32), Shift(7, 7, 2, 4), r"T = rows·columns tokens, got 4 for a grid of 7×7"),
        ((1, 0, 32), (2, 32), Shift(0, 7, 2, 4), "T = rows·columns"),
        ((1, 4, 32), (2, 32), Shift(2, 2, 3, 4), "divide into its heads, got 32 channels and 3 heads"),
        ((1, 4, 32), (2, 32), Shift(2, 2, 0, 4), "divide into its heads"),
        ((1, 4, 32), (2, 32), Shift(2, 2, 2, 3), "2 or 4 directions, got 3"),
        ((4, 32), (2, 32), GRID, r"\[B, T, C\], got \[4, 32\]"),
        ((1, 4, 32), (2, 16), GRID, r"mix of shape \[K, C\] = \[2, 32\], got \[2, 16\]"),
        ((1, 4, 32), (32,), GRID, r"mix of shape \[K, C\]"),
        ((3, 4, 32), (2, 1, 4, 32), GRID, r"mix of shape \[K, B, T, C\] = \[2, 3, 4, 32\]"),
    ],
)
def test_a_shift_needs_the_grid_of_its_tokens_and_a_mix_that_fits(implementation, x, mix, shift, message):
    with pytest.raises(UserError, match=message):
        shift_lerp(zeros(*x), zeros(*mix), shift, implementation=implementation)


@EVERY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low_rank": (1, 4, 16)}, r"low_rank of shape \[B, T, K·R\] = \[1, 4, 32\]"),
        ({"base": (1, 32)}, r"base of shape \[K, C\] = \[2, 32\]"),
        ({"up": (2, 16, 16)}, r"up of shape \[K, R, C\] = \[2, 16, 32\]"),
        ({"up": (2, 32)}, r"up of shape \[K, R, C\]"),
        ({"x": (1, 5, 32)}, "T = rows·columns"),
    ],
)
def test_low_rank_weights_must_fit_the_tokens(implementation, change, message):
    shapes = {"x": (1, 4, 32), "low_rank": (1, 4, 32), "base": (2, 32), "up": (2, 16, 32), **change}
    operands = [zeros(*shape) for shape in shapes.values()]
    with pytest.raises(UserError, match=message):
        dynamic_lerp(*operands, GRID, implementation=implementation)


@EVERY
@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        ({"gate": zeros(1, 3, 32)}, 2, r"gate of shape \[B, T, C\] = \[1, 4, 32\]"),
        ({"weight": zeros(16)}, 2, r"weight of shape \[C\] = \[32\], got \[16\]"),
        ({"bias": zeros(1)}, 2, r"bias of shape \[C\] = \[32\], got \[1\]"),
        ({"bias": zeros(32, dtype=torch.bfloat16)}, 2, "one dtype, got torch.float32 and torch.bfloat16"),
        ({}, 3, "divide into its heads"),
    ],
)
def test_a_norm_needs_gate_and_parameters_that_fit(implementation, change, heads, message):
    operands = {"y": zeros(1, 4, 32), "gate": zeros(1, 4, 32), "weight": zeros(32), "bias": zeros(32)}
    with pytest.raises(UserError, match=message):
        norm_gate(*{**operands, **change}.values(), heads=heads, eps=1e-5, implementation=implementation)


@EVERY
@pytest.mark.parametrize("index", range(3))
def test_gated_sums_do_not_broadcast(implementation, index):
    operands = [zeros(4, 64) for _ in range(3)]
    operands[index] = zeros(64)
    with pytest.raises(UserError, match="nothing is broadcast"):
        gated_add(*operands, implementation=implementation)


@EVERY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros((2, 32), np.float32), "torch tensor, got ndarray"),
        (None, "torch tensor, got NoneType"),
        (zeros(2, 32).to_sparse(), r"to be dense, got torch\.sparse_coo"),
        (zeros(2, 32, device="meta"), "one device, got x on cpu, mix on meta"),
    ],
    ids=["array", "none", "sparse", "device"],
)
def test_operands_are_dense_tensors_on_one_device(implementation, change, message):
    with pytest.raises(UserError, match=message):
        shift_lerp(zeros(1, 4, 32), change, GRID, implementation=implementation)
    if change is None:
        with pytest.raises(UserError, match=message):
            relu_square(change, implementation=implementation)
        with pytest.raises(UserError, match=message):
            bi_wkv6(change, *[zeros(1, 2, 1, 16)] * 3, zeros(1, 16), implementation=implementation)


@pytest.mark.parametrize("implementation", [None, 3, ["cpu"]])
def test_an_implementation_is_a_name(implementation):
    with pytest.raises(UserError, match="is one of auto, reference, torch, cpu"):
        relu_square(zeros(2), implementation=implementation)
    with pytest.raises(UserError, match="is one of auto, reference, torch, cpu"):
        bi_wkv6(*[zeros(1, 2, 1, 16)] * 4, zeros(1, 16), implementation=implementation)
