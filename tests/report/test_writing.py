import csv
import dataclasses
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from report_runs import record, series_run, write_run

from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_eval.records.reading import read_records
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.plots.style import model_colours
from rwkvclip_eval.report.series import find_series

PROTOCOLS = ("standard", "official-rwkv-clip")


def test_every_file_of_the_report_is_there(full_report: ReportPaths) -> None:
    single = (full_report.index, full_report.markdown, full_report.results_csv, full_report.latex)
    assert [p.name for p in single] == ["index.html", "report.md", "results.csv", "report.tex"]
    assert [p.name for p in full_report.task_csvs] == [
        "zero_shot_classification.csv",
        "zero_shot_retrieval.csv",
    ]
    assert all(p.stat().st_size > 0 for p in (*single, *full_report.task_csvs, *full_report.plots))
    assert full_report.index.stat().st_size < 5_000_000


def test_plots_are_drawn_for_datasets_and_recalls(full_report: ReportPaths) -> None:
    names = {p.stem.removesuffix("-narrow") for p in full_report.plots}
    differences = {f"difference-zero-shot-classification-{p}-{i}" for p in PROTOCOLS for i in (0, 1)}
    assert names == differences | {
        "dots-zero-shot-classification-standard",
        "dots-zero-shot-classification-official-rwkv-clip",
        "recall-zero-shot-retrieval-standard-flickr30k",
        "recall-zero-shot-retrieval-standard-mscoco",
    }
    assert len(full_report.plots) == 6 * len(names)


def test_plots_are_as_wide_as_two_columns_of_a_paper_and_as_one(full_report: ReportPaths) -> None:
    for path in full_report.plots:
        inches = 3.25 if path.stem.endswith("-narrow") else 6.75
        if path.suffix == ".png":
            image = Image.open(path)
            assert image.width == round(300 * inches)
            assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
        elif path.suffix == ".svg":
            assert f' width="{72 * inches:g}pt"' in path.read_text(encoding="utf-8")[:200]
        else:
            box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", path.read_bytes())
            assert box is not None
            assert float(box[1]) == pytest.approx(72 * inches)


def test_the_fonts_of_a_pdf_are_embedded_as_they_are(full_report: ReportPaths) -> None:
    for path in full_report.plots:
        if path.suffix == ".pdf":
            content = path.read_bytes()
            fonts = re.findall(rb"/Type /Font\b.*?/Subtype /(\w+)|/Subtype /(\w+)\s+/Type /Font\b", content)
            assert b"/FontFile2" in content
            assert fonts
            assert b"/Type3" not in content


@pytest.mark.usefixtures("no_pdf")
def test_checkpoints_of_a_training_run_make_curves_against_epochs(tmp_path: Path) -> None:
    run = series_run(tmp_path / "run")
    report = write_report([run], tmp_path / "report")
    assert {p.stem.removesuffix("-narrow") for p in report.plots} == {
        "difference-zero-shot-classification-standard-0",
        "dots-zero-shot-classification-standard",
        "epochs-zero-shot-classification-standard",
        "training",
    }
    entries = load_runs([run]).entries
    series = find_series(entries)
    assert set(series.values()) == {"nano-rwkv-epoch_*", "nano-clip-epoch_*"}
    colours = model_colours(list(series), series)
    assert len(set(colours.values())) == 2
    assert colours["nano-rwkv-epoch_1"] == colours["nano-rwkv-epoch_16"]


@pytest.mark.usefixtures("no_pdf")
def test_axes_say_what_the_numbers_of_checkpoints_count(tmp_path: Path) -> None:
    # Of records of before, nothing says what their number counts.
    words = {"step": "training step", "epoch": "epoch", "checkpoint": "training step or epoch"}
    for unit, word in words.items():
        report = write_report([series_run(tmp_path / unit, (1, 4), unit)], tmp_path / unit / "report")
        plot = report.index.parent / "plots" / f"{unit}s-zero-shot-classification-standard.svg"
        assert f">{word} of the checkpoint<" in plot.read_text(encoding="utf-8")
        text = report.markdown.read_text(encoding="utf-8")
        assert f"against {word}, bands are 95 % intervals" in text
        counted = re.search(r"\| step .*", text)
        assert counted is not None
        assert (f"{unit} 4 " in counted[0]) == (unit != "checkpoint")


@pytest.mark.usefixtures("no_pdf")
def test_steps_and_epochs_share_no_axis(tmp_path: Path) -> None:
    runs = [series_run(tmp_path / unit, (1, 4), unit) for unit in ("epoch", "step")]
    report = write_report(runs, tmp_path / "report")
    names = {p.stem for p in report.plots}
    assert {f"{unit}s-zero-shot-classification-standard" for unit in ("epoch", "step")} < names


def test_one_checkpoint_with_a_step_is_no_series(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a", model_info={"step": 32, "spec": "a=model_32.pt"})])
    assert find_series(load_runs([run]).entries) == {}


def test_a_plot_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a"), record("b")])
    one = write_report([run], tmp_path / "one")
    other = write_report([run], tmp_path / "other")
    assert [p.read_bytes() for p in one.plots] == [p.read_bytes() for p in other.plots]
    assert one.index.read_bytes() == other.index.read_bytes()


@pytest.mark.usefixtures("no_pdf")
def test_names_with_mathematical_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", [record("_a$x_{$", "d$\\frac$", unit="1"), record("b", "d$\\frac$", unit="2")]
    )
    report = write_report([run], tmp_path / "report")
    svg = next(p for p in report.plots if p.suffix == ".svg").read_text(encoding="utf-8")
    assert "_a$x_{$" in svg


def test_results_csv_holds_every_record_unchanged(full_report: ReportPaths) -> None:
    run = full_report.index.parent.parent
    records = read_records(run / "results.jsonl")
    rows = list(csv.DictReader(io.StringIO(full_report.results_csv.read_text(encoding="utf-8"))))
    assert len(rows) == len(records)
    for row, original in zip(rows, records, strict=True):
        assert row["value"] == ("" if original.value is None else repr(original.value))
        for field in dataclasses.fields(Record):
            if isinstance(value := getattr(original, field.name), str):
                assert row[field.name] == value
        assert json.loads(row["notes"]) == original.notes
        assert row["model_info.fingerprint"] == original.model_info["fingerprint"]
        assert row["run"] == run.name


def test_the_csv_of_a_task_holds_what_its_tables_show(full_report: ReportPaths) -> None:
    frame = pd.read_csv(full_report.task_csvs[0])
    row = frame[(frame.dataset == "food101") & (frame.protocol == "standard") & (frame.kind == "dataset")]
    row = row[row.metric == "top1_accuracy"].iloc[0]
    assert row["rwkv-clip-b32.state"] == "best"
    assert row["clip-vit-b32.state"] == "untrained"
    assert row["rwkv-clip-b32.n"] == 25250
    cars = frame[(frame.dataset == "cars") & (frame.protocol == "standard")].iloc[0]
    assert cars["alip-vit-b32.state"] == "missing_data"
    average = frame[(frame.kind == "average") & (frame.protocol == "standard")].iloc[0]
    assert average["alip-vit-b32.state"] == "incomplete"


def test_markdown_and_latex_hold_the_tables(full_report: ReportPaths) -> None:
    markdown = full_report.markdown.read_text(encoding="utf-8")
    assert markdown.startswith("# zero-shot-11\n\nrwkv-clip-b32 reaches")
    assert "| Food-101" in markdown and "food101 " not in markdown.partition("## Provenance")[0]
    assert "**50.0** (49.3–50.6)" in markdown
    assert "](plots/dots-zero-shot-classification-standard.png)" in markdown
    for heading in ("## Beside published numbers", "## Without a number", "## Provenance"):
        assert heading in markdown
    latex = full_report.latex.read_text(encoding="utf-8")
    assert "\\toprule" in latex
    assert "\\textbf{50.0}" in latex
    assert "MSCOCO" in latex and "mscoco" not in latex


def test_a_report_is_written_without_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a"), record("b")])
    code = (
        "import sys; from pathlib import Path; from rwkvclip_eval.report import write_report; "
        f"write_report([Path({str(run)!r})], Path({str(tmp_path / 'report')!r})); "
        "sys.exit(1 if {'torch', 'torchvision', 'transformers', 'open_clip'} & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["index.html", "report.md", "results.csv"])
def test_files_of_somebody_else_are_not_replaced(run, tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run", [record("a")])
    own = tmp_path / "site" / name
    own.parent.mkdir()
    own.write_text("mine")
    code, _, err = run("report", path, "--out", own.parent)
    assert code == 2
    assert f"{own} is there and was not written by this program" in err
    assert [p.name for p in own.parent.iterdir()] == [name] and own.read_text() == "mine"
    own.unlink()
    (path / "run.json").unlink(missing_ok=True)
    for _ in range(2):
        code, _, err = run("report", path, "--out", own.parent)
        assert code == 0, err


def test_importing_reports_loads_no_plotting_library() -> None:
    code = (
        "import sys, rwkvclip_eval.report; "
        "sys.exit(1 if {'matplotlib', 'pandas', 'jinja2'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


def test_a_folder_of_runs_is_looked_into_one_level_down_and_that_is_said(run, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run(folder / "a", [record("a")])
    write_run(folder / "b" / "shard-0001-of-0002", [record("b")])
    (folder / "notes").mkdir()
    code, out, err = run("report", folder)
    assert code == 0
    assert f"{folder} is no run directory itself; it holds 2: a, b." in err
    assert f"Report: {folder / 'report' / 'index.html'}" in out
    text = (folder / "report" / "report.md").read_text()
    assert "| a " in text and "| b " in text
    code, _, err = run("report", folder / "a")
    assert code == 0 and "no run directory" not in err
    code, _, err = run("report", folder / "notes")
    assert code == 2 and "expected a run directory" in err


@pytest.mark.parametrize("text", ["x", "-1", "1.5", " 3", "253402300800", "9" * 5000, "٣", "1e3"])
def test_a_source_date_that_is_no_time_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH must be whole seconds since 1970") as caught:
        write_report([run], tmp_path / "report")
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("text", ["0", "253402300799", ""])
def test_a_source_date_changes_no_byte_of_a_plot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    one = write_report([run], tmp_path / "one")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    other = write_report([run], tmp_path / "other")
    assert [p.read_bytes() for p in one.plots] == [p.read_bytes() for p in other.plots]


def test_where_no_file_may_grow_a_report_is_one_message_and_nothing_is_half_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="only Unix bounds files")
    run = write_run(tmp_path / "run", [record("a")])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A font cache that cannot be kept is matplotlib's to tell.
    importlib.import_module("matplotlib.font_manager")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write \S+: File too large\. Nothing was lost"):
            write_report([run], tmp_path / "report")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p for p in (tmp_path / "report").rglob("*") if p.is_file()] == []
    assert write_report([run], tmp_path / "report").index.is_file()
