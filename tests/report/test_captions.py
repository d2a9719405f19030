"""Captions say what is shown, its unit, on how much, with which interval, and nothing that is not there."""

import re
from html import unescape
from pathlib import Path

import pytest
from pages import page_of
from plot_reading import Drawn, draw
from prediction_runs import run_of
from report_runs import full_run, record, series_run, write_run

from rwkvclip_eval.report.formats.paper_text import half_text
from rwkvclip_eval.report.paper_layout import LAYOUTS
from rwkvclip_eval.report.paper_notes import caption, reading
from rwkvclip_eval.report.paper_rows import Difference, PaperCell, PaperRow, PaperTable

INTERVAL = "95 % interval"
COUNT = r"n = [\d,]+( to [\d,]+)? (images|queries)"


def test_every_plot_of_numbers_says_unit_interval_and_how_many(tmp_path: Path, drawn: Drawn) -> None:
    plots = [
        *draw(full_run(tmp_path / "full")),
        *draw(run_of(tmp_path / "predictions", ("a", "b"), ("x", "y"))),
        *draw(series_run(tmp_path / "series")),
    ]
    titles = {plot.name: plot.title for plot in plots}
    without = ("training", "confusions", "reliability", "modality")
    for name, title in titles.items():
        assert "%" in title or "points" in title or name == "training", title
        if not name.startswith(without):
            assert INTERVAL in title, title
        if not name.startswith(("training", "confusions", "modality")):
            assert re.search(COUNT, title), title
    assert {name.partition("-")[0] for name in titles} >= {
        *("dots", "difference", "recall", "confusions", "reliability", "calibration", "epochs", "training"),
    }


def test_captions_of_tables_say_interval_and_how_many(tmp_path: Path) -> None:
    records = [record(m, d, 0.4, n=n) for m in "ab" for d, n in (("dtd", 1880), ("cars", 8041))]
    page = unescape(page_of(write_run(tmp_path / "run", records), []))
    captions = [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<caption>(.*?)</caption>", page)]
    (one,) = [text for text in captions if text.startswith("Zero-shot classification")]
    assert one.endswith(
        "Top-1, %; ± to the farther end of the 95 % interval; n = 1,880 to 8,041 images a dataset"
    )


def test_a_number_without_interval_has_no_word_of_one(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", [record("a", "dtd", 0.4, half=0)]), [])
    captions = re.findall(r"<caption>(.*?)</caption>", page)
    assert captions and not any("farther end" in text for text in captions)


@pytest.mark.parametrize(
    ("half", "beside", "shown"),
    [
        (0.84, "66.8", "0.8"),
        (0.04, "99.9", "0.1"),
        (1.26, "12", "1"),
        (0.2, "3", "1"),
        (0.31, "2.25", "0.31"),
        (0.0004, "0.125", "0.001"),
        (1.2e7, "1.5e+09", "1.2e+07"),
    ],
)
def test_a_half_width_has_the_digits_of_its_number(half: float, beside: str, shown: str) -> None:
    assert half_text(half, beside) == shown


def test_digits_of_value_and_interval_agree_everywhere_on_a_page(tmp_path: Path) -> None:
    page = unescape(page_of(full_run(tmp_path / "run")))
    pairs = re.findall(r'class="v">~?([\d.]+)(?:<[^>]*>[^<±]*)*±([\d.]+)<', page)
    assert len(pairs) > 100
    digits = [tuple(len(text.partition(".")[2]) for text in pair) for pair in pairs]
    assert all(one == other for one, other in digits)


def paper(*, bold: bool = False, figure: bool = False, delta: float | None = None) -> PaperTable:
    layout = LAYOUTS[0]
    cell = PaperCell(value=50.0, status="ok", low=49.0, high=51.0, bold=bold)
    theirs = PaperCell(value=40.0, status="read_from_figure" if figure else "published", printed="40.0")
    differences = () if delta is None else (Difference(value=delta, low=-1, high=1, resolved=2.0),)
    return PaperTable(
        name="x",
        title="x",
        columns=layout.columns[:1],
        published=(PaperRow(method="m", protocol="unknown", precision="", cells=(theirs,)),),
        measured=(
            PaperRow(
                method="a",
                protocol="standard",
                precision="",
                cells=(cell,),
                measured=True,
                differences=differences,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("table", "there"),
    [
        (paper(), set()),
        (paper(bold=True), {"Bold"}),
        (paper(figure=True), {"~"}),
        (paper(delta=10.0), {"Δ"}),
        (paper(delta=1.0), {"Δ", "≈"}),
    ],
)
def test_how_to_read_a_table_speaks_of_no_sign_that_stands_nowhere(
    table: PaperTable, there: set[str]
) -> None:
    for text in (" ".join(reading([table])), caption(table)):
        assert {sign for sign in ("Bold", "~", "Δ", "≈") if sign in text} == there
