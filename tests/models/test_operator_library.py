"""What torch knows of the operators: schemas, shapes, gradients, autocast, compilation, FLOPs."""

import pytest
import registration
import torch
from torch.utils.flop_counter import FlopCounterMode

from rwkvclip_models import RWKVCLIP, UserError, load_model, matmul, ops
from rwkvclip_models.ops import Shift

GRID = Shift(5, 1, 2, 2)


def operands(dtype=torch.float32, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(2, 5, 2, 16, generator=generator).to(dtype) for _ in range(3))
    w = torch.empty(2, 5, 2, 16).uniform_(-6, 1, generator=generator)
    u = torch.rand(2, 16, generator=generator)
    return [x.requires_grad_(requires_grad) for x in (r, k, v, w, u)]


def sized_operands(batch, num_tokens):
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(batch, num_tokens, 2, 16, generator=generator) for _ in range(3))
    w = torch.empty(batch, num_tokens, 2, 16).uniform_(-6, 1, generator=generator)
    return [r, k, v, w, torch.rand(2, 16, generator=generator)]


@pytest.mark.parametrize("case", registration.CASES)
def test_the_registration_passes_torchs_own_check(case):
    registration.check(case, "cpu")


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


GPU = [
    pytest.param(name, low, limit, marks=pytest.mark.gpu)
    for name in ("cuda", "triton")
    for low, limit in ((False, 1e-4), (True, 3e-2))
]


@pytest.mark.parametrize(("kernels", "low", "limit"), [("cpu", True, 3e-2), *GPU], indirect=["kernels"])
def test_inductor_takes_the_whole_model_and_its_gradients_under_autocast_too(
    kernels, low, limit, nano_config
):
    [device] = ops.devices_of(kernels)
    torch.compiler.reset()
    shallow = {**nano_config, "image_depth": 1, "n_layer": 1}
    model = load_model(shallow, device=device, implementation=kernels).train()
    pixels, texts = torch.randn(2, 3, 32, 32, device=device), torch.randint(0, 64, (2, 9), device=device)
    results = []
    for call in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            image, text, _ = call(pixels, texts)
        (image.float().square().sum() + text.float().square().sum()).backward()
        gradients = [p.grad.flatten() for name, p in model.named_parameters() if name != "logit_scale"]
        results.append([image.detach().float(), text.detach().float(), torch.cat(gradients)])
    for eager, compiled in zip(*results, strict=True):
        assert (compiled - eager).norm() < limit * eager.norm()


def test_a_model_compiled_for_inference_holds_no_operator_that_inductor_refuses(nano_config, monkeypatch):
    linear = __import__("importlib").import_module("rwkvclip_models.matmul")
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


# Tracing the unrolled form with symbolic shapes takes a minute or more.
@pytest.mark.parametrize("implementation", ["cpu", pytest.param("torch", marks=pytest.mark.slow), "auto"])
def test_batch_and_number_of_tokens_may_change_without_a_graph_break(implementation):
    def call(*x):
        return ops.bi_wkv6(*x, implementation=implementation)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, num_tokens in ((2, 3), (3, 3), (4, 2)):
        leaves = [x.detach().requires_grad_() for x in sized_operands(batch, num_tokens)]
        results = [
            [y.detach(), *torch.autograd.grad(y.sum(), leaves)] for y in (compiled(*leaves), call(*leaves))
        ]
        torch.testing.assert_close(*results)


def test_a_model_compiled_with_dynamic_shapes_takes_other_batches(nano_config):
    torch.compiler.reset()
    model = load_model({**nano_config, "image_depth": 1}, implementation="cpu")
    compiled = torch.compile(model.image_model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.inference_mode():
        for batch in (2, 3):
            pixels = torch.randn(batch, 3, 32, 32)
            torch.testing.assert_close(compiled(pixels), model.image_model(pixels), rtol=1e-4, atol=1e-5)


class Operator(torch.nn.Module):
    def __init__(self, implementation):
        super().__init__()
        self.implementation = implementation

    def forward(self, *operands):
        return ops.bi_wkv6(*operands, implementation=self.implementation)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("implementation", "axes"), [("cpu", (0, 1)), ("torch", (0,))])
def test_an_exported_operator_takes_other_batches(implementation, axes, strict):
    """The torch form builds a tree of as many tokens as it is exported with."""
    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    module = Operator(implementation)
    exported = torch.export.export(
        module, tuple(sized_operands(3, 5)), dynamic_shapes=(((dims,) * 4 + (None,)),), strict=strict
    )
    others = sized_operands(4, 9 if 1 in axes else 5)
    torch.testing.assert_close(exported.module()(*others), module(*others))


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_a_model_without_data_gives_the_shapes_of_its_embeddings(nano_config, implementation):
    with torch.device("meta"):
        model = RWKVCLIP(nano_config, implementation=implementation)
        image, text, _ = model(torch.empty(3, 3, 32, 32), torch.zeros(2, 9, dtype=torch.long))
    assert (image.shape, text.shape) == ((3, 32), (2, 32))
    assert image.device.type == text.device.type == "meta"


FORWARD_MODE = {
    "bi_wkv6": lambda x: ops.bi_wkv6(x, x, x, x, torch.ones(2, 16), implementation="cpu"),
    "shift_lerp": lambda x: ops.shift_lerp(x.flatten(2), torch.ones(1, 32), GRID, implementation="cpu"),
    "dynamic_lerp": lambda x: ops.dynamic_lerp(
        x.flatten(2),
        torch.ones(2, 5, 16),
        torch.ones(1, 32),
        torch.ones(1, 16, 32),
        GRID,
        implementation="cpu",
    ),
    "norm_gate": lambda x: ops.norm_gate(
        x.flatten(2), x.flatten(2), torch.ones(32), torch.ones(32), heads=2, eps=1e-5, implementation="cpu"
    ),
    "gated_add": lambda x: ops.gated_add(x, x, x, implementation="cpu"),
    "relu_square": lambda x: ops.relu_square(x, implementation="cpu"),
}


@pytest.mark.parametrize("name", FORWARD_MODE)
def test_forward_mode_derivatives_are_refused_and_not_zero(name):
    x = operands(requires_grad=False)[0]
    with pytest.raises(UserError, match=f"{name} has no forward-mode derivative"):
        torch.func.jvp(FORWARD_MODE[name], (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(UserError, match="reverse mode"):
        FORWARD_MODE[name](torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("implementation", ["cpu", "torch"])
def test_second_derivatives_are_refused_and_not_lost(implementation):
    leaves = operands()
    y = ops.bi_wkv6(*leaves, implementation=implementation)
    [gr] = torch.autograd.grad(y.sum(), leaves[:1], create_graph=True)
    # The other way to r must not make the missing one look like zero.
    with pytest.raises(
        (NotImplementedError, RuntimeError), match=r"no second derivatives|no autograd formula"
    ):
        torch.autograd.grad((gr * leaves[0]).sum(), leaves[1])


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
    linear = __import__("importlib").import_module("rwkvclip_models.matmul")
    x, weight = torch.randn(3, 7, 33), torch.randn(19, 33)
    results = []
    for held_back in (True, False):
        monkeypatch.setattr(linear, "_mkl_is_held_back", lambda held_back=held_back: held_back)
        with torch.inference_mode():
            results.append(matmul.linear(x, weight, implementation="cpu"))
    torch.testing.assert_close(*results)
    assert results[0].shape == (3, 7, 19)
