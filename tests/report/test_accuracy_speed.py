"""Accuracy beside speed: one row a model, the front, and no record of speed in a table of accuracies."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from plot_reading import Drawn, marks
from report_runs import record, write_run

from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Repeat, write_block
from rwkvclip_eval.report import write_report

JITTER = (1.0, 1.01, 0.99, 1.0, 1.005)
# Model → accuracy, seconds of a call of eight images, joules of it.
MODELS = {
    "fast": (0.60, 0.08, 4.0),
    "both": (0.70, 0.10, 5.0),
    "good": (0.80, 0.40, 16.0),
    "neither": (0.65, 0.20, 9.0),
}
FRONT = ["fast", "both", "good"]


def measured(name: str, seconds: float, joules: float | None) -> Measured:
    return Measured(
        model=name,
        spec=f"{name}=random:0",
        repeats=[Repeat(seconds=seconds * one, calls=9, other_load=0.0) for one in JITTER],
        latency_s={f"p{p}": seconds for p in (50, 90, 95, 99)},
        energy_j=joules,
    )


def bench_run(folder: Path, *, energy: bool = True, noisy: str = "", **changes: Any) -> Path:
    cell = dataclasses.replace(Cell(tower="image", batch=8, height=224, width=224), **changes)
    models = [measured(m, s, j if energy else None) for m, (_, s, j) in MODELS.items()]
    (folder / "cells").mkdir(parents=True)
    write_block(
        folder / "cells" / f"{cell.key}.json", Block(cell=cell, device="cuda", models=models, noisy=noisy)
    )
    records = [
        record(m, "image 224×224 px", 100.0, task="efficiency", metric="images_per_second", half=0)
        for m in MODELS
    ]
    write_run(folder, records)
    return folder


def accuracy_run(folder: Path, **info: Any) -> Path:
    return write_run(
        folder,
        [
            record(name, dataset, value, n=1000, notes={"chance": 0.1}, model_info=info)
            for name, (value, *_) in MODELS.items()
            for dataset in ("dtd", "cars")
        ],
    )


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "accuracy_speed.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_row_a_model_joins_accuracy_throughput_and_joules_and_marks_the_front(
    tmp_path: Path, drawn: Drawn
) -> None:
    out = tmp_path / "out"
    write_report([accuracy_run(tmp_path / "run"), bench_run(tmp_path / "speed")], out)
    found = {row["model"]: row for row in rows(out)}
    assert list(found) == list(MODELS)
    for name, (value, seconds, joules) in MODELS.items():
        row = found[name]
        assert float(row["value"]) == pytest.approx(value)
        assert float(row["images_per_second"]) == pytest.approx(8 / seconds, rel=0.01)
        assert float(row["images_per_second_low"]) < 8 / seconds < float(row["images_per_second_high"])
        assert float(row["joules_per_image"]) == pytest.approx(joules / 8)
        assert (row["on_front"] == "True") is (name in FRONT)
    figure = drawn["accuracy-speed-0"]
    front = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 3)
    assert list(front.get_ydata()) == pytest.approx([60, 70, 80])
    points = {(round(x), round(y)) for _, x, y in marks(figure)}
    assert {(round(8 / s), round(100 * v)) for v, s, _ in MODELS.values()} <= points
    energies = {(round(x, 3), round(y)) for _, x, y in marks(figure, 1)}
    assert energies == {(j / 8, round(100 * v)) for v, _, j in MODELS.values()}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count('<section id="speed">') == 1
    assert "## Accuracy and speed" in (out / "report.md").read_text(encoding="utf-8")


def test_records_of_speed_land_in_no_table_of_accuracies(tmp_path: Path, drawn: Drawn) -> None:
    # Even a run that holds both.
    run = accuracy_run(tmp_path / "run")
    text = (run / "results.jsonl").read_text()
    speed = bench_run(tmp_path / "speed")
    (run / "results.jsonl").write_text(text + (speed / "results.jsonl").read_text())
    for given in ([run], [run, speed]):
        out = tmp_path / str(len(given))
        paths = write_report(given, out)
        assert [path.stem for path in paths.task_csvs] == ["zero_shot_classification"]
        for path in (paths.index, paths.markdown, paths.results_csv):
            assert "images_per_second" not in path.read_text(encoding="utf-8")


def test_energy_that_nothing_measured_has_no_column_and_no_panel(tmp_path: Path, drawn: Drawn) -> None:
    out = tmp_path / "out"
    write_report([accuracy_run(tmp_path / "run"), bench_run(tmp_path / "speed", energy=False)], out)
    assert {row["joules_per_image"] for row in rows(out)} == {""}
    assert len(drawn["accuracy-speed-0"].axes) == 1
    assert "J per image" not in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "info"),
    [({"precision": "bf16"}, {}), ({"height": 448, "width": 448}, {}), ({}, {"image_size_px": [64, 64]})],
)
def test_speeds_at_another_precision_or_size_are_not_joined_and_that_is_said(
    tmp_path: Path, drawn: Drawn, changes: dict[str, Any], info: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    run = accuracy_run(tmp_path / "run", **info)
    write_report([run, bench_run(tmp_path / "speed", **changes)], out)
    assert rows(out) == []
    assert "accuracy-speed-0" not in drawn
    assert "not measured as it was evaluated" in (out / "index.html").read_text(encoding="utf-8")


def test_noisy_times_and_untrained_models_are_never_on_the_front(tmp_path: Path, drawn: Drawn) -> None:
    noisy = tmp_path / "noisy"
    speed = bench_run(tmp_path / "speed", noisy="others were busy")
    write_report([accuracy_run(tmp_path / "run"), speed], noisy)
    assert {row["on_front"] for row in rows(noisy)} == {"False"}
    untrained = tmp_path / "untrained"
    run = accuracy_run(tmp_path / "random", trained=False)
    write_report([run, bench_run(tmp_path / "again")], untrained)
    assert {row["on_front"] for row in rows(untrained)} == {"False"}


def test_a_model_that_was_not_measured_is_named(tmp_path: Path, drawn: Drawn) -> None:
    run = write_run(tmp_path / "run", [record("fast", "dtd", 0.6), record("slow-one", "dtd", 0.7)])
    out = tmp_path / "out"
    write_report([run, bench_run(tmp_path / "speed")], out)
    assert [row["model"] for row in rows(out)] == ["fast"]
    assert "slow-one: not measured." in (out / "index.html").read_text(encoding="utf-8")


def test_a_checkpoint_has_the_speed_of_its_architecture(tmp_path: Path, drawn: Drawn) -> None:
    info = {"spec": "fast=epoch_3.pt"}
    run = write_run(tmp_path / "run", [record("my-run-epoch_3", "dtd", 0.6, model_info=info)])
    out = tmp_path / "out"
    write_report([run, bench_run(tmp_path / "speed")], out)
    assert [row["model"] for row in rows(out)] == ["my-run-epoch_3"]


@pytest.mark.parametrize("missing", [{"image_size_px": None}, {"precision": None}, {"image_size_px": 224}])
def test_accuracies_of_unknown_size_or_precision_have_no_speed_and_it_is_said(
    tmp_path: Path, drawn: Drawn, missing: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    run = accuracy_run(tmp_path / "run", **missing)
    write_report([run, bench_run(tmp_path / "speed")], out)
    assert rows(out) == []
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "does not say at what size and precision" in page
