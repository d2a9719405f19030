"""After a power cut a training run goes on and ends with the weights of one that nothing interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from data_files import wds
from power_cut import cuts, drop
from safetensors.torch import load_file
from small_world import NANO

from rwkvclip_train.loop import train
from rwkvclip_train.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks /proc for the names of open files"),
]
RECIPE = {
    "name": "tiny",
    "model": {"family": "rwkv-clip", "config": NANO},
    "data": [{"dataset": "x", "split": "test", "texts": "templates"}],
    "steps": 4,
    "batch_size": 2,
    "lr": 0.001,
    "log_every": 1,
    "checkpoint_every": 1,
}


def test_a_training_run_survives_ten_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path / "cache"))
    wds(tmp_path / "data", 0, 1, 2, 1)

    def work(out: Path) -> tuple[dict[str, Tensor], list[str]]:
        recipe = Recipe.model_validate(RECIPE)
        train(recipe, out, device="cpu", data_root=tmp_path / "data", num_workers=0, progress=False)
        weights = load_file(out / "models" / "tiny" / "step_000004.safetensors")
        log = (out / "training" / "tiny.jsonl").read_text().splitlines()
        return weights, [line.partition('"data_wait"')[0] for line in log]

    expected, log = work(tmp_path / "whole")
    made = cuts(tmp_path / "cut", tmp_path / "cuts", monkeypatch, lambda: work(tmp_path / "cut"), every=2)
    assert len(made) >= 10
    for cut in made:
        weights, lines = work(cut)
        assert len(lines) == len(log), cut.name
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(weights[name], value), f"{cut.name}: {name}"
        drop(cut)
