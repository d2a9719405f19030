"""Evaluation of a run's checkpoints while it goes on: of the files, as anybody can repeat it afterwards.

evaluation/NAME/step_000300/    records and predictions of a checkpoint, for `rwkvclip-eval report`
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rwkvclip_eval import console, evaluate, expected_numbers
from rwkvclip_eval.encoders.spec import EncoderSpec
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.registry import unknown_name
from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rwkvclip_train.models import Trainee
    from rwkvclip_train.recipe import Recipe

OWN_SCORES = ("loss", "val_loss", "val_metric")
"""Values of keep_best_by that are no name of a number of the evaluation."""


class Evaluation:
    """Evaluates checkpoints as a recipe says.

    Args:
        recipe: with an evaluation.
        trainee: the model.
        folder: of the run's checkpoints, with the model's config.
        out: folder of the results, one a checkpoint in it.
        data_root: folder of the datasets.
        num_workers: processes that decode images.
        device: to encode on.

    Attributes:
        better: name of each number that there can be → which way is better.

    Raises:
        UserError: a task or dataset is unknown, data are missing or damaged, or keep_best_by names no number.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainee: Trainee,
        folder: Path,
        out: Path,
        *,
        data_root: Path | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        assert recipe.evaluation is not None
        self.recipe, self.folder, self.out, self.device = recipe, folder, out, device
        self._model = f"{trainee.spec_prefix}{folder / f'{recipe.name}.json'}"
        content = recipe.evaluation.model_dump(mode="json", include={"tasks"}, exclude_unset=True)
        self._suite = parse_suite(
            json.dumps({"name": recipe.name, **content}, indent=1), source=f"Recipe {recipe.name}: evaluation"
        )
        self._given: dict[str, Any] = {"data_root": data_root, "limit": recipe.evaluation.limit}
        self._how: dict[str, Any] = {"device": str(device), "num_workers": num_workers}
        self.better = expected_numbers(self._suite, **self._given)
        self._check_best(self.better)

    def __call__(self, step: int, checkpoint: Path) -> dict[str, Any]:
        """Return what the log says of the checkpoint after `step` steps, and keep its records.

        A dataset that has become unreadable is null there and said on standard error: it does not end a run.

        Returns:
            `evaluation`: name of each number → value, and `val_metric`, the mean of the primary ones.

        Raises:
            UserError: the model gives no features, or the results cannot be written.
        """
        spec = EncoderSpec(
            text=f"{self._model}={checkpoint}",
            model=self._model,
            name=f"{self.recipe.name}@{checkpoint.stem}",
            checkpoint=str(checkpoint),
            step=step,
            step_unit="step",
        )
        out = self.out / checkpoint.stem
        # Of work that was lost, or of another evaluation.
        shutil.rmtree(out, ignore_errors=True)
        with undisturbed(self.device):
            results = evaluate(spec, self._suite, out=out, **self._given, **self._how)
        numbers: dict[str, float | None] = dict(results.numbers())
        for record in results.records:
            if record.status != "ok":
                console.note(f"{record.unit}: {record.status}: {record.reason}")
                numbers[f"{record.task}/{record.protocol}/{record.dataset}"] = None
        if None not in numbers.values():
            self._check_best(numbers)
        return {"evaluation": numbers, "val_metric": results.mean_primary()}

    def _check_best(self, numbers: Iterable[str]) -> None:
        by = self.recipe.keep_best_by
        if by not in (*OWN_SCORES, *numbers):
            unknown = unknown_name("number of evaluation", by, numbers)
            raise RecipeError(f"Recipe {self.recipe.name}: keep_best_by: {unknown}")


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave all generators of random numbers as they are, whatever the block draws."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)
