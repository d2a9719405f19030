"""Predictions that no model gave are damage, whether a number uses them or not; so is what changed since."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_rederive import made, scored

from rwkvclip_eval.compare.pairing import read_side
from rwkvclip_eval.compare.possible import check_files
from rwkvclip_eval.compare.rederive import check_run
from rwkvclip_eval.compare.tables import check_bytes, read_table
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.reading import load_results, read_records
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.run.directory import RunDirectory
from rwkvclip_eval.run.outcome import UnitOutcome

resource = pytest.importorskip("resource", reason="only Unix tells a process' memory")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lists(column: str, change: Callable[[np.ndarray], None]) -> Callable[[dict[str, Any]], None]:
    def apply(columns: dict[str, Any]) -> None:
        found = np.array(columns[column])
        change(found)
        columns[column] = found.tolist()

    return apply


def put(column: str, row: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(columns: dict[str, Any]) -> None:
        columns[column][row] = value

    return apply


def rise(ranking: np.ndarray) -> None:
    ranking[0, 1] = ranking[0, 0] + 1


def repeat(ids: np.ndarray) -> None:
    ids[0, 4] = ids[0, 3]


def beyond(ids: np.ndarray) -> None:
    ids[0, 4] = 17


def other_first(ids: np.ndarray) -> None:
    ids[0, :2] = ids[0, 1::-1]


ZERO_SHOT: list[tuple[Any, str]] = [
    (put("key", 0, None), "1 rows have no key"),
    (put("key", 0, ""), "a key is empty"),
    (put("key", 0, "test1"), "1 rows have the key of another"),
    (lists("top_ids", beyond), "top_ids 17 of 6 classes"),
    (lists("top_ids", repeat), "1 rows have one class twice in top_ids"),
    (lists("top_ids", other_first), "1 rows have another prediction than the first of top_ids"),
    (lists("top_logits", rise), "1 rows have logits that rise"),
    (put("log_sum_exp", 0, -1e9), "1 rows have a log_sum_exp that their logits do not allow"),
    (put("log_sum_exp", 0, 1e9), "1 rows have a log_sum_exp that their logits do not allow"),
    (put("label_logit", 0, 1e9), "1 rows have a label_logit that their ranking does not allow"),
    (lambda columns: columns.pop("key"), "it has no column 'key'"),
]


def rewrite(path: Path, change: Any, names: list[str] | None = None) -> None:
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    change(columns)
    types = {name: table.schema.field(name).type for name in table.column_names}
    changed = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    metadata = table.schema.metadata if names is None else {"class_names": json.dumps(names)}
    pq.write_table(changed.replace_schema_metadata(metadata), path)


def said(run: Path) -> str:
    found = check_run(run)
    assert "equal" not in {one.outcome for one in found}
    return "; ".join(dict.fromkeys(one.why for one in found if one.outcome == "damaged"))


@pytest.mark.parametrize(("change", "words"), ZERO_SHOT, ids=[words for _, words in ZERO_SHOT])
def test_predictions_of_classes_that_cannot_be_are_damage(tmp_path: Path, change: Any, words: str) -> None:
    run = made(tmp_path / "run", "zero-shot")
    rewrite(run / "predictions" / "u" / "predictions.parquet", change)
    assert words in said(run)


def test_an_empty_list_of_class_names_is_damage(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "zero-shot")
    rewrite(run / "predictions" / "u" / "predictions.parquet", lambda columns: None, names=[])
    assert "the list of class names is empty" in said(run)


def test_a_long_text_that_every_row_shares_is_refused_before_it_is_spelt_out(tmp_path: Path) -> None:
    path, num_rows = tmp_path / "t.parquet", 2000
    codes = pa.array(np.zeros(num_rows, np.int32))
    for word, read in (("key", True), ("x" * 900_000, False)):
        key = pa.DictionaryArray.from_arrays(codes, pa.array([word]))
        table = pa.table({"key": key, "plugin": key, "label": [1] * num_rows})
        pq.write_table(table, path, store_schema=False)
        assert path.stat().st_size < 1e6
        if read:
            assert read_table(path, ("key",)).texts("key") == {"key"}
            continue
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(OutputError, match="bytes of texts in 2000 rows; at most"):
            read_table(path, ("key", "label"))
        check_bytes(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


RETRIEVAL: list[tuple[str, Any, str]] = [
    ("image_to_text", put("rank", 0, 10_000), "rank 10000 among 120 candidates"),
    ("text_to_image", put("rank", 0, 61), "rank 61 among 60 candidates"),
    ("text_to_image", put("caption_index", 2, 0), "have the key and caption_index of another"),
    ("text_to_image", put("caption_index", 2, 7), "not numbered from 0"),
    ("text_to_image", put("key", 0, "elsewhere"), "its images are not those of image_to_text"),
    ("image_to_text", put("key", 0, "k-1"), "1 rows have the key of another"),
]


@pytest.mark.parametrize(("name", "change", "words"), RETRIEVAL, ids=[words for *_, words in RETRIEVAL])
def test_predictions_of_retrieval_that_cannot_be_are_damage(
    tmp_path: Path, name: str, change: Any, words: str
) -> None:
    run = made(tmp_path / "run", "retrieval")
    rewrite(run / "predictions" / "u" / f"{name}.parquet", change)
    assert words in "; ".join(one.why for one in check_run(run) if one.outcome != "equal")


@pytest.mark.parametrize("name", ["C", "iterations", "status", "objective"])
def test_notes_that_contradict_the_table_of_fits_are_told(tmp_path: Path, name: str) -> None:
    run = made(tmp_path / "run", "linear probe")
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line["notes"][name] = "fine" if name == "status" else line["notes"][name] + 1
    (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert all(one.outcome == "differs" and f"{name} is " in one.why for one in check_run(run))


def test_a_count_or_a_bootstrap_that_a_record_leaves_out_is_told(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "linear probe, labels")
    path = run / "results.jsonl"
    whole = path.read_text()
    for name in ("n", "ci_resamples", "ci_seed"):
        lines = [json.loads(line) | {name: None} for line in whole.splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert all(f"{name} is None" in one.why for one in check_run(run))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run that its command ended."""
    records = read_records(made(tmp_path / "made", "zero-shot") / "results.jsonl")
    _, _, result = scored("zero_shot_classification", 6, "top1_accuracy")
    texts = dict.fromkeys(("command", "suite_name", "suite_text", "suite_sha256", "started_utc"), "")
    directory = RunDirectory(tmp_path / "run", RunInfo(**texts, models=[], identity={}, environment={}))
    directory.add("u", UnitOutcome(records=records, result=result))
    directory.close({"total": 0.0})
    assert {one.outcome for one in check_run(tmp_path / "run")} == {"equal"}
    return tmp_path / "run"


def test_records_that_lack_or_changed_since_a_run_ended_are_found_by_every_reader(finished: Path) -> None:
    path = finished / "results.jsonl"
    whole = path.read_bytes()
    without, other = whole.splitlines(keepends=True)[:-1], whole.replace(b'"mnist"', b'"cifar10"')
    for content in (b"".join(without), other):
        path.write_bytes(content)
        for read in (check_run, read_side, load_results, lambda run: load_runs([run])):
            with pytest.raises(OutputError, match="is not as its run left it"):
                read(finished)
    path.write_bytes(whole)
    assert {one.outcome for one in check_run(finished)} == {"equal"}


@pytest.mark.parametrize("change", ["permuted names", "a column less"])
def test_a_table_that_could_be_but_is_not_the_one_written_is_damage(finished: Path, change: str) -> None:
    path = finished / "predictions" / "u" / "predictions.parquet"
    names = [f"c{i}" for i in (1, 0, 2, 3, 4, 5)] if change == "permuted names" else None
    rewrite(path, (lambda columns: columns.pop("log_sum_exp")) if names is None else lambda _: None, names)
    assert "is not as it was written" in said(finished)
    path.unlink()
    (record, *_) = read_records(finished / "results.jsonl")
    with pytest.raises(OutputError, match="is missing; its record names it"):
        check_files(path.parent, record.tables)


def test_a_run_that_goes_on_has_no_digest_until_it_ends(finished: Path) -> None:
    info = RunInfo(**json.loads((finished / "run.json").read_text()))
    directory = RunDirectory(finished, info)
    assert json.loads((finished / "run.json").read_text())["results_sha256"] == ""
    directory.close({"total": 0.0})
    assert json.loads((finished / "run.json").read_text())["results_sha256"] == info.results_sha256


def test_models_of_two_runs_whose_names_look_alike_are_not_put_side_by_side(tmp_path: Path) -> None:
    runs = [made(tmp_path / name, "zero-shot") for name in ("one", "other")]
    path = runs[1] / "results.jsonl"
    path.write_text(path.read_text().replace('"model": "m"', '"model": "m\\u200b"'))
    assert load_runs(runs[1:]).models == ["m\u200b"]
    with pytest.raises(OutputError, match=r"names that look alike, spelt U\+006D .* and U\+006D U\+200B"):
        load_runs(runs)


RECORDS: list[tuple[dict[str, Any], str]] = [
    ({"value": None, "ci_low": None, "ci_high": None}, "status is 'ok' without a value"),
    ({"model": "\u200b"}, "model shows nothing but U+200B"),
    ({"variant": "\u2800\u200d"}, "variant shows nothing but U+2800 U+200D"),
    ({"unit": "m--zero_shot_classification--mnist--knn"}, "its protocol is not that of its unit"),
    ({"unit": "other--zero_shot_classification--mnist--standard"}, "its model or task is not that"),
    ({"dataset": "cifar10"}, "differ in dataset"),
]


@pytest.mark.parametrize(("change", "words"), RECORDS)
def test_a_record_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run = made(tmp_path / "run", "zero-shot")
    first, *others = (run / "results.jsonl").read_text().splitlines(keepends=True)
    (run / "results.jsonl").write_text(json.dumps(json.loads(first) | change) + "\n" + "".join(others))
    for read in (check_run, lambda path: load_runs([path])):
        with pytest.raises(OutputError) as caught:
            read(run)
        assert words in str(caught.value)


def test_two_units_or_two_models_that_nobody_can_tell_apart_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "zero-shot")
    path = run / "results.jsonl"
    records = read_records(path)
    for change, words in (
        ({"unit": "mnist"}, "said to be of the same"),
        ({"model": "m\u200b"}, "two models"),
    ):
        more = [json.dumps(dataclasses.asdict(one) | change) for one in records]
        path.write_text("".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in records))
        path.write_text(path.read_text() + "\n".join(more) + "\n")
        with pytest.raises(OutputError, match=words):
            read_records(path)
