"""Towers side by side on a CPU: RWKV-CLIP against open_clip's CLIP of the same size, on the same cores."""

import sys

import open_clip
import pytest
import torch
from side_by_side import in_words, ratio

from rwkvclip_eval.bench.clock import in_turns
from rwkvclip_eval.encoders.tokens_first import lay_tokens_first
from rwkvclip_models import load_model

ROUNDS = 8
TOWERS = {
    "image B/32": ("rwkv-clip-b32", "ViT-B-32", 32),
    "image B/16": ("rwkv-clip-b16", "ViT-B-16", 32),
    "text": ("rwkv-clip-b32", "ViT-B-32", 64),
}
LIMITS = {
    (torch.float32, "image B/32"): 0.92,
    (torch.float32, "image B/16"): 0.80,
    (torch.float32, "text"): 0.80,
    (torch.bfloat16, "image B/32"): 1.1,
    (torch.bfloat16, "image B/16"): 1.0,
    (torch.bfloat16, "text"): 0.80,
}


def encoders(tower, dtype, implementation):
    """Return RWKV-CLIP's and CLIP's tower as calls on the same batch."""
    config, name, batch = TOWERS[tower]
    rwkv = load_model(config, dtype=dtype, implementation=implementation)
    rwkv.pack_weights(dtype)  # as the evaluation does
    clip = open_clip.create_model(name).eval().to(dtype)
    lay_tokens_first(clip)  # as the evaluation does
    generator = torch.Generator().manual_seed(0)
    if tower == "text":
        texts = torch.randint(1, 49_000, (batch, 77), generator=generator)
        texts[:, -1] = 49_407
        return lambda: rwkv.encode_text(texts), lambda: clip.encode_text(texts)
    pixels = torch.randn(batch, 3, 224, 224, generator=generator).to(dtype)
    return lambda: rwkv.encode_image(pixels), lambda: clip.visual(pixels)


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_tower_keeps_its_share_of_clips_time(tower, dtype, benchmark, capsys):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions")
    ours, clips = encoders(tower, dtype, "cpu")
    name = TOWERS[tower][1]
    calls = {name: clips, "RWKV-CLIP cpu": ours}
    if dtype == torch.float32:
        calls["RWKV-CLIP torch"] = encoders(tower, dtype, "torch")[0]
    with torch.inference_mode():
        seconds = benchmark.pedantic(in_turns, args=(calls, ROUNDS), rounds=1)
    median = ratio(seconds, "RWKV-CLIP cpu", name)[1]
    benchmark.extra_info.update(ratio=median, threads=torch.get_num_threads())
    with capsys.disabled():
        title = f"{tower}, batch {TOWERS[tower][2]}, {dtype}, {torch.get_num_threads()} threads"
        sys.stdout.write(in_words(title, seconds, name))
    assert median <= LIMITS[dtype, tower]


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
def test_bfloat16_is_faster_than_our_own_float32(tower, benchmark, capsys):
    """One after the other, and apart from CLIP: float32's blocks leave the allocator in another state."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions")

    def measured():
        taken = {}
        for dtype in (torch.bfloat16, torch.float32):
            taken |= in_turns({str(dtype): encoders(tower, dtype, "cpu")[0]}, ROUNDS // 2)
        return taken

    with torch.inference_mode():
        seconds = benchmark.pedantic(measured, rounds=1)
    share = ratio(seconds, "torch.bfloat16", "torch.float32")[1]
    benchmark.extra_info.update(ratio=share, threads=torch.get_num_threads())
    with capsys.disabled():
        sys.stdout.write(in_words(f"{tower}, bfloat16 against float32", seconds, "torch.float32"))
    assert share < 1


@pytest.mark.slow
def test_one_training_step_in_the_compiled_implementation_against_torchs(benchmark, capsys):
    pixels = torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def step(implementation):
        model = load_model("rwkv-clip-b32", implementation=implementation).train()
        return lambda: model.encode_image(pixels).square().sum().backward()

    calls = {name: step(name) for name in ("torch", "cpu")}
    seconds = benchmark.pedantic(in_turns, args=(calls, 3), rounds=1)
    with capsys.disabled():
        sys.stdout.write(in_words("image B/32, forward + backward, batch 16, float32", seconds, "torch"))
    assert ratio(seconds, "cpu", "torch")[1] <= 1
