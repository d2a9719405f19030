"""The elementwise operators: compiled against eager. Axes: B batch, T tokens, C channels, K lerps."""

import pytest
import torch

from rwkvclip_models import ops
from rwkvclip_models.ops import Shift
from rwkvclip_models.ops.agreement import check_fused
from rwkvclip_models.ops.fused import dynamic_lerp, gated_add, norm_gate, relu_square, shift_lerp

pytestmark = pytest.mark.usefixtures("new_memory_is_nan")

LIMITS = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Of max |difference| / max |float64 eager|; half precisions round operands' gradients and results once."""

GRIDS = [Shift(1, 1, 2, 4), Shift(1, 5, 2, 4), Shift(7, 7, 1, 4), Shift(3, 5, 2, 4), Shift(2, 1, 2, 2)]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_agrees(operator, operands):
    """Compares output and gradients of `operator(implementation, *operands)` with the eager float64 form."""

    def run(name, inputs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        y = operator(name, *leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, random(*y.shape, seed=9, dtype=y.dtype))]

    limit = LIMITS[operands[0].dtype]
    exact = run("torch", [x.double() for x in operands])
    for ran, expected in zip(run("cpu", operands), exact, strict=True):
        assert ran.dtype == operands[0].dtype
        assert ran.shape == expected.shape
        if ran.numel():
            assert float((ran.double() - expected).abs().max()) <= limit * float(expected.abs().max())


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shift", [*GRIDS, Shift(17, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("width", [16, 64, 80])
def test_shift_and_lerp_agree_with_the_eager_form(dtype, shift, width):
    tokens, channels = shift.rows * shift.columns, shift.heads * width
    x = random(3, tokens, channels, dtype=dtype)
    for mix in (random(2, channels, seed=1), random(5, 3, tokens, channels, seed=2)):
        assert_agrees(lambda name, a, b: shift_lerp(a, b, shift, implementation=name), [x, mix.to(dtype)])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shift", [*GRIDS, Shift(17, 1, 2, 2)], ids=str)
@pytest.mark.parametrize(("width", "rank"), [(16, 16), (80, 32)])
def test_lerps_by_low_rank_weights_agree_with_the_eager_form(dtype, shift, width, rank):
    tokens, channels = shift.rows * shift.columns, shift.heads * width
    shapes = [(3, tokens, channels), (3, tokens, 5 * rank), (5, channels), (5, rank, channels)]
    operands = [random(*shape, seed=i, dtype=dtype) / (1 + i) for i, shape in enumerate(shapes)]
    assert_agrees(lambda name, *x: dynamic_lerp(*x, shift, implementation=name), operands)


def test_low_rank_weights_of_bfloat16_tokens_lose_no_more_than_bfloat16_of_a_float32_factor():
    shift, rank, channels = Shift(5, 5, 2, 4), 32, 160
    x, low_rank = random(3, 25, channels).bfloat16(), random(3, 25, 5 * rank, seed=1).bfloat16()
    base, up = random(5, channels, seed=2), random(5, rank, channels, seed=3)
    exact = dynamic_lerp(*(z.double() for z in (x, low_rank, base, up)), shift, implementation="torch")
    out = dynamic_lerp(x, low_rank, base, up, shift, implementation="cpu")
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 2**-8 * exact.abs().max()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("heads", "width"), [(1, 16), (8, 80), (10, 64)])
def test_norm_and_gate_agree_with_the_eager_form(dtype, heads, width):
    channels = heads * width
    y, gate = (4 * random(2, 7, channels, seed=i, dtype=dtype) for i in range(2))
    weight, bias = (random(channels, seed=i, dtype=dtype) for i in (2, 3))
    assert_agrees(
        lambda name, *x: norm_gate(*x, heads=heads, eps=1e-5, implementation=name), [y, gate, weight, bias]
    )


def test_gates_far_from_zero_neither_overflow_nor_vanish():
    y = random(1, 1, 16)
    gate = torch.tensor([-1e4, -100.0, -20.0, 20.0, 100.0, 1e4, 0, 1] * 2).view(1, 1, 16)
    ones, zeros = torch.ones(16), torch.zeros(16)
    ran, eager = (
        norm_gate(y, gate, ones, zeros, heads=1, eps=1e-5, implementation=name) for name in ("cpu", "torch")
    )
    torch.testing.assert_close(ran, eager)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("size", [1, 15, 16, 1000])
def test_squared_relu_agrees_with_the_eager_form_at_any_size(dtype, size):
    assert_agrees(lambda name, x: relu_square(x, implementation=name), [random(size, dtype=dtype)])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("size", [1, 17, 1000])
def test_gated_sums_agree_with_the_eager_form_at_any_size(dtype, size):
    operands = [random(size, seed=i, dtype=dtype) for i in range(3)]
    assert_agrees(lambda name, *x: gated_add(*x, implementation=name), operands)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("size", [1, 15, 16, 160])
def test_gated_sums_scaled_by_sample_agree_with_the_eager_form(dtype, size):
    operands = [random(3, size, seed=i, dtype=dtype) for i in range(3)]
    scale = torch.tensor([0.0, 1.25, 2.0], dtype=dtype)
    assert_agrees(lambda name, *x: gated_add(*x, scale, implementation=name), operands)


@pytest.mark.parametrize("dtype", LIMITS)
def test_squared_relu_in_place_is_the_same(dtype):
    x = random(5, 33, dtype=dtype)
    expected = relu_square(x, implementation="cpu")
    with torch.inference_mode():
        own = x.clone()
        assert relu_square(own, implementation="cpu", overwrite=True) is own
    assert torch.equal(own, expected)


def test_squared_relu_passes_nan_on():
    x = torch.tensor([float("nan"), -1.0, 2.0])
    assert relu_square(x, implementation="cpu").isnan().tolist() == [True, False, False]


def test_an_empty_batch_gives_an_empty_result():
    shift = Shift(2, 2, 1, 4)
    x, mix = torch.zeros(0, 4, 16, requires_grad=True), torch.zeros(2, 16, requires_grad=True)
    out = shift_lerp(x, mix, shift, implementation="cpu")
    assert out.shape == (2, 0, 4, 16)
    out.sum().backward()
    assert (mix.grad == 0).all()


def test_strided_tokens_give_the_same_result():
    shift = Shift(2, 3, 1, 4)
    x, mix = random(16, 6, 2).permute(2, 1, 0), random(2, 16)
    assert not x.is_contiguous()
    expected = shift_lerp(x.contiguous(), mix, shift, implementation="cpu")
    assert torch.equal(shift_lerp(x, mix, shift, implementation="cpu"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_and_its_gradients_do_not_depend_on_its_batch(dtype):
    shift = Shift(3, 5, 2, 4)
    x, gate, value = (random(5, 15, 32, seed=i, dtype=dtype) for i in range(3))
    low_rank, own = random(5, 15, 2 * 16, dtype=dtype), random(5, 2, 15, 32, seed=4, dtype=dtype)
    up, mix, (weight, bias) = (random(2, *s, 32, seed=5, dtype=dtype) for s in ((16,), (), ()))
    calls = {
        "lerp": (lambda x: shift_lerp(x, mix, shift, implementation="cpu").transpose(0, 1), [x]),
        "lerp per token": (
            lambda x, m: shift_lerp(x, m.transpose(0, 1), shift, implementation="cpu").transpose(0, 1),
            [x, own],
        ),
        "low-rank lerp": (
            lambda *x: dynamic_lerp(*x, mix, up, shift, implementation="cpu").transpose(0, 1),
            [x, low_rank],
        ),
        "norm": (lambda *x: norm_gate(*x, weight, bias, heads=2, eps=1e-5, implementation="cpu"), [x, gate]),
        "gated sum": (lambda *x: gated_add(*x, implementation="cpu"), [x, gate, value]),
        "squared ReLU": (lambda x: relu_square(x, implementation="cpu"), [x]),
    }

    def run(operator, operands, samples):
        leaves = [z[samples].detach().requires_grad_() for z in operands]
        y = operator(*leaves)
        gy = random(5, *y.shape[1:], seed=9, dtype=dtype)[samples]
        return [y, *torch.autograd.grad(y, leaves, gy)]

    for name, (operator, operands) in calls.items():
        whole = run(operator, operands, slice(None))
        for i in range(5):
            alone = run(operator, operands, slice(i, i + 1))
            torch.testing.assert_close([z[i : i + 1] for z in whole[1:]], alone[1:], rtol=0, atol=0)
            assert torch.equal(whole[0][i : i + 1], alone[0]), name


@pytest.mark.parametrize("shift", [Shift(3, 2, 1, 4), Shift(4, 1, 1, 2)], ids=str)
def test_gradients_are_the_derivatives(shift):
    tokens = shift.rows * shift.columns
    x, mix, gate = (
        random(*s, dtype=torch.float64).requires_grad_() for s in [(1, tokens, 16), (2, 16), (1, tokens, 16)]
    )
    weight, bias = (random(16, seed=i, dtype=torch.float64).requires_grad_() for i in range(2))
    check = torch.autograd.gradcheck
    assert check(lambda *a: shift_lerp(*a, shift, implementation="cpu"), [x, mix], fast_mode=True)
    assert check(
        lambda *a: norm_gate(*a, heads=1, eps=1e-5, implementation="cpu"),
        [x, gate, weight, bias],
        fast_mode=True,
    )
    assert check(lambda a: relu_square(a, implementation="cpu"), [x], fast_mode=True)
    value, low_rank, up = (
        random(*s, seed=2, dtype=torch.float64).requires_grad_()
        for s in [(1, tokens, 16), (1, tokens, 32), (2, 16, 16)]
    )
    assert check(lambda *a: gated_add(*a, implementation="cpu"), [x, gate, value], fast_mode=True)
    assert check(
        lambda *a: dynamic_lerp(*a, shift, implementation="cpu"), [x, low_rank, mix, up], fast_mode=True
    )


def test_under_autocast_outputs_have_the_low_dtype():
    shift, x, mix = Shift(2, 2, 1, 4), random(1, 4, 16), random(2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = shift_lerp(x, mix, shift, implementation="cpu")
    assert out.dtype == torch.bfloat16
    expected = shift_lerp(x.bfloat16(), mix.bfloat16(), shift, implementation="cpu")
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_covers_every_operator_and_gradient(dtype):
    assert 0 < check_fused("cpu", "cpu", dtype) < LIMITS[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gpu_kernels_agree_with_the_eager_forms(implementation, dtype):
    status = {s.name: s for s in ops.implementations()}[implementation]
    if not status.available:
        pytest.skip(status.reason)
    assert check_fused(implementation, "cuda", dtype) < 2 * LIMITS[dtype]
