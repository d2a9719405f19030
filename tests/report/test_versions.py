"""Records of older task versions load, and are marked where interval or search for λ differ today."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from report_runs import record, write_run

from rwkvclip_eval.records.reading import read_records
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.tables import build_tables
from rwkvclip_eval.report.versions import FIRST_VERSIONS, what_changed
from rwkvclip_eval.tasks import TASKS

pytestmark = pytest.mark.usefixtures("no_pdf")

OLDER = Path(__file__).with_name("older_versions.jsonl")
"""Of two models, as written before records named a bootstrap's resamples."""


@pytest.fixture
def older_run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    shutil.copy(OLDER, tmp_path / "run" / "results.jsonl")
    return tmp_path / "run"


def test_records_of_older_versions_load_and_say_what_changed() -> None:
    records = [r for r in read_records(OLDER) if r.model == "alip-vit-b32"]
    changed = {(r.task, r.protocol, r.metric): what_changed(r) for r in records}
    assert changed == {
        ("zero_shot_classification", "standard", "top1_accuracy"): "",
        ("zero_shot_classification", "standard", "mean_per_class_accuracy"): (
            "interval of before task version 2"
        ),
        ("zero_shot_retrieval", "standard", "text_retrieval_recall@1"): "interval of before task version 2",
        ("zero_shot_retrieval", "standard", "text_retrieval_median_rank"): (
            "interval of before task version 2"
        ),
        ("knn_probe", "knn", "top1_accuracy"): "",
        ("knn_probe", "knn", "mean_per_class_accuracy"): "interval of before task version 3",
        ("linear_probe", "clip-certified", "top1_accuracy"): "search for λ of before task version 7",
        ("linear_probe", "clip-certified (C=1.0)", "top1_accuracy"): "",
        ("few_shot_linear_probe", "clip-certified", "top1_accuracy_16_shot"): (
            "interval and search for λ of before task version 7"
        ),
    }
    assert {(r.ci_conservative, r.ci_resamples, r.ci_seed) for r in records} == {(False, None, None)}


def test_a_proportion_of_few_misses_is_marked_and_one_of_none_is_not() -> None:
    def changed(value: float) -> str:
        return what_changed(record(value=value, n=100, half=0.05, task_version=1))

    few = (0.01, 0.05, 0.1, 0.9, 0.95)
    assert {value for value in (*few, 0.0, 0.11, 0.8, 0.89, 1.0) if changed(value)} == set(few)


def test_a_padded_value_of_a_part_of_before_is_marked() -> None:
    def changed(subset: bool, version: int = 1) -> str:
        how = {"metric": "top1_accuracy_padded", "subset": subset, "task_version": version}
        return what_changed(record(value=0.5, n=1000, half=0.05, **how))

    assert changed(subset=True) == "value of before task version 2"
    assert changed(subset=False) == changed(subset=True, version=2) == ""


def test_todays_records_are_not_marked() -> None:
    for task, version in FIRST_VERSIONS.items():
        for metric in ("mean_per_class_accuracy", "roc_auc", "top1_accuracy_4_shot"):
            assert what_changed(record(task=task, metric=metric, task_version=version)) == ""
    assert what_changed(record(task="my_task", metric="roc_auc", task_version=1)) == ""


def test_every_table_marks_them_and_says_why(older_run: Path, tmp_path: Path) -> None:
    loaded = load_runs([older_run])
    tables = {t.task: t for t in build_tables(loaded.entries) if "C=" not in t.protocol}
    for task, table in tables.items():
        note = "".join(table.notes)
        assert "“older version”" in note, task
        assert "alip-vit-b32" in note
    paths = write_report([older_run], tmp_path / "report")
    page, text = (path.read_text(encoding="utf-8") for path in (paths.index, paths.markdown))
    # Of each model: three means per class, recall and median rank, two probes with a search.
    assert page.count('<span class="ci warn">older version</span>') >= 2 * 7
    assert "interval of before task version 2" in page
    assert "search for λ of before task version 7" in page
    assert "older version" in text
    (csv,) = [path for path in paths.task_csvs if path.stem == "linear_probe"]
    assert "older" in csv.read_text(encoding="utf-8")


def test_no_lead_is_claimed_from_an_older_interval(older_run: Path) -> None:
    loaded = load_runs([older_run])
    retrieval = [e for e in loaded.entries if e.record.task == "zero_shot_retrieval"]
    tables = build_tables(retrieval)
    headline = write_headline(dataclasses.replace(loaded, entries=tuple(retrieval)), tables)
    assert "but without intervals made as today no lead is claimed" in headline.sentence
    assert any("numbers are of an older task version" in caveat for caveat in headline.caveats)
    assert not any(cell.best for row in tables[0].rows for cell in row.cells.values())


def test_an_average_over_an_older_number_is_older_too(tmp_path: Path) -> None:
    metric = "mean_per_class_accuracy"
    records = [
        record(model, dataset, value=value, metric=metric, task_version=version)
        for model, value in (("a", 0.9), ("b", 0.1))
        for dataset, version in (("pets", 1), ("flowers", 2))
    ]
    (table,) = build_tables(load_runs([write_run(tmp_path / "run", records)]).entries)
    (average,) = table.averages
    assert average.cells["a"].older == "that of pets"
    assert not average.cells["a"].best


def test_a_table_names_its_conservative_intervals(tmp_path: Path) -> None:
    records = [
        record("a", "caltech101", metric="mean_per_class_accuracy", ci_conservative=True),
        record("a", "cifar10"),
        record(
            "a",
            "voc2007",
            task="linear_probe",
            metric="mean_average_precision",
            ci_resamples=1000,
            ci_seed=0,
        ),
    ]
    run = write_run(tmp_path / "run", records)
    tables = build_tables(load_runs([run]).entries)
    assert "number: caltech101 mean per class (a)." in tables[0].notes[0]
    assert not tables[1].notes
    page = write_report([run], tmp_path / "report").index.read_text(encoding="utf-8")
    assert "wilson, conservative" in page
    assert "wilson, 1,000 resamples, seed 0" in page


@pytest.mark.parametrize("task", FIRST_VERSIONS)
def test_tasks_are_at_the_versions_that_reports_expect(task: str) -> None:
    assert TASKS.get(task).version >= FIRST_VERSIONS[task]
