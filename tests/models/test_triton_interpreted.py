"""The Triton kernels: on the CPU through Triton's interpreter, and as they are on a GPU.

The interpreter must be chosen before Triton is imported, so it runs in a process of its own.
Axes: B batch, T tokens, H heads, N head width, C = H·N.
"""

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import registration
import torch
import torch.nn.functional as F

from rwkvclip_models import ops
from rwkvclip_models.ops import Shift, triton_support
from rwkvclip_models.ops.reference import bi_wkv6_reference

pytest.importorskip("triton", reason="Triton is not installed")

# max |difference| / max |reference|. float32: rounding alone, in another order and with another exp on a
# GPU. 16 bit: results are rounded once, to 2^-12 (float16) or 2^-9 (bfloat16; the interpreter truncates,
# 2^-8), after at most three matrix products in a row whose factors a GPU truncates to tf32, by 2^-10.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 8e-3}
NAMES = ("y", "gr", "gk", "gv", "gw", "gu")
# In float32 on a GPU: what separates rounding from error beside the official code; gw is more sensitive.
GPU_TOLERANCE = {**dict.fromkeys(NAMES, 1e-5), "gw": 5e-5}


def call(name, function, *args, **constants):
    """Run a function of a module of `ops`, every new tensor's memory filled with NaN."""
    module = importlib.import_module(f"rwkvclip_models.ops.{name}")
    filled = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for constant, value in constants.items():
                patch.setattr(module, constant, value)
            return getattr(module, function)(*args)
    finally:
        torch.use_deterministic_algorithms(filled)


@pytest.fixture(scope="module")
def interpreting():
    """A process in which Triton interprets."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result()
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    with pool:
        yield pool


@pytest.fixture
def interpreter(interpreting):
    return lambda *args, **constants: interpreting.submit(call, *args, **constants).result()


def on_gpu(*args, **constants):
    there = [x.cuda() if isinstance(x, torch.Tensor) else x for x in args]
    out = call(*there, **constants)
    return out.cpu() if isinstance(out, torch.Tensor) else tuple(x.cpu() for x in out)


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def run(request):
    """Run a function of a module of `ops` where the kernels are under test."""
    if request.param == "gpu":
        available, reason, _ = triton_support.status()
        if not available:
            pytest.skip(reason)
        return on_gpu
    return request.getfixturevalue("interpreter")


# Not bfloat16: the interpreter's products of that are wrong.
@pytest.mark.parametrize("case", ["bi_wkv6", *registration.ELEMENTWISE])
def test_the_registration_passes_torchs_own_check(run, case, request):
    if run is on_gpu:
        registration.check(case, "triton", "cuda")
    else:
        request.getfixturevalue("interpreting").submit(registration.check, case, "triton").result()


def operands(b, t, h, n, *, dtype=torch.float32, low=-6.0, high=1.0):
    """gy, r, k, v, w, u."""
    g = torch.Generator().manual_seed(t * n)
    gy, r, k, v = (torch.randn(b, t, h, n, generator=g).to(dtype) for _ in range(4))
    w = torch.empty(b, t, h, n).uniform_(low, high, generator=g)
    return gy, r, k, v, w, torch.empty(h, n).uniform_(-0.3, 1, generator=g)


def gradients(function, inputs, grad):
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, grad.double())


def assert_close(got, exact, tolerance, name=""):
    assert got.shape == exact.shape, name
    assert got.isfinite().all(), name
    if got.numel():
        # What is below 1e-30 may underflow in float32.
        error = (got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)
        assert error < tolerance, f"{name}: {error:.1e}"


def assert_agrees(run, gy, *inputs):
    exact = gradients(bi_wkv6_reference, inputs, gy)
    got = (run("triton_wkv", "bi_wkv6", *inputs), *run("triton_wkv", "bi_wkv6_backward", gy, *inputs))
    dtype = inputs[0].dtype
    assert [x.dtype for x in got] == [dtype] * 4 + [torch.float32] * 2
    assert all(x.is_contiguous() for x in got)
    for name, a, b in zip(NAMES, got, exact, strict=True):
        by_parity = run is on_gpu and dtype == torch.float32
        assert_close(a, b, GPU_TOLERANCE[name] if by_parity else TOLERANCE[dtype], name)
    return got


@pytest.mark.parametrize("t", [1, 2, 3, 15, 16, 17, 31, 33, 49, 50, 64, 65, 77, 196, 197])
def test_output_and_gradients_agree_with_the_reference_at_every_length(run, t):
    assert_agrees(run, *operands(1, t, 2, 16))


@pytest.mark.parametrize("n", [16, 32, 48, 64, 80, 96, 112, 128])
def test_output_and_gradients_agree_with_the_reference_at_every_head_width(run, n):
    assert_agrees(run, *operands(1, 70, 1, n))


def test_a_long_sequence_agrees_with_the_reference(run):
    assert_agrees(run, *operands(1, 1030, 1, 16, low=-9.0))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("t", "n"), [(1024, 80), (4097, 64)])
def test_very_long_sequences_agree_with_the_reference(dtype, t, n):
    available, reason, _ = triton_support.status()
    if not available:
        pytest.skip(reason)
    assert_agrees(on_gpu, *operands(1, t, 1, n, dtype=dtype))


@pytest.mark.parametrize("t", [20, 130])
@pytest.mark.parametrize(("low", "high"), [(-20, 6), (-20, -19), (5, 6), (6, 100)])
def test_extreme_decays_neither_overflow_nor_lose_accuracy(run, low, high, t):
    assert_agrees(run, *operands(1, t, 1, 32, low=low, high=high))


@pytest.mark.parametrize("where", [3, 70])
def test_weak_decays_beside_one_very_strong_decay_keep_their_accuracy(run, where):
    gy, r, k, v, w, u = operands(1, 130, 1, 16, low=-7, high=-5)
    w[:, where] = 20.0
    assert_agrees(run, gy, r, k, v, w, u)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("t", "n"), [(3, 16), (49, 80), (77, 64)])
def test_16_bit_operands_agree_with_the_reference(run, dtype, t, n):
    assert_agrees(run, *operands(1, t, 1, n, dtype=dtype))


def test_float16_operands_whose_products_exceed_its_range_stay_finite(run):
    gy, r, k, v, w, u = operands(1, 70, 1, 64, dtype=torch.float16)
    assert_agrees(run, gy / 2000, r * 200, k * 200, v / 2000, w, u)


@pytest.mark.parametrize(("t", "n"), [(5, 16), (70, 48)])
def test_the_decays_of_the_first_and_the_last_token_have_no_gradient(run, t, n):
    gw = run("triton_wkv", "bi_wkv6_backward", *operands(1, t, 2, n))[3]
    assert (gw[:, 0] == 0).all()
    assert (gw[:, -1] == 0).all()
    assert (gw[:, 1:-1] != 0).any()


def test_zero_keys_give_zero_output_and_their_own_gradients(run):
    gy, r, k, v, w, u = operands(1, 70, 1, 16)
    assert_agrees(run, gy, r, torch.zeros_like(k), v, w, u)


def test_operands_may_have_any_strides(run):
    inputs = operands(2, 21, 2, 16)
    views = [
        inputs[0].transpose(1, 2).contiguous().transpose(1, 2),
        inputs[1].flatten(2).expand(2, 21, 32).unflatten(2, (2, 16)),
        torch.cat([inputs[2], inputs[3]], -1)[..., :16],
        inputs[3].flip(1).contiguous().flip(1),
        inputs[4].mT.contiguous().mT,
        inputs[5].mT.contiguous().mT,
    ]
    straight = assert_agrees(run, *inputs)
    strided = assert_agrees(run, *views)
    assert all(torch.equal(a, b) for a, b in zip(straight, strided, strict=True))


def test_a_sample_gives_the_same_bits_alone_and_in_a_batch(run):
    gy, r, k, v, w, u = operands(3, 70, 2, 16)
    alone = [x[1:2] for x in (r, k, v, w)]
    whole = run("triton_wkv", "bi_wkv6", r, k, v, w, u)
    assert torch.equal(whole[1:2], run("triton_wkv", "bi_wkv6", *alone, u))
    batch = run("triton_wkv", "bi_wkv6_backward", gy, r, k, v, w, u)
    single = run("triton_wkv", "bi_wkv6_backward", gy[1:2], *alone, u)
    assert all(torch.equal(a[1:2], b) for a, b in zip(batch[:4], single[:4], strict=True))


@pytest.mark.parametrize("t", [5, 70])
@pytest.mark.parametrize(("b", "h"), [(0, 2), (2, 0), (0, 0)])
def test_no_samples_or_no_heads_give_empty_results_and_zero_gradients(run, b, h, t):
    got = assert_agrees(run, *operands(b, t, h, 16))
    assert got[-1].tolist() == [[0.0] * 16] * h


def test_heads_whose_states_exceed_the_workspace_take_turns(run):
    gy, *inputs = operands(2, 130, 2, 16)
    whole = run("triton_wkv", "bi_wkv6_backward", gy, *inputs)
    turns = run("triton_wkv", "bi_wkv6_backward", gy, *inputs, STATE_BYTES=1)
    assert all(torch.equal(a, b) for a, b in zip(whole, turns, strict=True))
    assert torch.equal(
        run("triton_wkv", "bi_wkv6", *inputs), run("triton_wkv", "bi_wkv6", *inputs, STATE_BYTES=1)
    )


def shift_lerp(x, mix, h, w, heads, directions):
    """As the eager model computes it."""
    return ops.shift_lerp(x, mix, Shift(h, w, heads, directions), implementation="torch")


def norm_gate(y, gate, weight, bias, heads, eps):
    """As the eager model computes it."""
    b, t, c = y.shape
    return F.group_norm(y.reshape(b * t, c), heads, weight, bias, eps).view(b, t, c) * F.silu(gate)


def assert_fused(run, name, eager, inputs, *settings, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    shape = eager(*(x.double() for x in inputs), *settings).shape
    grad = torch.randn(shape, generator=g).to(dtype)
    exact = gradients(lambda *x: eager(*x, *settings), inputs, grad)
    out = run("triton_fused", name, *inputs, *settings)
    got = run("triton_fused", f"{name}_backward", grad, *inputs, *settings)
    got = (out, *got) if isinstance(got, tuple) else (out, got)
    for i, (a, b) in enumerate(zip(got, exact, strict=True)):
        assert a.dtype == dtype
        assert_close(a, b, TOLERANCE[dtype], f"{name} {i}")


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)


@DTYPES
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(
    ("b", "h", "w", "heads", "n", "lerps", "directions"),
    [
        (2, 3, 5, 2, 16, 5, 4),
        (1, 1, 1, 1, 80, 1, 4),
        (1, 7, 7, 2, 80, 2, 4),
        (2, 4, 1, 1, 16, 1, 4),
        (1, 1, 6, 3, 6, 2, 4),
        (2, 13, 1, 2, 64, 5, 2),
        (3, 1, 1, 1, 16, 1, 2),
        (0, 2, 2, 1, 16, 2, 4),
    ],
)
def test_shift_lerp_agrees_with_the_eager_form(run, b, h, w, heads, n, lerps, directions, per_token, dtype):
    g = torch.Generator().manual_seed(0)
    c = heads * n
    x = torch.randn(b, h * w, c, generator=g).to(dtype)
    mix = torch.rand(lerps, *((b, h * w) if per_token else ()), c, generator=g).to(dtype)
    assert_fused(run, "shift_lerp", shift_lerp, (x, mix), h, w, heads, directions, dtype=dtype)


@DTYPES
@pytest.mark.parametrize(
    ("b", "t", "heads", "n"), [(2, 5, 2, 16), (1, 49, 3, 80), (1, 70, 1, 128), (0, 3, 2, 16)]
)
def test_norm_gate_agrees_with_the_eager_form(run, b, t, heads, n, dtype):
    g = torch.Generator().manual_seed(0)
    y, gate = (torch.randn(b, t, heads * n, generator=g).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(heads * n, generator=g).to(dtype) for _ in range(2))
    assert_fused(run, "norm_gate", norm_gate, (y * 3 + 1, gate, weight, bias), heads, 1e-5, dtype=dtype)


def test_gradients_of_norm_and_gate_share_no_memory_as_torch_asks_of_operators(run):
    operands = [torch.randn(s) for s in ((1, 5, 32), (1, 5, 32), (1, 5, 32), (32,), (32,))]
    got = run("library", "norm_gate_backward", *operands, 2, 1e-5, "triton")
    assert [x.shape for x in got] == [x.shape for x in operands[1:]]


@DTYPES
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 70, 81), (0, 4)])
def test_relu_square_agrees_with_the_eager_form(run, shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_fused(run, "relu_square", lambda x: F.relu(x).square(), (x,), dtype=dtype)


def test_relu_square_keeps_nan(run):
    assert run("triton_fused", "relu_square", torch.tensor([float("nan"), -1.0, 2.0]))[0].isnan()


def test_the_status_names_reason_and_cure_unless_available():
    available, reason, cure = triton_support.status()
    assert available == (not reason) == (not cure)
    assert available <= torch.cuda.is_available()


def test_a_missing_or_old_triton_is_told_as_such(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.1.0+git")
    assert triton_support.status()[1] == "Triton 2.1.0+git is older than 3.6"

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert triton_support.status()[1] == "Triton is not installed"


def test_the_package_imports_without_triton():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['triton'] = None; import rwkvclip_models, rwkvclip_models.ops.triton_support"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
