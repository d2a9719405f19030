"""Counted FLOPs equal closed forms, written here from the equations, for every tower and the step."""

import json
import types

import pytest
import torch

from rwkvclip_eval.bench.subject import Subject
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell

RWKV = {
    "input_size": 32, "image_depth": 2, "image_embed_dims": 32, "image_patch_size": 16,
    "image_hidden_rate": 2, "image_num_heads": 2, "ctx_len": 77, "vocab_size": 49408, "head_size": 16,
    "head_size_divisor": 8,
    "n_layer": 3, "n_embd": 32, "dim_att": 32, "dim_ffn": 96, "drop_path_rate": 0.3,
}  # fmt: skip
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
RANK, DECAY_RANK, MIXES = 32, 64, 5


def rwkv_block(width, hidden, head_width):
    """Multiply-adds of a token: lerps, decay, r k v g output, both halves of Bi-WKV, the channel mix."""
    lerps = 2 * MIXES * RANK * width
    decay = 2 * DECAY_RANK * width
    recurrence = 2 * 3 * width * head_width
    return lerps + decay + 5 * width**2 + recurrence + width**2 + 2 * width * hidden


def vit_block(width, tokens):
    """Multiply-adds of a token: q k v output, scores and their sums, an MLP four times as wide."""
    return 4 * width**2 + 2 * tokens * width + 8 * width**2


def rwkv_image(height, width):
    patches = -(-height // 16) * -(-width // 16)
    return patches * (2 * rwkv_block(32, 64, 16) + 3 * 16**2 * 32)


def rwkv_text(tokens):
    return tokens * 3 * rwkv_block(32, 96, 16)


def vit_image(height, width):
    patches = (height // 16) * (width // 16)
    return (patches + 1) * 2 * vit_block(64, patches + 1) + patches * 3 * 16**2 * 64 + 64 * 24


def vit_text(tokens):
    return tokens * 3 * vit_block(32, tokens) + 32 * 24


CLOSED = {"rwkv": (rwkv_image, rwkv_text), "vit": (vit_image, vit_text)}


@pytest.fixture(scope="module", params=["rwkv", "vit"])
def model(request, tmp_path_factory):
    """A model's subject, and its closed forms in multiply-adds."""
    path = tmp_path_factory.mktemp("flops") / f"{request.param}.json"
    path.write_text(json.dumps(RWKV if request.param == "rwkv" else VIT))
    spec = f"{path}=random:0" if request.param == "rwkv" else f"open_clip:{path}=random:0"
    return Subject(load_encoder(spec)), *CLOSED[request.param]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 64), (16, 160)])
def test_image_towers(model, height, width):
    subject, image, _ = model
    cell = Cell(tower="image", batch=3, height=height, width=width)
    assert subject.count_flops(cell) == 2 * 3 * image(height, width)


@pytest.mark.parametrize("tokens", [1, 5, 77, 130])
def test_text_towers(model, tokens):
    subject, _, text = model
    assert subject.count_flops(Cell(tower="text", batch=2, tokens=tokens)) == 2 * 2 * text(tokens)


def test_both_towers_are_the_sum(model):
    subject, image, text = model
    cell = Cell(tower="both", batch=2, height=32, width=48, tokens=9)
    assert subject.count_flops(cell) == 2 * 2 * (image(32, 48) + text(9))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_training_step_is_three_forward_passes_less_the_gradient_of_pixels_plus_the_losss_products(
    model, batch
):
    subject, image, text = model
    cell = Cell(tower="train", batch=batch, height=32, width=32, tokens=9)
    width, patches = (32, 4) if subject.info.family == "rwkv-clip" else (64, 4)
    pixels = patches * 3 * 16**2 * width
    products = 3 * batch**2 * subject.info.embed_dim
    subject.drop_weights()
    assert subject.count_flops(cell) == 2 * (batch * (3 * (image(32, 32) + text(9)) - pixels) + products)


def test_counts_need_no_weights(model):
    subject, image, _ = model
    subject.drop_weights()
    cell = Cell(tower="image", batch=1, height=2048, width=2048)
    assert subject.count_flops(cell) == 2 * image(2048, 2048)


@pytest.mark.parametrize(
    ("convolutions", "patch"),
    [
        ([torch.nn.Conv2d(3, 4, 16, stride=16)], 16),
        # A ResNet's first stride is no patch.
        ([torch.nn.Conv2d(3, 4, 7, stride=2), torch.nn.Conv2d(4, 4, 3)], None),
        ([], None),
    ],
)
def test_a_patch_is_that_of_a_towers_only_convolution(convolutions, patch):
    towers = types.SimpleNamespace(module=torch.nn.Sequential(*convolutions))
    assert Subject.patch_px.fget(types.SimpleNamespace(towers=towers)) == patch
