"""CLIP_benchmark's own command line runs our checkpoints, and what it writes stands beside our numbers."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from tiny_world import COLOURS, run_theirs

import rwkvclip_eval as rc
from rwkvclip_eval.exchange.clip_benchmark import read_results
from rwkvclip_eval.exchange.clip_benchmark_entry import accuracy, load
from rwkvclip_eval.plan.suite import parse_suite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

SUITE = """\
name: ours
tasks:
  - {task: zero_shot_classification, protocol: clip-benchmark, datasets: [wds_colours]}
  - {task: zero_shot_retrieval, protocol: clip-benchmark, datasets: [flickr8k]}
"""
NAMES = {
    "acc1": "top1_accuracy",
    "acc5": "top5_accuracy",
    "mean_per_class_recall": "mean_per_class_accuracy",
}
"""Its name → ours; recalls have one name."""


@pytest.fixture(scope="module")
def ours(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of our own command on the same model and sets."""
    out = tmp_path_factory.mktemp("ours") / "run"
    options = rc.RunOptions(data_root=world, use_cache=False)
    model = f"{world / 'nano.json'}={world / 'nano.pt'}"
    summary = rc.run_suite(parse_suite(SUITE), [model], out, options=options)
    assert summary.exit_code == 0
    return out


def values(frame: pd.DataFrame, dataset: str) -> dict[str, float]:
    rows = frame[frame["dataset"] == dataset]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def test_its_numbers_of_our_checkpoint_are_ours_to_rounding(their_files: Path, ours: Path) -> None:
    frame = rc.load_results(ours)
    for dataset, task in (("colours", "zeroshot_classification"), ("flickr8k", "zeroshot_retrieval")):
        theirs = json.loads((their_files / f"{dataset}_{task}.json").read_text())
        assert len(theirs["metrics"]) == (3 if dataset == "colours" else 4)
        own = values(frame, dataset)
        for name, value in theirs["metrics"].items():
            assert own[NAMES.get(name, name)] == pytest.approx(value, abs=1e-6), name
    # More than one class is answered, so that equal numbers say something.
    assert values(frame, "colours")["top1_accuracy"] not in (0, 1 / len(COLOURS), 1)


def test_what_it_wrote_is_read_from_json_and_csv_alike(their_files: Path) -> None:
    by_kind = [
        {(r.dataset, r.metric): r.value for r in read_results(files).records}
        for files in ([their_files], [their_files / "benchmark.csv"])
    ]
    assert by_kind[0] == pytest.approx(by_kind[1])
    assert len(by_kind[0]) == 7
    with (their_files / "benchmark.csv").open() as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    assert by_kind[0]["colours", "top1_accuracy"] == float(rows["wds/colours"]["acc1"])
    assert by_kind[0]["flickr8k", "text_retrieval_recall@5"] == float(
        rows["wds/flickr8k"]["text_retrieval_recall@5"]
    )


def test_imported_numbers_stand_in_a_report_beside_ours_without_a_lead(
    their_files: Path, ours: Path, tmp_path: Path, run: Run
) -> None:
    code, out, _ = run("import", their_files, "--out", tmp_path / "theirs")
    assert code == 0 and "7 numbers of 1 models" in out
    code, _, err = run("import", their_files, "--out", tmp_path / "theirs")
    assert code == 2 and "holds results already" in err
    code, _, _ = run("report", ours, tmp_path / "theirs", "--out", tmp_path / "report")
    assert code == 0
    frame = pd.read_csv(tmp_path / "report" / "zero_shot_classification.csv")
    row = frame[frame["metric"] == "top1_accuracy"].iloc[0]
    name = "nano.json nano.pt (CLIP_benchmark)"
    assert row[f"{name}.value"] == pytest.approx(row["nano.value"])
    assert "best" not in (row[f"{name}.state"], row["nano.state"])
    assert "dataset fingerprints differ" in row["problem"] and "prompt hashes differ" in row["problem"]
    text = (tmp_path / "report" / "index.html").read_text()
    assert "result file of CLIP_benchmark: colours_zeroshot_classification.json, SHA-256" in text
    records = read_results([their_files]).records
    assert all("CLIP_benchmark" in r.notes["imported"] and r.ci_low is None for r in records)


def test_a_model_that_is_none_is_one_message(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_theirs(
            world,
            *("eval", "--model_type", "rwkvclip_eval", "--model", "rwkv-clip-b33", "--pretrained", "none"),
            *("--dataset", "wds/colours", "--dataset_root", "wds_colours"),
        )
    assert ended.value.code == 2
    assert "Unknown model 'rwkv-clip-b33'. Did you mean 'rwkv-clip-b32'" in capfd.readouterr().err


def test_a_model_loads_as_it_asks_for_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    module, transform, tokenize = load("nano.json", "random:0", device="cpu")
    assert module.eval().encode_text(tokenize(["a", "b c"])).shape == (2, 32)
    from PIL import Image

    pixels = torch.stack([transform(Image.new("RGB", (30, 50), "red"))])
    assert module.encode_image(pixels).shape == (1, 32)


def test_accuracy_counts_targets_among_the_highest() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert accuracy(logits, torch.tensor([0, 1, 2, 2]), topk=(1, 2)) == [0.5, 0.75]
