"""What a reader sees on a screen, on paper and in the gallery."""

import re
from pathlib import Path

import pytest
from report_runs import CAPTIONS, picture, record, write_examples, write_run

from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.plots.style import model_colours

pytestmark = pytest.mark.usefixtures("no_pdf")

RETRIEVAL = {"task": "zero_shot_retrieval", "metric": "text_retrieval_recall@1"}


def html(report: ReportPaths) -> str:
    return report.index.read_text(encoding="utf-8")


def test_no_two_of_many_models_have_one_colour() -> None:
    colours = model_colours([f"model {i}" for i in range(60)], {})
    assert len(set(colours.values())) == 60
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())


def gallery(tmp_path: Path, captions: dict[str, list[str]], shift: int = 0) -> str:
    units = {m: f"{m}.zero_shot_retrieval.flickr30k.standard" for m in captions}
    records = [record(m, "flickr30k", unit=unit, **RETRIEVAL) for m, unit in units.items()]
    run = write_run(tmp_path / "run", records)
    for model, texts in captions.items():
        write_examples(run, units[model], texts, shift=shift)
    return html(write_report([run], tmp_path / "report"))


def test_pictures_are_said_to_be_left_out_for_size_only_where_they_are(tmp_path: Path) -> None:
    page = gallery(tmp_path, {"a": [f"caption {i}" for i in range(11)]})
    assert "3 more example retrievals lie in the run directory.</p>" in page
    assert "keep this page under" not in page


def test_only_what_was_found_has_a_tick(tmp_path: Path) -> None:
    page = gallery(tmp_path, {"a": CAPTIONS}, shift=7)
    assert picture(0) in page
    missed = re.findall(r'<li class="wanted">.*?</li>', page)
    assert missed
    assert all("✓" not in item and "✗ not among them" in item for item in missed)
    found = re.findall(r'<li class="hit">.*?</li>', gallery(tmp_path / "b", {"a": CAPTIONS}))
    assert found and all("✓" in item for item in found)


def test_a_caption_that_one_of_several_models_has_is_left_out(tmp_path: Path) -> None:
    page = gallery(tmp_path, {"a": ["shared", "only a"], "b": ["shared", "only b"]})
    assert re.findall(r'<p class="caption" dir="auto">“(.*?)”', page) == ["shared"]
    assert page.count('<div class="found">') == 2
    assert "2 more example retrievals lie in the run directory" in page
    alone = gallery(tmp_path / "one", {"a": ["shared", "only a"]})
    assert re.findall(r'<p class="caption" dir="auto">“(.*?)”', alone) == ["shared", "only a"]


def test_on_paper_nothing_scrolls_sticks_or_waits_to_be_pressed(full_report: ReportPaths) -> None:
    page = html(full_report)
    paper = page[page.index("@media print") :]
    hidden = re.search(r"([^{}]*)\{display:none!important\}", paper)
    assert hidden and ".press" in hidden[1] and ".switch>label" in hidden[1]
    assert not re.search(r"\.key\b(?<!switch>\.key)", hidden[1])
    # Chrome prints no borders of cells that stick, and leaves what is positioned out of repeated heads.
    assert "thead,caption,th:first-child{position:static!important" in paper
    assert ".sort{display:contents}.name{position:static" in paper
    assert re.search(r"\.scroll,\.tall\{overflow:visible;max-height:none", paper)
    # Every protocol is printed, and wide tables in smaller letters.
    assert ".switch>input~.view,.paper{display:block!important}" in paper
    assert re.search(r"\.grid\{width:100%;font-size:clamp\([^}]*var\(--n\)", paper)
    assert set(re.findall(r'class="grid" style="--n:(\d+)"', page)) == {"3"}


def test_the_axis_of_a_plot_against_steps_names_its_metric(tmp_path: Path) -> None:
    from report_runs import series_run

    report = write_report([series_run(tmp_path / "run")], tmp_path / "report")
    svg = report.index.parent / "plots" / "epochs-zero-shot-classification-standard.svg"
    assert "primary metric of each, %" in svg.read_text(encoding="utf-8")
    assert not re.search(r">\s*%\s*<", svg.read_text(encoding="utf-8"))
