"""Conformance from end to end: a checkpoint of our own, embedded data, published files written for it."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import open_clip
import pytest
import torch

import rwkvclip_eval as rc
from rwkvclip_eval.plan.suite import load_suite, parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.records.published import COLUMNS, read_published
from rwkvclip_eval.records.reading import read_records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record

    Run = Callable[..., tuple[int, str, str]]

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SPEC = "open_clip:small.json=weights.pt"
SUITE: dict[str, Any] = {
    "name": "small",
    "tasks": [
        {"task": "zero_shot_classification", "protocol": "clip-benchmark", "datasets": ["digits"]},
        {"task": "zero_shot_retrieval", "protocol": "clip-benchmark", "datasets": ["digits_scenes"]},
    ],
}


class World:
    """A folder with a checkpoint, and runs of it that share a feature store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.json").write_text(json.dumps({"model_cfg": CONFIG}))
        torch.manual_seed(0)
        torch.save(open_clip.CLIP(**CONFIG).state_dict(), folder / "weights.pt")

    def run(self, name: str, suite: dict[str, Any] = SUITE, **options: Any) -> Path:
        spec = f"open_clip:{self.folder}/small.json={self.folder}/weights.pt"
        chosen = rc.RunOptions(cache_dir=self.folder / "cache", offline=True, **options)
        summary = rc.run_suite(parse_suite(json.dumps(suite)), [spec], self.folder / name, options=chosen)
        assert summary.exit_code == 0
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return world.run("whole")


def numbers(run: Path) -> dict[tuple[str, str], Record]:
    return {(r.dataset, r.metric): r for r in read_records(run / "results.jsonl") if r.measure.in_percent}


def publish(folder: Path, run: Path, shifts: dict[tuple[str, str], float] | None = None) -> Path:
    """Write a published file with the numbers of a run, some of them shifted by points."""
    folder.mkdir(exist_ok=True)
    with (folder / "mine.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for key, found in numbers(run).items():
            assert found.value is not None
            writer.writerow(
                {
                    "task": found.task,
                    "method": SPEC,
                    "dataset": found.dataset,
                    "metric": found.metric,
                    "value": f"{100 * found.value + (shifts or {}).get(key, 0):.2f}",
                    "protocol": "clip-benchmark",
                    "precision": "fp32",
                    "status": "published",
                    "source": "ours",
                }
            )
    return folder


def test_a_checkpoints_own_numbers_conform(whole: Path, tmp_path: Path, run: Run) -> None:
    papers = publish(tmp_path / "papers", whole)
    code, out, err = run("published", "--conformance", whole, "--published", papers)
    assert code == 0, err
    head, *lines = [line.split("\t") for line in out.splitlines()]
    assert len(lines) == len(numbers(whole)) == 9
    assert {line[head.index("verdict")] for line in lines} == {"conforms"}
    assert {line[0] for line in lines} == {SPEC}
    assert "9 of 9 judged numbers conform." in err


def test_a_set_that_differs_is_named_with_its_difference(whole: Path, tmp_path: Path, run: Run) -> None:
    shifted = ("digits", "mean_per_class_accuracy")
    papers = publish(tmp_path / "papers", whole, {shifted: 1.0, ("digits", "top1_accuracy"): 0.2})
    code, _, err = run("published", "--conformance", whole, "--published", papers)
    assert code == 1
    # 0.2 point is less than two of the 901 digits.
    assert "8 of 9 judged numbers conform." in err
    (line,) = [line for line in err.splitlines() if line.startswith("Differs: ")]
    assert f"{SPEC}, Digits, mean per class: " in line
    assert "; -1.00 points, 0.22 allowed." in line
    only = run("published", "--conformance", whole, "--published", papers, "--dataset", "digits_scenes")
    assert only[0] == 0


def test_a_part_of_a_set_is_not_judged(world: World, whole: Path, tmp_path: Path, run: Run) -> None:
    papers = publish(tmp_path / "papers", whole)
    part = world.run("part", limit=50)
    code, out, err = run("published", "--conformance", part, "--published", papers)
    assert code == 3
    assert out.count("\tnot judged\t") == 9
    assert "a part of the set (50 judged)" in out
    assert "No number could be judged." in err


def test_half_precision_stands_in_a_column_of_its_own(
    world: World, whole: Path, tmp_path: Path, run: Run
) -> None:
    papers = publish(tmp_path / "papers", whole)
    half = world.run("half", {**SUITE, "tasks": SUITE["tasks"][:1]}, precision="bf16")
    code, out, _ = run("published", "--conformance", half, "--published", papers)
    assert code == 3
    head, *lines = [line.split("\t") for line in out.splitlines()]
    for line in lines:
        assert line[head.index("difference")] == ""
        assert line[head.index("difference at half precision")].endswith(" (bf16)")
        assert line[head.index("verdict")] == "not judged"


@pytest.mark.parametrize(
    "asked",
    [{"templates": ["a photo of the digit {c}."]}, {"class_names": [str(digit) for digit in range(10)]}],
)
def test_other_templates_or_class_names_are_not_judged(
    world: World, whole: Path, tmp_path: Path, run: Run, asked: dict[str, Any]
) -> None:
    papers = publish(tmp_path / "papers", whole)
    task = {**SUITE["tasks"][0], "datasets": [{"name": "digits", **asked}]}
    other = world.run(f"other-{'-'.join(asked)}", {"name": "other", "tasks": [task]})
    code, out, _ = run("published", "--conformance", other, "--published", papers)
    assert code == 3
    assert out.count("other class names or templates than clip-benchmark's") == 3


def test_a_run_without_such_numbers_says_what_makes_them(whole: Path, run: Run) -> None:
    code, out, err = run("published", "--conformance", whole)
    assert (code, out) == (3, "")
    assert "Nothing to compare" in err and "rwkvclip-eval run conformance" in err


def test_the_report_of_such_a_run_has_a_section_for_it(whole: Path, tmp_path: Path, run: Run) -> None:
    papers = publish(tmp_path / "papers", whole, {("digits", "top1_accuracy"): 3.0})
    code, _, err = run("report", whole, "--out", tmp_path / "report", "--published", papers)
    assert code == 0, err
    for name in ("index.html", "report.md"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "8 of 9 judged numbers conform." in text
        assert "-3.00 points, 0.22 allowed." in text


def test_only_the_protocol_that_published_figures_follow_keeps_the_hash_of_their_prompts(
    world: World, whole: Path
) -> None:
    for found in read_records(whole / "results.jsonl"):
        assert found.notes["reference_prompt_hash"] == found.prompt_hash
    plain = world.run("plain", {"name": "plain", "tasks": [{**SUITE["tasks"][0], "protocol": "standard"}]})
    assert all("reference_prompt_hash" not in r.notes for r in read_records(plain / "results.jsonl"))


def test_the_suite_runs_all_that_is_published_of_checkpoints_that_it_can_load() -> None:
    units = plan(load_suite("conformance"))
    run = {
        (unit.task.name, f"{unit.dataset}@{unit.variant}".removesuffix("@default").removesuffix("@None"))
        for unit in units
    }
    rows = [row for row in read_published() if row.method.startswith("open_clip:")]
    assert {(row.record_task, row.dataset) for row in rows} == run
    assert {unit.protocol.name for unit in units} == {row.protocol for row in rows} == {"clip-benchmark"}
    asked = {unit.ref.prompts for unit in units if unit.task.name == "zero_shot_classification"}
    assert asked == {"clip-benchmark"}
