"""Weights packed for products on a CPU: the same results, and never those of weights that have changed."""

import copy
import gc
import json
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_models import load_model, matmul


@pytest.fixture(autouse=True)
def held_back(monkeypatch):
    """Take float32's products to oneDNN on every processor."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pytest.skip("this torch has no operator that packs weights")
    monkeypatch.setattr(matmul, "_mkl_is_held_back", lambda: True)


@pytest.fixture
def num_packed(monkeypatch):
    """Count the products that took a packed weight."""
    taken, original = [], matmul._Packed.serves

    def serves(self, *arguments):
        taken.append(original(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(matmul._Packed, "serves", serves)
    return lambda: sum(taken)


def weight(dtype=torch.float32, shape=(24, 40)):
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype))


def dtypes():
    narrow = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return [torch.float32, torch.bfloat16] if narrow() else [torch.float32]


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_packed_weight_gives_the_same_product(dtype, transposed, num_packed):
    w = weight(dtype)
    x = torch.randn(3, 7, w.shape[0 if transposed else 1]).to(dtype)
    with torch.inference_mode():
        plain = matmul.linear(x, w, transposed=transposed, implementation="cpu")
        matmul.pack(w, dtype, transposed=transposed)
        packed = matmul.linear(x, w, transposed=transposed, implementation="cpu")
    assert num_packed() == 1
    assert plain.dtype == packed.dtype == dtype
    torch.testing.assert_close(packed, plain)


@pytest.mark.parametrize(
    "change", [lambda w: w.mul_(3), lambda w: setattr(w, "data", w.data.clone().mul_(3))]
)
def test_a_weight_that_changed_or_moved_is_multiplied_as_it_is_now(change, num_packed):
    w, x = weight(), torch.randn(5, 40)
    matmul.pack(w, torch.float32)
    with torch.no_grad():
        before = matmul.linear(x, w, implementation="cpu")
        change(w)
        after = matmul.linear(x, w, implementation="cpu")
    assert num_packed() == 1
    torch.testing.assert_close(after, 3 * before)


def test_a_weight_rounded_on_its_way_through_another_dtype_is_multiplied_as_it_is_now(num_packed):
    module, x = torch.nn.Linear(40, 24, bias=False), torch.randn(5, 40)
    for _ in range(20):  # the allocator may well give the old address again
        matmul.pack(module.weight, torch.float32)
        module.bfloat16().float()
        with torch.inference_mode():
            found = matmul.linear(x, module.weight, implementation="cpu")
            torch.testing.assert_close(found, x @ module.weight.T)
        assert module.weight not in matmul._packed
        with torch.no_grad():
            module.weight.normal_()
    assert num_packed() == 0


def test_a_packed_weight_of_another_dtype_hides_no_mistake():
    w, x = weight(), torch.randn(5, 40).bfloat16()
    matmul.pack(w, torch.bfloat16)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="dtype"):
        matmul.linear(x, w, implementation="cpu")


def test_a_square_weight_packed_one_way_is_not_taken_the_other(num_packed):
    w, x = weight(shape=(24, 24)), torch.randn(5, 24)
    matmul.pack(w, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(matmul.linear(x, w, transposed=True, implementation="cpu"), x @ w)
    assert num_packed() == 0


def test_a_weight_made_in_inference_mode_is_not_packed():
    with torch.inference_mode():
        w = torch.randn(4, 4)
    matmul.pack(w, torch.float32)
    assert w not in matmul._packed


def test_gradients_autocast_and_other_implementations_leave_a_packed_weight_aside(num_packed):
    w, x = weight(), torch.randn(5, 40)
    matmul.pack(w, torch.float32)
    matmul.linear(x, w, implementation="cpu").sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand(24, 40))
    with torch.inference_mode():
        matmul.linear(x, w, implementation="torch")
        with torch.autocast("cpu", torch.bfloat16):
            assert matmul.linear(x, w, implementation="cpu").dtype == torch.bfloat16
    assert num_packed() == 0


def test_a_packed_copy_goes_with_its_weight_and_not_into_copies_of_it():
    w = weight()
    matmul.pack(w, torch.float32)
    assert w in matmul._packed
    assert copy.deepcopy(w) not in matmul._packed
    packed = weakref.ref(matmul._packed[w])
    del w
    gc.collect()
    assert packed() is None


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
def test_packed_towers_encode_and_count_as_before(nano_config, dtype, num_packed):
    model = load_model(nano_config, dtype=dtype, implementation="cpu")
    pixels = torch.randn(2, 3, 32, 32).to(dtype)
    tokens = torch.randint(1, 64, (2, model.config.ctx_len))
    results, flops = [], []
    for _ in range(2):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            results.append((model.encode_image(pixels), model.encode_text(tokens)))
        flops.append(counter.get_total_flops())
        if len(results) == 1:
            assert num_packed() == 0
            model.pack_weights(dtype)
    torch.testing.assert_close(*results)
    assert flops[0] == flops[1]
    linears = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert num_packed() >= linears


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_encoder_multiplies_by_packed_weights(nano_config, tmp_path, precision, num_packed):
    if precision == "bf16" and torch.bfloat16 not in dtypes():
        pytest.skip("this processor has no bfloat16 instructions")
    # As many words as the tokenizer knows: a tower that its own tokens do not fit is refused.
    config = {**nano_config, "vocab_size": 49408}
    (tmp_path / "nano.json").write_text(json.dumps(config), encoding="utf-8")
    encoder = load_encoder(f"{tmp_path}/nano.json=random:0", implementation="cpu", precision=precision)
    before = num_packed()
    encoder.encode_image(torch.randn(1, 3, 32, 32))
    assert num_packed() > before
