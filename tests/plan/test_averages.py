"""Averages a suite names: what they mean, and that every mistake is named with its line."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import ColourDataset

import rwkvclip_eval as rc
from rwkvclip_eval.data.open import DATASETS
from rwkvclip_eval.errors import SuiteError
from rwkvclip_eval.plan.averages import resolve_averages
from rwkvclip_eval.plan.suite import list_suites, parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.records.schema import Average
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_models.resources import resource_dir

SUITE = """\
name: mine
tasks:
  - task: zero_shot_classification
    protocol: [standard, clip-benchmark]
    datasets: [cifar10, vtab/cifar100, sun397, food101]
  - task: zero_shot_classification
    datasets: [dtd]
averages:
"""
NO_FOOD = """\
  - name: without food
    task: zero_shot_classification
    leaves_out: [food101]
"""
PAIR = """\
  - name: pair
    task: zero_shot_classification
    protocol: standard
    datasets: [wds/cifar100, sun397@partition1]
    metric: top1_accuracy
"""
RECORD_NAMES = {
    "StanfordCars": "cars",
    "FGVCAircraft": "aircraft",
    "OxfordPets": "pets",
    "Flowers102": "flowers",
    "HatefulMemes": "hateful_memes",
    "SST2": "rendered_sst2",
}


def averages(text: str) -> list[Average]:
    loaded = parse_suite(text, source="s.yaml")
    return resolve_averages(loaded, plan(loaded))


def test_an_average_is_told_in_record_names_and_the_variant_of_each_protocol() -> None:
    own, other, pair = averages(SUITE + NO_FOOD + PAIR)
    assert (own.protocol, own.datasets) == ("standard", ["cifar10", "cifar100", "sun397@partition1", "dtd"])
    assert (other.protocol, other.datasets) == ("clip-benchmark", ["cifar10", "cifar100", "sun397@full"])
    assert own.leaves_out == other.leaves_out == ["food101"]
    assert own.metric == "primary"
    assert pair.datasets == ["cifar100", "sun397@partition1"]
    assert pair.leaves_out == ["cifar10", "food101", "dtd"]
    assert pair.metric == "top1_accuracy"


def test_an_average_without_names_is_over_all_and_one_by_names_only_where_they_run() -> None:
    text = SUITE + "  - {name: all, task: zero_shot_classification}\n"
    assert [len(average.datasets) for average in averages(text)] == [5, 4]
    text = SUITE + "  - {name: texture, task: zero_shot_classification, datasets: [dtd]}\n"
    assert [average.protocol for average in averages(text)] == ["standard"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NO_FOOD + NO_FOOD, "s.yaml:12: the average 'without food' is there twice"),
        (NO_FOOD.replace("food101", "fod101"), "s.yaml:11: Unknown dataset of this suite's zero_shot_"),
        (NO_FOOD.replace("food101", "fod101"), "Did you mean 'food101'?"),
        (NO_FOOD.replace("food101", "mnist"), "s.yaml:11: Unknown dataset of this suite's"),
        (NO_FOOD.replace("_classification", "_retrieval"), "s.yaml:10: Unknown task of this suite"),
        (PAIR.replace("standard", "clip-bench"), "s.yaml:11: Unknown protocol of this suite's"),
        (PAIR.replace("    protocol: standard\n", ""), "s.yaml:11: 'sun397@partition1' does not run under"),
        (PAIR.replace("@partition1", "@full"), "Unknown dataset of this suite's"),
        (PAIR.replace("sun397@partition1", "cifar100"), "s.yaml:12: a dataset is there twice"),
        (NO_FOOD.replace("leaves_out", "leave_out"), "unknown key 'leave_out'. Did you mean 'leaves_out'?"),
        (
            NO_FOOD + "    datasets: [dtd]\n",
            "s.yaml:9: averages.0: give 'datasets' or 'leaves_out', not both",
        ),
        (
            "  - {name: none, task: zero_shot_classification, protocol: clip-benchmark, "
            "leaves_out: [cifar10, cifar100, sun397, food101]}\n",
            "it leaves out every dataset",
        ),
    ],
)
def test_a_mistake_in_an_average_is_named_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        averages(SUITE + text)
    assert message in str(caught.value)


def test_an_average_never_mixes_variants_of_a_dataset() -> None:
    both = SUITE.replace("[dtd]", "[sun397@full]")
    with pytest.raises(
        SuiteError, match=r"'sun397' runs more than once under 'standard' \(sun397@partition1"
    ):
        averages(both + NO_FOOD)
    one = both + NO_FOOD.replace("food101", "sun397@full").replace("task:", "protocol: standard\n    task:")
    assert averages(one)[0].datasets == ["cifar10", "cifar100", "sun397@partition1", "food101"]


def test_a_run_keeps_what_its_suite_averages_for_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(DATASETS, "_entries", {name: lambda split: ColourDataset() for name in ("a", "b")})
    suite = {
        "name": "mine",
        "tasks": [{"task": "zero_shot_classification", "datasets": ["a", "b"]}],
        "averages": [{"name": "both", "task": "zero_shot_classification"}],
    }
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    rc.run_suite(
        parse_suite(json.dumps(suite)), ["python:toy_factory:make"], tmp_path / "run", options=options
    )
    both = Average(name="both", task="zero_shot_classification", protocol="standard", datasets=["a", "b"])
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["averages"]
    assert kept == [dataclasses.asdict(both) | {"leaves_out": []}]
    assert load_runs([tmp_path / "run"]).averages[0].datasets == ["a", "b"]


def _published(column: str = "") -> set[str]:
    with (resource_dir("published") / "lists" / "datasets_27.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not column or row[column] == "1"]
    return {RECORD_NAMES.get(row["dataset"], row["dataset"].lower()) for row in rows}


def _suite(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(list_suites()[name].read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("suite", "column"),
    [("linear-probe-26", ""), ("linear-probe-10", "linear_probe_10"), ("zero-shot-11", "zero_shot_11")],
)
def test_the_shipped_suites_run_the_published_lists(suite: str, column: str) -> None:
    (task,) = _suite(suite)["tasks"]
    assert set(task["datasets"]) == _published(column)
    if "probe" in suite:
        assert (task["task"], task["protocol"]) == ("linear_probe", "clip-certified")


def test_both_averages_of_26_are_named_by_what_they_leave_out() -> None:
    for suite in ("linear-probe-26", "paper"):
        found = {a["name"]: a.get("leaves_out") for a in _suite(suite)["averages"]}
        assert found["Average of 26 without FER2013"] == ["fer2013"]
        assert found["Average of 26 without ImageNet"] == ["imagenet"]
    assert _published() - _published("list_without_fer2013") == {"fer2013"}
    assert _published() - _published("list_without_imagenet") == {"imagenet"}


def test_the_paper_suite_runs_what_the_others_run() -> None:
    def units(suite: str) -> set[tuple[str, str, str]]:
        found = set()
        for task in _suite(suite)["tasks"]:
            protocol = task.get("protocol", "standard")
            names = protocol if isinstance(protocol, list) else [protocol]
            found |= {(task["task"], p, d) for p in names for d in task["datasets"]}
        return found

    parts = ("zero-shot-11", "robustness", "retrieval", "linear-probe-26")
    assert units("paper") == set().union(*map(units, parts))
