"""The drawings of measured speed."""

import csv
import dataclasses
import io

import pytest
from speed_runs import info, linear_against_quadratic, measured, pair, taken_apart, write_run

from rwkvclip_eval.records.efficiency import Measured
from rwkvclip_eval.report.efficiency import speed_rows
from rwkvclip_eval.report.formats.efficiency import (
    efficiency_csv,
    efficiency_markdown,
    efficiency_page,
    remarks,
)
from rwkvclip_eval.report.formats.parts import parts_csv
from rwkvclip_eval.report.plots.efficiency import efficiency_plots
from rwkvclip_eval.report.plots.parts import part_plots
from rwkvclip_eval.report.plots.style import MAX_MODELS
from rwkvclip_eval.report.writing import write_efficiency


@pytest.fixture(scope="module")
def drawn():
    """The drawings of the image tower in one precision, by name."""
    return {plot.name: plot for plot in efficiency_plots(speed_rows(linear_against_quadratic()))}


def test_plots_mark_the_crossover_and_hold_every_layout(drawn):
    assert list(drawn) == [
        "efficiency-image-batch4-fp32",
        "efficiency-exponents",
        "efficiency-speed-up-image-fp32",
        "efficiency-latency-image-fp32",
    ]
    assert "ours is as fast as theirs at 400 px" in drawn["efficiency-image-batch4-fp32"].alt
    for plot in drawn.values():
        assert plot.wide.svg.startswith("<svg")
        assert plot.narrow.pdf.startswith(b"%PDF")


def test_parts_are_a_table_bars_and_places_under_the_roofline():
    one = taken_apart()
    rows = speed_rows([one])
    lines = list(csv.DictReader(io.StringIO(parts_csv(rows))))
    assert [line["share"] for line in lines[:3]] == ["50.0 %", "25.0 %", "25.0 %"]
    assert [line["FLOPs a byte"] for line in lines[:3]] == ["80", "10", ""]
    assert "<td>Bi-WKV</td>" in efficiency_page(rows, info(), [])
    assert "Parts of a forward pass" in efficiency_markdown(rows, info())
    bars, roofline = part_plots([one])
    assert "projections 50 %, Bi-WKV 25 %, rest 25 %" in bars.alt
    assert "Bi-WKV: 20 GFLOP/s at 10 FLOPs a byte" in roofline.alt
    assert "100 GFLOP/s in square products, 10 GB/s copied" in roofline.alt


def test_a_lost_cell_and_sizes_beyond_the_trained_are_seen_in_the_plot_and_told():
    blocks = linear_against_quadratic()
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="its process was killed")
    blocks[3] = dataclasses.replace(blocks[3], models=[lost, blocks[3].models[1]])
    beyond = [dataclasses.replace(m, beyond="224×224 px") for m in blocks[2].models]
    blocks[2] = dataclasses.replace(blocks[2], models=beyond)
    rows = speed_rows(blocks)
    plot = next(iter(efficiency_plots(rows)))
    assert "ours at 800×800 px: out_of_memory" in plot.alt
    assert "×: out of memory or crashed" in plot.title
    assert "shaded: beyond the sizes that models were made for" in plot.title
    assert any(text.startswith("† For speed alone") and "ours: 224×224 px" in text for text in remarks(rows))
    table = list(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))
    assert [line["beyond_trained"] for line in table] == ["", "", "", "", *["224×224 px"] * 2, "", ""]
    assert efficiency_markdown(rows, info()).count("†") >= 3


def test_every_part_is_drawn_however_many_there_are():
    many = [
        dataclasses.replace(taken_apart(), cell=dataclasses.replace(one.cell, height=at, width=at))
        for one in linear_against_quadratic()[:1]
        for at in range(32, 32 * 15, 32)
    ]
    plots = list(part_plots(many))
    assert [plot.name for plot in plots] == [
        "efficiency-parts-image-fp32-1", "efficiency-parts-image-fp32-2", "efficiency-roofline-image-fp32",
    ]  # fmt: skip
    assert all(f"{one.cell.height}×{one.cell.width} px" in plots[0].alt + plots[1].alt for one in many)


def test_speed_ups_of_a_tower_and_precision_stand_on_a_line_a_cell(drawn):
    svg = drawn["efficiency-speed-up-image-fp32"].wide.svg
    assert svg.count("px, batch 4") == 4
    assert "times as fast as theirs" in svg
    alt = drawn["efficiency-speed-up-image-fp32"].alt
    assert "ours, 200×200 px, batch 4: 0.25 times as fast (SLOWER)" in alt


def test_exponents_and_latencies_are_drawn_and_told(drawn):
    assert "theirs, image, batch 4, fp32: 2.00" in drawn["efficiency-exponents"].alt
    assert "p99" in drawn["efficiency-latency-image-fp32"].alt
    assert "45 calls each" in drawn["efficiency-latency-image-fp32"].wide.svg


def test_the_reference_is_drawn_however_many_models_there_are():
    one = pair(200, 0.04, 0.08)
    models = [measured(f"m{i}", 0.05, turn=0) for i in range(14)]
    blocks = [
        dataclasses.replace(one, models=models, cell=dataclasses.replace(one.cell, height=s, width=s))
        for s in (100, 200)
    ]
    plots = list(efficiency_plots(speed_rows(blocks)))
    assert "m13" in plots[0].wide.svg
    assert "m12" not in plots[0].wide.svg
    assert f"Plots show {MAX_MODELS} of 14 models, the last among them." in remarks(speed_rows(blocks))


def test_a_bar_of_a_long_name_says_its_cell():
    one = taken_apart()
    long = [dataclasses.replace(m, model=f"{m.model}-{'x' * 80}") for m in one.models]
    cell = dataclasses.replace(one.cell, batch=256)
    [bars, *_] = part_plots([dataclasses.replace(one, models=long, cell=cell)])
    for picture in (bars.wide, bars.narrow):
        assert picture.svg.count("200×200 px, batch 256") == 2


def test_names_with_mathematical_signs_are_drawn_as_they_are(tmp_path):
    name = "a$\\x$"
    run = write_run(tmp_path / "run", taken_apart(model=name), pair(300, 0.04, 0.08, model=name))
    write_efficiency(run, tmp_path / "out")
    drawings = list((tmp_path / "out" / "plots").glob("*.svg"))
    assert any(name in path.read_text(encoding="utf-8") for path in drawings)
