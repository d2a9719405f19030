"""What a device's sensors said stands in tables and in words; what none said is empty."""

import csv
import dataclasses
import io

from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Repeat, read_block, write_block
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.report.efficiency import speed_rows
from rwkvclip_eval.report.formats.efficiency import efficiency_csv, remarks

CELL = Cell(tower="image", batch=4, height=224, width=224)
INFO = RunInfo(
    suite_name="efficiency: quick",
    suite_sha256="0" * 64,
    suite_text="[]",
    models=["a"],
    command="bench",
    identity={},
    environment={},
    started_utc="2026-01-01",
)


def block(told, watched="sensors", **facts):
    repeats = [Repeat(seconds=0.1, calls=3, **one) for one in told]
    points = {f"p{p}": 0.1 for p in (50, 90, 95, 99)}
    one = Measured(model="a", spec="a=random:0", repeats=repeats, latency_s=points, **facts)
    return Block(cell=CELL, device="cuda", models=[one], watched=watched)


def line(found):
    return next(csv.DictReader(io.StringIO(efficiency_csv(speed_rows([found]), INFO))))


HOT = [
    {"clock_mhz": 1980.0, "power_w": 600.0, "temperature_c": 60.0, "held_back": ""},
    {"clock_mhz": 1400.0, "power_w": 700.0, "temperature_c": 84.0, "held_back": "heat, power limit"},
    {"clock_mhz": 1900.0, "power_w": 690.0, "temperature_c": 80.0, "held_back": "power limit"},
]


def test_readings_stand_in_the_table_and_their_ranges_in_words():
    found = block(HOT, device_bytes=2_000_000, attention_kernels="flash_attention")
    told = line(found)
    names = ("clock_mhz", "power_w", "temperature_c", "held_back", "process_device_mb", "attention_kernels")
    assert [told[name] for name in names] == [
        "1900.0", "690.0", "84.0", "heat, power limit", "2.0", "flash_attention"
    ]  # fmt: skip
    said = remarks(speed_rows([found]))
    assert (
        "Watched: sensors: clock 1,400 to 1,980 MHz, power 600 to 700 W, temperature 60 to 84 °C, held back "
        "by heat in 1 of 3 repeats, held back by power limit in 2 of 3 repeats."
    ) in said
    assert "a: torch ran attention as flash_attention." in said


def test_a_device_that_kept_its_pace_is_said_to_have():
    said = remarks(speed_rows([block([{"held_back": ""}] * 2)]))
    assert "Watched: sensors: held back by nothing in 2 repeats." in said


def test_what_no_sensor_said_is_empty_and_why_is_told():
    found = block([{}] * 3, watched="not watched: no NVML")
    assert {line(found)[name] for name in ("clock_mhz", "power_w", "temperature_c", "held_back")} == {""}
    assert "Watched: not watched: no NVML." in remarks(speed_rows([found]))
    assert not any("Watched" in text for text in remarks(speed_rows([block([{}], watched="")])))


def test_readings_are_kept_with_their_cell(tmp_path):
    found = block(HOT)
    write_block(tmp_path / f"{CELL.key}.json", found)
    kept = read_block(tmp_path / f"{CELL.key}.json")
    assert [dataclasses.asdict(r) for r in kept.models[0].repeats] == [
        dataclasses.asdict(r) for r in found.models[0].repeats
    ]
