"""What the plots show is what the records and predictions hold."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from plot_reading import Drawn, draw, marks, spans, tables_of
from prediction_runs import NAMES, run_of, zero_shot
from report_runs import full_run, record, series_run, write_run

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.published import read_published
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.differences import published_numbers
from rwkvclip_eval.report.plots.drawing import Drawing
from rwkvclip_eval.report.plots.style import MARKERS, MAX_MODELS, log_ticks, looks, model_colours


def test_dots_lie_at_the_values_and_lines_at_the_intervals(tmp_path: Path, drawn: Drawn) -> None:
    values = {("a", "dtd"): 0.31, ("a", "cars"): 0.62, ("b", "dtd"): 0.44, ("b", "cars"): 0.2}
    records = [
        record(m, d, v, n=1000, notes={"chance": 0.05 if d == "dtd" else 0.07})
        for (m, d), v in values.items()
    ]
    draw(write_run(tmp_path / "run", records))
    figure = drawn["dots-zero-shot-classification-standard"]
    found = {(round(y), marker): x for marker, x, y in marks(figure)}
    rows = ["dtd", "cars"]
    expected = {(rows.index(d), "os"["ab".index(m)]): 100 * v for (m, d), v in values.items()}
    assert found.keys() >= expected.keys()
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    ends = {(round(100 * r.ci_low, 6), round(100 * r.ci_high, 6)) for r in records}
    assert ends <= {(round(a, 6), round(b, 6)) for a, b in spans(figure)}
    paths = [path.vertices for c in figure.axes[0].collections for path in c.get_paths()]
    assert [ends[0, 0] for ends in paths if ends[0, 0] == ends[1, 0]] == pytest.approx([5, 7])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == rows


def test_published_numbers_are_open_and_as_printed(tmp_path: Path, drawn: Drawn) -> None:
    run = full_run(tmp_path / "run")
    table = next(t for t in tables_of(run) if t.protocol == "standard" and not t.subset)
    published = published_numbers(table, read_published())
    draw(run)
    figure = drawn[f"dots-{table.slug}"]
    labels = drawn[f"dots-{table.slug} legend"]
    open_ones = [
        line
        for line in figure.axes[0].lines
        if line.get_markerfacecolor() == "none" and len(line.get_xdata())
    ]
    shown = [label.removesuffix(" (published)") for label in labels if label.endswith(" (published)")]
    assert len(shown) == len(open_ones) == 3
    rows = [r for r in table.rows if r.metric.k is None]
    for method, line in zip(shown, open_ones, strict=True):
        own = [published[method].get((r.dataset, r.metric.title)) for r in rows]
        assert list(line.get_xdata()) == pytest.approx([100 * v for v in own if v is not None])
    assert published["RWKV-CLIP B/32, YFCC15M"]["cifar10", "top-1"] == pytest.approx(0.798)


def test_of_twelve_models_no_two_have_one_shape_and_a_thirteenth_is_named_as_left_out(
    tmp_path: Path, drawn: Drawn
) -> None:
    assert MAX_MODELS == len(set(MARKERS)) == 12
    names = [f"model {i}" for i in range(13)]
    found = looks(names, ["a method"], model_colours(names, {}))
    assert list(found) == names[:12]
    beside = looks(names[:11], ["a method", "another"], model_colours(names, {}))
    assert [beside[m].filled for m in beside] == [True] * 11 + [False]
    assert len({look.marker for look in beside.values()}) == 12
    plots = draw(write_run(tmp_path / "run", [record(m, d) for m in names for d in ("dtd", "cars")]))
    (plot,) = (p for p in plots if p.name.startswith("dots"))
    assert plot.title.endswith("the first 12 of 13 models")
    shapes = {m for m, _, _ in marks(drawn[plot.name])}
    assert len(shapes) == 12


def test_recalls_stand_at_their_k_in_both_directions(tmp_path: Path, drawn: Drawn) -> None:
    values = {(m, s, k): 0.2 + 0.1 * i for i, (m, s, k) in enumerate(
        (m, s, k) for m in ("a", "b") for s in ("image", "text") for k in (1, 10))}  # fmt: skip
    records = [
        record(m, "flickr", v, n=1000, metric=f"{s}_retrieval_recall@{k}", task="zero_shot_retrieval")
        for (m, s, k), v in values.items()
        if v <= 1
    ]
    draw(write_run(tmp_path / "run", records))
    figure = drawn["recall-zero-shot-retrieval-standard-flickr"]
    for panel, side in enumerate(("text", "image")):
        ax = figure.axes[panel]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["R@1", "R@10"]
        found = {(marker, round(x)): y for marker, x, y in marks(figure, panel)}
        for m, marker in (("a", "o"), ("b", "s")):
            for i, k in enumerate((1, 10)):
                assert found[marker, i] == pytest.approx(100 * values[m, side, k])
    # Two models of one k stand beside each other.
    assert len({x for _, x, _ in marks(figure)}) == 4


def test_confusions_are_the_largest_by_name_with_count_and_share(tmp_path: Path, drawn: Drawn) -> None:
    run = run_of(tmp_path / "run", ("a",), ("x",))
    import pyarrow.parquet as pq

    table = pq.read_table(next((run / "predictions").glob("*/predictions.parquet")))
    label, prediction = (np.array(table[c].to_pylist()) for c in ("label", "prediction"))
    counts = {
        (i, j): int(((label == i) & (prediction == j)).sum()) for i in range(6) for j in range(6) if i != j
    }
    draw(run)
    ax = drawn["confusions-zero-shot-classification-standard-0"].axes[0]
    names = [t.get_text() for t in ax.get_yticklabels()]
    *counted, title = ax.texts
    assert title.get_text() == " x"
    shown = [int(t.get_text()) for t in counted]
    assert shown == sorted(counts.values(), reverse=True)[:5]
    for name, count, bar in zip(names, shown, ax.patches, strict=True):
        i, j = (NAMES.index(part) for part in name.split(" → "))
        assert counts[i, j] == count
        assert bar.get_width() == pytest.approx(100 * count / (label == i).sum())


def test_reliability_is_that_of_softmax_at_the_models_own_scale(tmp_path: Path, drawn: Drawn) -> None:
    from prediction_runs import ranked

    scale, n = 30.0, 500
    run = run_of(tmp_path / "run", ("a",), ("x",), n=n, scale=scale)
    found, samples = ranked("a", "x", n, NAMES, scale)
    # All six logits, from the five kept and the sum that the sixth completes.
    own = scale / 100 * found.top_logits.astype(float)
    rest = np.exp(found.log_sum_exp) - np.exp(found.top_logits.astype(float)).sum(axis=1)
    sixth = scale / 100 * np.log(np.maximum(rest, 1e-300))
    confidence = np.exp(own[:, 0]) / (np.exp(own).sum(axis=1) + np.exp(sixth))
    hit = found.prediction == samples.labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = {b: (100 * confidence[bins == b].mean(), 100 * hit[bins == b].mean()) for b in np.unique(bins)}
    shown = [expected[b] for b in expected if (bins == b).sum() >= 10]
    assert 5 < len(shown) < len(expected)
    draw(run)
    points = sorted((x, y) for _, x, y in marks(drawn["reliability-zero-shot-classification-standard"]))
    for point, other in zip(points, sorted(shown), strict=True):
        assert point == pytest.approx(other, abs=1.5)
    ece = sum(abs(a - c) * (bins == b).mean() for b, (c, a) in expected.items())
    ((_, x, _),) = marks(drawn["calibration-zero-shot-classification-standard"])
    assert x == pytest.approx(ece, abs=0.3)
    (span,) = (s for s in spans(drawn["calibration-zero-shot-classification-standard"]) if s != (0, 1))
    assert span[0] <= x <= span[1] and span[1] - span[0] > 1


def test_predictions_of_before_have_no_calibration_and_numbers_for_names(
    tmp_path: Path, drawn: Drawn
) -> None:
    draw(run_of(tmp_path / "run", ("a",), ("x",), older=True))
    assert not [name for name in drawn if name.startswith(("reliability", "calibration"))]
    ax = drawn["confusions-zero-shot-classification-standard-0"].axes[0]
    assert all("class " in t.get_text() for t in ax.get_yticklabels())


def test_integer_logits_have_no_calibration(tmp_path: Path, drawn: Drawn) -> None:
    draw(run_of(tmp_path / "run", ("a",), ("x",), truncated=True))
    assert not [name for name in drawn if name.startswith(("reliability", "calibration"))]


def test_a_log_sum_exp_below_its_largest_logit_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = run_of(tmp_path / "run", ("a",), ("x",))
    (path,) = (run / "predictions").glob("*/predictions.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("model_log_sum_exp")
    pq.write_table(table.set_column(place, "model_log_sum_exp", pa.array(np.zeros(len(table)))), path)
    with pytest.raises(OutputError, match="cannot be"):
        draw(run)


@pytest.mark.parametrize("names", [b"[1, 2]", b"no json", b'{"a": 1}'])
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, names: bytes) -> None:
    import pyarrow.parquet as pq

    run = run_of(tmp_path / "run", ("a",), ("x",))
    (path,) = (run / "predictions").glob("*/predictions.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"class_names": names}), path)
    with pytest.raises(OutputError, match="class names"):
        draw(run)


def test_the_modality_gap_is_drawn_from_notes(tmp_path: Path, drawn: Drawn) -> None:
    notes = {"modality_gap": 0.81, "matched_cosine": 0.31, "unmatched_cosine": 0.12}
    fields: dict[str, Any] = {"metric": "text_retrieval_recall@1", "task": "zero_shot_retrieval"}
    records = [record("a", "flickr", notes=notes, **fields), record("b", "flickr", **fields)]
    draw(write_run(tmp_path / "run", records))
    figure = drawn["modality-gap-zero-shot-retrieval-standard"]
    assert [x for _, x, _ in marks(figure, 0)] == [0.81]
    assert sorted(x for _, x, _ in marks(figure, 1)) == [0.12, 0.31]
    assert (0.12, 0.31) in spans(figure, 1)
    assert drawn["modality-gap-zero-shot-retrieval-standard legend"] == ["a"]
    drawn.clear()
    draw(write_run(tmp_path / "older", [record("b", "flickr", **fields)]))
    assert not [name for name in drawn if name.startswith("modality")]


def test_checkpoints_make_a_line_a_series_with_a_shape_of_its_own(tmp_path: Path, drawn: Drawn) -> None:
    run = series_run(tmp_path / "run")
    draw(run)
    figure = drawn["epochs-zero-shot-classification-standard"]
    ax = figure.axes[0]
    assert len(ax.lines) == 2
    assert (
        len({line.get_marker() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 2
    )
    (table,) = tables_of(run)
    row = table.averages[0]
    for line, family in zip(ax.lines, ("nano-rwkv", "nano-clip"), strict=True):
        assert list(line.get_xdata()) == [1, 2, 4, 8, 16]
        values = [row.cells[f"{family}-epoch_{step}"].value for step in (1, 2, 4, 8, 16)]
        assert list(line.get_ydata()) == pytest.approx([100 * v for v in values if v is not None])
    assert drawn["epochs-zero-shot-classification-standard legend"] == [
        "nano-rwkv-epoch_*",
        "nano-clip-epoch_*",
    ]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.8, 130.0, [1, 2, 5, 10, 20, 50, 100]),
        (4.1, 11.0, [6, 8, 10]),
        (82.0, 97.0, [85, 90, 95]),
        (0.0101, 0.0119, [0.0105, 0.011, 0.0115]),
    ],
)
def test_an_axis_of_one_cell_has_ticks_too(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)


HOSTILE = (
    "<script>alert(1)</script>",
    "a|b%c_d\\e",
    "line\nbreak",
    "\u202eright to left",
    "$x_{$",
    "é" * 10_000,
)


def test_hostile_and_very_long_names_are_drawn_without_a_warning(tmp_path: Path) -> None:
    run = tmp_path / "run"
    models = {m: f"m{i}" for i, m in enumerate(HOSTILE[:5])}
    records = []
    for model, unit in models.items():
        for dataset in ("x", "y\n" * 400):
            folder = f"{unit}-{dataset[0]}"
            for r in zero_shot(run, folder, "set", names=HOSTILE):
                fields = {
                    "model": model,
                    "dataset": dataset,
                    "unit": r.unit,
                    "metric": r.metric,
                    "value": r.value,
                }
                records.append(
                    record(**fields, primary=r.primary, notes=r.notes, model_info={"logit_scale": 100.0})
                )
    write_run(run, records)
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("error")
        report = write_report([run], tmp_path / "report")
    assert report.index.stat().st_size < 5_000_000
    for path in report.plots:
        if path.suffix == ".svg":
            assert "<script" not in path.read_text(encoding="utf-8")


Command = Callable[..., tuple[int, str, Path]]


@pytest.fixture
def report_command(run: Callable[..., tuple[int, str, str]], tmp_path: Path, drawn: Drawn) -> Command:
    records = [record(m, d, 0.4 + 0.1 * i) for i, m in enumerate("abc") for d in ("dtd", "cars")]
    folder = write_run(tmp_path / "run", records)

    def call(*options: str) -> tuple[int, str, Path]:
        code, _, err = run("report", folder, *options)
        return code, err, folder / "report" / "report.md"

    return call


def test_any_two_models_or_methods_can_be_asked_for(
    report_command: Callable[..., tuple[int, str, Path]],
) -> None:
    code, _, text = report_command("--difference", "c..a", "--difference", "b..ALIP ViT-B/32, YFCC15M")
    assert code == 0
    assert "c less a, with 95 % intervals" in text.read_text()
    assert "b less ALIP ViT-B/32, YFCC15M, with 95 % intervals" in text.read_text()
    assert "a less b" not in text.read_text()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("a", "expected ONE..OTHER"),
        ("a..", "expected ONE..OTHER"),
        ("a..CLLIP", "neither a model of these runs"),
    ],
)
def test_a_pair_that_cannot_be_drawn_is_refused(report_command: Command, asked: str, said: str) -> None:
    code, err, _ = report_command("--difference", asked)
    assert code == 2 and said in err


def test_a_title_that_is_cut_keeps_its_size() -> None:
    drawing = Drawing(2.0)
    (ax,) = drawing.axes
    ax.set_title("t" * 100, fontsize=5)
    drawing.plot("x", "X", "", "")
    assert ax.title.get_fontsize() == 5
    assert len(ax.title.get_text()) < 40
