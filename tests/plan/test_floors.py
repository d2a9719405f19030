"""Floors of a suite's numbers: what a file may say, what is refused, what fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.plan.floors import exit_code, held, load_floors
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.records.metrics import TOP1, TOP5, Metric, median_rank
from rwkvclip_eval.records.schema import Record

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.plan.floors import Floor

SUITE = """
name: mine
tasks:
  - task: zero_shot_classification
    protocol: [standard, clip-benchmark]
    datasets: [cifar10, sun397@full]
  - task: zero_shot_retrieval
    datasets: [flickr8k]
"""
UNITS = plan(parse_suite(SUITE))


def floors(path: Path, *entries: str) -> tuple[Floor, ...]:
    file = path / "floors.yaml"
    file.write_text("floors:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries))
    return load_floors(file, UNITS)


def number(value: float | None = 0.6, metric: Metric = TOP1, **change: Any) -> Record:
    fields: dict[str, Any] = {
        "unit": "u", "status": "ok", "model": "m", "model_info": {}, "task": "zero_shot_classification",
        "task_version": 1, "dataset": "cifar10", "protocol": "standard", "metric": metric.name,
        "metric_info": metric, "value": value, "ci_low": 0.58, "ci_high": 0.62, "primary": metric == TOP1,
    }  # fmt: skip
    return Record(**(fields | change))


CIFAR = "task: zero_shot_classification, dataset: cifar10"


@pytest.mark.parametrize(
    ("floor", "state", "within"),
    [
        ("55", "fine", False),
        ("59", "fine", True),
        ("60", "fine", True),
        ("61", "fails", True),
        ("65", "fails", False),
    ],
)
def test_the_value_counts_and_the_interval_is_said(
    tmp_path: Path, floor: str, state: str, within: bool
) -> None:
    (one,) = held(floors(tmp_path, f"{CIFAR}, floor: {floor}"), [number()])
    assert (one.state, one.within) == (state, within)
    assert exit_code([one], 0) == (state == "fails")


def test_the_primary_number_is_meant_unless_a_metric_is_named(tmp_path: Path) -> None:
    records = [number(), number(0.9, TOP5)]
    found = held(
        floors(tmp_path, f"{CIFAR}, floor: 50", f"{CIFAR}, metric: top5_accuracy, floor: 95"), records
    )
    assert [(one.record.metric, one.state) for one in found] == [
        ("top1_accuracy", "fine"),
        ("top5_accuracy", "fails"),
    ]


def test_every_model_and_protocol_is_held_to_a_floor_unless_one_is_named(tmp_path: Path) -> None:
    records = [number(), number(0.3, model="other"), number(0.2, protocol="clip-benchmark")]
    assert [one.state for one in held(floors(tmp_path, f"{CIFAR}, floor: 50"), records)] == [
        "fine", "fails", "fails",
    ]  # fmt: skip
    named = floors(tmp_path, f"{CIFAR}, protocol: clip-benchmark, floor: 50")
    assert [one.record.protocol for one in held(named, records)] == ["clip-benchmark"]


def test_a_dataset_goes_by_any_of_its_names_and_a_version_is_that_alone(tmp_path: Path) -> None:
    found = floors(tmp_path, "task: zero_shot_classification, dataset: wds/cifar10, floor: 50",
                   "task: zero_shot_classification, dataset: SUN397@full, floor: 50")  # fmt: skip
    records = [
        number(),
        number(dataset="sun397", variant="full"),
        number(dataset="sun397", variant="partition1"),
    ]
    assert [one.record.variant for one in held(found, records)] == ["default", "full"]


def test_a_metric_that_the_dataset_does_not_have_is_no_success(tmp_path: Path) -> None:
    [floor] = floors(tmp_path, f"{CIFAR}, metric: top5_accuracy, floor: 60")
    [found] = held([floor], [number()])
    assert found.verdict == "no number: this dataset has no top5_accuracy; it has top1_accuracy"
    assert exit_code([found], 0) == 3


def test_where_less_is_better_the_floor_is_the_most(tmp_path: Path) -> None:
    metric = median_rank("image")
    entry = f"task: zero_shot_retrieval, dataset: flickr8k, metric: {metric.name}, floor: 5"
    records = [
        number(value, metric, task="zero_shot_retrieval", dataset="flickr8k", ci_low=None, ci_high=None)
        for value in (4.0, 6.0)
    ]
    assert [one.state for one in held(floors(tmp_path, entry), records)] == ["fine", "fails"]


def test_a_number_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    missing = number(None, status="missing_data", reason="no such folder", primary=False)
    found = held(floors(tmp_path, f"{CIFAR}, floor: 50"), [missing])
    assert [one.verdict for one in found] == ["no number: no such folder"]
    assert (exit_code(found, 0), exit_code(found, 3)) == (3, 3)
    assert exit_code([], 3) == 3


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "task: zero_shot_clasification, dataset: cifar10, floor: 50",
            "Did you mean 'zero_shot_classification'",
        ),
        ("task: linear_probe, dataset: cifar10, floor: 50", "Unknown task of this suite 'linear_probe'"),
        ("task: zero_shot_classification, dataset: cifar100, floor: 50", "Did you mean 'cifar10'"),
        (
            "task: zero_shot_classification, dataset: sun397@partition1, floor: 50",
            "Known: cifar10, sun397@full",
        ),
        (f"{CIFAR}, metric: top1-accuracy, floor: 50", "Did you mean 'top1_accuracy'"),
        (f"{CIFAR}, protocol: standrd, floor: 50", "Did you mean 'standard'"),
        (f"{CIFAR}, floor: 0.6", "expected per cent"),
        (f"{CIFAR}, floor: 600", "expected per cent"),
        (f"{CIFAR}, floor: -1", "greater than or equal to 0"),
        (f"{CIFAR}, floor: .nan", "finite"),
        (f"{CIFAR}, flor: 50", "Did you mean 'floor'"),
        (f"{CIFAR}", "the key 'floor' is missing"),
    ],
)
def test_what_the_suite_does_not_run_is_refused_with_its_line(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(UserError, match=r"floors\.yaml:3: ") as raised:
        floors(tmp_path, f"{CIFAR}, floor: 1", entry)
    assert said in str(raised.value)


def test_a_floor_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"floors\.yaml:3: floors\.1: line 2 has a floor of the same number already"
    ):
        floors(
            tmp_path, f"{CIFAR}, floor: 1", "task: zero_shot_classification, dataset: wds/cifar10, floor: 2"
        )


@pytest.mark.parametrize("first", ["primary", "top1_accuracy"])
def test_the_primary_metric_by_its_own_name_is_the_same_number(tmp_path: Path, first: str) -> None:
    second = "top1_accuracy" if first == "primary" else "primary"
    entries = [f"{CIFAR}, metric: {name}, floor: 1" for name in (first, second)]
    with pytest.raises(UserError, match="line 2 has a floor of the same number already"):
        floors(tmp_path, *entries)
    assert len(floors(tmp_path, entries[0], f"{CIFAR}, metric: top5_accuracy, floor: 1")) == 2


@pytest.mark.parametrize("text", ["", "- a", "floors: []", "floors: 3", "{"])
def test_what_is_no_file_of_floors_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "floors.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"floors\.yaml"):
        load_floors(path, UNITS)
