"""What a report says of measured speed."""

import csv
import dataclasses
import io
import math

import pytest

from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Repeat, read_blocks, write_block
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.report.efficiency import growth, speed_rows, why_ambiguous
from rwkvclip_eval.report.formats.efficiency import efficiency_csv, efficiency_page, remarks
from rwkvclip_eval.report.plots.efficiency import efficiency_plots

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
    assert first.megabytes == pytest.approx(50)


def test_the_last_model_has_no_ratio_to_itself():
    assert speed_rows([block(200, 0.04, 0.08)])[1].speed_up is None


def test_noise_takes_the_verdict_and_is_said():
    row = speed_rows([block(200, 0.04, 0.08, noisy="others were busy")])[0]
    assert row.verdict == "AMBIGUOUS"
    assert why_ambiguous(row, "cpu") == "the machine was too noisy: others were busy"
    assert any("others were busy" in text for text in remarks([row], "cpu"))


def test_exponents_tell_linear_from_quadratic_and_the_crossover_lies_where_the_lines_meet():
    rows = speed_rows(linear_against_quadratic())
    ours, theirs = growth(rows, "ours", "theirs"), growth(rows, "theirs", "theirs")
    assert ours.exponent.value == pytest.approx(1, abs=0.01)
    assert theirs.exponent.value == pytest.approx(2, abs=0.01)
    assert ours.exponent.low < 1 < ours.exponent.high
    assert theirs.exponent.low < 2 < theirs.exponent.high
    assert [math.sqrt(at) for at in ours.crossovers] == [pytest.approx(400, rel=0.01)]


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
    page = efficiency_page(rows, info(), "cpu", list(efficiency_plots(rows)))
    assert "<script" not in page
    table = list(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))
    assert {row["model"] for row in table} == {HOSTILE, "theirs"}


def test_what_was_not_measured_is_empty_in_csv_and_told_on_the_page():
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="its process was killed")
    one = dataclasses.replace(block(200, 1.0, 1.0), models=[lost, measured("theirs", 0.1)])
    rows = speed_rows([one])
    first = next(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))
    assert (first["samples_per_second"], first["status"]) == ("", "out_of_memory")
    assert "its process was killed" in efficiency_page(rows, info(), "cpu", [])


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


def test_speed_ups_of_a_tower_and_precision_stand_on_a_line_a_cell(drawn):
    svg = drawn["efficiency-speed-up-image-fp32"].wide.svg
    assert svg.count("px, batch 4") == 4
    assert "times as fast as theirs" in svg
    alt = drawn["efficiency-speed-up-image-fp32"].alt
    assert "ours, 200×200 px, batch 4: 0.25 times as fast (SLOWER)" in alt


def test_exponents_and_latencies_are_drawn_and_told(drawn):
    assert "theirs, image, batch 4, fp32: 2.00" in drawn["efficiency-exponents"].alt
    assert "p99" in drawn["efficiency-latency-image-fp32"].alt
