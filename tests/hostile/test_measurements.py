"""Measurements of speed that something else wrote, digests and all: one message that names file and field."""

import dataclasses
import hashlib
import json
import shutil

import pytest
from speed_runs import block, measured, two_models, write_run

from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.efficiency import Part, read_block, read_blocks, write_block
from rwkvclip_eval.records.reading import write_records

POINTS = {f"p{p}": 0.1 for p in (50, 90, 95, 99)}


def sealed(path, body):
    digest = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "body": body}))


def resealed(path, change):
    """Change what a cell's file says, its digest too."""
    body = json.loads(json.loads(path.read_text())["body"])
    change(body)
    sealed(path, json.dumps(body))


@pytest.fixture
def cell(tmp_path):
    """The file of the first cell of a run with its records."""
    blocks = two_models()
    run = write_run(tmp_path / "speed", *blocks)
    write_records(run / "results.jsonl", [record for one in blocks for record in records_of(one)])
    return run / "cells" / f"{blocks[0].cell.key}.json"


def at(*place, value):
    """Return what puts a value at a place of the file."""

    def change(body):
        for step in place[:-1]:
            body = body[step]
        body[place[-1]] = value

    return change


ONE = ("models", 0)
TURN = (*ONE, "repeats", 0)
NOTHING = {"seconds": 0.0, "flops": 0, "bytes": 0, "name": "rest"}
WRONG = [
    (at(*TURN, "seconds", value=0.0), "models.0.repeats.0.seconds: Input should be greater than or equal to"),
    (at(*TURN, "seconds", value=1e-320), "models.0.repeats.0.seconds: Input should be greater than or equal"),
    (at(*TURN, "seconds", value=1e15), "models.0.repeats.0.seconds: Input should be less than or equal to"),
    (
        at(*TURN, "calls", value=0),
        "models.0.repeats.0.calls: Input should be greater than or equal to 1 (got 0)",
    ),
    (
        at(*TURN, "other_load", value=7.0),
        "models.0.repeats.0.other_load: Input should be less than or equal to 1",
    ),
    (
        at(*TURN, "other_load", value=-1.0),
        "models.0.repeats.0.other_load: Input should be greater than or equal",
    ),
    (at(*ONE, "latency_s", value={}), "models.0: latency_s: expected p50, p90, p95, p99, got none"),
    (at(*ONE, "latency_s", value={"p50": 0.1}), "models.0: latency_s: expected p50, p90, p95, p99, got p50"),
    (at(*ONE, "latency_s", value=POINTS | {"p50": 0.2}), "expected p50 of at most p90, got 0.2 and 0.1"),
    (at(*ONE, "latency_s", value=POINTS | {"p99": 0.0}), "models.0.latency_s.p99: Input should be greater"),
    (at(*ONE, "repeats", value=[]), "models.0: latency_s: expected none without repeats"),
    (at(*ONE, "status", value="crashed"), "models.0: status crashed stands beside repeats or latency_s"),
    (at(*ONE, "model", value=""), "models.0.model: expected a text that can be read; it is empty"),
    (at(*ONE, "model", value="\u200b"), "models.0.model: expected a text that can be read; it shows nothing"),
    (at(*ONE, "model", value="theirs"), "models: expected each model once, got theirs several times"),
    (at(*ONE, "energy_j", value=-5.0), "models.0.energy_j: Input should be greater than 0 (got -5.0)"),
    (at(*ONE, "parts", value=[NOTHING]), "models.0: parts: expected the seconds of a pass, got 0 in all"),
    (
        at(*ONE, "parts", value=[NOTHING | {"seconds": 0.1}] * 2),
        "models.0: expected each part once, got rest",
    ),
    (at(*ONE, "reason", value="boom"), "models.0: status ok stands beside a reason"),
    (at("models", value=[]), "models: Value should have at least 1 item"),
    (at("cell", "height", value=0), "cell: height of tower image: expected 1 or more, got 0"),
    (at("cell", "width", value=0), "cell: width of tower image: expected 1 or more, got 0"),
    (at("cell", "tokens", value=77), "cell: tokens of tower image: expected 0, got 77"),
    (at("cell", "precision", value="fp999"), "cell.precision: Input should be 'fp32', 'bf16' or 'fp16'"),
    (at("cell", "precision", value="\u200b"), "cell.precision: Input should be 'fp32', 'bf16' or 'fp16'"),
    (at("device", value="\u200b"), "device: expected a text that can be read"),
    (at("ceiling_flops", value=-1.0), "ceiling_flops: Input should be greater than 0 (got -1.0)"),
    (at("ceiling_bytes", value=0.0), "ceiling_bytes: Input should be greater than 0 (got 0.0)"),
    (at("noisy", value="x" * 10**6), "noisy: String should have at most 4000 characters"),
    (at("version", value=0), "version: Input should be greater than or equal to 1 (got 0)"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_cell_that_no_measurement_leaves_is_one_message_of_file_and_field(cell, change, said):
    resealed(cell, change)
    with pytest.raises(OutputError) as refused:
        read_block(cell)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{cell} is not a measurement: ")
    assert len(str(refused.value)) < 2000


def test_every_command_that_reads_cells_says_it(run, cell):
    resealed(cell, at(*TURN, "seconds", value=0.0))
    speed = cell.parents[1]
    for command in (("report", speed), ("report", speed, "--check"), ("bench", "compare", speed, speed)):
        code, _, err = run(*command)
        assert (code, f"{cell} is not a measurement" in err) == (2, True), err


def test_a_cell_under_another_files_name_is_refused(cell):
    copied = cell.with_name("zz.json")
    shutil.copy(cell, copied)
    with pytest.raises(
        OutputError, match=r"zz\.json holds another cell than its name says: expected image-224"
    ):
        read_blocks(cell.parents[1])
    copied.unlink()
    resealed(cell, at("cell", "batch", value=8))
    with pytest.raises(OutputError, match=r"expected image-224x224-batch8-fp32\.json"):
        read_blocks(cell.parents[1])


def test_cells_of_several_devices_are_no_measurement(cell):
    resealed(cell, at("device", value="cuda"))
    with pytest.raises(
        OutputError, match=r"expected cells of one device, got cpu in image-\S+, cuda in image-224"
    ):
        read_blocks(cell.parents[1])


def test_what_a_measurement_may_leave_out_is_read(tmp_path):
    one = block(224, measured("ours", 0.1), measured("theirs", 0.1, n=1))
    part = Part(name="rest", seconds=0.0, flops=0, bytes=0)
    lost = dataclasses.replace(
        one.models[0], status="crashed", reason="killed", repeats=(), latency_s={}, model="lost"
    )
    apart = dataclasses.replace(
        one.models[1], model="apart", parts=[part, dataclasses.replace(part, name="mixer", seconds=0.1)]
    )
    untimed = dataclasses.replace(one.models[0], repeats=(), latency_s={}, model="untimed")
    one = dataclasses.replace(one, models=[*one.models, lost, apart, untimed], ceiling_flops=None)
    path = tmp_path / f"{one.cell.key}.json"
    write_block(path, one)
    assert [model.model for model in read_block(path).models] == [
        "ours",
        "theirs",
        "lost",
        "apart",
        "untimed",
    ]


@pytest.mark.parametrize(
    ("field", "changed", "said"),
    [
        ("dataset", "image 9×9 px", "dataset image 9×9 px"),
        ("protocol", "bf16, batch 1, cpu", "protocol bf16, batch 1, cpu"),
        ("model", "gpt", "model gpt"),
        ("primary", False, "primary False"),
        ("n", 7, "n 7"),
        ("metric_info", {"better": "lower"}, "better lower"),
        ("notes", {"implementation": "cuda"}, "notes.implementation cuda"),
    ],
)
def test_check_compares_all_that_a_record_of_speed_says(run, cell, field, changed, said):
    results = cell.parents[1] / "results.jsonl"
    first, *others = results.read_text().splitlines()
    record = json.loads(first)
    record[field] = record[field] | changed if isinstance(changed, dict) else changed
    results.write_text("\n".join([json.dumps(record), *others]))
    code, out, _ = run("report", cell.parents[1], "--check")
    assert code == 1
    assert said in out
    assert len(out) < 700, "more than what changed is told"
    assert "35 of 36 records of speed come out of their cells as recorded" in out


def test_check_tells_records_that_are_twice_or_lack(run, cell):
    results = cell.parents[1] / "results.jsonl"
    first, *others = results.read_text().splitlines()
    results.write_text("\n".join([first, first, *others]))
    code, out, _ = run("report", cell.parents[1], "--check")
    assert (code, "the same record once more" in out, "36 of 37" in out) == (1, True, True)
    results.write_text("\n".join(others))
    code, out, _ = run("report", cell.parents[1], "--check")
    assert (code, "value 79." in out) == (1, True)
