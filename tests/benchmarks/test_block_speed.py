"""One block side by side: RWKV-CLIP's against the transformer block of open_clip's CLIP of the same size."""

import sys

import open_clip
import pytest
import torch
from side_by_side import in_words, ratio

from rwkvclip_eval.bench.clock import in_turns
from rwkvclip_models import load_model, ops
from rwkvclip_models.ops.choice import devices_of

ROUNDS = 8
BLOCKS = {"image B/16": ("rwkv-clip-b16", "ViT-B-16", 8, 196), "text": ("rwkv-clip-b32", "ViT-B-32", 32, 77)}
"""Block → configuration, CLIP's name, batch and tokens (a ViT has its class token besides)."""


def blocks(kind, device, train, dtype=torch.float32, batch=None):
    """Return CLIP's block and ours in every implementation of `device`, as calls on tokens of one batch."""
    config, name, full_batch, num_tokens = BLOCKS[kind]
    batch, calls = batch or full_batch, {}

    def add(label, block, width, extra=0, *arguments):
        x = torch.randn(batch, num_tokens + extra, width, device=device, dtype=dtype, requires_grad=train)

        def call():
            y = block(x, *arguments)
            if train:
                y.sum().backward()
            return y

        calls[label] = call

    clip = open_clip.create_model(name).eval().to(device, dtype)
    image = kind.startswith("image")
    block = (clip.visual.transformer if image else clip.transformer).resblocks[1]
    mask = None if image else clip.attn_mask.to(device, dtype)
    width = block.ln_1.weight.numel()
    add(name, lambda x: block(x, attn_mask=mask), width, int(image))
    for status in ops.implementations():
        if status.available and status.name != "reference" and device in (devices_of(status.name) or device):
            model = load_model(config, device=device, dtype=dtype, implementation=status.name)
            layer = model.image_model.layers[1] if image else model.text_model.blocks[1]
            grid = [(14, 14)] if image else []
            add(f"RWKV-CLIP {status.name}", layer, layer.ln1.weight.numel(), 0, *grid)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_block_beside_clips(device, kind, train, benchmark, capsys):
    calls = blocks(kind, device, train)
    with torch.set_grad_enabled(train):
        seconds = benchmark.pedantic(in_turns, args=(calls, ROUNDS, device), rounds=1)
    base = BLOCKS[kind][1]
    ratios = {name: float(ratio(seconds, name, base)[1]) for name in seconds}
    benchmark.extra_info.update(ratios)
    with capsys.disabled():
        what = "forward and backward" if train else "forward"
        sys.stdout.write(in_words(f"one block of {kind}, {what}, float32, {device}", seconds, base))
    # Blocks differ from CLIP's in width and number: towers have limits. Compiled must beat plain.
    compiled = {name: value for name, value in ratios.items() if name not in (base, "RWKV-CLIP torch")}
    assert min(compiled.values()) < ratios["RWKV-CLIP torch"]
