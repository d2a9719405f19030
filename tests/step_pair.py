"""The training step of `bench` and the training package's own, of one model over batches of one size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.bench.subject import Subject
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell
from rwkvclip_train.data.pairs import Batch
from rwkvclip_train.gradients import StepGradients
from rwkvclip_train.loop import make_optimizer, prepare
from rwkvclip_train.models import build_trainee
from rwkvclip_train.parallel import Ranks
from rwkvclip_train.recipe import load_recipe
from rwkvclip_train.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def bench_step(recipe: str | Path, folder: Path) -> tuple[Subject, Cell]:
    """Return what `bench` measures of a recipe's model with its batch, random weights."""
    loaded = load_recipe(recipe)
    trainee = build_trainee(loaded.model, seed=0, device=torch.device("cpu"))
    path = folder / f"{loaded.name}.json"
    path.write_text(json.dumps(trainee.config))
    height, width = trainee.image_size_px
    cell = Cell(
        tower="train", batch=loaded.batch_size, height=height, width=width,
        tokens=trainee.tokenize([""]).shape[1],
    )  # fmt: skip
    return Subject(load_encoder(f"{trainee.spec_prefix}{path}=random:0")), cell


def own_step(recipe: str | Path, *, clipped: bool) -> Callable[[], None]:
    """Return a call of what the loop does in a step, but for its data and log.

    Args:
        recipe: its name or file.
        clipped: with the norm of the gradient and its clipping, which are no part of `bench`'s step.
    """
    loaded = load_recipe(recipe)
    trainee = build_trainee(loaded.model, seed=0, device=torch.device("cpu"))
    prepare(trainee, loaded)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = make_optimizer(trainee.module, loaded)
    gradients = StepGradients(trainee, Ranks(torch.device("cpu")), loaded, scaler)
    update = Update(trainee.module, optimizer, scaler, loaded.clip_norm)
    size = loaded.batch_size
    keys = torch.stack([torch.zeros(size, dtype=torch.int64), torch.arange(size)], dim=1)
    batch = Batch(
        torch.randn(size, 3, *trainee.image_size_px),
        trainee.tokenize(["the quick brown fox jumps over the lazy dog " * 20] * size),
        ("raw",) * size,
        keys,
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = gradients(0, [batch])
        if clipped:
            update(loss)
        else:
            optimizer.step()

    return step
