"""What every task writes gives its numbers again; what was changed afterwards is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwkvclip_eval.compare.rederive import check_run, derive
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import shown
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.reading import read_records, write_records
from rwkvclip_eval.records.schema import Record, RunInfo
from rwkvclip_eval.run.directory import RunDirectory
from rwkvclip_eval.run.outcome import UnitOutcome
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Features, Samples

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.tasks.base import TaskResult

N, WIDTH = 60, 12


def unit_norm(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def info(kind: str, num_classes: int, metric: str, split: str = "test") -> DatasetInfo:
    return DatasetInfo(
        name="mnist",
        split=split,
        kind=kind,
        num_samples=N,
        fingerprint=split,
        class_names=tuple(f"c{i}" for i in range(num_classes)),
        templates=("a {c}", "the {c}"),
        primary_metric=metric,
        expected_samples=N,
    )


def classified(
    split: str, num_classes: int, metric: str, kind: str = "classification"
) -> tuple[Samples, Features]:
    """Samples and features in which classes overlap; keys are not in the order of labels."""
    rng = np.random.default_rng(len(split))
    labels = rng.permutation(np.arange(N) % num_classes)
    if kind == "multilabel":
        marks = rng.integers(-1, 2, (N, num_classes))
        marks[:3] = 1
        return (
            Samples(
                info=info(kind, num_classes, metric, split),
                keys=[f"{split}{i}" for i in range(N)],
                labels=marks,
            ),
            Features(images={"probe": rng.normal(size=(N, WIDTH)).astype(np.float32)}),
        )
    means = np.random.default_rng(0).normal(size=(num_classes, WIDTH))
    x = means[labels] + 1.5 * rng.normal(size=(N, WIDTH))
    samples = Samples(
        info=info(kind, num_classes, metric, split), keys=[f"{split}{i}" for i in range(N)], labels=labels
    )
    return samples, Features(images={"probe": x.astype(np.float32), "embedding": unit_norm(x)})


def scored(task_name: str, num_classes: int, metric: str, **options: Any) -> tuple[Any, Any, TaskResult]:
    task = TASKS.get(task_name)
    protocol = PROTOCOLS.get(options.pop("protocol", task.protocols[0]))
    protocol = task.under(protocol, options or None)
    kind = "multilabel" if metric.startswith("mean_average") else "classification"
    samples, features = classified("test", num_classes, metric, kind)
    fit = {split: classified(split, num_classes, metric, kind) for split in task.fit_splits}
    texts = np.random.default_rng(3).normal(size=(2 * num_classes, WIDTH))
    features = dataclasses.replace(features, fit=fit, texts={"embedding": unit_norm(texts)})
    return task, protocol, task.score(samples, features, protocol)


def retrieved() -> tuple[Any, Any, TaskResult]:
    task, rng = TASKS.get("zero_shot_retrieval"), np.random.default_rng(1)
    captions = [[f"{i} {j}" for j in range(1 + i % 3)] for i in range(N)]
    images = rng.normal(size=(N, WIDTH))
    texts = np.concatenate([images[i] + rng.normal(size=(len(c), WIDTH)) for i, c in enumerate(captions)])
    samples = Samples(info=info("retrieval", 0, ""), keys=[f"k{-i}" for i in range(N)], captions=captions)
    features = Features(images={"embedding": unit_norm(images)}, texts={"embedding": unit_norm(texts)})
    protocol = PROTOCOLS.get(task.protocols[0])
    return task, protocol, task.score(samples, features, protocol)


def write(path: Path, task: Any, protocol: Any, result: TaskResult) -> Path:
    records = []
    for one in result.metrics:
        fields = {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name.startswith("ci_")}
        records.append(
            Record(
                unit="u", status="ok", model="m", model_info={"name": "m"}, task=task.name,
                task_version=task.version, dataset="mnist", protocol=protocol.name, metric=one.name,
                metric_info=one.metric, value=one.value, n=one.n, notes={**result.notes, **one.notes},
                **fields,
            )
        )  # fmt: skip
    write_records(path / "results.jsonl", records)
    (path / "predictions" / "u").mkdir(parents=True)
    for name, table in result.predictions.items():
        pq.write_table(table, path / "predictions" / "u" / f"{name}.parquet")
    return path


CASES = {
    "zero-shot": ("zero_shot_classification", 6, "top1_accuracy", {}),
    "zero-shot, four classes": ("zero_shot_classification", 4, "mean_per_class_accuracy", {}),
    "zero-shot, padded": ("zero_shot_classification", 6, "top1_accuracy", {"protocol": "official-rwkv-clip"}),
    "linear probe": ("linear_probe", 6, "mean_per_class_accuracy", {"C": 1.0}),
    "linear probe, top-1 and top-5": ("linear_probe", 6, "mean_top1_top5_accuracy", {"C": 1.0}),
    "linear probe, two classes": ("linear_probe", 2, "roc_auc", {"C": 1.0}),
    "linear probe, labels": ("linear_probe", 5, "mean_average_precision", {"C": 1.0}),
    "k-NN": ("knn_probe", 6, "top1_accuracy", {}),
    "few-shot": ("few_shot_linear_probe", 6, "top1_accuracy", {"C": 1.0, "shots": [1, 4]}),
    "few-shot, one seed": (
        "few_shot_linear_probe",
        6,
        "top1_accuracy",
        {"C": 1.0, "shots": [2], "num_seeds": 1},
    ),
    "few-shot, per class": ("few_shot_linear_probe", 6, "mean_per_class_accuracy", {"C": 1.0, "shots": [2]}),
    "few-shot, both": ("few_shot_linear_probe", 6, "mean_top1_top5_accuracy", {"C": 1.0, "shots": [2]}),
    "few-shot, two classes": ("few_shot_linear_probe", 2, "roc_auc", {"C": 1.0, "shots": [2, 4]}),
}


@pytest.mark.parametrize("case", [*CASES, "retrieval"])
def test_predictions_give_every_value_and_interval_again(tmp_path: Path, case: str) -> None:
    run = made(tmp_path / "run", case)
    found = check_run(run)
    assert found and {(one.outcome, one.why) for one in found} == {("equal", "")}
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    # A little off in any of the three is found, wherever the record stays one that can be.
    for key, change in (("value", 1e-3), ("ci_low", -1e-3), ("ci_high", 1e-3)):
        moved = [dict(line) for line in lines]
        changed = [_move(line, key, change) for line in moved]
        (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moved))
        again = check_run(run)
        assert [one.outcome for one in again] == ["differs" if one else "equal" for one in changed]
        assert all(key.removeprefix("ci_") in one.why for one in again if one.outcome == "differs")


def _move(line: dict[str, Any], key: str, change: float) -> bool:
    """Change a fraction of a record and return whether it could be."""
    low, high = (line["ci_low"], line["ci_high"]) if line["ci_low"] is not None else (0.0, 1.0)
    room = {"value": high - line["value"], "ci_low": low, "ci_high": 1 - high}[key]
    if line[key] is None or line["metric_info"]["unit"] != "fraction" or room < 2 * abs(change):
        return False
    line[key] += change
    return True


def test_predictions_that_are_missing_cut_or_changed_are_told(tmp_path: Path) -> None:
    run = write(tmp_path / "run", *scored("zero_shot_classification", 6, "top1_accuracy"))
    path = run / "predictions" / "u" / "predictions.parquet"
    table, content = pq.read_table(path), path.read_bytes()
    changed = table.set_column(1, "label", [np.roll(table["label"].to_numpy(), 1)])
    pq.write_table(changed, path)
    assert check_run(run)[0].outcome == "differs"
    path.write_bytes(content[: len(content) // 2])
    assert all(one.outcome == "damaged" and "is not a table" in one.why for one in check_run(run))
    path.unlink()
    assert all(one.outcome == "damaged" and "predictions" in one.why for one in check_run(run))


def made(path: Path, case: str) -> Path:
    if case == "retrieval":
        return write(path, *retrieved())
    task, num_classes, metric, options = CASES[case]
    return write(path, *scored(task, num_classes, metric, **options))


@pytest.mark.parametrize("case", [*CASES, "retrieval"])
def test_counts_and_notes_that_predictions_determine_are_checked_too(tmp_path: Path, case: str) -> None:
    run = made(tmp_path / "run", case)
    path = run / "results.jsonl"
    whole = path.read_text().splitlines()
    found: set[str] = set()
    for i, record in enumerate(read_records(path)):
        facts = derive(run / "predictions" / "u", record).facts
        for name in ("n", *facts):
            line = json.loads(whole[i])
            place = line if name == "n" or name.startswith("ci_") else line["notes"]
            if place.get(name) is None or place[name] is False:
                continue
            place[name] = (
                f"{place[name]}x"
                if isinstance(place[name], str)
                else 10**9
                if name == "n"
                else not place[name]
                if place[name] is True
                else place[name] + 1
            )
            if place[name] is False:
                continue
            path.write_text("".join(f"{one}\n" for one in [*whole[:i], json.dumps(line), *whole[i + 1 :]]))
            outcomes = [one.outcome for one in check_run(run)]
            assert outcomes == ["differs" if k == i else "equal" for k in range(len(whole))], name
            said = shown(place[name]) if isinstance(place[name], str) else place[name]
            assert f"{name} is {said}, predictions give" in check_run(run)[i].why
            found.add(name)
    assert {"n"} < found


def test_a_count_of_a_thousand_million_over_few_predictions_is_a_failed_check(
    run: Any, tmp_path: Path
) -> None:
    path = made(tmp_path / "run", "zero-shot") / "results.jsonl"
    path.write_text(path.read_text().replace('"n": 60', '"n": 1000000000', 1))
    code, out, err = run("report", tmp_path / "run", "--check")
    assert code == 1
    assert err.startswith("No digest tells") and err.count("\n") == 1
    assert "n is 1000000000, predictions give 60" in out
    assert "2 of 3 numbers" in out


def test_predictions_cut_short_are_said_once(run: Any, tmp_path: Path) -> None:
    folder = made(tmp_path / "run", "zero-shot")
    path = folder / "predictions" / "u" / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    code, out, err = run("report", folder, "--check")
    assert (code, out) == (2, "")
    assert err.count(str(path)) == 1


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label_logit", [float("nan")] * N),
        ("log_sum_exp", ["x"] * N),
        ("top_logits", [0.5] * N),
        ("top_ids", [[-5, 0, 1, 2, 3]] * N),
        ("prediction", [0.5] * N),
        ("label", [-1] * N),
        ("key", [3] * N),
    ],
)
def test_a_column_of_something_else_is_damage_whether_a_number_uses_it_or_not(
    run: Any, tmp_path: Path, column: str, values: list[Any]
) -> None:
    folder = made(tmp_path / "run", "zero-shot")
    path = folder / "predictions" / "u" / "predictions.parquet"
    table = pq.read_table(path)
    other = pa.array(values, pa.list_(pa.int64(), 5)) if column == "top_ids" else pa.array(values)
    pq.write_table(table.set_column(table.column_names.index(column), column, other), path)
    code, _, err = run("report", folder, "--check")
    assert code == 2
    assert f"column '{column}' holds" in err


def test_a_byte_that_changed_in_a_column_that_no_number_uses_is_found(run: Any, tmp_path: Path) -> None:
    records = read_records(made(tmp_path / "made", "zero-shot") / "results.jsonl")
    _, _, result = scored("zero_shot_classification", 6, "top1_accuracy")
    said = dict.fromkeys(("command", "suite_name", "suite_text", "suite_sha256", "started_utc"), "")
    directory = RunDirectory(tmp_path / "run", RunInfo(**said, models=[], identity={}, environment={}))
    directory.add("u", UnitOutcome(records=records, result=result))
    directory.close({"total": 0.0})
    assert {one.outcome for one in check_run(tmp_path / "run")} == {"equal"}
    code, _, err = run("report", tmp_path / "run", "--check")
    assert (code, err) == (0, "")
    path = tmp_path / "run" / "predictions" / "u" / "predictions.parquet"
    content, metadata = path.read_bytes(), pq.read_metadata(path)
    column = metadata.row_group(0).column(metadata.schema.names.index("log_sum_exp"))
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    for place in range(end - 60, end):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert {one.outcome for one in check_run(tmp_path / "run")} == {"damaged"}


def test_an_imported_number_is_not_called_damaged(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", "zero-shot")
    path = folder / "results.jsonl"
    path.write_text(path.read_text().replace('"notes": {', '"notes": {"imported": "a.json", '))
    shutil.rmtree(folder / "predictions")
    assert {one.outcome for one in check_run(folder)} == {"not derived"}


def test_a_run_without_a_record_is_nothing_to_check(run: Any, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b"")
    code, out, err = run("report", tmp_path, "--check")
    assert (code, out) == (2, "")
    assert "holds no results yet: run its command to the end." in err


def test_a_metric_that_no_prediction_tells_is_not_called_equal(tmp_path: Path) -> None:
    run = write(tmp_path / "run", *scored("zero_shot_classification", 6, "top1_accuracy"))
    line = json.loads((run / "results.jsonl").read_text().splitlines()[0])
    line |= {"metric": "surprise", "metric_info": {"name": "surprise", "title": "surprise", "unit": "number"}}
    (run / "results.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = check_run(run)
    assert found.outcome == "not derived" and "surprise" in found.why
