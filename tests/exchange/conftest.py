"""Tiny sets as CLIP_benchmark has them, a nano checkpoint, and what its own command line makes of both."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220),
    "white": (230, 230, 230), "black": (20, 20, 20), "pink": (240, 120, 160),
}  # fmt: skip
NANO: dict[str, Any] = {
    "input_size": 32,
    "image_depth": 2,
    "image_embed_dims": 32,
    "image_patch_size": 16,
    "image_hidden_rate": 2,
    "image_num_heads": 2,
    "ctx_len": 77,
    "vocab_size": 49408,
    "head_size": 16,
    "head_size_divisor": 8,
    "n_layer": 2,
    "n_embd": 32,
    "dim_att": 32,
    "dim_ffn": 64,
    "drop_path_rate": 0.0,
}


def picture(name: str, rng: np.random.Generator) -> Image.Image:
    """Return a noisy picture of one colour, 48 × 40 px."""
    noisy = np.array(COLOURS[name]) + rng.normal(0, 60, (40, 48, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_set(folder: Path, samples: Sequence[tuple[Image.Image, str, str]], **files: str) -> None:
    """Write a webdataset folder of (image, ending, text) samples."""
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for i, (image, ending, text) in enumerate(samples):
            stream = io.BytesIO()
            image.save(stream, "PNG")
            for suffix, content in (("png", stream.getvalue()), (ending, text.encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("1\n")
    for stem, text in files.items():
        (folder / f"{stem}.txt").write_text(text)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wds_colours`, `wds_flickr8k` and a nano RWKV-CLIP, `nano.json` and `nano.pt`."""
    from rwkvclip_models import load_model

    base = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    labelled = [(picture(n, rng), "cls", str(i)) for _ in range(10) for i, n in enumerate(COLOURS)]
    write_set(
        base / "wds_colours",
        labelled,
        classnames="\n".join(COLOURS) + "\n",
        zeroshot_classification_templates="a photo of {c}.\na {c} thing\n",
    )
    captioned = [(picture(n, rng), "txt", f"a {n} wall\n{n} paint, number {i}")
                 for i in range(3) for n in COLOURS]  # fmt: skip
    write_set(base / "wds_flickr8k", captioned, dataset_type="retrieval\n")
    (base / "nano.json").write_text(json.dumps(NANO))
    model = load_model(NANO)
    with torch.no_grad():
        # At the weights as they begin, one class is the answer to every image.
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(2)
    torch.save(model.state_dict(), base / "nano.pt")
    return base


def run_theirs(cwd: Path, *arguments: str) -> None:
    """Run CLIP_benchmark's command line with our model type, in this process."""
    from rwkvclip_eval.exchange import clip_benchmark_entry

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(cwd)
        patched.setattr("sys.argv", ["clip_benchmark", *arguments])
        clip_benchmark_entry.main()


@pytest.fixture(scope="session")
def their_files(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what CLIP_benchmark's `eval` and `build` wrote: two JSON files and benchmark.csv."""
    out = tmp_path_factory.mktemp("theirs")
    run_theirs(
        world,
        *("eval", "--model_type", "rwkvclip_eval", "--model", "nano.json", "--pretrained", "nano.pt"),
        *("--dataset", "wds/colours", "wds/flickr8k", "--dataset_root", "wds_{dataset}", "--no_amp"),
        *("--num_workers", "0", "--batch_size", "16", "--recall_k", "1", "5"),
        *("--output", str(out / "{dataset}_{task}.json")),
    )
    run_theirs(out, "build", *sorted(str(p) for p in out.glob("*.json")))
    return out
