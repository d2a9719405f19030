"""What has no number is told once per dataset and reason, beside a matrix of datasets and tasks."""

import re
from pathlib import Path

import pytest
from report_runs import record, without_number, write_run

from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.coverage import coverage, cures, problems
from rwkvclip_eval.report.loading import load_runs

pytestmark = pytest.mark.usefixtures("no_pdf")


def entries(tmp_path: Path, *records):
    return load_runs([write_run(tmp_path / "run", list(records))]).entries


def test_the_matrix_says_of_each_dataset_and_task_how_much_there_is(tmp_path):
    found = coverage(
        entries(
            tmp_path,
            record("a", "cifar10"),
            record("b", "cifar10"),
            record("a", "dtd"),
            without_number("failed", "broken", model="b", dataset="dtd"),
            without_number("missing_data", "gone", model="a", dataset="pets"),
            without_number("not_applicable", "no text", model="b", dataset="pets"),
            record("a", "dtd", task="linear_probe"),
            record("a", "dtd", task="linear_probe", metric="top5_accuracy", primary=False),
        )
    )
    assert found.tasks == ("Zero-shot classification", "Linear probe")
    assert found.rows == {
        "cifar10": ("✓", ""),
        "dtd": ("1 of 2", "✓"),
        "pets": ("no data, n/a", ""),
    }


def test_a_reason_is_said_once_whatever_models_protocols_and_tasks_share_it(tmp_path):
    many = [
        without_number("missing_data", "No data for cars.", model=m, dataset="cars", task=t, protocol=p)
        for m in ("a", "b")
        for t, p in (
            ("zero_shot_classification", "standard"),
            ("zero_shot_classification", "official-rwkv-clip"),
            ("linear_probe", "clip-certified"),
        )
    ]
    found = problems(
        entries(tmp_path, *many, record("a"), without_number("failed", "x", model="a", dataset="dtd"))
    )
    assert [(p.dataset, p.word, p.reason) for p in found] == [
        ("cars", "no data", "No data for cars."),
        ("dtd", "failed", "x"),
    ]
    assert found[0].tasks == (
        "Zero-shot classification (standard, official-rwkv-clip)",
        "Linear probe (clip-certified)",
    )
    assert (found[0].models, found[1].models) == ((), ("a",))


def test_what_to_do_is_said_once_per_kind(tmp_path):
    texts = cures(
        entries(
            tmp_path,
            *(without_number("missing_data", "r", dataset=d) for d in ("cars", "dtd")),
            without_number("failed", "r", dataset="pets"),
        )
    )
    assert [text.partition(":")[0] for text in texts] == ["No data", "Failed"]


def test_a_report_that_lacks_many_datasets_has_a_row_for_each_and_no_more(tmp_path):
    lacking = [
        without_number("missing_data", f"No data for {d}.", model=m, dataset=f"set{d}", protocol=p)
        for d in range(30)
        for m in ("a", "b")
        for p in ("standard", "official-rwkv-clip")
    ]
    run = write_run(tmp_path / "run", [record("a"), record("b"), *lacking])
    paths = write_report([run], tmp_path / "report")
    page = paths.index.read_text(encoding="utf-8")
    section = page[page.index('<section id="problems">') : page.index('<section id="provenance">')]
    assert (section.count("<tr>"), section.count("<dt>")) == (1 + 31, 30)
    assert re.sub(r"<[^>]+>", "", section).count("bring them under --data-root") == 1
    text = paths.markdown.read_text(encoding="utf-8").split("## Without a number")[1].split("## ")[0]
    assert text.count("No data for 7.") == 1
    complete = write_report([write_run(tmp_path / "whole", [record("a")])], tmp_path / "whole" / "report")
    assert "Without a number" not in complete.index.read_text(encoding="utf-8")
