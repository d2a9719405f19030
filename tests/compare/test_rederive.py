"""What every task writes gives its numbers again; what was changed afterwards is found."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rwkvclip_eval.compare.rederive import check_run
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.reading import write_records
from rwkvclip_eval.records.schema import Record
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
    if case == "retrieval":
        run = write(tmp_path / "run", *retrieved())
    else:
        task, num_classes, metric, options = CASES[case]
        run = write(tmp_path / "run", *scored(task, num_classes, metric, **options))
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
    assert all(one.outcome == "differs" and "is not a table" in one.why for one in check_run(run))
    path.unlink()
    assert all(one.outcome == "differs" and "predictions" in one.why for one in check_run(run))


def test_a_metric_that_no_prediction_tells_is_not_called_equal(tmp_path: Path) -> None:
    run = write(tmp_path / "run", *scored("zero_shot_classification", 6, "top1_accuracy"))
    line = json.loads((run / "results.jsonl").read_text().splitlines()[0])
    line |= {"metric": "surprise", "metric_info": {"name": "surprise", "title": "surprise", "unit": "number"}}
    (run / "results.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = check_run(run)
    assert found.outcome == "not derived" and "surprise" in found.why
