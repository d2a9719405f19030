"""Times of the pieces of a model, each alone, for comparison across commits: `make bench-compare`.

B/32's, float32. Ratios beside other models stand in the files beside this one.
"""

import pytest
import torch

from rwkvclip_models import load_model, ops, tokenize

BATCH = 8


@pytest.fixture(scope="module")
def model():
    return load_model("rwkv-clip-b32").eval()


def timed(benchmark, call):
    """Time a call twenty times."""
    with torch.inference_mode():
        benchmark.pedantic(call, rounds=20, warmup_rounds=3)


def operands(shape, *, train=False):
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(shape, generator=generator).requires_grad_(train) for _ in range(3))
    w = torch.empty(shape).uniform_(-6, 1, generator=generator).requires_grad_(train)
    return r, k, v, w, torch.rand(shape[2:], generator=generator).requires_grad_(train)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(BATCH, 49, 8, 80), (BATCH, 77, 10, 64)], ids=["image", "text"])
def test_bi_wkv_forward(benchmark, shape):
    given = operands(shape)
    timed(benchmark, lambda: ops.bi_wkv6(*given))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(BATCH, 49, 8, 80), (BATCH, 77, 10, 64)], ids=["image", "text"])
def test_bi_wkv_forward_and_backward(benchmark, shape):
    given = operands(shape, train=True)
    benchmark.pedantic(lambda: ops.bi_wkv6(*given).sum().backward(), rounds=20, warmup_rounds=3)


@pytest.mark.slow
def test_an_image_block(benchmark, model):
    layer = model.image_model.layers[1]
    x = torch.randn(BATCH, 49, layer.ln1.weight.numel())
    timed(benchmark, lambda: layer(x, (7, 7)))


@pytest.mark.slow
def test_a_text_block(benchmark, model):
    block = model.text_model.blocks[1]
    x = torch.randn(BATCH, 77, block.ln1.weight.numel())
    timed(benchmark, lambda: block(x))


@pytest.mark.slow
def test_the_image_tower(benchmark, model):
    pixels = torch.randn(BATCH, 3, 224, 224)
    timed(benchmark, lambda: model.encode_image(pixels))


@pytest.mark.slow
def test_the_text_tower(benchmark, model):
    tokens = tokenize(["a photo of a cat on a table"] * BATCH)
    timed(benchmark, lambda: model.encode_text(tokens))


@pytest.mark.slow
def test_the_tokenizer(benchmark):
    texts = [f"a photo of the cat number {i} on a wooden table" for i in range(100)]
    timed(benchmark, lambda: tokenize(texts))
