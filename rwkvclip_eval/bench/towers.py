"""How fast RWKV-CLIP's image tower is on a GPU beside CLIP's, from usual to large images.

Both compiled, both in bfloat16, CLIP's attention by PyTorch's fused kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.bench.clock import in_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

IMAGE_SIZES_PX = {224: 512, 896: 32, 1792: 8}
"""Image side → batch."""
ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class TowerTiming:
    """One image size.

    Attributes:
        image_px: side of the images.
        batch: images in a batch.
        rwkv_ms: RWKV-CLIP B/16, median of a batch.
        clip_ms: open_clip's ViT-B/16.
        speedup: CLIP's time by ours, median over rounds.
        rwkv_peak_bytes: most GPU memory while RWKV-CLIP's tower runs, CLIP's weights not counted.
        clip_peak_bytes: the same of CLIP's tower.
        problem: why it did not run; empty when it did.
    """

    image_px: int
    batch: int
    rwkv_ms: float
    clip_ms: float
    speedup: float
    rwkv_peak_bytes: int
    clip_peak_bytes: int
    problem: str = ""


def time_towers() -> Iterator[TowerTiming]:
    """Yield both image towers' times and peak memory at every image size; nothing without a GPU."""
    if not torch.cuda.is_available():
        return
    for side, batch in IMAGE_SIZES_PX.items():
        try:
            row = _time_size(side, batch)
        except Exception as error:  # out of memory, no open_clip, a tower that does not compile: a finding
            row = _failed(side, batch, f"{type(error).__name__}: {error}")
        # What one size leaves behind, compiled code above all, would count as memory of the next.
        torch.compiler.reset()
        torch.cuda.empty_cache()
        yield row


def _time_size(side: int, batch: int) -> TowerTiming:
    from rwkvclip_eval.encoders.open_clip import untrained_image_tower
    from rwkvclip_models import load_model

    pixels = torch.randn(batch, 3, side, side, device="cuda", dtype=torch.bfloat16)
    models = {
        "rwkv": load_model("rwkv-clip-b16", device="cuda", dtype=torch.bfloat16).image_model,
        "clip": untrained_image_tower("ViT-B-16", side).to(pixels),
    }
    towers = {name: torch.compile(model, dynamic=False, fullgraph=True) for name, model in models.items()}
    peaks = {}
    with torch.inference_mode():
        for name, tower in towers.items():
            tower(pixels)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            tower(pixels)
            torch.cuda.synchronize()
            # The other tower's weights lie on the GPU too, and are not this one's need.
            others = sum(_weight_bytes(model) for other, model in models.items() if other != name)
            peaks[name] = torch.cuda.max_memory_allocated() - others
        calls = {name: partial(tower, pixels) for name, tower in towers.items()}
        seconds = in_turns(calls, ROUNDS, "cuda")
    return TowerTiming(
        image_px=side,
        batch=batch,
        rwkv_ms=float(seconds["rwkv"].median()) * 1e3,
        clip_ms=float(seconds["clip"].median()) * 1e3,
        speedup=float((seconds["clip"] / seconds["rwkv"]).median()),
        rwkv_peak_bytes=peaks["rwkv"],
        clip_peak_bytes=peaks["clip"],
    )


def _weight_bytes(model: nn.Module) -> int:
    return sum(x.nbytes for x in (*model.parameters(), *model.buffers()))


def _failed(side: int, batch: int, problem: str) -> TowerTiming:
    return TowerTiming(
        image_px=side,
        batch=batch,
        rwkv_ms=0.0,
        clip_ms=0.0,
        speedup=0.0,
        rwkv_peak_bytes=0,
        clip_peak_bytes=0,
        problem=problem,
    )
