"""The Triton implementation: all functions in one module, as `library.kernels` wants them."""

from rwkvclip_models.ops.triton_fused import (
    norm_gate,
    norm_gate_backward,
    relu_square,
    relu_square_backward,
    shift_lerp,
    shift_lerp_backward,
)
from rwkvclip_models.ops.triton_wkv import bi_wkv6, bi_wkv6_backward

__all__ = [
    "bi_wkv6",
    "bi_wkv6_backward",
    "norm_gate",
    "norm_gate_backward",
    "relu_square",
    "relu_square_backward",
    "shift_lerp",
    "shift_lerp_backward",
]
