"""TensorBoard's and wandb's own readers find what was exported; without them there is one message."""

from __future__ import annotations

import json
import sys
import types
from typing import TYPE_CHECKING

import pytest
from report_runs import record, without_number, write_run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Cli = Callable[..., subprocess.CompletedProcess[str]]
    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> Path:
    """A run of two checkpoints of a model, one set of which failed."""
    return write_run(
        tmp_path / "run",
        [
            record("nano-step_10", value=0.25, model_info={"step": 10}),
            record("nano-step_20", value=0.5, model_info={"step": 20}),
            without_number("failed", "gone", model="nano-step_20", dataset="pets"),
            record("nano-step_20", value=0.75, dataset="food101", subset=True, model_info={"step": 20}),
        ],
    )


def test_tensorboards_reader_finds_each_number_at_its_step(
    two_checkpoints: Path, tmp_path: Path, run: Run
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, out, _ = run("export", two_checkpoints, "--to", "tensorboard", "--out", tmp_path / "logs")
    assert code == 0 and "3 numbers of 2 models" in out
    found = {}
    for folder in (tmp_path / "logs").iterdir():
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            (event,) = events.Scalars(tag)
            found[folder.name, tag] = event.step, round(event.value, 6)
    name = "zero_shot_classification/standard/cifar10/top1_accuracy"
    assert found["nano-step_10", name] == (10, 0.25)
    assert found["nano-step_20", name] == (20, 0.5)
    assert found["nano-step_20", f"{name}/ci_low"][1] == pytest.approx(0.5 - 1.96 * 0.005, abs=1e-6)
    subset = "zero_shot_classification/standard (subset)/food101/top1_accuracy"
    assert found["nano-step_20", subset] == (20, 0.75)
    assert len(found) == 9


def test_wandb_keeps_a_run_a_model(cli: Cli, two_checkpoints: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    # In a process of its own, since it starts one and keeps it.
    silent = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = cli("export", two_checkpoints, "--to", "wandb", "--out", tmp_path / "wandb", **silent)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "wandb").rglob("offline-run-*/"))
    assert len([folder for folder in runs if folder.is_dir()]) == 2
    tables = [json.loads(p.read_text()) for p in (tmp_path / "wandb").rglob("results_*.table.json")]
    values = sorted(row[5] for table in tables for row in table["data"])
    assert values == [0.25, 0.5, 0.75]


def test_without_the_package_there_is_one_message(
    two_checkpoints: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for format, package in (("wandb", "wandb"), ("tensorboard", "tensorboard")):
        code, _, err = run("export", two_checkpoints, "--to", format, "--out", tmp_path / format)
        assert code == 2 and f"The package {package} is not installed: pip install {package}." in err


def test_a_writer_that_fails_is_one_message(
    two_checkpoints: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no API key configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    code, _, err = run("export", two_checkpoints, "--to", "wandb", "--out", tmp_path / "w")
    assert code == 2 and "wandb failed (RuntimeError: no API key configured)." in err
    (tmp_path / "file").write_text("")
    code, _, err = run("export", two_checkpoints, "--to", "wandb", "--out", tmp_path / "file" / "w")
    assert code == 2 and "NotADirectoryError" in err and "Traceback" not in err


def test_a_form_that_is_none_names_those_there_are(two_checkpoints: Path, tmp_path: Path, run: Run) -> None:
    code, _, err = run("export", two_checkpoints, "--to", "excel", "--out", tmp_path / "x")
    assert code == 2 and "clip-benchmark" in err and "tensorboard" in err
