"""What reports show of linear probes."""

from pathlib import Path

import pytest
from PIL import Image
from plot_reading import Drawn, draw
from probe_runs import probe_record, probe_run, write_curve_of
from report_runs import series_run, write_run

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.metrics import known
from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.plots.style import MARKERS
from rwkvclip_eval.report.probe_facts import probe_facts, spread_text

SIX = ["food101", "cifar10", "aircraft", "voc2007", "fer2013", "imagenet"]


@pytest.fixture(scope="module")
def probe_report(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    folder = tmp_path_factory.mktemp("probe")
    return write_report([probe_run(folder / "run", SIX)], folder / "report")


def test_curves_are_drawn_for_probes(probe_report: ReportPaths) -> None:
    names = {path.stem.removesuffix("-narrow") for path in probe_report.plots}
    assert names == {
        "difference-linear-probe-clip-certified-0",
        "difference-linear-probe-clip-certified-1",
        "dots-linear-probe-clip-certified",
        "regularisation-linear-probe-clip-certified",
        "few-shot-few-shot-linear-probe-clip-certified",
    }
    svg = next(p for p in probe_report.plots if p.name.startswith("reg") and p.suffix == ".svg")
    text = svg.read_text(encoding="utf-8")
    for word in ("best λ", "converged", "stopped early", "best λ at the edge", "10⁻⁶", "VOC 2007"):
        assert word in text


def test_curves_are_told_apart_by_line_and_mark_and_the_mark_stands_at_the_best_strength(
    tmp_path: Path, drawn: Drawn
) -> None:
    run = probe_run(tmp_path / "run", SIX)
    draw(run)
    ax = drawn["regularisation-linear-probe-clip-certified"].axes[0]
    marked = [line for line in ax.lines if line.get_marker() in MARKERS and len(line.get_xdata())]
    assert [line.get_marker() for line in marked] == list(MARKERS[:2])
    own = [e.record for e in load_runs([run]).entries if e.record.dataset == "food101"]
    strengths = [r.notes["l2"] for r in own if r.task == "linear_probe"]
    assert [line.get_xdata()[0] for line in marked] == pytest.approx(strengths)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1 and line.get_linestyle() != "None"]
    assert len({line.get_linestyle() for line in lines}) == len(lines) == 2
    few = drawn["few-shot-few-shot-linear-probe-clip-certified"].axes[0].lines
    assert [line.get_marker() for line in few] == list(MARKERS[:2])
    assert len({line.get_linestyle() for line in few}) == 2
    training = series_run(tmp_path / "training")
    draw(training)
    strong = [line for line in drawn["training"].axes[0].lines if not line.get_alpha()]
    assert len({line.get_linestyle() for line in strong}) == len(strong) == 2


def test_a_probe_number_opens_to_its_strength_certificate_and_split(probe_report: ReportPaths) -> None:
    page = probe_report.index.read_text(encoding="utf-8")
    for fact in (
        "<dt>best λ</dt>",
        "1e-06, at the edge of the range searched: a better one may lie outside",
        "from 1e-06 to 1e+06: 13 converged, 3 stopped early",
        "converged, objective 94, certified to lie within 1e-06 of the optimum, 30 iterations",
        "official, 40,000 to train on, 10,000 to choose λ by",
        "mean of 3 seeds, standard deviation 4.0 points",
        "11-point mAP, %",
    ):
        assert fact in page
    assert "The best λ lies at the edge of the range searched" in page
    assert "FER2013 (rwkv-clip-b32)" in page


def test_curves_are_read_by_strength_with_the_final_fit_apart(tmp_path: Path) -> None:
    one = probe_record("a", "cifar10", 0.5)
    run = write_run(tmp_path / "run", [one, probe_record("a", "dtd", 0.5)])
    write_curve_of(run, one.unit, best=10.0, peak=0.6)
    (curve,) = load_runs([run]).regularisation
    strengths = [fit.l2 for fit in curve.search]
    assert strengths == sorted(strengths)
    assert max(curve.search, key=lambda fit: fit.score or 0).l2 == pytest.approx(10)
    assert curve.final is not None
    assert (curve.final.l2, curve.final.score) == (10.0, None)


def test_a_damaged_curve_is_named(tmp_path: Path) -> None:
    one = probe_record("a", "cifar10", 0.5)
    run = write_run(tmp_path / "run", [one])
    path = run / "predictions" / one.unit / "regularisation.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(OutputError, match=r"regularisation\.parquet is not a regularisation curve"):
        load_runs([run])


def test_a_probe_without_its_curve_still_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [probe_record("a", "cifar10", 0.5)])
    report = write_report([run], tmp_path / "report")
    assert {p.stem.removesuffix("-narrow") for p in report.plots} == {"dots-linear-probe-clip-certified"}
    assert "<dt>best λ</dt><dd>1</dd>" in report.index.read_text(encoding="utf-8")


def test_notes_of_other_tasks_are_left_as_they_are() -> None:
    assert probe_facts({"num_train": 5, "chance": 0.1}, None) == []
    few = {"shots": 4, "seeds": 3, "std": 0.01}
    assert spread_text(few | {"l2_at_edge": 2}).endswith(
        ", 2 with their best λ at the edge of the range searched"
    )
    assert "edge" not in spread_text(few | {"l2_at_edge": 0})
    assert spread_text({"chance": 0.1}) == ""


def test_every_plot_has_a_layout_for_small_windows(probe_report: ReportPaths) -> None:
    page = probe_report.index.read_text(encoding="utf-8")
    assert page.count('<source media="(max-width:40rem)"') == page.count("<figure") == 5
    for path in probe_report.plots:
        if path.suffix == ".png":
            assert Image.open(path).width in (2025, 975)


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("mean_average_precision_11_point", "11-point mAP"),
        ("mean_average_precision", "mAP (area)"),
        ("mean_top1_top5_accuracy", "mean of top-1 and top-5"),
        ("roc_auc_4_shot", "ROC AUC, 4-shot"),
    ],
)
def test_probe_metrics_are_written_in_words(metric: str, label: str) -> None:
    assert known(metric).title == label
