"""What is no run, half a run or a hostile one ends every command with code 2 and one short message."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import Run

from rwkvclip_eval.compare import tables
from rwkvclip_eval.compare.pairing import pin
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.reading import parsed, read_records, write_records


@pytest.fixture
def runs(tmp_path):
    for name, flip in (("a", 0.0), ("b", 0.1)):
        run = Run(tmp_path / name)
        run.zero_shot(flip=flip)
        run.retrieval()
        run.write()
    return tmp_path


def refused(run, said, *arguments):
    code, _, err = run(*arguments)
    assert code == 2, err
    assert said in err
    assert "Internal error" not in err and "Traceback" not in err
    assert len(err) < 2000


def table_of(runs, name="predictions"):
    return next((runs / "b").rglob(f"{name}.parquet"))


def results(change):
    def apply(runs):
        path = runs / "b" / "results.jsonl"
        path.write_text(change(path.read_text()))

    return apply


def column(name, values, table="predictions"):
    def apply(runs):
        path = table_of(runs, table)
        read = pq.read_table(path)
        place = read.column_names.index(name)
        pq.write_table(read.set_column(place, name, values(read.num_rows)), path)

    return apply


def names(text):
    def apply(runs):
        path = table_of(runs)
        pq.write_table(pq.read_table(path).replace_schema_metadata({"class_names": text}), path)

    return apply


def pipe(runs):
    path = table_of(runs)
    path.unlink()
    os.mkfifo(path)


WRONG = {
    "predictions are missing": (
        lambda runs: shutil.rmtree(runs / "b" / "predictions"),
        "Cannot read the pred",
    ),
    "a pipe for predictions": (pipe, "expected a file, found a named pipe"),
    "no rows": (
        lambda runs: pq.write_table(pq.read_table(table_of(runs)).slice(0, 0), table_of(runs)),
        "no rows",
    ),
    "half a line": (results(lambda text: text[: len(text) // 2 + 20]), "not a result record"),
    "no results": (results(lambda text: ""), "holds no results yet"),
    "a schema version that is text": (
        results(lambda text: text.replace('"schema_version": 2', '"schema_version": "x"')),
        "schema_version",
    ),
    "a value that is no number": (
        results(lambda text: text.replace('"value": 0', '"value": NaN', 1)),
        "b/results",
    ),
    "a unit outside": (
        results(lambda text: text.replace('"unit": "nano', '"unit": "../nano')),
        "no name of a folder",
    ),
    "a unit with a NUL": (
        results(lambda text: text.replace('"unit": "nano', '"unit": "\\u0000nano')),
        "Cannot read the predictions",
    ),
    "labels below 0": (column("label", lambda n: pa.array([-5] * n)), "numbers beyond 0"),
    "a rank of 0": (column("rank", lambda n: pa.array([0] * n), "text_to_image"), "numbers beyond 1"),
    "captions that are numbers": (
        column("caption_id", lambda n: pa.array(range(n)), "text_to_image"),
        "expected texts",
    ),
    "one key for all": (column("key", lambda n: pa.array(["k"] * n)), "the samples differ"),
    "class names that are no JSON": (names("[1,"), "class names do not fit"),
    "class names that are no text": (names(b"\xff\xfe"), "class names do not fit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_run_that_is_wrong_is_one_message_as_either_side(run, runs, what):
    change, said = WRONG[what]
    change(runs)
    refused(run, said, "compare", runs / "a", runs / "b")
    refused(run, said, "compare", runs / "b", runs / "a")


@pytest.mark.parametrize("name", ["nothing", "folder", "text", "results", "/dev/null"])
def test_what_is_no_run_is_one_message(run, runs, name):
    (runs / "folder").mkdir()
    (runs / "text").write_text("hello")
    shutil.copy(runs / "a" / "results.jsonl", runs / "results")
    said = "is no baseline file" if name in ("text", "results") else "No results in"
    at_once = "expected a file, found a device" if name == "/dev/null" else said
    refused(run, at_once, "compare", runs / "a", runs / name)
    refused(run, at_once, "compare", runs / name, "--write-baseline", runs / "c")
    refused(run, "No results in", "report", runs / name, "--check")
    refused(run, "No results in", "export", runs / name, "--to", "clip-benchmark", "--out", runs / "ex")


def test_a_baseline_that_is_a_pipe_is_not_waited_for(run, runs):
    os.mkfifo(runs / "pipe")
    refused(run, "expected a file, found a named pipe", "compare", runs / "pipe", runs / "a")


@pytest.mark.parametrize("side", ["a", "b"])
def test_predictions_that_are_not_those_of_their_record_are_not_compared(run, runs, side):
    results = runs / side / "results.jsonl"
    digests = {"zero_shot_classification": {"predictions": "0" * 64}}
    records = [dataclasses.replace(r, tables=digests.get(r.task, {})) for r in read_records(results)]
    write_records(results, records)
    refused(run, "is not as it was written", "compare", runs / "a", runs / "b")


def test_more_predictions_than_fit_memory_are_refused_before_they_are_read(run, runs, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 399)
    refused(run, "has 400 rows; at most 399 are compared", "compare", runs / "a", runs / "b")


def changed(change):
    def apply(lines):
        records = [json.loads(line) for line in lines.splitlines()]
        for one in records:
            change(one)
        return "\n".join(map(json.dumps, records))

    return results(apply)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.update(n=one["n"] - 1), "its record says n"),
        (lambda one: one.update(primary=False), "is the main number in one run only"),
        (lambda one: one["metric_info"].update(better="lower"), "says better lower, which it is not"),
    ],
)
def test_records_that_contradict_their_predictions_or_each_other_are_not_compared(run, runs, change, said):
    changed(change)(runs)
    refused(run, said, "compare", runs / "a", runs / "b")
    refused(run, said, "compare", runs / "b", runs / "a")


def test_a_folder_of_data_that_is_not_there_is_said(run, runs):
    refused(run, "does not exist", "compare", runs / "a", runs / "b", "--data-root", runs / "zzz")


def test_a_key_that_stands_twice_is_said_of_the_file():
    with pytest.raises(OutputError, match=r"a\.json is no list\. The file holds the key 'a' twice"):
        parsed(dict, b'{"a": 1, "a": 2}', "a.json is no list")


def test_damaged_examples_are_named_by_the_page_alone(run, runs):
    pin(runs / "a", None, runs / "a.baseline")
    unit = table_of(runs).parent.name
    (runs / "b" / "examples").mkdir()
    (runs / "b" / "examples" / f"{unit}.json").write_text("{")
    refused(run, "is not an examples file", "compare", runs / "a", runs / "b", "--format", "html")
    assert run("compare", runs / "a.baseline", runs / "b", "--format", "json")[0] in (1, 3)


def test_a_baseline_replaces_no_device_folder_or_pipe(run, runs):
    os.mkfifo(runs / "pipe")
    refused(run, "it is no file", "compare", runs / "a", "--write-baseline", runs / "pipe")
    refused(run, "Is a directory", "compare", runs / "a", "--write-baseline", runs / "b")
    assert (runs / "pipe").is_fifo() and (runs / "b" / "results.jsonl").is_file()


@pytest.mark.parametrize("margin", ["nan", "-1", "1e9", "inf", "x", "1e400"])
def test_a_margin_that_means_nothing_is_refused(run, runs, margin):
    refused(run, "--margin", "compare", runs / "a", runs / "b", "--margin", margin)


def test_labels_by_the_million_take_no_memory(run, runs):
    content = np.full(400, 10_000_000)
    column("label", lambda _: pa.array(content))(runs)
    refused(run, "rows have another label", "compare", runs / "a", runs / "b")
    assert json.loads((runs / "b" / "results.jsonl").read_text().splitlines()[0])["status"] == "ok"
