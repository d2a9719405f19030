"""The fused CUDA kernels against the eager forms in float64: emulated on the CPU, and on a GPU where one is.

Every element must lie within one rounding of the exact result plus a few float32 roundings of the largest:
|error| ≤ u·|exact| + 64·2⁻²⁴·max |exact|, u the unit roundoff of the dtype.
"""

import itertools

import pytest
import registration
import torch
import torch.nn.functional as F

from rwkvclip_models import ops
from rwkvclip_models.ops import Shift, build, cuda_fused, library

ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
IMAGES = [(1, 1), (1, 5), (7, 7), (14, 14), (3, 5)]
TEXTS = [(1, 1), (2, 1), (77, 1)]
GRIDS = [(*grid, 4) for grid in IMAGES] + [(*grid, 2) for grid in TEXTS]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("guarded_outputs")]


@pytest.fixture(scope="module")
def emulated(emulate):
    """Here a misaligned access traps."""
    return emulate(("fused.cu",), "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the operands go; on the CPU the emulated kernels run."""
    if request.param == "cpu":
        library = request.getfixturevalue("emulated")
        monkeypatch.setattr(build, "library", lambda name: library)
    return request.param


def numbers(shape, dtype, device, *, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_rounded_once(got, exact, dtype):
    assert got.dtype == dtype
    assert got.shape == exact.shape
    bound = ROUNDOFF[dtype] * exact.abs()
    if exact.numel():
        bound += 64 * 2.0**-24 * exact.abs().max() + torch.finfo(dtype).smallest_normal * ROUNDOFF[dtype]
    error = (got.double() - exact).abs()
    assert (error <= bound).all(), f"largest excess {(error - bound).max():.3g}"


def exact_gradients(out, grad, *leaves):
    return torch.autograd.grad(out, leaves, grad.double())


def eager_shift_lerp(x, mix, h, w, heads, directions):
    return ops.shift_lerp(x, mix, Shift(h, w, heads, directions), implementation="torch")


def check_shift_lerp(device, dtype, batch, grid, n, mixes, per_token, heads=2):
    h, w, _ = grid
    x = numbers((batch, h * w, heads * n), dtype, device)
    mix = numbers((mixes, *x.shape) if per_token else (mixes, heads * n), dtype, device, seed=1)
    grad = numbers((mixes, *x.shape), dtype, device, seed=2)
    leaves = [z.double().requires_grad_() for z in (x, mix)]
    exact = eager_shift_lerp(*leaves, h, w, heads, grid[2])
    assert_rounded_once(cuda_fused.shift_lerp(x, mix, h, w, heads, grid[2]), exact.detach(), dtype)
    got = cuda_fused.shift_lerp_backward(grad, x, mix, h, w, heads, grid[2])
    for gradient, reference in zip(got, exact_gradients(exact, grad, *leaves), strict=True):
        assert_rounded_once(gradient, reference, dtype)


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_shift_lerp_and_its_gradients_are_the_eager_ones(device, dtype, grid):
    for n, mixes, per_token in itertools.product((16, 64, 80), (1, 2, 5), (False, True)):
        check_shift_lerp(device, dtype, 1, grid, n, mixes, per_token)


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("batch", [0, 3])
def test_shift_lerp_takes_empty_and_larger_batches(device, dtype, batch):
    for grid, per_token in itertools.product(((7, 7, 4), (77, 1, 2)), (False, True)):
        check_shift_lerp(device, dtype, batch, grid, 80, 2, per_token)


@pytest.mark.parametrize("n", [1, 3, 10, 20, 24])
def test_shift_lerp_takes_head_widths_that_vectors_do_not_divide(device, n):
    for dtype, directions in itertools.product(ROUNDOFF, (2, 4)):
        check_shift_lerp(device, dtype, 2, (3, 5, directions) if directions == 4 else (15, 1, 2), n, 2, False)


def test_shift_lerp_sums_more_rows_than_there_are_blocks_and_wider_than_one_block(device):
    check_shift_lerp(device, torch.bfloat16, 11, (14, 14, 4), 64, 2, False, heads=2)
    check_shift_lerp(device, torch.float32, 1, (2, 2, 4), 80, 2, False, heads=20)


def eager_norm_gate(y, gate, weight, bias, heads, eps):
    normed = F.group_norm(y.flatten(0, 1), heads, weight, bias, eps) if y.numel() else y
    return normed.view(y.shape) * F.silu(gate)


def check_norm_gate(device, dtype, batch, tokens, n, heads=2, parameter_dtype=None, eps=1e-5):
    parameter_dtype = parameter_dtype or dtype
    shape = (batch, tokens, heads * n)
    y, gate, grad = (3 * numbers(shape, dtype, device, seed=i) for i in range(3))
    weight, bias = (numbers(shape[2:], parameter_dtype, device, seed=i) for i in (3, 4))
    leaves = [z.double().requires_grad_() for z in (y, gate, weight, bias)]
    exact = eager_norm_gate(*leaves, heads, eps)
    assert_rounded_once(cuda_fused.norm_gate(y, gate, weight, bias, heads, eps), exact.detach(), dtype)
    got = cuda_fused.norm_gate_backward(grad, y, gate, weight, bias, heads, eps)
    if batch == 0:
        assert [z.shape for z in got] == [z.shape for z in leaves]
        assert not got[2].any()
        assert not got[3].any()
        return
    dtypes = (dtype, dtype, parameter_dtype, parameter_dtype)
    gradients = zip(got, exact_gradients(exact, grad, *leaves), dtypes, strict=True)
    for gradient, reference, expected in gradients:
        assert_rounded_once(gradient, reference, expected)


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 5, 15, 49, 77, 196])
def test_norm_gate_and_its_gradients_are_the_eager_ones(device, dtype, tokens):
    for n, batch in itertools.product((16, 64, 80), (0, 1, 3)):
        check_norm_gate(device, dtype, batch, tokens, n)


@pytest.mark.parametrize("n", [4, 7, 12, 33, 48, 112, 128])
def test_norm_gate_takes_any_head_width_up_to_128(device, n):
    for dtype, heads in itertools.product(ROUNDOFF, (1, 3, 20)):
        check_norm_gate(device, dtype, 2, 5, n, heads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_norm_gate_takes_float32_parameters_beside_16_bit_numbers(device, dtype):
    check_norm_gate(device, dtype, 2, 49, 80, parameter_dtype=torch.float32)


def test_gradients_pass_through_the_operators_as_torch_knows_them(device):
    # Registered operators may not return tensors that share memory, which plain functions may.
    x, gate = (numbers((2, 6, 32), torch.float32, device, seed=i).requires_grad_() for i in range(2))
    weight, bias, mix = (numbers(s, torch.float32, device).requires_grad_() for s in ((32,), (32,), (2, 32)))
    [lerped, _] = library.shift_lerp(x, mix, 2, 3, 2, 4, "cuda")
    gated = library.norm_gate(lerped, gate, weight, bias, 2, 1e-5, "cuda")
    library.relu_square(gated, "cuda").sum().backward()
    assert all(z.grad.isfinite().all() for z in (x, gate, weight, bias, mix))


def test_norm_gate_sums_more_rows_than_there_are_blocks(device):
    check_norm_gate(device, torch.bfloat16, 11, 196, 80)


def test_norm_gate_of_constant_heads_is_the_gated_bias_and_strong_gates_do_not_overflow(device):
    y = torch.full((1, 2, 32), 7.0, device=device)
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0] * 16, device=device).view(1, 2, 32)
    weight, bias = torch.ones(32, device=device), torch.full((32,), 2.0, device=device)
    out = cuda_fused.norm_gate(y, gate, weight, bias, 2, 1e-5)
    assert_rounded_once(out, 2 * gate.double().clamp_min(0), torch.float32)
    gradients = cuda_fused.norm_gate_backward(torch.ones_like(y).fill_(1), y, gate, weight, bias, 2, 1e-5)
    assert all(z.isfinite().all() for z in gradients)


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 2048, 5003])
def test_relu_square_and_its_gradient_are_the_eager_ones(device, dtype, size):
    x, grad = (numbers((size,), dtype, device, seed=i) for i in range(2))
    leaf = x.double().requires_grad_()
    exact = F.relu(leaf).square()
    assert_rounded_once(cuda_fused.relu_square(x), exact.detach(), dtype)
    (reference,) = exact_gradients(exact, grad, leaf)
    assert_rounded_once(cuda_fused.relu_square_backward(grad, x), reference, dtype)


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
def test_operands_off_a_16_byte_boundary_give_the_same(device, dtype):
    def off(shape, seed):
        flat = numbers((torch.Size(shape).numel() + 1,), dtype, device, seed=seed)
        return flat[1:].view(shape)

    x, mix, grad = off((2, 15, 64), 0), off((2, 64), 1), off((2, 2, 15, 64), 2)
    weight, bias = off((64,), 3), off((64,), 4)
    assert x.data_ptr() % 16

    def run(*operands):
        x, mix, grad, weight, bias = operands
        yield cuda_fused.shift_lerp(x, mix, 3, 5, 4, 4)
        yield from cuda_fused.shift_lerp_backward(grad, x, mix, 3, 5, 4, 4)
        yield cuda_fused.norm_gate(x, grad[0], weight, bias, 4, 1e-5)
        yield from cuda_fused.norm_gate_backward(grad[1], x, grad[0], weight, bias, 4, 1e-5)
        yield cuda_fused.relu_square(x)
        yield cuda_fused.relu_square_backward(grad[0], x)

    operands = (x, mix, grad, weight, bias)
    for here, there in zip(run(*operands), run(*(z.clone() for z in operands)), strict=True):
        assert_rounded_once(here, there.double(), dtype)


def test_results_repeat_bit_by_bit_and_do_not_depend_on_the_rest_of_the_batch(device):
    x, grad = numbers((3, 49, 160), torch.bfloat16, device), numbers((2, 3, 49, 160), torch.bfloat16, device)
    mix = numbers((2, 160), torch.bfloat16, device, seed=1)
    first = cuda_fused.shift_lerp_backward(grad, x, mix, 7, 7, 2, 4)
    again = cuda_fused.shift_lerp_backward(grad, x, mix, 7, 7, 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    alone = cuda_fused.shift_lerp_backward(grad[:, 1:2], x[1:2], mix, 7, 7, 2, 4)
    assert torch.equal(first[0][1:2], alone[0])


def test_what_the_kernels_cannot_do_is_said(device):
    x, mix = numbers((1, 4, 48), torch.float32, device), numbers((2, 48), torch.float32, device)
    with pytest.raises(RuntimeError, match="expected 2 or 4 directions, got 3"):
        cuda_fused.shift_lerp(x, mix, 2, 2, 3, 3)
    with pytest.raises(RuntimeError, match="multiple of the heads, got width 48 and 5 heads"):
        cuda_fused.shift_lerp(x, mix, 2, 2, 5, 4)
    with pytest.raises(RuntimeError, match="heads of at most 128 channels, got 144"):
        wide = x.new_ones((4, 1, 144))
        cuda_fused.norm_gate(wide, wide, wide[0, 0], wide[0, 0], 1, 1e-5)
    with pytest.raises(RuntimeError, match="float32, bfloat16 or float16, got code 3"):
        cuda_fused.relu_square(x.double())


@pytest.mark.parametrize("case", registration.ELEMENTWISE)
def test_the_registration_passes_torchs_own_check(device, case, guarded_outputs):
    guarded_outputs()  # the check compares where in memory outputs lie
    registration.check(case, "cuda", device)
