"""Axes: B batch, T tokens, C width, h × w patch grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwkvclip_models import UserError, load_model
from rwkvclip_models.layers import drop_path
from rwkvclip_models.model import RWKVCLIP
from rwkvclip_models.ops import Shift
from rwkvclip_models.ops.eager import shift_delta

FLOAT32_LIMIT, BLOCK_LIMIT, GRADIENT_LIMIT, FLOAT64_LIMIT = 5e-5, 2e-4, 1e-3, 1e-6


def error(value, expected):
    expected = np.asarray(expected, dtype=np.float64)
    return float(np.abs(value.detach().double().numpy() - expected).max() / np.abs(expected).max())


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def tiny(request, official):
    model = load_model(official.configs["tiny"], official.state("tiny"), dtype=request.param)
    limit = FLOAT32_LIMIT if request.param == torch.float32 else FLOAT64_LIMIT
    return model, request.param, limit


@pytest.mark.parametrize(
    ("suffix", "seed", "size"), [("", 11, (64, 64)), ("_96x128", 12, (96, 128)), ("_70x90", 13, (70, 90))]
)
def test_image_embeddings_equal_the_official_ones(official, tiny, suffix, seed, size):
    model, dtype, limit = tiny
    pixels = torch.tensor(official.inputs.images(seed, 2, *size)).to(dtype)
    assert error(model.encode_image(pixels), official.golden[f"f64:image_embedding{suffix}"]) < limit


@pytest.mark.parametrize(("suffix", "length"), [("", 77), ("_T20", 20), ("_T1", 1)])
def test_text_embeddings_equal_the_official_ones(official, tiny, suffix, length):
    model, _, limit = tiny
    tokens = torch.tensor(official.golden["text_ids"]).long()[:, :length]
    assert error(model.encode_text(tokens), official.golden[f"f64:text_embedding{suffix}"]) < limit


def test_every_block_equals_the_official_one(official):
    # The golden blocks keep text rows 0 and 2.
    model = load_model(official.configs["tiny"], official.state("tiny"))
    seen = {}
    names = {"image_model.ln1": "image_ln1", "text_model.ln_out": "text_ln_out", "text_model.emb": "text_emb"}
    for i in (0, 1):
        for tower, path in (("image", "image_model.layers"), ("text", "text_model.blocks")):
            names |= {f"{path}.{i}": f"{tower}_block{i}"}
            names |= {f"{path}.{i}.{half}": f"{tower}_block{i}_{half}" for half in ("att", "ffn")}

    def keep(name):
        def hook(_m, inputs, given, out):
            # A channel mix adds what it is given as residual; the golden one adds nothing.
            residual = given.get("residual")
            if residual is None and name.endswith("_ffn") and len(inputs) > 2:
                residual = inputs[2]
            residual = 0 if residual is None else residual
            seen[name] = out - residual

        return hook

    for path, name in names.items():
        model.get_submodule(path).register_forward_hook(keep(name), with_kwargs=True)
    with torch.no_grad():
        model(
            torch.tensor(official.inputs.images(11, 2, 64, 64)),
            torch.tensor(official.golden["text_ids"]).long()[[0, 2]],
        )
    for name in names.values():
        assert error(seen[name], official.golden[f"block:{name}"]) < BLOCK_LIMIT, name


def test_parameter_gradients_equal_the_official_ones(official, tiny):
    model, dtype, _ = tiny
    pixels = torch.tensor(official.inputs.images(14, 4, 64, 64)).to(dtype)
    image, text, scale = model(pixels, torch.tensor(official.golden["text_ids"]).long())
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = torch.arange(4)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    loss.backward()
    assert loss.item() == pytest.approx(float(official.golden["f64:grad_loss"]), rel=1e-6)
    limit = GRADIENT_LIMIT if dtype == torch.float32 else FLOAT64_LIMIT
    parameters = dict(model.named_parameters())
    for key in official.golden.files:
        kind, _, name = key.partition(":")
        if kind == "grad":
            assert error(parameters[name].grad, official.golden[key]) < limit, name
        elif kind == "gradnorm":
            assert error(parameters[name].grad.norm(), official.golden[key]) < limit, name


@pytest.mark.parametrize("name", ["tiny", "B32", "B16"])
def test_state_dict_has_the_official_keys_in_the_official_order(official, name):
    with torch.device("meta"):
        model = RWKVCLIP(official.configs[name])
    ours = [(key, list(value.shape)) for key, value in model.state_dict().items()]
    assert ours == list(official.manifest(name).items())


@pytest.mark.parametrize(
    ("name", "total", "image", "text"),
    [
        ("rwkv-clip-b32", 149_561_601, 84_207_360, 65_354_240),
        ("rwkv-clip-b16", 148_181_121, None, 65_354_240),
    ],
)
def test_shipped_configurations_have_the_published_sizes(name, total, image, text):
    with torch.device("meta"):
        model = RWKVCLIP(name)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, model.image_model, model.text_model)]
    assert sizes == [total, image or total - text - 1, text]


def test_initial_values_equal_the_official_ones(parity, official):
    golden = np.load(parity / "init_tiny.npz")
    state = load_model(official.configs["tiny"]).state_dict()
    assert max(error(state[key], golden[key]) for key in golden.files) < 1e-6


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(nano_config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_model(nano_config, seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second, other = (load_model(nano_config, seed=s).state_dict() for s in (3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_quad_shift_takes_left_right_above_below():
    # One head of 4 channels on a 2×3 grid; every channel holds the token's number.
    tokens = torch.arange(1.0, 7.0).view(1, 6, 1).expand(1, 6, 4)
    shifted = (shift_delta(tokens, Shift(2, 3, heads=1, directions=4)) + tokens)[0].T.tolist()
    assert shifted == [[0, 1, 2, 0, 4, 5], [2, 3, 0, 5, 6, 0], [0, 0, 0, 1, 2, 3], [4, 5, 6, 0, 0, 0]]


def test_bidirectional_shift_takes_before_and_after_inside_each_head():
    tokens = torch.arange(1.0, 4.0).view(1, 3, 1).expand(1, 3, 4)
    shifted = (shift_delta(tokens, Shift(3, 1, heads=2, directions=2)) + tokens)[0].T.tolist()
    assert shifted == [[0, 1, 2], [2, 3, 0]] * 2


@pytest.mark.parametrize("shift", [Shift(2, 3, 2, 4), Shift(1, 1, 2, 4), Shift(5, 1, 2, 2)])
def test_shift_gradients_are_the_derivatives(shift):
    x = torch.randn(2, shift.rows * shift.columns, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: shift_delta(z, shift), [x])
    assert torch.autograd.gradgradcheck(lambda z: shift_delta(z, shift), [x])


@pytest.mark.parametrize("size", [(8, 8), (7, 41), (32, 64), (33, 32)])
def test_images_of_any_size_are_encoded(nano_config, size):
    model = load_model(nano_config)
    assert model.encode_image(torch.randn(3, 3, *size)).shape == (3, 32)


def test_padding_is_zeros_at_the_bottom_and_right(nano_config):
    model = load_model(nano_config)
    pixels = torch.randn(2, 3, 29, 27)
    torch.testing.assert_close(model.encode_image(pixels), model.encode_image(F.pad(pixels, (0, 5, 0, 3))))


def test_an_empty_batch_gives_empty_embeddings(nano_config):
    model = load_model(nano_config)
    assert model.encode_image(torch.zeros(0, 3, 32, 32)).shape == (0, 32)
    assert model.encode_text(torch.zeros(0, 5, dtype=torch.long)).shape == (0, 32)


@pytest.mark.parametrize("length", [0, 13])
def test_texts_of_impossible_length_are_refused(nano_config, length):
    with pytest.raises(UserError, match="T from 1 to 12"):
        load_model(nano_config).encode_text(torch.zeros(1, length, dtype=torch.long))


def test_pixels_of_another_shape_are_refused(nano_config):
    with pytest.raises(UserError, match=r"\[B, 3, height, width\]"):
        load_model(nano_config).encode_image(torch.zeros(1, 1, 32, 32))


def test_forward_returns_both_embeddings_and_the_scale(nano_config):
    model = load_model(nano_config)
    image, text, scale = model(torch.randn(2, 3, 32, 32), torch.ones(2, 4, dtype=torch.long))
    assert image.shape == text.shape == (2, 32)
    assert scale.item() == pytest.approx(1 / 0.07)


def gradients(model, tokens, pixels):
    torch.manual_seed(0)
    image, text, _ = model(pixels, tokens)
    model.zero_grad()
    (image.square().sum() + text.square().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_no_gradient(nano_config):
    state = load_model(nano_config).state_dict()
    inputs = torch.randint(0, 64, (2, 9)), torch.randn(2, 3, 32, 32)
    plain = gradients(load_model(nano_config, state).train(), *inputs)
    less_memory = gradients(load_model(nano_config | {"with_cp": True}, state).train(), *inputs)
    assert plain.keys() == less_memory.keys()
    for name, value in plain.items():
        torch.testing.assert_close(value, less_memory[name], msg=name)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    factors = drop_path(torch.ones(4000, 2, 3), 0.3, training=True)
    assert factors.shape == (4000,)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert float(factors.mean()) == pytest.approx(1, abs=0.05)
    assert drop_path(torch.ones(3, 2), 0.3, training=False) is None


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_a_block_whose_paths_are_dropped_gives_its_input(nano_config, implementation):
    block = RWKVCLIP(nano_config, implementation=implementation).image_model.layers[1].train()
    block.drop_path_rate = 0.5
    x = torch.randn(64, 4, nano_config["image_embed_dims"])
    with torch.no_grad():
        for low in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                out = block(x, (2, 2))
            unchanged = (out == x).all(-1).all(-1)
            assert 2 < int(unchanged.sum()) < 40


def test_drop_path_rises_linearly_to_the_last_image_block():
    with torch.device("meta"):
        blocks = RWKVCLIP("rwkv-clip-b32").image_model.layers
    assert [b.drop_path_rate for b in blocks] == pytest.approx(np.linspace(0, 0.3, 12))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_decay_and_scale_in_float32(nano_config, dtype):
    exact, low = load_model(nano_config), load_model(nano_config, dtype=dtype)
    kept = {n for n, p in low.named_parameters() if p.dtype == torch.float32}
    assert {n.rsplit(".", 1)[-1] for n in kept} == {"time_decay", "time_faaaa", "logit_scale"}
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        for a, b in (
            (exact.encode_image(pixels), low.encode_image(pixels.to(dtype))),
            (exact.encode_text(tokens), low.encode_text(tokens)),
        ):
            assert b.dtype == dtype
            assert float(F.cosine_similarity(a, b.float()).min()) > 0.99


def test_autocast_trains_with_float32_weights(nano_config):
    model = load_model(nano_config).train()
    with torch.autocast("cpu", torch.bfloat16):
        image, text, _ = model(torch.randn(2, 3, 32, 32), torch.randint(0, 64, (2, 9)))
        loss = image.float().square().sum() + text.float().square().sum()
    loss.backward()
    got = [p.grad for name, p in model.named_parameters() if name != "logit_scale"]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in got)


def test_the_reference_operator_gives_the_same_embeddings(nano_config):
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        plain, *others = (
            load_model(nano_config, implementation=name)(pixels, tokens)
            for name in ("reference", "torch", "cpu")
        )
    for ours in others:
        torch.testing.assert_close(ours, plain)


def test_the_model_states_the_implementation_that_runs(nano_config):
    assert load_model(nano_config).implementation == "cpu"
    assert load_model(nano_config, implementation="torch").implementation == "torch"
    assert load_model(nano_config, implementation="reference").implementation == "reference"
    with pytest.raises(UserError, match="Unknown Bi-WKV implementation"):
        load_model(nano_config, implementation="cudnn")


@pytest.mark.gpu
def test_embeddings_on_cuda_equal_those_on_the_cpu(nano_config):
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        here = load_model(nano_config)(pixels, tokens)
        there = load_model(nano_config, device="cuda")(pixels.cuda(), tokens.cuda())
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-4)


def test_a_batch_that_goes_through_in_pieces_gives_what_it_gives_at_once(monkeypatch):
    model = load_model("rwkv-clip-b32", seed=0).eval()
    pixels, tokens = torch.randn(7, 3, 128, 128), torch.randint(1, 49000, (7, 20))
    with torch.no_grad():
        at_once = model.encode_image(pixels), model.encode_text(tokens)
        # The float32 mixes of three texts of 20 tokens, and of three images of 16.
        monkeypatch.setattr("rwkvclip_models.layers.PIECE_BYTES", 3 * 20 * 5 * 640 * 4)
        sizes = []
        for norm in (model.image_model.ln1, model.text_model.ln_out):
            norm.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
        in_pieces = model.encode_image(pixels), model.encode_text(tokens)
        empty = model.encode_text(tokens[:0])
    assert sizes == [3, 3, 1, 3, 3, 1, 0] and empty.shape == (0, 640)
    for whole, parts in zip(at_once, in_pieces, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
