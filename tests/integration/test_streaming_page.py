"""docs/streaming.md: its example and its command are executed."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvclip_models import load_model, save_checkpoint
from rwkvclip_models.transforms import CLIP_MEAN, CLIP_STD

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
CONFIG = {
    "input_size": 16,
    "image_depth": 1,
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page speaks of."""
    (tmp_path / "my_config.json").write_text(json.dumps(CONFIG))
    save_checkpoint(load_model(CONFIG, seed=3), tmp_path / "model.pt")
    scan = np.random.default_rng(0).integers(0, 256, (70, 35, 3), dtype=np.uint8)
    np.save(tmp_path / "scan.npy", scan)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_gives_the_parallel_forms_embedding(place: Path) -> None:
    [example] = blocks("python")
    names: dict[str, Any] = {}
    exec(example, names)
    pixels = torch.tensor(np.load("scan.npy")) / 255
    pixels = ((pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)
    with torch.inference_mode():
        expected = load_model("my_config.json", "model.pt").encode_image(pixels[None])
    torch.testing.assert_close(names["embedding"], expected, rtol=1e-5, atol=1e-5)


def test_the_command_prints_a_row_for_each_form_and_size(place: Path) -> None:
    [command] = blocks("sh")
    small = command.replace("rwkv-clip-b16", "my_config.json").replace("4096,16384", "1030")
    arguments = shlex.split(small)
    assert arguments[:3] == ["rwkvclip-eval", "bench", "streaming"]
    path = ":".join(str(ROOT / folder) for folder in (".", "models", "train"))
    done = subprocess.run(
        [sys.executable, "-m", "rwkvclip_eval", *arguments[1:]],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1,056" in done.stdout
    with Path("runs/streaming/streaming.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["form"], row["tokens"]) for row in found] == [
        ("streaming", "1024"),
        ("parallel", "1024"),
        ("streaming", "1056"),
        ("parallel", "1056"),
    ]
    assert all(float(row["seconds"]) > 0 and not row["problem"] for row in found)
