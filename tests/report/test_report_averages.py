"""Averages that suites name, as reports show them."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from report_runs import record, without_number, write_run
from test_tables import entries, marks

from rwkvclip_eval.records.metrics import PRIMARY, Metric
from rwkvclip_eval.records.schema import Average, Record
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.tables import Table, build_tables
from rwkvclip_eval.run.outcome import UnitOutcome

pytestmark = pytest.mark.usefixtures("no_pdf")

TASK, PROTOCOL = "zero_shot_classification", "standard"


def average(name: str, *datasets: str, **changes: Any) -> Average:
    return Average(name=name, task=TASK, protocol=PROTOCOL, datasets=list(datasets), **changes)


def table(*records: Record, named: tuple[Average, ...]) -> Table:
    (found,) = build_tables(entries(*records), named)
    return found


XYZ = (record("a", "x", 0.2, half=0.03), record("a", "y", 0.4, half=0.04), record("a", "z", 0.9, half=0.01))


def test_each_named_average_is_over_its_own_datasets() -> None:
    found = table(*XYZ, named=(average("small", "x", "y", leaves_out=["z"]), average("all", "x", "y", "z")))
    assert [row.title for row in found.averages] == ["small", "all"]
    first, second = (row.cells["a"] for row in found.averages)
    assert first.value == pytest.approx(0.3)
    assert second.value == pytest.approx(0.5)
    # sqrt(0.03² + 0.04²) / 2
    assert (first.low, first.high) == (pytest.approx(0.275), pytest.approx(0.325))
    assert found.averages[0].leaves_out_text == "leaves out z"
    assert found.averages[1].leaves_out_text == ""


def test_an_average_that_lacks_datasets_says_how_many_and_is_not_ranked() -> None:
    found = table(
        *XYZ,
        record("b", "x", 0.1),
        record("b", "y", 0.1),
        without_number("missing_data", "not there", model="b", dataset="z"),
        record("c", "x", 0.9),
        named=(average("all", "x", "y", "z", "never run"),),
    )
    row = found.averages[0]
    assert {m: c.coverage for m, c in row.cells.items()} == {"a": "3 of 4", "b": "2 of 4", "c": "1 of 4"}
    assert row.cells["b"].missing == ("z", "never run")
    assert set(marks(row).values()) == {""}


def test_the_variant_an_average_names_is_the_one_it_takes() -> None:
    versions = (
        record("a", "sun397", 0.2, variant="partition1", unit="1"),
        record("a", "sun397", 0.8, variant="full", unit="2"),
    )
    found = table(*versions, record("a", "x", 0.4), named=(average("two", "sun397@partition1", "x"),))
    assert found.averages[0].cells["a"].value == pytest.approx(0.3)
    found = table(versions[1], record("a", "x", 0.4), named=(average("two", "sun397@partition1", "x"),))
    assert found.averages[0].cells["a"].missing == ("sun397@partition1",)


def test_two_splits_of_a_dataset_are_not_averaged_as_one() -> None:
    splits = (record("a", "x", 0.2, unit="1"), record("a", "x", 0.8, split="train", unit="2"))
    found = table(*splits, record("a", "y", 0.4), named=(average("two", "x", "y"),))
    assert found.averages[0].cells["a"].missing == ("x",)
    assert "takes one split each: x, x (train)" in found.notes[0]


def test_an_average_takes_the_primary_metric_or_the_one_it_names() -> None:
    records = [
        record("a", d, v, metric=metric, primary=primary)
        for d in ("x", "y")
        for metric, v, primary in (("top1_accuracy", 0.4, True), ("top5_accuracy", 0.8, False))
    ]
    named = (average("own", "x", "y"), average("top-5", "x", "y", metric="top5_accuracy"))
    found = table(*records, named=named)
    assert [row.cells["a"].value for row in found.averages] == [pytest.approx(0.4), pytest.approx(0.8)]
    found = table(*records, named=(average("none", "x", "y", metric="top9"),))
    assert found.averages == ()
    assert found.notes == ("“none” has none of its 2 datasets here.",)


def test_shots_are_averaged_apart_whatever_the_metric() -> None:
    few = [
        record("a", d, v * shots, metric=f"{metric}_{shots}_shot", task="few_shot_linear_probe")
        for d, metric, v in (("x", "top1_accuracy", 0.2), ("y", "mean_per_class_accuracy", 0.4))
        for shots in (1, 2)
    ]
    (found,) = build_tables(entries(*few))
    assert {row.metric_text: row.cells["a"].value for row in found.averages} == {
        "primary metric of each, 1-shot, %": pytest.approx(0.3),
        "primary metric of each, 2-shot, %": pytest.approx(0.6),
    }


def test_checkpoints_of_one_training_run_have_no_best() -> None:
    steps = [
        record(f"m-{step}", d, 0.1 * step, model_info={"step": step, "spec": f"m.json=epoch_{step}.pt"})
        for step in (1, 2, 4)
        for d in ("x", "y")
    ]
    (found,) = build_tables(entries(*steps))
    assert {mark for row in (*found.rows, *found.averages) for mark in marks(row).values()} == {""}
    (found,) = build_tables(entries(*steps, record("other", "x", 0.2), record("other", "y", 0.2)))
    assert marks(found.averages[0])["m-4"] == "best"


def test_a_report_names_each_average_and_what_it_leaves_out(tmp_path: Path) -> None:
    named = {
        "name": "Average of 2 (small)",
        "task": TASK,
        "protocol": PROTOCOL,
        "datasets": ["x", "y"],
        "leaves_out": ["z"],
        "metric": "primary",
    }
    run = write_run(tmp_path / "run", [*XYZ, record("b", "x", 0.1)], averages=[named])
    report = write_report([run], tmp_path / "report")
    page = report.index.read_text(encoding="utf-8")
    assert 'Average of 2 (small)</bdi><span class="sub">leaves out z</span>' in page
    assert "incomplete, 1 of 2" in page
    text = report.markdown.read_text(encoding="utf-8")
    assert "a reaches 30.0 % on zero-shot classification (average of 2 (small))" in text
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "| Average of 2 (small) (leaves out z)" in markdown
    assert "incomplete, 1 of 2" in markdown
    assert "10.0 (1 of 2)" in report.latex.read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(report.task_csvs[0].read_text(encoding="utf-8")))
    (row,) = [r for r in rows if r["kind"] == "average"]
    assert (row["dataset"], row["datasets"], row["leaves_out"]) == ("Average of 2 (small)", "2", "z")
    assert (row["b.n"], row["b.state"]) == ("1", "incomplete")


def test_one_name_for_two_averages_of_two_runs_says_whose_each_is(tmp_path: Path) -> None:
    runs = []
    for i, datasets in enumerate((["x", "y"], ["x", "z"], ["x", "y"])):
        named = {"name": "mean", "task": TASK, "protocol": PROTOCOL, "datasets": datasets}
        runs.append(write_run(tmp_path / f"run{i}", list(XYZ), averages=[named]))
    assert [a.name for a in load_runs(runs).averages] == ["mean", "mean (run1)"]


def of(metric: Metric, model: str, dataset: str, value: float) -> Record:
    return record(model, dataset, value, metric=metric.name, metric_info=metric, half=0.001)


LOWER = Metric(name="zz", title="zz", better="lower")


@pytest.mark.parametrize(
    "named", [(), (average("mean", "x", "y"),), (average("mean", "x", "y", metric="zz"),)]
)
def test_an_average_is_better_the_way_its_datasets_metrics_are(named: tuple[Average, ...]) -> None:
    found = table(*(of(LOWER, m, d, v) for d in "xy" for m, v in (("a", 0.078), ("b", 0.452))), named=named)
    (row,) = found.averages
    assert (row.metric.better, row.cells["a"].text) == ("lower", "7.8")
    assert marks(row) == marks(found.rows[0]) == {"a": "best", "b": ""}


def test_an_average_is_in_the_unit_of_its_datasets() -> None:
    number = Metric(name="zz", title="zz", unit="number")
    found = table(*(of(number, "a", d, 45.2) for d in "xy"), named=(average("mean", "x", "y"),))
    assert (found.averages[0].cells["a"].text, found.averages[0].metric_text) == ("45.2", PRIMARY.title)


def test_an_average_over_unlike_metrics_is_a_number_of_which_none_is_best() -> None:
    higher = Metric(name="acc", title="acc")
    values = (("a", 0.1), ("b", 0.4))
    found = table(
        *(of(LOWER, m, "x", v) for m, v in values),
        *(of(higher, m, "y", v) for m, v in values),
        named=(average("mean", "x", "y"),),
    )
    (row,) = found.averages
    assert (row.metric.unit, row.cells["a"].text) == ("number", "0.1")
    assert row.problem == "its datasets' metrics differ in unit or in which way is better"
    assert set(marks(row).values()) == {""}


def test_every_form_says_what_a_metric_of_a_tasks_own_means(tmp_path: Path) -> None:
    metric = Metric(name="zz", title="mean «err»", better="lower")
    told = [of(metric, m, d, v) for d in "xy" for m, v in (("a", 0.1), ("b", 0.4))]
    report = write_report([write_run(tmp_path / "run", told)], tmp_path / "report")
    text = report.latex.read_text(encoding="utf-8")
    assert "mean «err»" in text
    assert r"\textbf{10.0}" in text and r"\textbf{err}" not in text
    for path in (report.results_csv, *report.task_csvs):
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            own = row["metric"] == "zz"
            assert (row["unit_of_value"], row["better"]) == ("fraction", "lower")
            assert row["metric_title"] == ("mean «err»" if own else PRIMARY.title)
    outcome = UnitOutcome(records=told[:1])
    assert outcome.text.startswith("mean «err» 10.0% [")


def test_a_record_that_says_what_its_metric_is_says_it_for_older_ones(tmp_path: Path) -> None:
    told = [of(LOWER, m, d, v) for d in "xy" for m, v in (("a", 0.1), ("b", 0.4))]
    old = [record("c", d, 0.9, metric="zz", half=0.001) for d in "xyz"]
    loaded = load_runs([write_run(tmp_path / "new", told), write_run(tmp_path / "old", old)])
    assert {e.record.measure.better for e in loaded.entries} == {"lower"}
    (found,) = build_tables(loaded.entries)
    assert marks(found.rows[0]) == {"a": "best", "b": "", "c": ""}
