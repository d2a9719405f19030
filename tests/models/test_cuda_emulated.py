"""The CUDA kernels of Bi-WKV against the float64 reference: emulated on the CPU, and on a GPU where one is.

Axes: B batch, T tokens, H heads, N head width.
"""

import ctypes

import numpy as np
import pytest
import registration
import torch

from rwkvclip_models.ops import build, cuda, native
from rwkvclip_models.ops.reference import bi_wkv6_reference

NAMES = ("y", "gr", "gk", "gv", "gw", "gu")

# max |difference| / max |reference|. float32 factors are split in three bfloat16 numbers, so that rounding
# is that of float32 sums; float16 factors in two (2⁻¹⁷ each), and the outputs are rounded to float16
# (2⁻¹¹). bfloat16 factors are rounded after the decays are in (2⁻⁹ each, three roundings in a chain),
# then the output is; gw and gu stay in float32. The bonus and its gradient see no rounded factor.
TOLERANCE = {
    torch.float32: dict.fromkeys(NAMES, 2e-6),
    torch.float16: {**dict.fromkeys(NAMES, 7e-4), "gw": 5e-5, "gu": 5e-5},
    torch.bfloat16: {**dict.fromkeys(NAMES, 1.2e-2), "gu": 2e-6},
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("guarded_outputs")]


@pytest.fixture(scope="module")
def emulated(emulate):
    # So little room for states that heads take turns.
    return emulate(("bi_wkv6.cu", "scan_baseline.cu"), "-DRWKVCLIP_STATE_FLOATS=4096")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the operands go; on the CPU the emulated kernels run."""
    if request.param == "cpu":
        library = request.getfixturevalue("emulated")
        monkeypatch.setattr(build, "library", lambda name: library)
    return request.param


def operands(device, dtype, b, t, h, n, *, low=-6.0, high=1.0):
    """Return r, k, v, w, u and the gradient of y."""
    g = torch.Generator().manual_seed(0)
    r, k, v, gy = (torch.randn(b, t, h, n, generator=g).to(device, dtype) for _ in range(4))
    w = torch.empty(b, t, h, n).uniform_(low, high, generator=g)
    u = torch.empty(h, n).uniform_(-0.3, 1, generator=g)
    return [r, k, v, w.to(device), u.to(device), gy]


def run(r, k, v, w, u, gy):
    return dict(
        zip(NAMES, (cuda.bi_wkv6(r, k, v, w, u), *cuda.bi_wkv6_backward(gy, r, k, v, w, u)), strict=True)
    )


def exact(r, k, v, w, u, gy):
    leaves = [x.double().detach().requires_grad_() for x in (r, k, v, w, u)]
    y = bi_wkv6_reference(*leaves)
    return dict(zip(NAMES, (y.detach(), *torch.autograd.grad(y, leaves, gy.double())), strict=True))


def assert_agrees(inputs, tolerance=None):
    dtype = inputs[0].dtype
    got, expected = run(*inputs), exact(*inputs)
    for name in NAMES:
        a, b = got[name], expected[name]
        assert a.shape == b.shape, name
        assert a.dtype == (torch.float32 if name in ("gw", "gu") else dtype), name
        assert a.is_contiguous(), name
        # What is below 1e-30 may underflow in float32.
        error = float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30))
        assert error < (tolerance or TOLERANCE[dtype])[name], f"{name}: {error:.3g}"
    assert not got["gw"][:, 0].any()
    assert not got["gw"][:, -1].any()


@DTYPES
@pytest.mark.parametrize("t", [1, 2, 3, 15, 16, 17, 49, 50, 77, 130])
def test_output_and_gradients_agree_with_the_reference_at_every_length(device, dtype, t):
    assert_agrees(operands(device, dtype, 1, t, 2, 16))


@DTYPES
@pytest.mark.parametrize("t", [196, 197, 300])
def test_long_sequences_agree_with_the_reference(device, dtype, t):
    assert_agrees(operands(device, dtype, 1, t, 1, 16, low=-8.0))


@pytest.mark.parametrize(("dtype", "t"), [*((x, 1024) for x in TOLERANCE), (torch.bfloat16, 4097)], ids=str)
def test_sequences_of_many_chunks_agree_with_the_reference(device, dtype, t):
    assert_agrees(operands(device, dtype, 1, t, 1, 16, low=-8.0))


@DTYPES
@pytest.mark.parametrize("n", [16, 32, 48, 64, 80, 96, 112, 128])
def test_every_head_width_agrees_with_the_reference(device, dtype, n):
    assert_agrees(operands(device, dtype, 1, 35, 1, n))


@DTYPES
@pytest.mark.parametrize(("t", "h", "n"), [(49, 2, 80), (77, 1, 64)])
def test_official_shapes_agree_with_the_reference(device, dtype, t, h, n):
    assert_agrees(operands(device, dtype, 2, t, h, n))


@pytest.mark.parametrize(("dtype", "t"), [(torch.float32, 129), (torch.float16, 129), (torch.bfloat16, 209)])
def test_wide_heads_of_a_long_sequence_agree_with_the_reference(device, dtype, t):
    assert_agrees(operands(device, dtype, 1, t, 1, 128))


@DTYPES
@pytest.mark.parametrize(("low", "high"), [(-20, 6), (-20, -19), (5, 6), (6, 100)])
@pytest.mark.parametrize("t", [77, 213])
def test_extreme_decays_neither_overflow_nor_lose_accuracy(device, dtype, low, high, t):
    assert_agrees(operands(device, dtype, 1, t, 1, 16, low=low, high=high))


def test_weak_decays_after_one_very_strong_decay_keep_their_accuracy(device):
    inputs = operands(device, torch.float32, 1, 213, 1, 16, low=-7, high=-5)
    inputs[3][:, 3] = 20.0
    assert_agrees(inputs)


@pytest.mark.parametrize("t", [1, 2, 3, 49, 77])
def test_outputs_and_gradients_equal_the_official_ones(device, parity, official, t):
    golden = np.load(parity / "wkv_golden.npz")
    b, t, h, n, _ = (int(x) for x in golden[f"N64_T{t}_meta"])
    inputs = [torch.tensor(x).float().to(device) for x in official.inputs.wkv(b, t, h, n)]
    for name, value in run(*(x.view(b, t, h, n) if x.dim() == 3 else x for x in inputs)).items():
        expected = torch.tensor(golden[f"N64_T{t}_{name}"], device=device).view(value.shape).double()
        error = float((value.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        assert error < TOLERANCE[torch.float32][name], f"{name}: {error:.3g}"


@DTYPES
def test_zero_keys_give_zero(device, dtype):
    r, k, v, w, u, gy = operands(device, dtype, 1, 49, 1, 16)
    got = run(r, torch.zeros_like(k), v, w, u, gy)
    for name in ("y", "gr", "gv", "gw", "gu"):
        assert not got[name].any(), name


def test_large_float16_operands_do_not_overflow_inside(device):
    r, k, v, w, u, gy = operands(device, torch.float16, 1, 33, 1, 16)
    inputs = [300 * r, 300 * k, v / 3000, w, u, gy / 3000]
    assert_agrees(inputs)


@DTYPES
def test_results_repeat_bit_by_bit_and_do_not_depend_on_the_rest_of_the_batch(device, dtype):
    inputs = operands(device, dtype, 3, 140, 2, 16)
    first, again = run(*inputs), run(*inputs)
    assert all(torch.equal(first[name], again[name]) for name in NAMES)
    r, k, v, w, u, gy = inputs
    alone = run(*(x[1:2] for x in (r, k, v, w)), u, gy[1:2])
    assert all(torch.equal(first[name][1:2], alone[name]) for name in NAMES[:-1])


def test_strided_and_misaligned_operands_give_the_same(device):
    inputs = operands(device, torch.bfloat16, 2, 17, 2, 16)
    expected = run(*inputs)
    strided = [x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for x in inputs[:4]]
    off = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in inputs]
    assert not strided[0].is_contiguous()
    assert off[0].data_ptr() % 16
    for other in ([*strided, *inputs[4:]], off):
        got = run(*other)
        assert all(torch.equal(expected[name], got[name]) for name in NAMES)


@pytest.mark.parametrize(("b", "h"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("t", [17, 300])
def test_an_empty_batch_gives_empty_outputs_and_no_gradient_of_the_bonus(device, b, h, t):
    got = run(*operands(device, torch.bfloat16, b, t, h, 16))
    assert got["y"].shape == got["gw"].shape == (b, t, h, 16)
    assert not got["gu"].any()


@DTYPES
def test_heads_whose_states_do_not_fit_the_workspace_together_take_turns(device, dtype):
    inputs = operands(device, dtype, 2, 210, 3, 16)
    if device == "cpu":
        floats = [ctypes.c_int64() for _ in range(3)]
        sizes = [ctypes.c_int64(x) for x in (2, 210, 3, 16, native.DTYPE_CODES[dtype])]
        assert build.library("cuda").rwkvclip_bi_wkv6_sizes(*sizes, *map(ctypes.byref, floats)) == 0
        assert floats[0].value < 6 * 2 * 2 * 16 * 16
    assert_agrees(inputs)


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize(("t", "n"), [(1024, 80), (4097, 64)])
def test_very_long_sequences_agree_with_the_reference(dtype, t, n):
    assert_agrees(operands("cuda", dtype, 2, t, 2, n))


def test_what_the_kernels_cannot_do_is_said(device):
    with pytest.raises(RuntimeError, match="multiple of 16 up to 128, got 24"):
        cuda.bi_wkv6(*operands(device, torch.float32, 1, 2, 1, 24)[:5])
    with pytest.raises(RuntimeError, match="multiple of 16 up to 128, got 144"):
        cuda.bi_wkv6(*operands(device, torch.float32, 1, 2, 1, 144)[:5])


@pytest.mark.parametrize(("t", "n"), [(1, 64), (17, 80)])
def test_the_scan_that_the_benchmark_compares_with_agrees_with_the_reference(device, t, n):
    r, k, v, w, u, gy = inputs = operands(device, torch.float32, 2, t, 2, n)
    scan = build.library("cuda")
    sizes = [ctypes.c_int64(x) for x in (2, t, 2, n)]
    y, gr, gk, gv, gw, scratch = (torch.empty_like(r) for _ in range(6))
    gu = w.new_empty((2, 2, n))

    def call(name, *tensors):
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in tensors]
        assert getattr(scan, name)(*pointers, *sizes, ctypes.c_void_p(0)) == 0

    call("rwkvclip_scan_forward", r, k, v, w, u, y)
    call("rwkvclip_scan_backward", gy, r, k, v, w, u, gr, gk, gv, gw, gu, scratch)
    got = dict(zip(NAMES, (y, gr, gk, gv, gw, gu.sum(0)), strict=True))
    for name, b in exact(*inputs).items():
        error = float((got[name].double() - b).abs().max() / b.abs().max().clamp(min=1e-30))
        assert error < 1e-5, f"{name}: {error:.3g}"


@pytest.mark.parametrize("case", registration.RECURRENCE)
def test_the_registration_passes_torchs_own_check(device, case, guarded_outputs):
    guarded_outputs()  # the check compares where in memory outputs lie
    registration.check(case, "cuda", device)
