"""CLIP_benchmark's result files: what is written is read again, and what cannot be right is refused."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pytest

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.exchange.clip_benchmark import is_imported, read_results, result_files
from rwkvclip_eval.records.metrics import known, recall
from rwkvclip_eval.records.schema import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

RESULT: dict[str, Any] = {
    "dataset": "wds/cifar10",
    "model": "ViT-B-32",
    "pretrained": "openai",
    "task": "zeroshot_classification",
    "metrics": {"acc1": 0.9, "acc5": 0.99, "mean_per_class_recall": 0.8},
    "language": "en",
}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(RESULT | changes))
    return path


def record(metric: str = "top1_accuracy", value: float = 0.5, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "unit": "m--zero_shot_classification--cifar10--standard",
        "status": "ok",
        "model": "m",
        "model_info": {"spec": "open_clip:ViT-B-32=laion.pt", "precision": "fp32"},
        "task": "zero_shot_classification",
        "task_version": 2,
        "dataset": "cifar10",
        "protocol": "standard",
        "metric": metric,
        "metric_info": known(metric),
        "value": value,
        "n": 10_000,
        "ci_low": value - 0.01,
        "ci_high": value + 0.01,
    }
    return Record(**(fields | changes))


def test_names_become_ours_and_say_where_they_came_from(tmp_path: Path) -> None:
    found = read_results([written(tmp_path / "a.json")]).records
    assert {r.metric: (r.value, r.primary) for r in found} == {
        "top1_accuracy": (0.9, True),
        "top5_accuracy": (0.99, False),
        "mean_per_class_accuracy": (0.8, False),
    }
    first = found[0]
    assert (first.dataset, first.task, first.protocol) == (
        "cifar10", "zero_shot_classification", "clip-benchmark",
    )  # fmt: skip
    assert first.model == "ViT-B-32 openai (CLIP_benchmark)"
    assert first.model_info["trained"] is True
    assert is_imported(first) and first.notes["imported"].startswith(
        "result file of CLIP_benchmark: a.json, "
    )
    assert (first.n, first.ci_low, first.prompt_hash, first.task_version) == (None, None, "", 0)


def test_a_dataset_gets_the_variant_that_its_protocol_means_and_its_language(tmp_path: Path) -> None:
    (one,) = {r.variant for r in read_results([written(tmp_path / "a.json", dataset="sun397")]).records}
    assert one == "full"
    files = [written(tmp_path / "b.json", dataset="wds/mine", language="de")]
    assert {(r.dataset, r.variant) for r in read_results(files).records} == {("mine", "de")}


def test_the_smallest_k_of_its_recalls_is_the_one_reported(tmp_path: Path) -> None:
    metrics = {f"{what}_retrieval_recall@{k}": 0.1 * k for what in ("image", "text") for k in (5, 1)}
    path = written(tmp_path / "a.json", dataset="flickr8k", task="zeroshot_retrieval", metrics=metrics)
    found = read_results([path]).records
    assert {r.metric for r in found if r.primary} == {recall(what, 1).name for what in ("image", "text")}
    assert len(found) == 4


def test_not_a_number_is_no_metric(tmp_path: Path) -> None:
    # What it writes for the top-5 of fewer than five classes.
    path = written(tmp_path / "a.json", metrics={"acc1": 0.5, "acc5": float("nan")})
    assert "NaN" in path.read_text()
    assert [r.metric for r in read_results([path]).records] == ["top1_accuracy"]


@pytest.mark.parametrize("value", ["0.5", True, ""])
def test_a_metric_that_is_no_number_is_refused_by_name(tmp_path: Path, value: object) -> None:
    path = written(tmp_path / "a.json", metrics={"acc1": value, "acc5": 0.9, "something": "else"})
    with pytest.raises(OutputError, match=r"a\.json: acc1 is .*, expected a number"):
        read_results([path])


def test_its_linear_probe_keeps_its_settings_as_notes(tmp_path: Path) -> None:
    metrics = {"lp_acc1": 0.5, "weight_decay": 0.1, "epochs": 10, "fewshot_k": -1, "normalized": True}
    path = written(tmp_path / "a.json", task="linear_probe", metrics=metrics)
    (found,) = read_results([path]).records
    assert (found.task, found.metric, found.value) == ("linear_probe", "top1_accuracy", 0.5)
    assert found.notes["weight_decay"] == 0.1 and found.notes["fewshot_k"] == -1


def test_tasks_without_a_counterpart_are_passed_over_and_said(tmp_path: Path, run: Run) -> None:
    other = written(tmp_path / "b.json", task="image_caption_selection", metrics={"acc": 0.5})
    code, _, err = run("import", written(tmp_path / "a.json"), other, "--out", tmp_path / "run")
    assert code == 0
    assert "1 results of the task image_caption_selection passed over" in err
    code, _, err = run("import", other, "--out", tmp_path / "none")
    assert code == 2 and "hold no results of tasks known here" in err


def test_what_is_written_is_read_again_as_this_suites(tmp_path: Path) -> None:
    records = [record(), record("top5_accuracy", 0.75)]
    files, table = result_files(records)
    (name,) = files
    (tmp_path / name).write_text(files[name])
    (tmp_path / "all.csv").write_text(table)
    for path in (tmp_path / name, tmp_path / "all.csv"):
        found = read_results([path]).records
        assert {r.metric: r.value for r in found} == {"top1_accuracy": 0.5, "top5_accuracy": 0.75}
        assert {r.protocol for r in found} == {"standard"}
        assert found[0].model.startswith("ViT-B-32 laion.pt (rwkvclip-eval ")


def test_its_own_code_builds_a_table_of_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clip_benchmark import cli

    files, _ = result_files([record(), record("top5_accuracy", 0.75)])
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    output = tmp_path / "benchmark.csv"
    monkeypatch.setattr("sys.argv", ["clip_benchmark", "build", str(tmp_path), "--output", str(output)])
    cli.main()
    with output.open() as file:
        (row,) = csv.DictReader(file)
    told = (row["dataset"], row["model_fullname"], row["task"], row["acc1"], row["acc5"])
    assert told == ("cifar10", "ViT-B-32 laion.pt", "zeroshot_classification", "0.5", "0.75")


def test_subsets_imported_numbers_and_what_it_has_no_name_for_are_not_written(tmp_path: Path) -> None:
    imported = read_results([written(tmp_path / "a.json")]).records
    others = [
        record(subset=True),
        record(task="knn_probe"),
        record("text_retrieval_median_rank", 2.0, task="zero_shot_retrieval"),
        *imported,
    ]
    files, table = result_files(others)
    assert files == {} and table.strip() == ""
    assert len(result_files([*others, record()])[0]) == 1


def test_runs_without_a_result_for_it_export_nothing(tmp_path: Path, run: Run) -> None:
    assert run("import", written(tmp_path / "a.json"), "--out", tmp_path / "run")[0] == 0
    code, _, err = run("export", tmp_path / "run", "--to", "clip-benchmark", "--out", tmp_path / "out")
    assert code == 2 and "no result for CLIP_benchmark" in err and not (tmp_path / "out").exists()


def test_protocols_of_one_unit_are_files_of_their_own() -> None:
    files, table = result_files([record(), record(protocol="clip-benchmark", value=0.25)])
    assert sorted(json.loads(text)["metrics"]["acc1"] for text in files.values()) == [0.25, 0.5]
    assert len(list(csv.DictReader(table.splitlines()))) == 2


HOSTILE: dict[str, Any] = {
    "no JSON": "{",
    "a list": "[]",
    "no metrics": json.dumps({k: v for k, v in RESULT.items() if k != "metrics"}),
    "metrics as a list": json.dumps(RESULT | {"metrics": [0.5]}),
    "a fraction of 90": json.dumps(RESULT | {"metrics": {"acc1": 90.0}}),
    "a negative fraction": json.dumps(RESULT | {"metrics": {"acc1": -0.1}}),
    "an infinite number": json.dumps(RESULT | {"metrics": {"acc1": float("inf")}}),
    "a model's name of 2000 letters": json.dumps(RESULT | {"model": "x" * 2000}),
    "an empty dataset": json.dumps(RESULT | {"dataset": ""}),
    "a key twice": '{"model": "another", ' + json.dumps(RESULT)[1:],
    "deep nesting": "[" * 100_000,
    "2000 metrics": json.dumps(RESULT | {"metrics": {f"m{i}": 0.1 for i in range(2000)}}),
    "other bytes": b"\xff\xfe\x00",
    "nothing": b"",
}
ROW = "dataset,model,pretrained,task,acc1,language\n"
HOSTILE_CSV: dict[str, Any] = {
    "more cells than the header": ROW + "cifar10,m,p,zeroshot_classification,0.5,en,extra\n",
    "fewer cells": ROW + "cifar10,m\n",
    "a word for a number": ROW + "cifar10,m,p,zeroshot_classification,high,en\n",
    "a fraction of 90": ROW + "cifar10,m,p,zeroshot_classification,90,en\n",
    "an open quote": ROW + '"cifar10,m,p\n',
    "other bytes": b"\xff\xfe\x00\x01",
    "no such columns": "a,b\n1,2\n",
}


@pytest.mark.parametrize("kind", [*HOSTILE, *(f"{name}.csv" for name in HOSTILE_CSV)])
def test_a_file_that_cannot_be_right_is_one_message(kind: str, tmp_path: Path, run: Run) -> None:
    is_csv = kind.endswith(".csv")
    content = HOSTILE_CSV[kind.removesuffix(".csv")] if is_csv else HOSTILE[kind]
    path = tmp_path / ("given.csv" if is_csv else "given.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run("import", path, "--out", tmp_path / "run")
    assert code == 2, out
    assert "given." in err and "Traceback" not in err and len(err) < 2000
    assert not (tmp_path / "run").exists()


def test_two_values_of_one_number_are_refused_and_the_same_twice_is_one(tmp_path: Path) -> None:
    one, same = written(tmp_path / "a.json"), written(tmp_path / "b.json")
    assert len(read_results([one, same]).records) == 3
    other = written(tmp_path / "c.json", metrics={"acc1": 0.7})
    with pytest.raises(OutputError, match=r"top1_accuracy .* is 0\.7, and 0\.9 in .*a\.json"):
        read_results([one, other])


def test_a_hostile_name_is_shown_as_it_is_and_breaks_no_page(tmp_path: Path, run: Run) -> None:
    path = written(tmp_path / "a.json", model="<script>|\x1b[2J", dataset="../../d\n%_\\{}")
    assert run("import", path, "--out", tmp_path / "run")[0] == 0
    assert run("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "<script>|" not in page and "\x1b" not in page


def test_a_link_of_a_machine_is_no_name_of_a_model(tmp_path: Path) -> None:
    found = read_results([written(tmp_path / "a.json", pretrained="/home/me/ckpt/model.pt")]).records
    assert {r.model for r in found} == {"ViT-B-32 model.pt (CLIP_benchmark)"}
    assert "/home" not in str(found)
