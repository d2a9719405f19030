"""What a report says of measured speed."""

import csv
import dataclasses
import io
import json
import math
import statistics

import pytest

from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Part, Repeat, read_blocks, write_block
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.report.efficiency import speed_rows, why_ambiguous
from rwkvclip_eval.report.formats.efficiency import (
    cells_of,
    efficiency_csv,
    efficiency_markdown,
    efficiency_page,
    remarks,
)
from rwkvclip_eval.report.formats.parts import parts_csv
from rwkvclip_eval.report.growth import crossings, growth
from rwkvclip_eval.report.plots.efficiency import efficiency_plots
from rwkvclip_eval.report.plots.parts import part_plots
from rwkvclip_eval.report.plots.style import MAX_MODELS
from rwkvclip_eval.report.writing import write_efficiency, write_pages

JITTER = (1.0, 1.004, 0.997, 1.002, 0.999)
HOSTILE = "<script>alert(1)</script>|=cmd"


def measured(model, seconds, *, turn=0, **facts):
    jitter = JITTER[turn % 5 :] + JITTER[: turn % 5]
    return Measured(
        model=model,
        spec=f"{model}=random:0",
        flops=10**9,
        repeats=[Repeat(seconds=seconds * one, calls=9, other_load=0.0) for one in jitter],
        latency_s={f"p{p}": seconds for p in (50, 90, 95, 99)},
        baseline_bytes=100_000_000,
        peak_bytes=150_000_000,
        **facts,
    )


def block(side, ours, theirs, noisy="", model="ours", **changes):
    cell = dataclasses.replace(Cell(tower="image", batch=4, height=side, width=side), **changes)
    # Sizes have noise of their own; the two models share it.
    turn = side // 100
    models = [measured(model, ours, turn=turn), measured("theirs", theirs, turn=turn)]
    return Block(cell=cell, device="cpu", models=models, ceiling_flops=1e11, noisy=noisy)


def linear_against_quadratic(**changes):
    """Ours grows as the pixels, theirs as their square; equal at 400 px."""
    return [
        block(side, 1e-6 * side**2, 1e-6 * side**2 * (side / 400) ** 2, **changes)
        for side in (200, 300, 500, 800)
    ]


def test_rates_ratios_and_the_share_of_the_ceiling():
    first = speed_rows([block(200, 0.04, 0.08)])[0]
    assert first.rate.value == pytest.approx(100, rel=1e-3)
    assert first.speed_up.value == pytest.approx(2)
    assert first.verdict == "FASTER"
    assert first.share == pytest.approx(10**9 / 0.04 / 1e11, rel=1e-3)
    assert first.gflops_per_second == pytest.approx(25, rel=1e-3)
    assert first.megabytes == pytest.approx(50)


def test_the_last_model_has_no_ratio_to_itself():
    assert speed_rows([block(200, 0.04, 0.08)])[1].speed_up is None


def test_noise_takes_the_verdict_and_is_said():
    row = speed_rows([block(200, 0.04, 0.08, noisy="others were busy")])[0]
    assert row.verdict == "AMBIGUOUS"
    assert why_ambiguous(row) == "the machine was too noisy: others were busy"
    assert any("others were busy" in text for text in remarks([row]))


def test_exponents_tell_linear_from_quadratic_and_the_crossover_lies_where_the_lines_meet():
    rows = speed_rows(linear_against_quadratic())
    ours, theirs = growth(rows, "ours", "theirs"), growth(rows, "theirs", "theirs")
    assert ours.exponent.value == pytest.approx(1, abs=0.01)
    assert theirs.exponent.value == pytest.approx(2, abs=0.01)
    assert ours.exponent.low < 1 < ours.exponent.high
    assert theirs.exponent.low < 2 < theirs.exponent.high
    assert [math.sqrt(one.size) for one in ours.crossovers] == [pytest.approx(400, rel=0.01)]
    [crossed] = ours.crossovers
    # Both models have the same noise, so that it falls out of their ratio.
    assert crossed.low == pytest.approx(crossed.high) == pytest.approx(400**2)


def test_models_that_never_meet_have_no_crossover():
    rows = speed_rows([block(side, 1e-6 * side**2, 2e-6 * side**2) for side in (200, 300, 500)])
    assert growth(rows, "ours", "theirs").crossovers == []


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


def info():
    return RunInfo(
        command=f"bench {HOSTILE}", suite_name="efficiency", suite_text="", suite_sha256="", models=[],
        identity={}, environment={}, started_utc="",
    )  # fmt: skip


def test_hostile_names_survive_every_format():
    rows = speed_rows(linear_against_quadratic(model=HOSTILE))
    page = efficiency_page(rows, info(), list(efficiency_plots(rows)))
    assert "<script" not in page
    table = list(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))
    assert {row["model"] for row in table} == {HOSTILE, "theirs"}


def taken_apart(seconds=0.04, model="ours", **facts):
    """A block whose models were taken apart, with energy and a largest batch."""
    one = block(200, seconds, 0.08, model=model)
    parts = [
        Part(name="projections", seconds=seconds / 2, flops=8 * 10**8, bytes=10**7),
        Part(name="Bi-WKV", seconds=seconds / 4, flops=2 * 10**8, bytes=2 * 10**7),
        Part(name="rest", seconds=seconds / 4, flops=0, bytes=10**6),
    ]
    facts = {"energy_j": 2.0, "energy_note": "a counter", **facts}
    models = [
        dataclasses.replace(m, parts=parts, largest_batch=96, largest_note="of up to 128", **facts)
        for m in one.models
    ]
    return dataclasses.replace(one, models=models, ceiling_bytes=1e10)


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


def test_energy_is_of_a_sample_and_absent_is_said_once_with_its_reason():
    with_energy = efficiency_csv(speed_rows([taken_apart()]), info())
    assert next(csv.DictReader(io.StringIO(with_energy)))["joules_per_sample"] == "0.5"
    without = speed_rows([taken_apart(energy_j=None, energy_note="not measured: no NVML")] * 2)
    assert [text for text in remarks(without) if "NVML" in text] == ["Energy: not measured: no NVML."]
    assert next(csv.DictReader(io.StringIO(efficiency_csv(without, info()))))["joules_per_sample"] == ""


def test_the_largest_batch_is_said_with_its_limit():
    said = "ours, image tower, 200×200 px, fp32: the largest batch that fits is 96 (of up to 128)."
    assert said in remarks(speed_rows([taken_apart()]))


def test_published_speeds_stand_beside_the_same_model_in_the_same_cell_alone():
    cell = {"precision": "bf16", "height": 224, "width": 224, "compiled": True}
    one = block(224, 0.04, 0.08, model="clip-vit-b32", **cell)

    def said(one):
        return [text for text in remarks(speed_rows([one])) if text.startswith("Published")]

    assert said(one) == [
        f"Published: clip-vit-b32, 224×224 px, amp, compiled: {rate} images/s on NVIDIA GeForce {gpu} "
        "(timm's tables of results)."
        for rate, gpu in (("15,759", "RTX 5090"), ("12,645", "RTX 4090"))
    ]
    for change in ({"precision": "fp32"}, {"compiled": False}, {"height": 448}):
        assert said(dataclasses.replace(one, cell=dataclasses.replace(one.cell, **change))) == []


def test_what_was_not_measured_is_empty_in_csv_and_told_on_the_page():
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="its process was killed")
    one = dataclasses.replace(block(200, 1.0, 1.0), models=[lost, measured("theirs", 0.1)])
    rows = speed_rows([one])
    first = next(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))
    assert (first["samples_per_second"], first["status"]) == ("", "out_of_memory")
    assert "its process was killed" in efficiency_page(rows, info(), [])


def test_blocks_are_read_back_as_they_were_written(tmp_path):
    written = linear_against_quadratic()
    for one in written:
        write_block(tmp_path / "cells" / f"{one.cell.key}.json", one)
    assert [dataclasses.asdict(b) for b in read_blocks(tmp_path)] == [
        {**dataclasses.asdict(b), "models": [dataclasses.asdict(m) for m in b.models]} for b in written
    ]


def test_the_lines_of_equal_models_do_not_cross():
    rows = speed_rows(
        [
            block(side, 1e-6 * side**2 * (1.01 if side == 300 else 0.99), 1e-6 * side**2)
            for side in (200, 300, 500)
        ]
    )
    assert growth(rows, "ours", "theirs").crossovers == []


def test_a_crossover_lies_where_the_drawn_lines_cross_whatever_is_near_1():
    # Slower at 448 by less than the margin: the lines cross behind it.
    rows = speed_rows([block(px, 0.1, 0.1 * ratio) for px, ratio in ((224, 0.9), (448, 0.98), (896, 1.4))])
    [crossed] = growth(rows, "ours", "theirs").crossovers
    share = math.log(1 / 0.98) / math.log(1.4 / 0.98)
    assert math.sqrt(crossed.size) == pytest.approx(448 * 2**share, rel=1e-3)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0, -1), (1, 1)], [0.5]),
        ([(0, -1), (1, 0), (2, 1)], [1]),
        ([(0, -1), (1, 0.01), (2, -0.01), (3, 1)], [1.5]),
        ([(0, -1), (1, 0.01), (2, -1)], []),
        ([(0, -1), (1, 1), (2, -1)], [0.5, 1.5]),
        ([(0, 0.01), (1, -0.01)], []),
        ([], []),
    ],
)
def test_a_line_crosses_between_points_beyond_the_margin(points, expected):
    assert crossings(points, 0.05) == [pytest.approx(x) for x in expected]


def test_a_crossover_has_an_interval_over_repeats():
    def shaken(one, turn):
        theirs = one.models[1]
        return dataclasses.replace(
            one, models=[one.models[0], measured("theirs", statistics.median(theirs.seconds), turn=turn)]
        )

    blocks = [shaken(one, turn) for turn, one in enumerate(linear_against_quadratic(), start=1)]
    [crossed] = growth(speed_rows(blocks), "ours", "theirs").crossovers
    assert 390**2 < crossed.low < crossed.size < crossed.high < 410**2
    assert crossed.high / crossed.low > 1.001
    # Whatever lies within the margin in one repeat.
    near = [block(px, 0.1, 0.1 * ratio) for px, ratio in ((224, 0.95), (448, 1.2), (896, 1.4))]
    near = [shaken(one, turn) for turn, one in enumerate(near, start=1)]
    ratios = [b / a for a, b in zip(near[0].models[0].seconds, near[0].models[1].seconds, strict=True)]
    assert any(ratio > 1 / 1.05 for ratio in ratios)
    [other] = growth(speed_rows(near), "ours", "theirs").crossovers
    assert other.low < other.size < other.high
    side = [round(math.sqrt(n)) for n in (crossed.size, crossed.low, crossed.high)]
    told = f"ours, image tower, batch 4, fp32: as fast as theirs at {side[0]} px ({side[1]} to {side[2]})."
    assert told in remarks(speed_rows(blocks))


def test_noisy_cells_are_left_out_of_exponents_and_crossovers_and_it_is_said():
    blocks = linear_against_quadratic()
    blocks[3] = dataclasses.replace(blocks[3], noisy="others were busy")
    rows = speed_rows(blocks)
    quiet = speed_rows(blocks[:3])
    assert growth(rows, "ours", "theirs") == growth(quiet, "ours", "theirs")
    assert any("power 1.00" in text and "2 noisy numbers left out." in text for text in remarks(rows))
    assert "open: noisy" in next(iter(efficiency_plots(rows))).title
    rows = speed_rows([dataclasses.replace(b, noisy="others were busy") for b in blocks])
    assert growth(rows, "ours", "theirs").exponent is None
    assert not any("power" in text or "as fast as" in text for text in remarks(rows))


def test_an_exponents_interval_is_that_of_t_over_repeats():
    rows = speed_rows(linear_against_quadratic())
    own = [row for row in rows if row.measured.model == "ours"]
    x = [math.log(row.cell.height**2) for row in own]
    slopes = [
        statistics.linear_regression(x, [math.log(row.measured.seconds[i]) for row in own]).slope
        for i in range(5)
    ]
    # 2.776: the 97.5 % point of t with four degrees of freedom.
    half = 2.7764 * statistics.stdev(slopes) / math.sqrt(5)
    found = growth(rows, "ours", "theirs").exponent
    assert found.value == pytest.approx(statistics.mean(slopes))
    assert found.high - found.value == pytest.approx(half, rel=1e-3)


def test_memory_crosses_too():
    def remembering(one):
        ours, theirs = one.models
        more = dataclasses.replace(ours, peak_bytes=100_000_000 + 400 * one.cell.height**2)
        return dataclasses.replace(one, models=[more, dataclasses.replace(theirs, peak_bytes=164_000_000)])

    rows = speed_rows([remembering(one) for one in linear_against_quadratic()])
    [crossed] = growth(rows, "ours", "theirs").memory_crossovers
    assert math.sqrt(crossed.size) == pytest.approx(400, rel=0.01)
    assert any("as small as theirs at 400 px" in text for text in remarks(rows))
    assert "ours takes as much memory as theirs at 400 px" in next(iter(efficiency_plots(rows))).alt


def test_modes_are_told_apart_in_words():
    both = [*linear_against_quadratic(), *linear_against_quadratic(compiled=True)]
    said = [text for text in remarks(speed_rows(both)) if "ours" in text and "power" in text]
    assert [", compiled:" in text for text in said] == [False, True]


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


def test_noise_is_said_where_there_is_no_ratio_too():
    both = block(200, 0.04, 0.08, noisy="others were busy")
    alone = dataclasses.replace(both, models=both.models[:1])
    lost = Measured(model="theirs", spec="theirs", status="crashed", reason="it ended")
    for one in (alone, dataclasses.replace(both, models=[both.models[0], lost])):
        assert any("too noisy: others were busy" in text for text in remarks(speed_rows([one])))
    said = [text for text in remarks(speed_rows([both])) if "others were busy" in text]
    assert len(said) == 1, "once a cell"


def test_latencies_stand_beside_the_number_of_calls_that_they_are_of(drawn):
    rows = speed_rows([block(200, 0.04, 0.08)])
    assert cells_of(rows[0])[5] == "40.0 / 40.0 (45)"
    assert next(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))["calls"] == "45"
    assert "45 calls each" in drawn["efficiency-latency-image-fp32"].wide.svg


def test_memory_of_a_gpu_is_what_a_call_takes_beyond_the_model():
    one = block(200, 0.04, 0.08)
    models = [
        dataclasses.replace(m, allocated_bytes=900_000_000, loaded_bytes=700_000_000) for m in one.models
    ]
    gpu = dataclasses.replace(one, models=models)
    assert speed_rows([gpu])[0].megabytes == pytest.approx(200)
    [record] = [r for r in records_of(gpu) if r.metric == "peak_memory_mb" and r.model == "ours"]
    assert record.value == pytest.approx(900), "not what the process holds of the machine's"


def test_a_largest_batch_is_recorded_of_a_batch_that_did_not_fit_too():
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="none left", largest_batch=96)
    one = dataclasses.replace(block(200, 0.04, 0.08), models=[lost])
    assert [(r.metric, r.value) for r in records_of(one)] == [("", None), ("largest_batch", 96)]


def test_the_reference_is_drawn_however_many_models_there_are():
    one = block(200, 0.04, 0.08)
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
    run = tmp_path / "run"
    for side in (200, 300):
        one = taken_apart(model="a$\\x$") if side == 200 else block(side, 0.04, 0.08, model="a$\\x$")
        write_block(run / "cells" / f"{one.cell.key}.json", one)
    (run / "run.json").write_text(json.dumps(dataclasses.asdict(info())))
    write_efficiency(run, tmp_path / "out")
    drawings = list((tmp_path / "out" / "plots").glob("*.svg"))
    assert any("a$\\x$" in path.read_text(encoding="utf-8") for path in drawings)


def test_measurements_in_folders_of_one_name_do_not_replace_each_other(tmp_path):
    for parent in ("a", "b"):
        one = block(200, 0.04, 0.08)
        run = tmp_path / parent / "speed"
        write_block(run / "cells" / f"{one.cell.key}.json", one)
        (run / "run.json").write_text(json.dumps(dataclasses.asdict(info())))
    twice = [tmp_path / "a" / "speed", tmp_path / "a" / ".." / "a" / "speed"]
    assert write_pages(twice, tmp_path / "once") == [tmp_path / "once" / "efficiency-speed" / "index.html"]
    with pytest.raises(UserError, match="folders named speed"):
        write_pages([tmp_path / "a" / "speed", tmp_path / "b" / "speed"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_parts_lack_and_a_call_taken_apart_that_was_disturbed_are_told():
    usual = taken_apart()
    lacking = [dataclasses.replace(m, parts_note="no FLOPs") for m in usual.models]
    said = remarks(speed_rows([dataclasses.replace(usual, models=lacking)]))
    assert "ours, image tower, 200×200 px, batch 4, fp32: parts: no FLOPs." in said
    assert not any("whose parts are shown" in text for text in remarks(speed_rows([usual])))
    quicker = [dataclasses.replace(m, latency_s=dict.fromkeys(m.latency_s, 0.02)) for m in usual.models]
    said = remarks(speed_rows([dataclasses.replace(usual, models=quicker)]))
    told = "the call whose parts are shown took 2.00 times as long as the others."
    assert f"ours, image tower, 200×200 px, batch 4, fp32: {told}" in said
