"""The recipe that learns from photographs with captions alone."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
import torch

from rwkvclip_train.loop import train
from rwkvclip_train.models import build_trainee
from rwkvclip_train.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

NAME = "nano-flickr8k-rwkv-clip"


def test_the_flickr8k_recipe_builds_a_model_and_reads_the_captions_of_train_alone() -> None:
    recipe = load_recipe(NAME)
    trainee = build_trainee(recipe.model, seed=0, device=torch.device("cpu"))
    assert trainee.tokenize(["a dog runs"]).shape == (1, recipe.model.config["ctx_len"])
    assert [(source.dataset, source.split, source.texts) for source in recipe.data] == [
        ("flickr8k", "train", "captions")
    ]


@pytest.mark.data
def test_the_flickr8k_recipe_takes_steps_on_the_train_split(shared_data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(NAME, ["steps=2", "log_every=1"])
    trained = train(recipe, tmp_path, data_root=shared_data, progress=False)
    lines = [json.loads(line) for line in trained.log.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["texts"] for line in lines] == [{"caption": 1.0}] * 2
    # Untrained embeddings say next to nothing of which caption is whose.
    assert lines[0]["loss"] == pytest.approx(math.log(recipe.batch_size), rel=0.1)
    assert trained.checkpoints[-1].name == "step_000002.safetensors"
