"""Run directories that something else wrote: one message that names file and field, or a whole report."""

import csv
import json
import os
import sys
import warnings
import xml.etree.ElementTree
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.reading import load_predictions, read_records, read_run_info
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.plots.drawing import Drawing

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_runs import CAPTIONS, record, without_number, write_curve, write_examples, write_run

UNIT = "a.zero_shot_retrieval.x.standard"
NASTY = "\x1b[31m\x07\u202e=cmd()|\x00\x85'<b>"


def with_fields(run, **changes):
    fields = json.loads((run / "results.jsonl").read_text().splitlines()[0])
    (run / "results.jsonl").write_text(json.dumps(fields | changes) + "\n")


RECORDS = [
    ({"value": "0.5"}, "value: Input should be a valid number (got '0.5')"),
    ({"value": 1e300}, "value: Input should be less than or equal to"),
    ({"n": -1}, "n: Input should be greater than or equal to 0 (got -1)"),
    ({"n": 10**30}, "n: "),
    ({"n": 1.5}, "n: Input should be a valid integer"),
    ({"status": "fine"}, "status: Input should be 'ok', 'not_applicable', 'missing_data' or 'failed'"),
    ({"model": 3}, "model: Input should be a valid string (got 3)"),
    ({"model": "x" * 2000}, "model: String should have at most 1000 characters"),
    ({"model_info": []}, "model_info"),
    ({"model_info": {"step": "x"}}, "model_info: step must be a whole number (got 'x')"),
    ({"model_info": {"step": 10**30}}, "model_info: numbers are of at most 15 digits"),
    ({"model_info": {"num_parameters": "many"}}, "num_parameters must be a whole number (got 'many')"),
    ({"model_info": {"fingerprint": 3}}, "fingerprint must be a text (got 3)"),
    ({"notes": 3}, "notes"),
    ({"notes": {"l2": "x"}}, "notes: l2 must be a number (got 'x')"),
    ({"notes": {"std": [1]}}, "notes: std must be a number (got a list)"),
    ({"notes": {"num_train": 1.5}}, "num_train must be a whole number (got 1.5)"),
    ({"notes": {"deep": {"x": float("inf")}}}, "numbers are of at most 15 digits (got inf)"),
    ({"primary": "yes"}, "primary: Input should be a valid boolean (got 'yes')"),
    ({"task_version": None}, "task_version"),
    ({"seconds": float("nan")}, "seconds: Input should be a finite number"),
    ({"seconds": -1.0}, "seconds: Input should be greater than or equal to 0 (got -1.0)"),
    ({"unit": None}, "unit: Input should be a valid string (got None)"),
]


@pytest.mark.parametrize("changes, said", RECORDS)
def test_a_record_of_another_type_is_named_with_file_line_and_field(tmp_path, changes, said):
    run = write_run(tmp_path / "run", [record("a", "x")])
    with_fields(run, **changes)
    with pytest.raises(OutputError) as caught:
        write_report([run], tmp_path / "report")
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{run / 'results.jsonl'}:1: not a result record: ")
    assert len(str(caught.value)) < 2000


LINES = [b"3", b"[]", b"{}", b"{", b"\xff\xfe", b"\x00", b'{"unit": "\\ud800"}', b"[" * 100_000, b"9" * 5000]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("name", ["results.jsonl", "run.json", f"examples/{UNIT}.json", "training/a.jsonl"])
def test_a_file_of_a_run_that_is_no_json_of_its_kind_is_named(tmp_path, name, line):
    run = write_run(tmp_path / "run", [record("a", "x", task="zero_shot_retrieval", metric="m", unit=UNIT)])
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(line + b"\n")
    with pytest.raises(OutputError) as caught:
        load_runs([run])
    assert Path(name).name in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["results.jsonl", "run.json", f"examples/{UNIT}.json", "training/a.jsonl"])
def test_a_pipe_in_the_place_of_a_file_of_a_run_is_not_waited_for(tmp_path, name):
    run = write_run(tmp_path / "run", [record("a", "x", task="zero_shot_retrieval", metric="m", unit=UNIT)])
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(OutputError, match="expected a file, found a named pipe"):
        load_runs([run])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": "x"}, "models"),
        ({"models": [3]}, "models.0: Input should be a valid string (got 3)"),
        ({"environment": None}, "environment"),
        ({"environment": {"n": 10**40}}, "environment: numbers are of at most 15 digits"),
        ({"duration_s": "long"}, "duration_s: Input should be a valid number (got 'long')"),
        ({"averages": [3]}, "averages.0"),
        ({"num_commands": -1}, "num_commands"),
        ({"suite_text": 3}, "suite_text"),
    ],
)
def test_a_description_of_another_type_is_named_with_its_field(tmp_path, changes, said):
    run = write_run(tmp_path / "run", [record("a", "x")])
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | changes))
    with pytest.raises(OutputError) as caught:
        load_runs([run])
    assert said in str(caught.value)
    with pytest.raises(OutputError):
        read_run_info(run / "run.json")


@pytest.mark.parametrize("average", [{}, {"name": "a", "task": "t", "protocol": 3, "datasets": []}])
def test_an_average_of_another_form_is_named(tmp_path, average):
    run = write_run(tmp_path / "run", [record("a", "x")], averages=[average])
    with pytest.raises(OutputError, match=r"run\.json: not an average: "):
        load_runs([run])


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "x"}', '{"step": -1}', '{"step": 1, "loss": "x"}', '{"step": 1, "loss": NaN}',
        '{"step": 100000000000000000000}', '{"step": 1, "model": 3}', '{"step": 1, "val_metric": []}',
    ],
)  # fmt: skip
def test_a_log_line_of_another_type_is_named(tmp_path, line):
    run = write_run(tmp_path / "run", [record("a", "x")])
    write_curve(run, "a", steps=40)
    (run / "training" / "a.jsonl").write_text('{"step": 1, "loss": 2}\n' + line + "\n")
    with pytest.raises(
        OutputError, match=r"a\.jsonl:2: not a training log line: (step|loss|model|val_metric)"
    ):
        write_report([run], tmp_path / "report")


FIT = {"stage": "search", "l2": 1.0, "score": 0.5, "status": "converged", "objective": 1.0, "gap": 0.0}
FIT |= {"iterations": 3}


def curve(tmp_path, rows=(FIT,), content=None):
    run = write_run(tmp_path / "run", [record("a", "x", task="linear_probe", unit="u", notes={"l2": 1.0})])
    path = run / "predictions" / "u" / "regularisation.parquet"
    path.parent.mkdir(parents=True)
    if content is None:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_bytes(content)
    return run


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 100, b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_a_curve_that_is_no_parquet_is_named(tmp_path, content):
    run = curve(tmp_path, content=content)
    with pytest.raises(OutputError, match=r"regularisation\.parquet is not a regularisation curve"):
        load_runs([run])
    with pytest.raises(OutputError, match="is not a table of predictions"):
        load_predictions(run, "u", "regularisation")


@pytest.mark.parametrize(
    "change",
    [{"l2": 0.0}, {"l2": -1.0}, {"l2": float("nan")}, {"l2": 1e300}, {"l2": "x"}, {"score": "x"},
     {"iterations": "x"}, {"iterations": float("inf")}],
)  # fmt: skip
def test_a_curve_of_another_type_is_named(tmp_path, change):
    with pytest.raises(OutputError, match="is not a regularisation curve"):
        load_runs([curve(tmp_path, [FIT | change])])


def test_a_curve_of_too_many_rows_is_not_read(tmp_path):
    with pytest.raises(OutputError, match="has 10001 rows; at most 10000 are read"):
        load_runs([curve(tmp_path, [FIT] * 10_001)])


def test_a_curve_with_odd_values_is_drawn(tmp_path):
    odd = FIT | {"l2": 1e29, "score": 1e300, "status": "x" * 500 + "\x1b", "gap": float("inf")}
    report = write_report([curve(tmp_path, [FIT, odd])], tmp_path / "report")
    assert any("regularisation" in path.name for path in report.plots)


def test_whatever_names_hold_the_drawings_are_xml_and_nothing_warns(tmp_path):
    long = "very-long-name-" * 40
    run = write_run(
        tmp_path / "run",
        [record(f"{NASTY}{i}", f"{long}{NASTY}{j}", 0.5 + i / 10) for i in range(2) for j in range(2)]
        + [record(f"{NASTY}0", NASTY, 0.4, task=NASTY, protocol=NASTY)],
        suite_name=NASTY,
    )
    write_curve(run, NASTY.replace("\x00", ""), steps=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = write_report([run], tmp_path / "report")
    for path in report.plots:
        if path.suffix == ".svg":
            xml.etree.ElementTree.parse(path)
    for path in (report.index, report.markdown, report.latex, report.results_csv, *report.task_csvs):
        text = path.read_text(encoding="utf-8")
        assert not {"\x1b", "\x07", "\x00", "\x85", "\u202e"} & set(text), path
        assert path.parent == tmp_path / "report"


@pytest.mark.usefixtures("no_pdf")
def test_a_task_that_is_a_path_is_written_inside_the_report(tmp_path):
    run = write_run(tmp_path / "run", [record("a", "x", task="../../outside")])
    report = write_report([run], tmp_path / "a" / "b" / "report")
    assert all(path.is_relative_to(tmp_path / "a" / "b" / "report") for path in report.task_csvs)
    assert not list(tmp_path.glob("outside*")) and not list((tmp_path / "a").glob("outside*"))


@pytest.mark.usefixtures("no_pdf")
@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_of_a_csv_begins_a_formula(tmp_path, start):
    evil = f"{start}cmd|' /C calc'!A0"
    run = write_run(tmp_path / "run", [record(evil, evil, task=evil, protocol=evil, metric=evil)])
    report = write_report([run], tmp_path / "report")
    for path in (report.results_csv, *report.task_csvs):
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert f"'{evil}" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.usefixtures("no_pdf")
def test_a_recall_at_no_number_and_shots_of_no_number_are_shown_as_any_metric(tmp_path):
    metrics = [
        "recall@x",
        "recall@99999999999",
        "top1_accuracy_0_shot",
        "top1_accuracy_" + "9" * 150 + "_shot",
    ]
    run = write_run(tmp_path / "run", [record("a", "x", metric=metric) for metric in metrics])
    text = write_report([run], tmp_path / "report").results_csv.read_text()
    assert all(metric in text for metric in metrics)


def test_records_come_back_as_they_were_written(tmp_path):
    odd = record("a\x1b\u2028b", NASTY, notes={"\x00": [1, {"x": None}]}, reason="x" * 50_000)
    run = write_run(tmp_path / "run", [odd])
    assert read_records(run / "results.jsonl") == [odd]


def test_examples_of_a_caption_with_control_characters_are_shown_without_them(tmp_path):
    metric = "text_retrieval_recall@1"
    run = write_run(
        tmp_path / "run", [record("a", "x", task="zero_shot_retrieval", metric=metric, unit=UNIT)]
    )
    write_examples(run, UNIT, [NASTY, *CAPTIONS[:1]])
    assert "\x1b" not in load_runs([run]).examples[0].query


def test_a_drawing_holds_no_character_that_xml_has_not(tmp_path):
    drawing = Drawing(2.0)
    drawing.axes[0].set_xlabel("a\x01b\x1bc")
    plot = drawing.plot("a", "t", "alt", "")
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c" in plot.wide.svg
    xml.etree.ElementTree.fromstring(plot.wide.svg)


def test_a_run_without_a_record_is_nothing_to_report_and_one_that_failed_is(run, tmp_path):
    empty, failed = tmp_path / "empty", tmp_path / "failed"
    empty.mkdir()
    (empty / "results.jsonl").write_bytes(b"")
    for command in (("report", empty), ("export", empty, "--to", "clip-benchmark", "--out", tmp_path / "x")):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert f"{empty} holds no results yet: run its command to the end." in err
    assert not (empty / "report").exists() and not (tmp_path / "x").exists()
    write_run(failed, [without_number("failed", "a disk broke")])
    assert run("report", failed)[0] == 0
    # A member of a job array that had nothing to do is one of several.
    assert run("report", empty, failed, "--out", tmp_path / "both")[0] == 0
