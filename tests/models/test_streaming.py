"""Axes: B batch, T tokens, C width, h × w patch grid."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from live_memory import LiveMemory

from rwkvclip_models import PixelRows, UserError, encode_image_streaming, load_model
from rwkvclip_models.streaming import CHUNK_TOKENS, bicubic_weights

CONFIG = {
    "input_size": 16,
    "image_depth": 2,
    "image_embed_dims": 32,
    "image_patch_size": 4,
    "image_hidden_rate": 2,
    "image_num_heads": 2,
    "ctx_len": 12,
    "vocab_size": 64,
    "head_size": 16,
    "n_layer": 1,
    "n_embd": 32,
    "dim_ffn": 32,
}
PATCH, WIDTH, OWN_SIDE = 4, 32, 4
FLOAT32_LIMIT, FLOAT64_LIMIT = 1e-5, 1e-10


@functools.cache
def noisy_model(dtype=torch.float32, implementation="auto"):
    """Return a model of which every weight is random, position embeddings and low ranks too."""
    model = load_model(CONFIG, dtype=torch.float64, implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(noise, alpha=1.0 if name.endswith("pos_embed") else 0.2)
    state = model.state_dict()
    return load_model(CONFIG, state, dtype=dtype, implementation=implementation)


def picture(height, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, height, width, generator=generator, dtype=torch.float64).to(dtype)


def of_grid(rows, columns, dtype=torch.float32):
    return picture(rows * PATCH, columns * PATCH, dtype)


def error(value, expected):
    value, expected = value.double(), expected.double()
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("side", [32, 64, 128], ids=["1k tokens", "4k tokens", "16k tokens"])
def test_the_embedding_is_the_parallel_forms_at_1k_4k_and_16k_tokens(side):
    model, pixels = noisy_model(), of_grid(side, side)
    assert side == 32 or side * side > CHUNK_TOKENS  # of many strips
    streamed = encode_image_streaming(model, pixels)
    assert streamed.shape == (1, WIDTH)
    assert streamed.dtype == torch.float32
    assert error(streamed, model.encode_image(pixels[None])) < FLOAT32_LIMIT


@pytest.mark.parametrize("rows_per_chunk", [None, 1, 2, 3, 4, 11, 12])
@pytest.mark.parametrize("grid", [(11, 5), (4, 4), (7, 1), (1, 9), (2, 3), (1, 1)])
def test_strips_of_any_height_give_the_same_embedding_whether_or_not_rows_divide(grid, rows_per_chunk):
    model, pixels = noisy_model(torch.float64), of_grid(*grid, torch.float64)
    streamed = encode_image_streaming(model, pixels, rows_per_chunk=rows_per_chunk)
    assert error(streamed, model.encode_image(pixels[None])) < FLOAT64_LIMIT


@pytest.mark.parametrize(("height", "width"), [(33, 18), (41, 20), (40, 19), (3, 5)])
def test_images_of_no_whole_number_of_patches_are_padded_as_the_parallel_form_pads_them(height, width):
    model, pixels = noisy_model(torch.float64), picture(height, width, torch.float64)
    streamed = encode_image_streaming(model, pixels, rows_per_chunk=2)
    assert error(streamed, model.encode_image(pixels[None])) < FLOAT64_LIMIT


def test_a_grid_wider_than_a_default_strip_is_cut_into_single_rows():
    model, pixels = noisy_model(torch.float64), of_grid(3, CHUNK_TOKENS + 1, torch.float64)
    assert error(encode_image_streaming(model, pixels), model.encode_image(pixels[None])) < FLOAT64_LIMIT


@pytest.mark.parametrize("kernels", ["reference", "torch", "cpu"], indirect=True)
def test_every_implementation_streams(kernels):
    pixels = of_grid(9, 6)
    expected = noisy_model(torch.float64).encode_image(pixels.double()[None])
    streamed = encode_image_streaming(noisy_model(implementation=kernels), pixels, rows_per_chunk=2)
    assert error(streamed, expected) < FLOAT32_LIMIT


@pytest.mark.parametrize("half", ["autocast", "weights"])
def test_bfloat16_loses_no_more_than_in_the_parallel_form(half):
    pixels = of_grid(24, 20)
    exact = noisy_model(torch.float64).encode_image(pixels.double()[None])
    dtype = torch.float32 if half == "autocast" else torch.bfloat16
    model, pixels = noisy_model(dtype), pixels.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        parallel = model.encode_image(pixels[None])
        streamed = encode_image_streaming(model, pixels, rows_per_chunk=5)
    assert streamed.dtype == parallel.dtype
    assert error(streamed, exact) < 2 * error(parallel, exact) < 0.1


def test_images_of_a_batch_are_streamed_one_after_the_other():
    model = noisy_model(torch.float64)
    pixels = torch.stack([picture(20, 28, torch.float64, seed) for seed in range(3)])
    streamed = encode_image_streaming(model, pixels, rows_per_chunk=2)
    assert error(streamed, model.encode_image(pixels)) < FLOAT64_LIMIT
    assert encode_image_streaming(model, pixels[:0]).shape == (0, WIDTH)


@pytest.mark.parametrize("target", [1, 3, 4, 5, 9, 57])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolation_weights_are_torchs_own_for_any_strip(target, dtype):
    table = torch.randn(OWN_SIDE, 6, dtype=dtype)
    whole = F.interpolate(table.T[None, :, :, None], size=(target, 1), mode="bicubic")[0, :, :, 0].T
    limit = FLOAT32_LIMIT if dtype == torch.float32 else FLOAT64_LIMIT
    for start in range(0, target, 4):
        rows = range(start, min(start + 4, target))
        made = bicubic_weights(rows, OWN_SIDE, target, table) @ table
        torch.testing.assert_close(made, whole[rows.start : rows.stop], rtol=limit, atol=limit)


def live_bytes(encode, pixels):
    with LiveMemory() as memory:
        encode(pixels)
    return memory


@pytest.mark.parametrize(("kernels", "largest"), [("cpu", 256), ("torch", 128)], indirect=["kernels"])
def test_beyond_two_token_arrays_memory_does_not_grow_from_1k_to_64k_tokens(kernels, largest):
    one_block = load_model(CONFIG | {"image_depth": 1}, implementation=kernels)
    encode = functools.partial(encode_image_streaming, one_block)
    beyond = {}
    for side in (32, 64, 128, largest):
        array = side * side * WIDTH * 4
        memory = live_bytes(encode, of_grid(side, side))
        beyond[side * side] = memory.peak - 2 * array
        # No third array of all tokens was ever made.
        assert side < 128 or memory.largest[2] < array == memory.largest[0]
    assert max(beyond.values()) <= beyond[1024], beyond


def test_the_memory_of_a_strip_does_not_grow_with_the_height_of_the_image():
    encode = functools.partial(encode_image_streaming, noisy_model(), rows_per_chunk=8)
    beyond = [
        live_bytes(encode, of_grid(rows, 16)).peak - 2 * rows * 16 * WIDTH * 4 for rows in (32, 64, 512)
    ]
    assert max(beyond) == beyond[0], beyond


def test_the_count_of_live_memory_sees_the_parallel_form_grow():
    model = noisy_model()
    model.encode_image(of_grid(1, 1)[None])  # makes a block of 32 MiB once in a process
    small, large = (live_bytes(model.encode_image, of_grid(side, side)[None]).peak for side in (32, 64))
    assert large > 3.5 * small


def test_pixels_are_read_once_from_top_to_bottom_in_strips():
    model, pixels, asked = noisy_model(), picture(39, 18), []

    def read(top, bottom):
        asked.append((top, bottom))
        return pixels[:, top:bottom].numpy()

    rows = PixelRows(height=39, width=18, read=read)
    streamed = encode_image_streaming(model, rows, rows_per_chunk=3)
    assert asked == [(0, 12), (12, 24), (24, 36), (36, 39)]
    assert torch.equal(streamed, encode_image_streaming(model, pixels, rows_per_chunk=3))


def test_a_file_mapped_into_memory_is_an_image(tmp_path):
    pixels = picture(20, 24)
    np.save(tmp_path / "pixels.npy", pixels.double().numpy())
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    model = noisy_model()
    for given, expected in ((mapped, pixels), (mapped[None], pixels)):
        assert torch.equal(encode_image_streaming(model, given), encode_image_streaming(model, expected))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 8, 8), r"\[3, height, width\] or \[B, 3, height, width\], got \[1, 8, 8\]"),
        (torch.zeros(8, 8), r"got \[8, 8\]"),
        (torch.zeros(3, 0, 8), r"got \[3, 0, 8\]"),
        ("photo.jpg", "got str"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "floats .* got torch.uint8"),
        (PixelRows(height=8, width=8, read=lambda top, bottom: torch.zeros(8, 8, 3)), r"got \[8, 8, 3\]"),
        (PixelRows(height=8, width=8, read=lambda top, bottom: torch.zeros(3, 8, 4)), r"got \[3, 8, 4\]"),
    ],
)
def test_pixels_of_another_form_are_refused(pixels, message):
    with pytest.raises(UserError, match=message):
        encode_image_streaming(noisy_model(), pixels)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_an_image_without_rows_or_columns_is_refused(size):
    with pytest.raises(UserError, match="height to be a whole number of at least 1"):
        PixelRows(height=size, width=8, read=lambda top, bottom: None)
    with pytest.raises(UserError, match="width to be a whole number of at least 1"):
        PixelRows(height=8, width=size, read=lambda top, bottom: None)


@pytest.mark.parametrize("rows", [0, -2, 1.5, True, "2"])
def test_an_impossible_number_of_rows_is_refused(rows):
    with pytest.raises(UserError, match="rows_per_chunk is a whole number of at least 1"):
        encode_image_streaming(noisy_model(), of_grid(2, 2), rows_per_chunk=rows)


def test_gradients_are_refused_with_the_way_out():
    with torch.enable_grad(), pytest.raises(UserError, match=r"inference_mode.*model\.encode_image"):
        encode_image_streaming(noisy_model(), of_grid(2, 2))
    with torch.inference_mode():
        assert encode_image_streaming(noisy_model(), of_grid(2, 2)).shape == (1, WIDTH)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(UserError, match=r"model\.eval\(\)"):
        encode_image_streaming(load_model(CONFIG).train(), of_grid(2, 2))


@pytest.mark.slow
def test_b16_streams_16k_tokens_as_the_parallel_form_encodes_them():
    model = load_model("rwkv-clip-b16")
    pixels = picture(128 * 16, 128 * 16)
    assert error(encode_image_streaming(model, pixels), model.encode_image(pixels[None])) < FLOAT32_LIMIT
