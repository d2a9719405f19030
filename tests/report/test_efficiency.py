"""What a report says of measured speed."""

import csv
import dataclasses
import io

import pytest
from speed_runs import info, linear_against_quadratic, measured, pair, taken_apart, write_run

from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.efficiency import Measured, read_blocks, write_block
from rwkvclip_eval.report.efficiency import speed_rows, why_ambiguous
from rwkvclip_eval.report.formats.efficiency import (
    cells_of,
    efficiency_csv,
    efficiency_page,
    remarks,
)
from rwkvclip_eval.report.plots.efficiency import efficiency_plots
from rwkvclip_eval.report.writing import write_pages

HOSTILE = "<script>alert(1)</script>|=cmd"


def test_rates_ratios_and_the_share_of_the_ceiling():
    first = speed_rows([pair(200, 0.04, 0.08)])[0]
    assert first.rate.value == pytest.approx(100, rel=1e-3)
    assert first.speed_up.value == pytest.approx(2)
    assert first.verdict == "FASTER"
    assert first.share == pytest.approx(10**9 / 0.04 / 1e11, rel=1e-3)
    assert first.gflops_per_second == pytest.approx(25, rel=1e-3)
    assert first.megabytes == pytest.approx(50)


def test_the_last_model_has_no_ratio_to_itself():
    assert speed_rows([pair(200, 0.04, 0.08)])[1].speed_up is None


def test_noise_takes_the_verdict_and_is_said():
    row = speed_rows([pair(200, 0.04, 0.08, noisy="others were busy")])[0]
    assert row.verdict == "AMBIGUOUS"
    assert why_ambiguous(row) == "the machine was too noisy: others were busy"
    assert any("others were busy" in text for text in remarks([row]))


def test_hostile_names_survive_every_format():
    rows = speed_rows(linear_against_quadratic(model=HOSTILE))
    page = efficiency_page(rows, info(f"bench {HOSTILE}"), list(efficiency_plots(rows)))
    assert "<script" not in page
    table = list(csv.DictReader(io.StringIO(efficiency_csv(rows, info(f"bench {HOSTILE}")))))
    assert {row["model"] for row in table} == {HOSTILE, "theirs"}


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
    one = pair(224, 0.04, 0.08, model="clip-vit-b32", **cell)

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
    one = dataclasses.replace(pair(200, 1.0, 1.0), models=[lost, measured("theirs", 0.1)])
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


def test_noise_is_said_where_there_is_no_ratio_too():
    both = pair(200, 0.04, 0.08, noisy="others were busy")
    alone = dataclasses.replace(both, models=both.models[:1])
    lost = Measured(model="theirs", spec="theirs", status="crashed", reason="it ended")
    for one in (alone, dataclasses.replace(both, models=[both.models[0], lost])):
        assert any("too noisy: others were busy" in text for text in remarks(speed_rows([one])))
    said = [text for text in remarks(speed_rows([both])) if "others were busy" in text]
    assert len(said) == 1, "once a cell"


def test_latencies_stand_beside_the_number_of_calls_that_they_are_of():
    rows = speed_rows([pair(200, 0.04, 0.08)])
    assert cells_of(rows[0])[5] == "42.0 / 44.0 (45)"
    assert next(csv.DictReader(io.StringIO(efficiency_csv(rows, info()))))["calls"] == "45"


def test_memory_of_a_gpu_is_what_a_call_takes_beyond_the_model():
    one = pair(200, 0.04, 0.08)
    models = [
        dataclasses.replace(m, allocated_bytes=900_000_000, loaded_bytes=700_000_000) for m in one.models
    ]
    gpu = dataclasses.replace(one, models=models)
    assert speed_rows([gpu])[0].megabytes == pytest.approx(200)
    [record] = [r for r in records_of(gpu) if r.metric == "peak_memory_mb" and r.model == "ours"]
    assert record.value == pytest.approx(900), "not what the process holds of the machine's"


def test_a_largest_batch_is_recorded_of_a_batch_that_did_not_fit_too():
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="none left", largest_batch=96)
    one = dataclasses.replace(pair(200, 0.04, 0.08), models=[lost])
    assert [(r.metric, r.value) for r in records_of(one)] == [("", None), ("largest_batch", 96)]


def test_measurements_in_folders_of_one_name_do_not_replace_each_other(tmp_path):
    for parent in ("a", "b"):
        write_run(tmp_path / parent / "speed", pair(200, 0.04, 0.08))
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
