"""Axes: B batch, T tokens, H heads, N head width."""

import numpy as np
import pytest
import torch

from rwkvclip_models import UserError, ops
from rwkvclip_models.ops import bi_wkv6, blocked

pytestmark = pytest.mark.usefixtures("new_memory_is_nan")

BOTH = pytest.mark.parametrize("implementation", ["torch", "cpu"])

# max |difference| / max |reference| in float32; gw is more sensitive.
TOLERANCE = {"y": 1e-5, "gr": 1e-5, "gk": 1e-5, "gv": 1e-5, "gw": 5e-5, "gu": 1e-5}

# One rounding of the result, and of the incoming gradient.
HALF_LIMITS = {dtype: 4 * torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16)}


def operands(b, t, h, n, *, dtype=torch.float32, low=-6.0, high=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    r, k, v = (torch.randn(b, t, h, n, generator=g, dtype=torch.float64) for _ in range(3))
    w = torch.empty(b, t, h, n, dtype=torch.float64).uniform_(low, high, generator=g)
    u = torch.empty(h, n, dtype=torch.float64).uniform_(-0.3, 1, generator=g)
    return [x.float().to(dtype) for x in (r, k, v, w, u)]


def output_and_gradients(implementation, inputs, gy=None):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = bi_wkv6(*leaves, implementation=implementation)
    if gy is None:
        gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(y, leaves, gy.to(y.dtype))
    return dict(zip(TOLERANCE, (y.detach(), *gradients), strict=True))


def relative_error(a, b):
    if b.numel() == 0:
        return 0.0
    # What is below 1e-30 may underflow in float32.
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))


def assert_agrees(inputs, implementation="torch"):
    exact = output_and_gradients("reference", [x.double() for x in inputs])
    for name, value in output_and_gradients(implementation, inputs).items():
        assert value.isfinite().all(), name
        assert relative_error(value, exact[name]) < TOLERANCE[name], name


def brute_force(r, k, v, w, u):
    """The definition, token pair by token pair, in numpy float64."""
    r, k, v, w, u = (x.double().numpy() for x in (r, k, v, w, u))
    d = np.exp(-np.exp(w))
    y = np.zeros_like(r)
    for t in range(r.shape[1]):
        for i in range(r.shape[1]):
            between = d[:, min(t, i) + 1 : max(t, i)].prod(axis=1)
            decay = u if i == t else between
            y[:, t] += (r[:, t] * decay * k[:, i]).sum(-1, keepdims=True) * v[:, i]
    return torch.tensor(y)


@pytest.mark.parametrize("implementation", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("t", [1, 2, 3, 13, 20])
def test_output_is_the_sum_over_token_pairs(implementation, t):
    inputs = operands(2, t, 3, 16, dtype=torch.float64)
    assert relative_error(bi_wkv6(*inputs, implementation=implementation), brute_force(*inputs)) < 1e-13


def test_three_tokens_by_hand():
    one = torch.ones(1, 3, 1, 1)
    v = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    # decay exp(-exp(w)) = 1/2; only the middle token lies between two others.
    w = torch.full_like(one, np.log(np.log(2)))
    u = torch.full((1, 1), 3.0)
    y = bi_wkv6(one, one, v, w, u, implementation="torch").flatten()
    assert y.tolist() == pytest.approx([3 + 10 + 50, 30 + 1 + 100, 300 + 10 + 0.5])


@BOTH
@pytest.mark.parametrize("t", [1, 2, 3, 15, 16, 17, 49, 50, 77, 196, 197])
def test_agrees_with_the_reference_at_every_length(t, implementation):
    assert_agrees(operands(2, t, 2, 16), implementation)


@BOTH
@pytest.mark.parametrize("n", [16, 32, 64, 80, 96, 128])
def test_agrees_with_the_reference_at_every_head_width(n, implementation):
    assert_agrees(operands(2, 21, 2, n), implementation)


@BOTH
@pytest.mark.parametrize("t", [256, 257, 300, 515, 1024])
def test_long_sequences_agree_with_the_reference(t, implementation):
    assert_agrees(operands(1, t, 2, 16, low=-8.0), implementation)


def test_a_sequence_of_4097_tokens_agrees_with_the_reference_in_every_dtype():
    r, k, v, w, u = operands(1, 4097, 1, 16, low=-8.0)
    low = [x.bfloat16() for x in (r, k, v)]
    exact = output_and_gradients("reference", [x.double() for x in (*low, w, u)])
    for implementation, dtype, limit in (
        ("cpu", torch.float64, 1e-12),
        ("torch", torch.float64, 1e-12),
        ("cpu", torch.float32, TOLERANCE),
        ("torch", torch.float32, TOLERANCE),
        ("cpu", torch.bfloat16, HALF_LIMITS[torch.bfloat16]),
        ("cpu", torch.float16, HALF_LIMITS[torch.float16]),
    ):
        wide = torch.promote_types(dtype, torch.float32)
        inputs = [*(x.to(dtype) for x in low), w.to(wide), u.to(wide)]
        for name, value in output_and_gradients(implementation, inputs).items():
            most = limit[name] if isinstance(limit, dict) else limit
            assert relative_error(value, exact[name]) < most, (implementation, dtype, name)


@BOTH
@pytest.mark.parametrize(("low", "high"), [(-20, 6), (-20, -19), (5, 6), (6, 100)])
def test_extreme_decays_neither_overflow_nor_lose_accuracy(low, high, implementation):
    assert_agrees(operands(2, 77, 1, 32, low=low, high=high), implementation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decays_beyond_any_number_have_gradient_zero_in_the_reference(dtype):
    result = output_and_gradients("reference", operands(1, 5, 1, 16, low=1e3, high=1e3, dtype=dtype))
    assert (result["gw"] == 0).all()
    assert all(value.isfinite().all() for value in result.values())


@BOTH
def test_extreme_decays_across_pieces_keep_their_accuracy(implementation):
    assert_agrees(operands(1, 300, 1, 16, low=-20, high=6), implementation)


@BOTH
def test_weak_decays_after_one_very_strong_decay_keep_their_accuracy(implementation):
    r, k, v, w, u = operands(1, 49, 1, 32, low=-7, high=-5)
    w[:, 3] = 20.0
    assert_agrees([r, k, v, w, u], implementation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("t", [1, 2, 3, 49, 77])
def test_outputs_and_gradients_equal_the_official_ones(parity, official, implementation, t, dtype):
    golden = np.load(parity / "wkv_golden.npz")
    b, t, h, n, _ = (int(x) for x in golden[f"N64_T{t}_meta"])
    *inputs, gy = (torch.tensor(x).to(dtype) for x in official.inputs.wkv(b, t, h, n))
    inputs = [x.view(b, t, h, n) if x.dim() == 3 else x for x in inputs]
    for name, value in output_and_gradients(implementation, inputs, gy.view(b, t, h, n)).items():
        expected = torch.tensor(golden[f"N64_T{t}_{name}"]).view(value.shape)
        limit = TOLERANCE[name] if dtype == torch.float32 else 1e-6
        assert relative_error(value, expected) < limit, name


@pytest.mark.parametrize("t", [1, 3, 6])
def test_gradients_are_the_derivatives(t):
    inputs = [x.requires_grad_() for x in operands(1, t, 2, 4, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: bi_wkv6(*x, implementation="torch"), inputs)


@pytest.mark.parametrize("t", [1, 3, 18])
def test_gradients_of_the_compiled_kernel_are_the_derivatives(t):
    inputs = [x.requires_grad_() for x in operands(1, t, 1, 16, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: bi_wkv6(*x, implementation="cpu"), inputs, fast_mode=True)


def test_gradients_across_pieces_are_the_derivatives(monkeypatch):
    monkeypatch.setattr(blocked, "MAX_DENSE_TOKENS", 4)
    inputs = [x.requires_grad_() for x in operands(1, 10, 1, 4, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: bi_wkv6(*x, implementation="torch"), inputs)


@BOTH
@pytest.mark.parametrize("t", [49, 300])
def test_decays_of_the_first_and_last_token_have_gradient_zero(t, implementation):
    gw = output_and_gradients(implementation, operands(2, t, 2, 16))["gw"]
    assert (gw[:, [0, -1]] == 0).all()
    assert (gw[:, 1:-1] != 0).any()


@BOTH
@pytest.mark.parametrize("t", [17, 300])
def test_zero_keys_give_zero_and_their_own_gradients(t, implementation):
    r, k, v, w, u = operands(2, t, 2, 16)
    result = output_and_gradients(implementation, [r, torch.zeros_like(k), v, w, u])
    assert not any(result[name].any() for name in ("y", "gr", "gv", "gw", "gu"))
    assert_agrees([r, torch.zeros_like(k), v, w, u], implementation)


@BOTH
def test_a_nan_reaches_the_outputs_it_weighs_on(implementation):
    inputs = operands(2, 17, 1, 16)
    inputs[2][0, 3, 0, 5] = float("nan")
    y = bi_wkv6(*inputs, implementation=implementation)
    assert y[0, :, 0, 5].isnan().all()
    assert y[1].isfinite().all()


@BOTH
def test_strided_operands_give_the_same_result(implementation):
    inputs = operands(3, 17, 2, 16)
    expected = output_and_gradients(implementation, inputs)
    strided = [x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for x in inputs[:4]]
    assert not strided[0].is_contiguous()
    y = bi_wkv6(*strided, inputs[4], implementation=implementation)
    assert relative_error(y, expected["y"]) < 1e-6
    leaves = [x.detach().requires_grad_() for x in (*strided, inputs[4])]
    bi_wkv6(*leaves, implementation=implementation).sum().backward()  # the incoming gradient has stride 0
    plain = output_and_gradients(implementation, inputs, torch.ones_like(y))
    for leaf, name in zip(leaves, list(TOLERANCE)[1:], strict=True):
        assert relative_error(leaf.grad, plain[name]) < 1e-5, name


@pytest.mark.parametrize("implementation", ["reference", "torch", "cpu"])
def test_an_empty_batch_gives_an_empty_result(implementation):
    result = output_and_gradients(implementation, operands(0, 5, 2, 16))
    assert result["y"].shape == (0, 5, 2, 16)
    assert (result["gu"] == 0).all()


@pytest.mark.parametrize("implementation", ["reference", "torch", "cpu"])
def test_no_heads_give_an_empty_result(implementation):
    result = output_and_gradients(implementation, operands(2, 5, 0, 16))
    assert result["y"].shape == result["gw"].shape == (2, 5, 0, 16)


def test_operands_without_data_give_the_shape_of_the_result():
    inputs = [x.to("meta") for x in operands(2, 5, 3, 16)]
    y = bi_wkv6(*inputs)
    assert y.shape == (2, 5, 3, 16)
    assert y.device.type == "meta"


def test_eight_bit_operands_are_refused():
    r, k, v, w, u = operands(1, 4, 1, 16)
    with pytest.raises(UserError, match=r"one float dtype, got torch\.float8_e4m3fn"):
        bi_wkv6(*(x.to(torch.float8_e4m3fn) for x in (r, k, v)), w, u)


@BOTH
@pytest.mark.parametrize("t", [49, 300])
def test_a_sample_and_its_gradients_do_not_depend_on_its_batch(t, implementation):
    r, k, v, w, u = operands(5, t, 2, 16)
    gy = torch.randn(r.shape, generator=torch.Generator().manual_seed(2))
    whole = output_and_gradients(implementation, [r, k, v, w, u], gy)
    # The libraries of products that torch calls may sum in another order.
    limit = 0 if implementation == "cpu" else 1e-5
    for i in range(5):
        sample = [x[i : i + 1] for x in (r, k, v, w)]
        alone = output_and_gradients(implementation, [*sample, u], gy[i : i + 1])
        for name in ("y", "gr", "gk", "gv", "gw"):
            assert relative_error(whole[name][i : i + 1], alone[name]) <= limit, name


def test_a_batch_that_torch_takes_in_pieces_agrees_with_the_reference(monkeypatch):
    monkeypatch.setattr(blocked, "CACHE_ELEMENTS", 3 * 49 * 2 * 16 // torch.get_num_threads())
    assert_agrees(operands(7, 49, 2, 16))


def test_results_do_not_depend_on_the_number_of_threads():
    inputs, threads = operands(2, 49, 3, 16), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(output_and_gradients("cpu", inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in TOLERANCE)


@pytest.mark.parametrize("dtype", HALF_LIMITS)
@pytest.mark.parametrize(("t", "n"), [(1, 128), (17, 96), (49, 16), (50, 80), (197, 64), (300, 16)])
@BOTH
def test_half_precision_operands_are_accumulated_in_float32(dtype, t, n, implementation):
    r, k, v, w, u = operands(2, t, 2, n)
    low = [x.to(dtype) for x in (r, k, v)]
    result = output_and_gradients(implementation, [*low, w, u])
    exact = output_and_gradients("reference", [x.double() for x in (*low, w, u)])
    for name, value in result.items():
        assert relative_error(value, exact[name]) < HALF_LIMITS[dtype], name
        assert value.dtype == (torch.float32 if name in ("gw", "gu") else dtype)


def test_autocast_casts_r_k_v_but_not_the_decay():
    r, k, v, w, u = operands(2, 17, 2, 16)
    low = [x.bfloat16() for x in (r, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        y = bi_wkv6(r, k, v, w, u)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, bi_wkv6(*low, w, u))


def test_an_unknown_implementation_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'tirch'.*Did you mean 'torch'.*auto, reference, torch"):
        bi_wkv6(*operands(1, 2, 1, 16), implementation="tirch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(1, 4, 16)}, r"\[B, T, H, N\]"),
        ({1: torch.zeros(1, 3, 1, 16)}, "expects k of r's shape"),
        ({4: torch.zeros(2, 16)}, "expects u of shape"),
        ({2: torch.zeros(1, 4, 1, 16, dtype=torch.float64)}, "one float dtype"),
        ({3: torch.zeros(1, 4, 1, 16, dtype=torch.bfloat16)}, "w in torch.float32"),
        ({2: torch.zeros(1, 4, 1, 16, device="meta")}, "one device, got r on cpu, k on cpu, v on meta"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change, message):
    inputs = operands(1, 4, 1, 16)
    for index, value in change.items():
        inputs[index] = value
    with pytest.raises(UserError, match=message):
        bi_wkv6(*inputs)


@pytest.mark.parametrize(
    ("implementation", "dtype", "limit"),
    [
        ("torch", torch.float32, 1e-5),
        ("torch", torch.float64, 1e-12),
        ("cpu", torch.float32, 1e-5),
        ("cpu", torch.float64, 1e-12),
        ("reference", torch.bfloat16, 1e-2),
    ],
)
def test_check_reports_the_error_against_the_float64_reference(implementation, dtype, limit):
    assert 0 <= ops.check(implementation, "cpu", dtype) < limit


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_torch_agrees_with_the_reference_on_cuda(dtype, limit):
    assert ops.check("torch", "cuda", dtype) < limit


def test_plain_torch_hands_on_exact_states_under_autocast():
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(1, 600, 2, 16, generator=generator).bfloat16() for _ in range(3))
    w, u = torch.full((1, 600, 2, 16), -7.0), torch.zeros(2, 16)
    expected = bi_wkv6(r, k, v, w, u, implementation="torch")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bi_wkv6(r, k, v, w, u, implementation="torch"), expected)
