"""The Triton kernels under their compiler, for GPUs that are not here; needs none."""

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402 - only where Triton is installed
from triton.compiler import ASTSource  # noqa: E402 - only where Triton is installed

from rwkvclip_models.ops import triton_fused, triton_wkv  # noqa: E402 - these import Triton

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Most shared memory of a program by compute capability (CUDA C++ Programming Guide, its table of these)."""
FUSED = {"enable_fp_fusion": True}
"""As every launch is made."""
DTYPES = {"bf16": "tf32", "fp16": "tf32", "fp32": "tf32x3"}


def compiled(kernel, capability, pointers, constants, options):
    """Return what the compiler says of a kernel; other arguments are 32-bit integers, `eps` a float."""
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{pointers[name]}"
        if name in pointers
        else "fp32"
        if name == "eps"
        else "i32"
        for name in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata


def recurrence(dtype, width, num_tokens):
    """Return the kernels of one problem of Bi-WKV, each with pointers, constants and options."""
    block = min(max(16, triton.next_power_of_2(num_tokens)), triton_wkv.MAX_BLOCK)
    states = num_tokens > block
    constants = {
        "N": width,
        "VALUES": triton.next_power_of_2(width),
        "TILE": min(width & -width, triton_wkv.MAX_TILE),
        "BLOCK": block,
        "STATES": states,
        "PRECISION": DTYPES[dtype],
    }
    options = {"num_warps": 4 if block < triton_wkv.MAX_BLOCK else 8, "num_stages": 1} | FUSED
    pointers = dict.fromkeys(["r", "k", "v", "y", "gy", "gr", "gk", "gv"], dtype)
    pointers |= dict.fromkeys(["w", "u", "states", "gw", "gu", "of_keys", "of_receptances"], "fp32")
    kernels = [triton_wkv._forward_kernel, triton_wkv._backward_kernel]
    kernels += [triton_wkv._states_kernel] * states
    return [(kernel, pointers, constants, options) for kernel in kernels]


def elementwise(dtype):
    """Return the kernels of the elementwise operators, each with pointers, constants and options."""
    found = []
    for per_token in (True, False):
        constants = {"LERPS": 5, "DIRECTIONS": 4, "PER_TOKEN": per_token, "ROWS": 16 if per_token else 32}
        constants["CHANNELS"] = triton_fused.CHANNELS
        pointers = dict.fromkeys(["x", "mix", "out", "grad", "gx"], dtype)
        pointers["gmix"] = dtype if per_token else "fp32"
        for kernel in (triton_fused._shift_lerp_kernel, triton_fused._shift_lerp_backward_kernel):
            found.append((kernel, pointers, constants, {"num_warps": 8} | FUSED))
    pointers = dict.fromkeys(["y", "gate", "out", "grad", "gy", "ggate", "weight", "bias"], dtype)
    pointers |= dict.fromkeys(("gweight", "gbias"), "fp32")
    constants = {"N": 80, "PADDED": 128, "ROWS": 32}
    for kernel in (triton_fused._norm_gate_kernel, triton_fused._norm_gate_backward_kernel):
        found.append((kernel, pointers, constants, {"num_warps": 4} | FUSED))
    pointers = dict.fromkeys(["x", "out", "grad", "gx"], dtype)
    for kernel in (triton_fused._relu_square_kernel, triton_fused._relu_square_backward_kernel):
        found.append((kernel, pointers, {"ELEMENTS": triton_fused.ELEMENTS}, FUSED))
    return found


def assert_fits(kernels, capability):
    for kernel, *how in kernels:
        metadata = compiled(kernel, capability, *how)
        assert metadata.shared <= SHARED_BYTES[capability], kernel.__name__


@pytest.mark.parametrize("capability", SHARED_BYTES)
def test_a_released_towers_kernels_compile_and_fit_in_shared_memory(capability):
    assert_fits([*recurrence("bf16", 80, 49)[:1], *elementwise("bf16")], capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_BYTES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_compiles_and_fits_in_shared_memory(capability, dtype):
    for width, num_tokens in ((80, 196), (64, 49), (128, 300)):
        assert_fits(recurrence(dtype, width, num_tokens), capability)
    assert_fits(elementwise(dtype), capability)
