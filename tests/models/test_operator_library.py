"""What torch knows of the operators: schemas, shapes, gradients, autocast, compilation, FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rwkvclip_models import load_model, ops
from rwkvclip_models.ops import library


def operands(dtype=torch.float32, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(2, 5, 2, 16, generator=generator).to(dtype) for _ in range(3))
    w = torch.empty(2, 5, 2, 16).uniform_(-6, 1, generator=generator)
    u = torch.rand(2, 16, generator=generator)
    return [x.requires_grad_(requires_grad) for x in (r, k, v, w, u)]


def tokens(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (library.bi_wkv6, lambda: (*operands(), "cpu")),
        (library.bi_wkv6, lambda: (*operands(torch.bfloat16), "cpu")),
        (library.shift_lerp, lambda: (tokens(2, 6, 32), tokens(2, 32), 2, 3, 2, 4, "cpu")),
        (library.shift_lerp, lambda: (tokens(2, 6, 32), tokens(5, 2, 6, 32), 6, 1, 2, 2, "cpu")),
        (
            library.dynamic_lerp,
            lambda: (
                *(tokens(2, 6, 32), tokens(2, 6, 80), tokens(5, 32), tokens(5, 16, 32)),
                *(2, 3, 2, 4, "cpu"),
            ),
        ),
        (
            library.norm_gate,
            lambda: (tokens(2, 6, 32), tokens(2, 6, 32), tokens(32), tokens(32), 2, 1e-5, "cpu"),
        ),
        (library.gated_add, lambda: (tokens(2, 6), tokens(2, 6), tokens(2, 6), "cpu")),
        (library.relu_square_, lambda: (tokens(2, 6).detach(), "cpu")),
        (library.relu_square, lambda: (tokens(2, 6, 32), "cpu")),
    ],
)
def test_the_registration_passes_torchs_own_check(operator, arguments):
    torch.library.opcheck(operator, arguments())


def test_the_autocast_rule_casts_r_k_v_and_leaves_the_decay():
    r, k, v, w, u = operands(requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.ops.rwkvclip.bi_wkv6(r, k, v, w, u, "cpu")
    expected = torch.ops.rwkvclip.bi_wkv6(r.bfloat16(), k.bfloat16(), v.bfloat16(), w, u, "cpu")
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


def test_a_compiled_model_has_no_graph_breaks_and_the_same_gradients(nano_config):
    model = load_model(nano_config, implementation="cpu").train()
    pixels, texts = torch.randn(2, 3, 32, 32), torch.randint(0, 64, (2, 9))
    results = []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        image, text, _ = call(pixels, texts)
        (image.square().sum() + text.square().sum()).backward()
        # The compiled graph gives the unused logit scale a gradient of zero, eager none.
        gradients = [p.grad for name, p in model.named_parameters() if name != "logit_scale"]
        results.append([image.detach(), text.detach(), *gradients])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)


def test_a_model_compiled_for_inference_holds_no_operator_that_inductor_refuses(nano_config, monkeypatch):
    linear = __import__("importlib").import_module("rwkvclip_models.ops.linear")
    monkeypatch.setattr(linear, "_mkl_is_held_back", lambda: True)
    taken = set()

    def backend(module, _):
        taken.update(str(node.target) for node in module.graph.nodes)
        return module.forward

    model = load_model(nano_config, implementation="cpu")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        compiled = torch.compile(model.image_model, fullgraph=True, backend=backend)(pixels)
        torch.testing.assert_close(compiled, model.image_model(pixels))
    assert any("bi_wkv6" in name for name in taken)
    assert not any("mkldnn" in name for name in taken)


def test_counted_flops_are_those_of_the_recurrence():
    batch, num_tokens, heads, width = 2, 5, 2, 16
    with FlopCounterMode(display=False) as counter:
        y = ops.bi_wkv6(*operands(), implementation="cpu")
        forward = counter.get_total_flops()
        y.sum().backward()
    # Decay, addition and reading: three multiply-adds per state element, token and direction.
    assert forward == 2 * 2 * 3 * batch * num_tokens * heads * width**2
    assert counter.get_total_flops() == 3 * forward


def test_counted_flops_of_a_tower_are_its_closed_form(nano_config):
    model = load_model(nano_config, implementation="cpu")
    config, batch = model.config, 3
    width, hidden = config.image_embed_dims, config.image_hidden_rate * config.image_embed_dims
    side = config.input_size // config.image_patch_size
    num_tokens = side * side
    lerps, decay = 2 * 5 * 32 * width, 2 * 64 * width
    products = 5 * width**2 + lerps + decay + width**2 + 2 * width * hidden
    recurrence = 6 * width * (width // config.image_num_heads)
    patches = 3 * config.image_patch_size**2 * width
    closed = 2 * batch * num_tokens * (config.image_depth * (products + recurrence) + patches)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.encode_image(torch.randn(batch, 3, config.input_size, config.input_size))
    assert counter.get_total_flops() == closed


def test_products_by_either_library_agree(monkeypatch):
    linear = __import__("importlib").import_module("rwkvclip_models.ops.linear")
    x, weight = torch.randn(3, 7, 33), torch.randn(19, 33)
    results = []
    for held_back in (True, False):
        monkeypatch.setattr(linear, "_mkl_is_held_back", lambda held_back=held_back: held_back)
        with torch.inference_mode():
            results.append(ops.linear(x, weight, implementation="cpu"))
    torch.testing.assert_close(*results)
    assert results[0].shape == (3, 7, 19)
