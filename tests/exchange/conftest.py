"""A folder of tiny sets and a nano checkpoint, and what CLIP_benchmark's own command line makes of both."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hub_stub import running_hub
from tiny_configs import RWKV_CLIP
from tiny_world import COLOURS, picture, run_theirs, write_set

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from hub_stub import Hub

# Builders of run directories, and the command line as a process.
for _folder in ("report", "integration", "compare"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / _folder))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a process in a folder of the test's own."""
    from command import run_cli

    def run(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
        return run_cli(tmp_path, tmp_path / "cache", *arguments, **extra)

    return run


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server on this machine in the hub's place."""
    with running_hub() as hub:
        yield hub


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
    (base / "nano.json").write_text(json.dumps(RWKV_CLIP))
    model = load_model(RWKV_CLIP)
    with torch.no_grad():
        # At the weights as they begin, one class is the answer to every image.
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(2)
    torch.save(model.state_dict(), base / "nano.pt")
    return base


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
