"""Drawings are as tall as what stands in them, whatever their legend takes."""

import io
import itertools
from pathlib import Path

import pytest
from plot_reading import Drawn, draw, heights, laid_out, legend_gap, marks
from report_runs import record, write_run

from rwkvclip_eval.report.plots.drawing import Drawing

DATASETS = [f"set {i}" for i in range(40)]


def dots_of(folder: Path, drawn: Drawn, num_models: int, num_datasets: int) -> Drawing:
    names = [f"a model with a name {i}" for i in range(num_models)]
    draw(write_run(folder / "run", [record(m, d) for m in names for d in DATASETS[:num_datasets]]))
    return drawn["dots-zero-shot-classification-standard"]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("models", "datasets"), [(1, 1), (2, 1), (11, 1), (12, 4), (2, 40)])
def test_a_legend_lies_over_no_dot_and_no_dot_over_another(
    tmp_path: Path, drawn: Drawn, models: int, datasets: int, narrow: bool
) -> None:
    figure = laid_out(dots_of(tmp_path, drawn, models, datasets), narrow=narrow)
    assert legend_gap(figure) > 0
    ax = figure.axes[0]
    dot = ax.lines[0].get_markersize() / 72
    inches = heights(figure)[0] / abs(ax.get_ylim()[0] - ax.get_ylim()[1])
    places = sorted(y for _, _, y in marks(figure))
    between = min((b - a for a, b in itertools.pairwise(places)), default=1)
    assert between * inches > 1.1 * dot


def test_dots_take_a_height_that_follows_models_and_datasets(tmp_path: Path, drawn: Drawn) -> None:
    found = {
        (m, d): heights(laid_out(dots_of(tmp_path / f"{m}x{d}", drawn, m, d), narrow=True))[0]
        for m, d in ((1, 1), (11, 1), (11, 2), (11, 4))
    }
    assert found[11, 1] > 3 * found[1, 1]
    assert found[11, 2] == pytest.approx(2 * found[11, 1])
    assert found[11, 4] == pytest.approx(4 * found[11, 1])


def test_dots_that_would_be_taller_than_a_page_stand_in_several_drawings(
    tmp_path: Path, drawn: Drawn
) -> None:
    dots_of(tmp_path, drawn, 12, 40)
    names = [name for name in drawn if name.startswith("dots") and not name.endswith("legend")]
    assert names == [f"dots-zero-shot-classification-standard{end}" for end in ("", "-2")]
    titles = [t.get_text() for n in names for ax in drawn[n].axes for t in ax.get_yticklabels()]
    assert titles == DATASETS
    for name in names:
        figure = laid_out(drawn[name], narrow=False).figure
        assert figure.get_figheight() < 1.42 * figure.get_figwidth()


@pytest.mark.parametrize("narrow", [False, True])
def test_panels_have_the_height_they_ask_for_under_a_legend_of_any_length(narrow: bool) -> None:
    for names in ((), ("one",), tuple(f"a long name of a model, number {i}" for i in range(12))):
        figure = Drawing(0.9, 4, 2)
        handles = [figure.axes[0].plot([0, 1], [0, 1])[0] for _ in names]
        figure.legend(handles, names)
        figure.figure.supxlabel("across")
        figure.figure.supylabel("up")
        laid_out(figure, narrow=narrow)
        assert heights(figure) == pytest.approx([0.9] * 4)
        boxes = [ax.get_tightbbox() for ax in figure.axes]
        inside = figure.figure.bbox
        assert all(box.y0 >= inside.y0 and box.y1 <= inside.y1 for box in boxes)
        rows = sorted({round(box.y0): box for box in boxes}.items())
        assert all(lower.y1 <= upper.y0 for (_, lower), (_, upper) in itertools.pairwise(rows))
        label = figure.figure._supxlabel.get_window_extent()
        assert label.y0 >= inside.y0 and label.y1 <= min(box.y0 for box in boxes)


def test_a_long_name_goes_on_in_a_second_line_of_the_legend_and_confusions_show_both_classes() -> None:
    figure = Drawing(1.0)
    (line,) = figure.axes[0].plot([0, 1], [0, 1])
    figure.axes[0].set_yticks([0, 1], ["a class of some length → another class of length", "short"])
    figure.legend([line], ["CLIP (RealSyn run) ViT-B/32, YFCC15M (published)"])
    laid_out(figure, narrow=True)
    (legend,) = figure.figure.legends
    text = legend.get_texts()[0].get_text()
    assert "\n" in text
    assert text.replace("\n", " ") == "CLIP (RealSyn run) ViT-B/32, YFCC15M (published)"
    one, other = figure.axes[0].get_yticklabels()[0].get_text().split(" → ")
    assert one.startswith("a class of") and other.startswith("another")


def test_fonts_in_a_pdf_hold_their_glyphs_and_nothing_to_set_text_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fontTools.ttLib import TTFont
    from matplotlib.backends import _backend_pdf_ps as backend

    kept: list[bytes] = []
    whole = backend.font_as_file

    def keep(font: TTFont) -> io.BytesIO:
        file = whole(font)
        kept.append(file.getvalue())
        return file

    monkeypatch.setattr(backend, "font_as_file", keep)
    figure = Drawing(0.5)
    figure.axes[0].plot([0, 1], [0, 1])
    figure.plot("x", "title", "alt", "")
    assert kept
    for content in kept:
        tables = set(TTFont(io.BytesIO(content)).keys())
        assert {"glyf", "hmtx"} <= tables
        assert not tables & {"GPOS", "GSUB", "GDEF"}
