"""`bench`, `run efficiency` and `report` of a measurement, from the command line."""

import dataclasses
import json
import sys

import pytest
from speed_runs import block, measured, two_models, write_run

from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.efficiency import read_block
from rwkvclip_eval.records.reading import read_records, write_records

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
GRIDS = """\
name: mine
grids:
  cpu:
    parts:
      - {towers: [image], batches: [2], sizes: [[32, 32]]}
"""


def write_suite_run(path):
    """Write a run with one accuracy."""
    from rwkvclip_eval.records.schema import Record, RunInfo

    record = Record(
        unit="a", status="ok", model="ours", model_info={"name": "ours", "spec": "ours"},
        task="zero_shot_classification", task_version=1, dataset="cifar10", protocol="standard",
        metric="top1_accuracy", value=0.5, n=100, primary=True,
    )  # fmt: skip
    path.mkdir()
    write_records(path / "results.jsonl", [record])
    info = RunInfo(
        command="run", suite_name="x", suite_text="", suite_sha256="", models=["ours"], identity={},
        environment={}, started_utc="",
    )  # fmt: skip
    (path / "run.json").write_text(json.dumps(dataclasses.asdict(info)))
    return path


def written(path, blocks):
    write_run(path, *blocks)
    write_records(path / "results.jsonl", [record for one in blocks for record in records_of(one)])
    return path


@pytest.fixture
def tiny(tmp_path):
    """A spec of a tiny CLIP by its configuration file."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return f"open_clip:{path}=random:0"


@pytest.fixture
def quick_turns(monkeypatch):
    """No waiting for a quiet machine, of which tests have none."""
    from rwkvclip_eval.bench import turns

    monkeypatch.setattr(turns, "wait_for_quiet", lambda own, seconds, gpu_share: True)
    monkeypatch.setattr(turns, "MOST_AGAIN", 0)


def test_the_report_of_a_measurement_is_the_page_of_speed(run, tmp_path):
    path = written(tmp_path / "speed", two_models())
    code, out, _ = run("report", path)
    assert code == 0
    assert f"Report: {path / 'report' / 'index.html'}" in out
    assert "<h1>Speed and memory</h1>" in (path / "report" / "index.html").read_text()
    assert (path / "report" / "efficiency.csv").is_file()
    assert run("report", path)[0] == 0, "its own page is replaced"
    (path / "report" / "index.html").write_text("mine")
    code, _, err = run("report", path)
    assert (code, "was not written by this program" in err) == (2, True)


def test_measurements_keep_to_themselves_beside_accuracies(run, tmp_path):
    accuracy = write_suite_run(tmp_path / "accuracy")
    path = written(tmp_path / "speed", two_models())
    assert run("report", accuracy, path, "--out", tmp_path / "both")[0] == 0
    assert (tmp_path / "both" / "efficiency-speed" / "index.html").is_file()
    assert "images_per_second" not in (tmp_path / "both" / "results.csv").read_text()


def test_check_derives_the_records_of_a_measurement_from_its_cells(run, tmp_path):
    path = written(tmp_path / "speed", two_models())
    code, out, _ = run("report", path, "--check")
    assert code == 0
    assert "36 of 36 records of speed come out of their cells as recorded" in out
    records = path / "results.jsonl"
    lines = records.read_text().splitlines()
    changed = {**json.loads(lines[0]), "value": 1.0, "ci_low": 0.9, "ci_high": 1.1}
    records.write_text("\n".join([json.dumps(changed), *lines[1:]]))
    code, out, _ = run("report", path, "--check")
    assert code == 1
    assert "35 of 36" in out
    assert "images_per_second" in out


def test_records_of_speed_carry_the_version_and_are_read_as_all_are(tmp_path):
    from rwkvclip_eval.records.reading import load_results
    from rwkvclip_eval.records.schema import SCHEMA_VERSION

    frame = load_results(written(tmp_path / "speed", [block(224, measured("ours", 0.1))]))
    assert set(frame["task"]) == {"efficiency"}
    assert set(frame["schema_version"]) == {SCHEMA_VERSION}


def test_a_suite_of_ones_own_is_measured_by_either_command(run, tmp_path, tiny, quick_turns, monkeypatch):
    suite = tmp_path / "mine.yaml"
    suite.write_text(GRIDS)
    effort = ("--repeats", "1", "--turn", "0.01")
    code, _, err = run("bench", "--suite", suite, "-m", tiny, *effort, "-o", tmp_path / "out")
    assert code == 0, err
    assert [path.stem for path in (tmp_path / "out" / "cells").iterdir()] == ["image-32x32-batch2-fp32"]
    assert "mine cpu" in (tmp_path / "out" / "run.json").read_text()

    from rwkvclip_eval.bench import ahead

    asked = []

    def look_ahead(models, cells, options, **_):
        asked.append((models, [cell.key for cell in cells], options))
        raise UserError("that is enough")

    monkeypatch.setattr(ahead, "look_ahead", look_ahead)
    for command in (("bench", "--suite", suite), ("run", suite)):
        assert run(*command, "-m", tiny, "-o", tmp_path / "other")[0] == 2
    assert asked[0] == asked[1]
    assert asked[1][1] == ["image-32x32-batch2-fp32"]


def test_a_plugins_encoder_is_measured_even_where_its_flops_cannot_be_counted(
    run, tmp_path, tiny, quick_turns
):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from rwkvclip_eval.encoders import load_encoder, register_encoder\n"
        "from rwkvclip_eval.encoders.towers import towers_of\n"
        "def load(spec, *, device, precision, implementation, offline):\n"
        f"    encoder = load_encoder({tiny!r}, device, precision, offline=offline)\n"
        "    for module in towers_of(encoder).module.modules():\n"
        "        if type(module).__name__ == 'Conv2d':\n"
        "            # Without values there is no such number.\n"
        "            module.register_forward_hook(lambda module, given, made: [made.sum().item(), None][1])\n"
        "    return encoder\n"
        "register_encoder('mine', load)\n"
    )
    code, _, err = run(
        "bench", "-m", "mine", "--plugin", plugin, "--tower", "image", "--size", "32", "--batch-size", "1",
        "--precision", "fp32", "--repeats", "1", "--turn", "0.01", "-o", tmp_path / "out", "--no-report",
    )  # fmt: skip
    assert code == 0, err
    records = read_records(tmp_path / "out" / "results.jsonl")
    assert {(record.model, record.status) for record in records} == {("mine", "ok")}
    assert not any("flops" in record.notes for record in records)
    [cell] = (tmp_path / "out" / "cells").glob("*.json")
    [measured] = read_block(cell).models
    assert {part.flops for part in measured.parts} == {0}
    assert measured.parts_note.startswith("their FLOPs could not be counted: RuntimeError")


def test_options_of_accuracies_do_not_go_with_a_suite_of_speed(run, tmp_path, tiny):
    code, _, err = run(
        "run", "efficiency", "-m", tiny, "--limit", "5", "--shots", "1", "-o", tmp_path / "out"
    )
    assert code == 2
    assert "measures speed, which --limit, --shots cannot change" in err
    code, _, err = run("bench", "--suite", "smoke", "-m", tiny, "-o", tmp_path / "out")
    assert code == 2
    assert "`rwkvclip-eval run smoke …`" in err


def test_bench_without_models_or_with_a_subcommand_besides_says_what_is_expected(run, tmp_path):
    code, _, err = run("bench")
    assert (code, "at least one --model and --out DIR" in err) == (2, True)
    code, _, err = run("bench", "-m", "x", "compare", tmp_path, tmp_path)
    assert (code, "`bench compare` does not measure models" in err) == (2, True)


def test_a_dry_run_goes_by_what_was_measured_here(run, tmp_path, tiny):
    code, out, _ = run(
        "bench", "-m", tiny, "--tower", "image,text", "--size", "32", "--batch-size", "1,4", "--tokens", "9",
        "--precision", "fp32", "--dry-run", "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert "4 cells, about" in out
    assert "at the pace at which one small eager cell of images" in out
    assert not (tmp_path / "out").exists()


def test_a_measurement_beside_a_busy_process_is_never_clean(tmp_path, tiny):
    import subprocess

    from rwkvclip_eval.bench.ahead import BenchOptions, look_ahead
    from rwkvclip_eval.bench.session import run_bench
    from rwkvclip_eval.bench.turns import Effort
    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import speed_rows
    from rwkvclip_eval.report.formats.efficiency import remarks

    cell = Cell(tower="image", batch=2, height=32, width=32)
    options = BenchOptions(effort=Effort(turn_s=0.1, repeats=2, most_repeats=2, gate_s=0))
    # Two of one name go by their weights.
    plan = look_ahead([tiny, tiny.replace("random:0", "random:1")], [cell], options)
    assert len({model.model for model in plan.models}) == 2
    code = "import time\nend = time.time() + 300\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        try:
            found = run_bench(plan, tmp_path / "out", options=options)
        finally:
            busy.kill()
    assert "other processes took more than 5% of the processors in 2 of 2 repeats" in found.blocks[0].noisy
    rows = speed_rows(found.blocks)
    assert rows[0].verdict == "AMBIGUOUS"
    assert any("too noisy" in text for text in remarks(rows))


def test_streaming_is_measured_by_the_command_and_kept(run, tmp_path, monkeypatch):
    config = {
        "input_size": 16, "image_depth": 1, "image_embed_dims": 32, "image_patch_size": 4,
        "image_hidden_rate": 2, "image_num_heads": 2, "ctx_len": 12, "vocab_size": 64, "head_size": 16,
        "n_layer": 1, "n_embd": 32, "dim_ffn": 32,
    }  # fmt: skip
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config))
    out = tmp_path / "out"
    code, said, _ = run("bench", "streaming", "--config", path, "--patches", "36,36", "-o", out)
    assert code == 0, said
    assert (out / "streaming.csv").read_text().count("\n") == 3
    assert "36" in (out / "streaming.md").read_text()
    assert (out / "plots" / "streaming.svg").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, _, err = run("bench", "streaming", "--config", path, "--patches", "36", "-o", blocked)
    assert (code, "Cannot write into" in err) == (2, True)
