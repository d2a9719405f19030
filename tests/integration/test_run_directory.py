"""Whose a run directory is, and that no number is lost, mixed or made up in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from toy import COLOURS

import rwkvclip_eval as rc
from rwkvclip_eval.errors import DataNotFound, DataWarning, OutputError, SuiteError, UserError
from rwkvclip_eval.records.reading import read_records, write_records
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.run.directory import RunDirectory
from rwkvclip_eval.run.suite_run import run_suite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rwkvclip_eval.run.suite_run import RunSummary

MODEL = "python:toy_factory:make"
ENTRY = "      - {name: %s, folder: colours, class_names: [%s], templates: ['a {c} picture']}\n"


@pytest.fixture
def suite(colour_suite: Path) -> Callable[..., Path]:
    """Write a suite of classification sets (name, class names, or a whole line) beside the colours."""

    def write(file: str, *lines: str) -> Path:
        path = colour_suite.with_name(f"{file}.yaml")
        head = "name: n\ntasks:\n  - task: zero_shot_classification\n    datasets:\n"
        path.write_text(head + "".join(lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunSummary]:
    def run(suite: Path | str, *models: str, out: str = "run", **more: object) -> RunSummary:
        options = rc.RunOptions(cache_dir=tmp_path / "cache")
        return run_suite(suite, models or [MODEL], tmp_path / out, options=options, **more)

    return run


GOOD = ENTRY % ("colours", ", ".join(COLOURS))


def test_a_command_that_failed_before_any_result_does_not_claim_the_directory(
    run: Callable[..., RunSummary], suite: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="absent"):
        run(suite("s", GOOD), "python:toy_factory:absent")
    assert run(suite("s", GOOD)).exit_code == 0


def test_results_whose_run_json_is_gone_are_not_overwritten(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    run(suite("s", GOOD))
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    for content in (None, "{", '{"identity": 3}'):
        path = tmp_path / "run" / "run.json"
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(OutputError, match="choose another --out"):
            run(suite("s", GOOD))
        assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
        path.write_text("{}")


def test_an_edited_model_configuration_is_another_run(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    config = {"embed_dim": 8, "text_cfg": {"width": 8, "heads": 1, "layers": 1, "context_length": 16}}
    config["vision_cfg"] = {"image_size": 8, "patch_size": 4, "width": 8, "head_width": 8, "layers": 1}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config))
    run(suite("s", GOOD), f"open_clip:{path}=random:0")
    config["vision_cfg"]["layers"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(OutputError, match=r"another content of tiny\.json"):
        run(suite("s", GOOD), f"open_clip:{path}=random:0")


def test_numbers_of_two_models_are_not_mixed_under_one_name(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    records = run(suite("s", GOOD)).records
    fields = json.loads((tmp_path / "run" / "run.json").read_text())
    directory = RunDirectory(tmp_path / "run", RunInfo(**fields))
    directory.refuse_other_model(records[0].model, records[0].model_info["fingerprint"])
    with pytest.raises(OutputError, match="has changed since"):
        directory.refuse_other_model(records[0].model, "f" * 64)
    directory.close({"total": 1.0})


def forget_digest(run: Path) -> None:
    """Leave run.json as a killed run or an earlier version does."""
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"results_sha256": ""}))


def test_numbers_of_an_earlier_version_of_a_task_are_made_again(
    run: Callable[..., RunSummary], suite: Callable[..., Path]
) -> None:
    first = run(suite("s", GOOD))
    results = first.out / "results.jsonl"
    changes = {"task_version": 0, "value": 0.123, "ci_low": 0.1, "ci_high": 0.2}
    old = [dataclasses.replace(r, **changes) for r in read_records(results)]
    write_records(results, old)
    forget_digest(first.out)
    assert run(suite("s", GOOD)).num_run == 1
    assert {(r.task_version, r.value) for r in read_records(results)} == {
        (r.task_version, r.value) for r in first.records
    }


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_unit_whose_predictions_are_not_as_they_were_written_is_made_again(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    path = suite("two", GOOD, GOOD.replace("name: colours", "name: again"))
    first = run(path)
    table = next((tmp_path / "run" / "predictions").glob("*again*/predictions.parquet"))
    before = table.read_bytes()
    if damage == "gone":
        shutil.rmtree(table.parent)
    else:
        table.write_bytes(before[:-50])
    with pytest.warns(
        DataWarning, match=r"predictions are gone or not as they were .*, of 1 units \(.*again"
    ):
        summary = run(path)
    assert (summary.exit_code, summary.num_skipped) == (0, 1)
    assert table.read_bytes() == before
    assert len(read_records(tmp_path / "run" / "results.jsonl")) == len(first.records)


def test_a_member_of_a_job_array_without_work_is_no_error(
    run: Callable[..., RunSummary], suite: Callable[..., Path]
) -> None:
    summary = run(suite("s", GOOD), shard=(2, 3))
    assert (summary.exit_code, summary.num_run) == (0, 0)
    assert read_records(summary.out / "results.jsonl") == []


def test_class_names_that_do_not_fit_a_later_dataset_are_found_before_any_encoding(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    path = suite("two", GOOD, ENTRY % ("other", "red, green"))
    with pytest.raises(UserError, match="folders without a class name: blue"):
        run(path)
    assert not (tmp_path / "run" / "results.jsonl").exists()
    assert not (tmp_path / "cache" / "features").exists()


def test_a_metric_the_task_lacks_is_an_error_and_not_replaced_by_another(
    run: Callable[..., RunSummary], suite: Callable[..., Path]
) -> None:
    with pytest.raises(SuiteError, match=r"metric\.yaml:5: Unknown metric of .* 'top2'"):
        run(suite("metric", GOOD.replace("folder:", "metric: top2, folder:")))


def test_a_dataset_without_one_image_that_decodes_fails_alone(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "0.png").write_bytes(b"no picture")
    broken = f"      - {{name: broken, folder: {tmp_path}/broken, templates: ['{{c}}']}}\n"
    options = rc.RunOptions(cache_dir=tmp_path / "cache", allow_missing=2)
    summary = run_suite(suite("broken", broken, GOOD), [MODEL], tmp_path / "run", options=options)
    assert summary.exit_code == 3
    assert {(r.dataset, r.status) for r in summary.records} == {("broken", "failed"), ("colours", "ok")}
    assert "0x" not in summary.records[0].reason


def test_a_shared_store_that_is_not_there_is_refused(suite: Callable[..., Path], tmp_path: Path) -> None:
    options = rc.RunOptions(shared_cache=tmp_path / "absent")
    with pytest.raises(UserError, match="absent is not a folder"):
        run_suite(suite("s", GOOD), [MODEL], tmp_path / "run", options=options)


def test_names_may_hold_any_line_separator(
    run: Callable[..., RunSummary], suite: Callable[..., Path], tmp_path: Path
) -> None:
    (record, *_) = run(suite("s", GOOD)).records
    odd = dataclasses.replace(record, dataset="a\u2028b\u0085c", unit="odd")
    write_records(tmp_path / "odd.jsonl", [odd, record])
    assert [r.dataset for r in read_records(tmp_path / "odd.jsonl")] == [odd.dataset, record.dataset]


@pytest.mark.parametrize("changed", ["train", "test"])
def test_a_run_whose_data_changed_is_not_continued_and_data_that_are_gone_leave_its_numbers(
    run: Callable[..., RunSummary], tmp_path: Path, changed: str
) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("red", "blue"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 60, (8, 8, 3)), 0, 255)
                path = tmp_path / "images" / split / name / f"{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    suite = tmp_path / "suite.yaml"
    images = "datasets: [{name: images, folder: images}]"
    suite.write_text(
        f"name: s\ntasks:\n  - {{task: linear_probe, {images}}}\n  - {{task: knn_probe, {images}}}\n"
    )
    results = run(suite).out / "results.jsonl"
    write_records(results, [r for r in read_records(results) if r.task == "linear_probe"])
    forget_digest(results.parent)
    before = results.read_bytes()
    folder = tmp_path / "images" / changed / "red"
    shutil.copy(folder / "0.png", folder / "9.png")
    with pytest.raises(OutputError, match=r"data of images changed since .* choose another --out"):
        run(suite)
    assert results.read_bytes() == before
    (tmp_path / "images").rename(tmp_path / "gone")
    with pytest.raises(DataNotFound, match="No dataset of the suite"):
        run(suite)
    (tmp_path / "gone").rename(tmp_path / "images")
    (folder / "9.png").unlink()
    assert (run(suite).num_run, run(suite).num_run) == (1, 0)
