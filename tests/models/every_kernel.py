"""Runs every kernel of an implementation; `python every_kernel.py NAME` does so on a GPU, for tools to watch.

Axes: B batch, T tokens, H heads, N head width (C = H·N), K lerps.
"""

import sys

import torch

from rwkvclip_models.ops import library

GRIDS = {49: (7, 7, 4), 77: (77, 1, 2), 128: (8, 16, 4), 196: (14, 14, 4), 300: (15, 20, 4)}
"""T → rows, columns, directions: CUDA's recurrence has forms for 4, 5, 8 and 13 blocks, and for chunks."""


def run(implementation, x, grid):
    """Yield name and value of each output and gradient; x [B, T, H, N] stands for every operand with tokens.

    Values with tokens begin with the axis B; gradients of parameters, summed over it, have at most two axes.
    """
    recurrence, elementwise = library.recurrence(implementation), library.elementwise(implementation)
    heads, width = x.shape[2:]
    w, u = x.float() - 3, torch.linspace(-1, 1, heads * width, device=x.device).view(heads, width)
    yield "y", recurrence.bi_wkv6(x, x, x, w, u)
    yield from zip(("gr", "gk", "gv", "gw", "gu"), recurrence.bi_wkv6_backward(x, x, x, x, w, u), strict=True)
    del w
    tokens, parameters = x.flatten(2), u.flatten().to(x.dtype)
    lerps = torch.stack([tokens, -tokens])
    sizes = (*grid[:2], heads, grid[2])
    for mix in (torch.stack([parameters, -parameters]), lerps):
        yield "lerp", elementwise.shift_lerp(tokens, mix, *sizes).transpose(0, 1)
        gx, gmix = elementwise.shift_lerp_backward(lerps, tokens, mix, *sizes)
        yield "lerp gx", gx
        yield "lerp gmix", gmix.transpose(0, 1) if gmix.dim() == 4 else gmix
    del lerps, mix, gx, gmix
    settings = (parameters, -parameters, heads, 1e-5)
    yield "norm", elementwise.norm_gate(tokens, tokens, *settings)
    gradients = elementwise.norm_gate_backward(tokens, tokens, tokens, *settings)
    yield from zip(("norm gy", "norm ggate", "norm gweight", "norm gbias"), gradients, strict=True)
    del gradients
    yield "relu", elementwise.relu_square(x)
    yield "relu gx", elementwise.relu_square_backward(x, x)


if __name__ == "__main__":
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for num_tokens, grid in GRIDS.items():
            x = torch.randn(1, num_tokens, 2, 80, device="cuda", dtype=dtype)
            for _ in run(sys.argv[1], x, grid):
                torch.cuda.synchronize()
