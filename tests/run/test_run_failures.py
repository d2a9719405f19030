"""What fails, fails alone: the other units of a run have their numbers."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import re
import signal
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
import torch
from toy import ColourDataset, ColourEncoder, probe_suite, register, register_splits, suite, task_suite

import rwkvclip_eval as rc
from rwkvclip_eval.encoders.checked import CheckedEncoder
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Compute
from rwkvclip_eval.tasks.zero_shot import ZeroShotClassification

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


def test_what_is_known_to_fail_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    train = ColourDataset(30)
    train.labels = train.labels % 2
    register_splits(monkeypatch, train=train, test=ColourDataset(12))
    encoder = ColourEncoder()
    (record,) = rc.evaluate(encoder, probe_suite()).records
    assert (record.status, encoder.images) == ("failed", 0)
    register_splits(monkeypatch, test=ColourDataset(12))
    (record,) = rc.evaluate(encoder, probe_suite()).records
    assert (record.status, encoder.images) == ("missing_data", 0)


def test_too_small_a_memory_budget_fails_the_probes_before_their_encoding_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register_splits(monkeypatch, train=ColourDataset(60), test=ColourDataset(12))
    shots = {"task": "few_shot_linear_probe", "options": {"shots": [2]}}
    loaded = task_suite("linear_probe", shots, "knn_probe", "zero_shot_classification")
    encoder = ColourEncoder()
    records = rc.evaluate(encoder, loaded, memory_budget=400).records
    status = {r.task: r.status for r in records}
    assert status.pop("zero_shot_classification") == "ok"
    assert set(status.values()) == {"failed"}
    assert all("memory budget" in r.reason for r in records if r.status == "failed")
    assert encoder.images == 12
    options = rc.RunOptions(cache_dir=tmp_path / "cache", memory_budget=400)
    model = ["python:toy_factory:make"]
    assert rc.run_suite(loaded, model, tmp_path / "run", options=options).exit_code == 3


def test_the_memory_budget_is_one_number_wherever_it_has_a_default() -> None:
    from rwkvclip_eval import logistic as probe
    from rwkvclip_eval.cli import main as cli

    solvers = (probe.fit_logistic, probe.fit_lbfgs, probe.search_l2, probe.scores, probe.Solver)
    defaults = {inspect.signature(f).parameters["memory_budget"].default for f in (*solvers, rc.evaluate)}
    in_gb = inspect.signature(cli.run).parameters["memory_budget"].default
    assert {*defaults, int(in_gb * 1e9), rc.RunOptions().memory_budget, Compute().memory_budget} == {
        MEMORY_BUDGET
    }


def test_the_budget_that_the_refusal_names_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(60), test=ColourDataset(12))
    loaded = task_suite("linear_probe")
    (record,) = rc.evaluate(ColourEncoder(), loaded, memory_budget=400).records
    found = re.search(r"smallest that works is ([\d.]+) MiB", record.reason)
    assert found is not None
    enough = int(float(found[1]) * 2**20)
    results = rc.evaluate(ColourEncoder(), loaded, memory_budget=enough)
    assert {r.status for r in results.records} == {"ok"}


class Refuses(ZeroShotClassification):
    name = "refuses"

    def score(self, *_: object) -> NoReturn:
        raise UserError("not with these settings")


def test_what_a_task_refuses_while_scoring_fails_its_unit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    monkeypatch.setattr(TASKS, "_entries", {n: TASKS.get(n) for n in TASKS} | {"refuses": Refuses()})
    records = rc.evaluate(ColourEncoder(), task_suite("refuses", "zero_shot_classification")).records
    assert (records[0].status, records[0].reason) == ("failed", "not with these settings")
    assert {r.status for r in records[1:]} == {"ok"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), r"ran out of memory \(MemoryError\): let it take less with --memory-budget or free"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), r"CUDA out of memory.*--memory-budget"),
        (None, r"can't allocate memory.*--memory-budget"),
        (np.linalg.LinAlgError("Singular matrix"), r"cannot be solved \(Singular matrix\)\.$"),
        (torch.linalg.LinAlgError("singular"), r"cannot be solved \(singular\)\.$"),
    ],
    ids=["numpy", "cuda", "torch", "numpy-solve", "torch-solve"],
)
def test_scoring_beyond_memory_or_arithmetic_fails_its_unit_alone_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, told: str
) -> None:
    class Greedy(Refuses):
        keeps_budget = True

        def score(self, *_: object) -> NoReturn:
            if error is None:
                torch.empty(1 << 50)
            raise error or AssertionError

    register(monkeypatch, colours=ColourDataset())
    monkeypatch.setattr(TASKS, "_entries", {n: TASKS.get(n) for n in TASKS} | {"refuses": Greedy()})
    records = rc.evaluate(ColourEncoder(), task_suite("refuses", "zero_shot_classification")).records
    assert records[0].status == "failed"
    assert re.search(told, records[0].reason)
    assert {r.status for r in records[1:]} == {"ok"}


def test_a_killed_decoding_process_fails_its_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deadly(ColourDataset):
        def image(self, index: int) -> Image.Image:
            if index == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().image(index)

    register(monkeypatch, deadly=Deadly(n=29), colours=ColourDataset())
    # Nor may it take the collection of garbage to end the others.
    gc.disable()
    try:
        results = rc.evaluate(ColourEncoder(), suite("deadly", "colours"), num_workers=2, batch_size=4)
    finally:
        gc.enable()
    first, *others = results.records
    assert first.status == "failed"
    assert "A decoding process was killed" in first.reason
    assert {r.status for r in others} == {"ok"}
    # Its siblings have ended: at exit the interpreter waits for whatever lives.
    assert multiprocessing.active_children() == []


def test_texts_that_cannot_be_encoded_fail_their_unit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(ColourEncoder):
        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().encode_text(tokens) * torch.nan

    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    records = rc.evaluate(CheckedEncoder(Mute()), task_suite("zero_shot_classification", "knn_probe")).records
    assert records[0].status == "failed"
    assert "NaN or infinity in the text embeddings" in records[0].reason
    assert "Texts: 'a " in records[0].reason
    assert {r.status for r in records[1:]} == {"ok"}
