"""Differences of two models as they are drawn."""

from pathlib import Path

import numpy as np
import pytest
from plot_reading import Drawn, draw, marks, spans, tables_of
from prediction_runs import run_of, zero_shot
from report_runs import record, write_run

from rwkvclip_eval.compare.measured import PairOfUnits
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report.differences import Delta, deltas, mean_delta
from rwkvclip_eval.report.plots.differences import forest


def test_differences_are_sorted_with_their_mean_below(tmp_path: Path, drawn: Drawn) -> None:
    gains = {"dtd": 0.01, "cars": -0.03, "food101": 0.05, "cifar10": 0.0}
    records = [record("a", d, 0.5 + g, n=2000) for d, g in gains.items()]
    run = write_run(tmp_path / "run", [*records, *(record("b", d, 0.5, n=2000) for d in gains)])
    draw(run)
    figure = drawn["difference-zero-shot-classification-standard-0"]
    ax = figure.axes[0]
    titles = [t.get_text() for t in ax.get_yticklabels()]
    assert titles == ["food101", "dtd", "cifar10", "cars", "mean of 4"]
    points = sorted((y, x, marker) for marker, x, y in marks(figure))
    assert [x for _, x, _ in points] == pytest.approx([5, 1, 0, -3, 0.75])
    assert [m for *_, m in points] == ["o"] * 4 + ["D"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([5, 1, 0, -3])
    assert ax.get_xlabel() == "points of a\nless b"
    (half,) = {round(r.ci_high - r.value, 9) for r in records if r.value == 0.5}
    low, high = next((a, b) for a, b in spans(figure) if a < 0 < b and abs(a + b) < 1e-9)
    assert high - low == pytest.approx(200 * np.sqrt(2) * half)


def test_models_judged_on_the_same_images_have_the_interval_of_their_difference(
    tmp_path: Path, drawn: Drawn
) -> None:
    run = run_of(tmp_path / "run", ("a", "b"), ("x", "y"))
    (table,) = tables_of(run)
    rows = [r for r in table.rows if r.metric.name == "top1_accuracy"]
    found = deltas(rows, "a", "b", {})
    assert [d.paired for d in found] == [True, True]
    for delta, row in zip(found, rows, strict=True):
        folders = [run / "predictions" / row.cells[m].entry.record.unit for m in ("b", "a")]
        expected = (
            PairOfUnits((folders[0], folders[1]), "key").measure(row.cells["b"].entry.record).difference
        )
        assert expected is not None
        assert (delta.value, delta.low, delta.high) == (expected.value, expected.low, expected.high)
        assert delta.value == pytest.approx(row.cells["a"].value - row.cells["b"].value)
    draw(run)
    lines = drawn["difference-zero-shot-classification-standard-0"].axes[0].lines
    assert {line.get_markerfacecolor() for line in lines if line.get_marker() in "oD"} == {"#1d2530"}
    for folder in (run / "predictions").glob("b.*"):
        folder.rename(tmp_path / folder.name)
    apart = deltas(rows, "a", "b", {})
    assert [d.paired for d in apart] == [False, False]
    assert [d.value for d in apart] == pytest.approx([d.value for d in found])


def test_predictions_of_another_number_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    records = [r for m in ("a", "b") for r in zero_shot(run, m, "x")]
    changed = [r if r.model == "a" else record("b", "x", 0.123, unit=r.unit) for r in records if r.primary]
    changed += [record(m, "y") for m in ("a", "b")]
    with pytest.raises(OutputError, match="one of them was changed"):
        draw(write_run(run, changed))


def test_rows_that_must_not_be_compared_have_no_difference(tmp_path: Path) -> None:
    same = [record(m, "dtd") for m in ("a", "b")]
    other = [record(m, "cars", dataset_fingerprint=m) for m in ("a", "b")]
    (table,) = tables_of(write_run(tmp_path / "run", same + other))
    assert [d.title for d in deltas(table.rows, "a", "b", {})] == ["dtd"]


def test_a_published_number_is_no_more_certain_than_one_of_as_many_images(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a", "dtd", 0.4, n=1880)])
    (table,) = tables_of(run)
    published = {"them": {("dtd", "top-1"): 0.35}}
    (delta,) = deltas(table.rows, "a", "them", published)
    assert (delta.value, delta.paired) == (pytest.approx(0.05), False)
    half = 1.96 * np.sqrt((0.4 * 0.6 + 0.35 * 0.65) / 1880)
    assert delta.low is not None and delta.high is not None
    assert delta.high - delta.low == pytest.approx(2 * half, rel=0.01)
    (turned,) = deltas(table.rows, "them", "a", published)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-delta.value, -delta.high, -delta.low))
    assert deltas(table.rows, "a", "nobody", published) == []


def test_a_forest_keeps_the_order_given_and_fills_what_is_paired(drawn: Drawn) -> None:
    parts = [
        Delta(title="one", value=-0.02, low=-0.05, high=0.01, paired=True),
        Delta(title="two", value=0.04),
        Delta(title="three", value=0.01, low=0.0, high=0.02),
    ]
    mean = mean_delta([parts[0], parts[2]])
    assert mean.value == pytest.approx(-0.005)
    assert mean.low == pytest.approx(-0.005 - np.hypot(0.03, 0.01) / 2)
    plot = forest(parts, mean, "new", "old", name="forest", title="Forest")
    figure = drawn["forest"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["one", "two", "three", "mean of 2"]
    filled = {}
    for line in figure.axes[0].lines:
        if line.get_marker() == "o":
            filled |= {round(x, 6): line.get_markerfacecolor() for x in line.get_xdata()}
    assert len({filled[4], filled[1]}) == 1 and filled[-2] != filled[4]
    assert {(-5.0, 1.0), (0.0, 2.0)} <= {(round(a, 6), round(b, 6)) for a, b in spans(figure)}
    assert figure.axes[0].patches[:] == []
    assert "two +4.0;" in plot.alt and "one −2.0 (−5.0 to +1.0)" in plot.alt


def test_a_forest_needs_no_mean(drawn: Drawn) -> None:
    forest([Delta(title="one", value=0.1)], None, "new", "old", name="forest", title="Forest")
    assert [t.get_text() for t in drawn["forest"].axes[0].get_yticklabels()] == ["one"]
