"""What RWKV-CLIP's weights begin as, drawn ones by range, spread, gain and orthogonality.

The deterministic ones are compared with the official code's in test_towers.py.
"""

import math

import pytest
import torch
from torch import nn

from rwkvclip_models import load_model

CONFIG = {
    "input_size": 32,
    "image_depth": 3,
    "image_embed_dims": 128,
    "image_patch_size": 8,
    "image_hidden_rate": 5,
    "image_num_heads": 4,
    "ctx_len": 16,
    "vocab_size": 1000,
    "head_size": 32,
    "n_layer": 3,
    "n_embd": 128,
}
LOW_RANK = ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")
# Relative, of a standard deviation from thousands of draws; of what is rounded to bfloat16.
SPREAD, ROUNDING = 0.05, 4e-3


@pytest.fixture(scope="module")
def model():
    return load_model(CONFIG, seed=1)


def assert_uniform(values, bound):
    """Check that values fill [−bound, bound] evenly."""
    values = values.detach().double().flatten()
    assert 0.95 * bound < values.abs().max() <= bound * (1 + ROUNDING)
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=SPREAD)
    assert abs(values.mean().item()) < 5 * bound / math.sqrt(3 * len(values))


def linears(tower):
    return [(name, m) for name, m in tower.named_modules() if isinstance(m, nn.Linear)]


def test_low_rank_maps_of_the_image_tower_are_drawn_within_a_ten_thousandth(model):
    for block in model.image_model.layers:
        for name in LOW_RANK:
            assert_uniform(block.att.get_parameter(name), 1e-4)


def test_linear_maps_of_the_image_tower_are_torchs_default(model):
    assert len(linears(model.image_model)) == 3 * 8
    for _, linear in linears(model.image_model):
        assert_uniform(linear.weight, 1 / math.sqrt(linear.in_features))
    patches = model.image_model.patch_embed.projection
    assert_uniform(patches.weight, 1 / math.sqrt(3 * 8 * 8))
    assert 0 < patches.bias.abs().max() <= 1 / math.sqrt(3 * 8 * 8)
    assert not model.image_model.pos_embed.any()


def test_low_rank_maps_of_the_text_tower_begin_with_nothing_in_their_first_half(model):
    for block in model.text_model.blocks:
        assert not block.att.time_maa_w1.any() and not block.att.time_decay_w1.any()
        assert_uniform(block.att.time_maa_w2, 0.01)
        assert_uniform(block.att.time_decay_w2, 0.01)


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("att.receptance", 1.0),
        ("att.value", 1.0),
        ("att.key", 0.1),
        ("att.gate", 0.1),
        # 448 × 128: as many times as long as it has more rows than columns, in root.
        ("ffn.key", 0.5 * math.sqrt(448 / 128)),
    ],
)
def test_linear_maps_of_the_text_tower_are_orthogonal_with_their_gain(model, name, gain):
    seen = []
    for block in model.text_model.blocks:
        weight = block.get_submodule(name).weight.detach().double()
        product = weight.T @ weight / gain**2
        torch.testing.assert_close(product, torch.eye(128, dtype=torch.float64), atol=ROUNDING, rtol=0)
        seen.append(weight)
    assert not torch.equal(seen[0], seen[1])


def test_what_ends_a_residual_branch_of_the_text_tower_begins_at_zero(model):
    zero = {name.split(".", 2)[2] for name, m in linears(model.text_model) if not m.weight.any()}
    assert zero == {"att.output", "ffn.value", "ffn.receptance"}


def test_embedding_norms_and_scale_begin_as_the_official_ones(model):
    assert_uniform(model.text_model.emb.weight, 1e-4)
    for layer, (text, image) in enumerate(
        zip(model.text_model.blocks, model.image_model.layers, strict=True), start=1
    ):
        assert text.att.ln_x.weight.unique().item() == pytest.approx((layer / 3) ** 0.7, rel=ROUNDING)
        assert image.att.ln_x.weight.unique().item() == 1
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
        assert norm.weight.unique().item() == 1 and not norm.bias.any()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_initial_values_of_the_text_tower_are_bfloat16_numbers_and_those_of_the_image_tower_are_not(model):
    assert all(torch.equal(p, p.bfloat16().float()) for p in model.text_model.parameters())
    weight = model.image_model.layers[0].att.key.weight
    assert not torch.equal(weight, weight.bfloat16().float())
