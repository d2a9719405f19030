"""What an evaluation will give is known before it, and what it gave can be kept for a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from toy import ColourDataset, ColourEncoder, probe_suite, register, register_splits, suite, task_suite

import rwkvclip_eval as rc
from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_eval.report.loading import load_runs

if TYPE_CHECKING:
    from pathlib import Path


def test_every_number_of_an_evaluation_was_expected_and_says_which_way_is_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    few = {"task": "few_shot_linear_probe", "options": {"shots": [1, 2], "num_seeds": 2}}
    asked = task_suite("zero_shot_classification", "knn_probe", few)
    expected, found = rc.expected_numbers(asked), rc.evaluate(ColourEncoder(), asked).numbers()
    assert set(found) <= set(expected)
    assert "zero_shot_classification/standard/colours/top1_accuracy" in found
    assert {name.rpartition("_")[0][-1] for name in found if name.endswith("_shot")} == {"1", "2"}
    assert set(expected.values()) == {"higher"}
    ranked = rc.expected_numbers(_retrieval())
    assert ranked["zero_shot_retrieval/standard/digits_scenes/image_retrieval_median_rank"] == "lower"


def _retrieval() -> object:
    return task_suite({"task": "zero_shot_retrieval", "datasets": ["digits_scenes"]})  # type: ignore[return-value]  # toy.py has no types


def test_a_number_is_named_by_what_is_unusual_of_its_dataset() -> None:
    asked = suite({"name": "digits", "split": "train"})
    assert "zero_shot_classification/standard/digits (train)/top1_accuracy" in rc.expected_numbers(asked)


def test_all_data_that_cannot_be_used_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    tasks = [
        {"task": "zero_shot_classification", "datasets": ["mnist", "colours", "cifar10"]},
        {"task": "zero_shot_retrieval", "datasets": ["colours"]},
    ]
    with pytest.raises(UserError) as caught:
        rc.expected_numbers(task_suite(*tasks))
    said = str(caught.value)
    assert "mnist" in said and "cifar10" in said
    assert "zero_shot_retrieval cannot score colours, which is a classification set" in said


def test_what_an_evaluation_keeps_is_a_run_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, colours=ColourDataset())
    results = rc.evaluate(ColourEncoder(), suite("colours"), out=tmp_path / "kept")
    entries = load_runs([tmp_path / "kept"]).entries
    assert [(e.record.metric, e.record.value) for e in entries] == [
        (r.metric, r.value) for r in results.records
    ]
    assert all(entry.record.tables for entry in entries)
    again = rc.evaluate(ColourEncoder(), suite("colours"), out=tmp_path / "kept")
    assert again.numbers() == results.numbers()
    with pytest.raises(OutputError, match="holds another run"):
        rc.evaluate(ColourEncoder("other"), suite("colours"), out=tmp_path / "kept")


def test_the_mean_of_primary_metrics_is_of_fractions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    results = rc.evaluate(ColourEncoder(), probe_suite())
    assert results.mean_primary() == results.value("colours")
    assert rc.Results(records=[], predictions={}).mean_primary() is None
