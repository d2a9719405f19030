"""A measurement on disk: continued, checked, never mixed with another."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwkvclip_eval.bench import ahead, load, session
from rwkvclip_eval.bench import worker as workers
from rwkvclip_eval.bench.ahead import BenchOptions, Plan
from rwkvclip_eval.bench.session import run_bench
from rwkvclip_eval.bench.turns import Effort
from rwkvclip_eval.bench.worker import Worker, WorkerFailed
from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Repeat, read_block, write_block
from rwkvclip_eval.records.grid import Grid, Grids
from rwkvclip_eval.records.reading import read_records

CELLS = [Cell(tower="image", batch=4, height=side, width=side) for side in (32, 64)]


@pytest.fixture
def measured(monkeypatch):
    """The cells that were measured, in order; each with times made up."""
    asked = []

    def measure(cell, models, arguments, **how):
        asked.append(cell)
        done = [
            dataclasses.replace(
                model,
                repeats=[Repeat(seconds=0.1, calls=3, other_load=0.0)] * 5,
                latency_s={f"p{p}": 0.1 for p in (50, 90, 95, 99)},
            )
            if model.status == "ok"
            else model
            for model in models
        ]
        return Block(cell=cell, device="cpu", models=done)

    monkeypatch.setattr(session.turns, "measure", measure)
    return asked


def plan(cells=CELLS, models=("a", "b")):
    known = [Measured(model=name, spec=f"{name}=random:0", flops=10**9) for name in models]
    return Plan(
        cells=cells,
        models=known,
        specs=[m.spec for m in known],
        known={(i, cell.key): m for i, m in enumerate(known) for cell in cells},
        ceilings={"fp32": 1e11},
    )


def test_the_same_command_measures_what_is_left(tmp_path, measured):
    first = run_bench(plan(), tmp_path, options=BenchOptions(max_minutes=0))
    assert (first.exit_code, len(first.left), measured) == (3, 2, [])
    assert run_bench(plan(), tmp_path, options=BenchOptions()).exit_code == 0
    assert sorted(measured) == sorted(CELLS)
    again = run_bench(plan(), tmp_path, options=BenchOptions())
    assert (len(measured), len(again.blocks)) == (2, 2)
    assert json.loads((tmp_path / "run.json").read_text())["num_commands"] == 3


def test_a_configuration_that_changed_under_its_name_is_another_measurement(tmp_path, measured):
    run_bench(dataclasses.replace(plan(), fingerprints=["1", "2"]), tmp_path, options=BenchOptions())
    with pytest.raises(OutputError, match=r"another run \(other fingerprints\)"):
        run_bench(dataclasses.replace(plan(), fingerprints=["1", "3"]), tmp_path, options=BenchOptions())


@pytest.mark.parametrize("foreign", [{"device": "cuda"}, {"models": 1}, {"spec": "c=random:0"}])
def test_a_cell_of_another_measurement_is_measured_again(tmp_path, measured, foreign):
    run_bench(plan(), tmp_path, options=BenchOptions())
    path = tmp_path / "cells" / f"{CELLS[0].key}.json"
    block = read_block(path)
    first, *others = block.models
    models = {"models": [first], "spec": [dataclasses.replace(first, spec="c=random:0"), *others]}
    kind, value = next(iter(foreign.items()))
    change = {"device": value} if kind == "device" else {"models": models[kind]}
    write_block(path, dataclasses.replace(block, **change))
    measured.clear()
    run_bench(plan(), tmp_path, options=BenchOptions())
    assert measured == [CELLS[0]]


@pytest.mark.parametrize(("status", "again"), [("crashed", 1), ("out_of_memory", 0), ("not_possible", 0)])
def test_a_cell_in_which_a_process_ended_is_measured_again(tmp_path, measured, status, again):
    run_bench(plan(), tmp_path, options=BenchOptions())
    path = tmp_path / "cells" / f"{CELLS[0].key}.json"
    block = read_block(path)
    lost = dataclasses.replace(block.models[0], status=status, reason="it did", repeats=[], latency_s={})
    write_block(path, dataclasses.replace(block, models=[lost, block.models[1]]))
    measured.clear()
    summary = run_bench(plan(), tmp_path, options=BenchOptions())
    assert len(measured) == again
    assert summary.lost == ([f"a, {CELLS[0].label}: it did"] if status == "out_of_memory" else [])


def test_minutes_are_counted_from_looking_ahead(tmp_path, measured):
    early = dataclasses.replace(plan(), began=time.monotonic() - 120)
    assert len(run_bench(early, tmp_path, options=BenchOptions(max_minutes=1)).left) == len(CELLS)
    assert not run_bench(early, tmp_path, options=BenchOptions(max_minutes=60)).left


OVER = "patches or tokens a batch, beyond 10"


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        ({"tower": "image", "batch": 2, "height": 64, "width": 64}, ""),
        ({"tower": "image", "batch": 1, "height": 64, "width": 96}, "6 patches an image, beyond 4"),
        (
            {"tower": "image", "batch": 3, "height": 64, "width": 64},
            "12 patches or tokens a batch, beyond 10",
        ),
        ({"tower": "text", "batch": 2, "tokens": 5}, ""),
        ({"tower": "text", "batch": 1, "tokens": 11}, f"11 {OVER}"),
    ],
)
def test_cells_beyond_the_limits_of_a_grid_are_left_out_with_a_reason(cell, left):
    part = Grid(towers=["image"], batches=[1], sizes=[[32, 32]])
    limits = Grids(parts=[part], most_patches=4, most_positions=10)
    facts = {"image_size_px": [64, 64], "context_length": 77, "patch_px": 32}
    one = Measured(model="a", spec="a")
    model = ahead._before(one, Cell(**cell), {"flops": 1}, facts, limits)
    assert model.reason == (f"not in the default grid: {left}" if left else "")
    assert model.status == ("not_in_grid" if left else "ok")
    assert ahead._before(one, Cell(**cell), {"flops": 1}, facts, None).status == "ok"


@pytest.mark.parametrize(
    ("cell", "beyond"),
    [
        ({"tower": "image", "height": 224, "width": 224}, ""),
        ({"tower": "image", "height": 224, "width": 225}, "224×224 px"),
        ({"tower": "text", "tokens": 77}, ""),
        ({"tower": "text", "tokens": 78}, "77 tokens"),
        ({"tower": "both", "height": 448, "width": 224, "tokens": 256}, "224×224 px and 77 tokens"),
    ],
)
def test_what_is_beyond_the_sizes_of_a_model_is_marked(cell, beyond):
    facts = {"image_size_px": [224, 224], "context_length": 77, "patch_px": 32}
    model = ahead._before(Measured(model="a", spec="a"), Cell(**cell), {"flops": 1}, facts, None)
    assert model.beyond == beyond


def test_a_cell_whose_file_was_changed_is_measured_again(tmp_path, measured):
    run_bench(plan(), tmp_path, options=BenchOptions())
    path = tmp_path / "cells" / f"{CELLS[0].key}.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(OutputError, match="not as it was written"):
        read_block(path)
    measured.clear()
    run_bench(plan(), tmp_path, options=BenchOptions())
    assert measured == [CELLS[0]]


def test_records_hold_rates_latencies_and_the_reason_where_there_is_none(tmp_path, measured):
    both = plan()
    key = 0, CELLS[1].key
    both.known[key] = dataclasses.replace(both.known[key], status="not_possible", reason="too large")
    run_bench(both, tmp_path, options=BenchOptions())
    records = read_records(tmp_path / "results.jsonl")
    rates = [r for r in records if r.metric == "images_per_second"]
    assert [r.value for r in rates] == [pytest.approx(40)] * 3
    assert [r.reason for r in records if r.status == "not_applicable"] == ["too large"]
    assert all(r.ci_low <= r.value <= r.ci_high for r in rates)
    assert {r.metric for r in records} >= {"latency_p50_ms", "latency_p99_ms"}


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        (plan(models=("a", "c")), BenchOptions()),
        (plan(cells=CELLS[:1]), BenchOptions()),
        (plan(), BenchOptions(threads=7)),
    ],
)
def test_another_measurement_is_not_mixed_in(tmp_path, measured, changed, options):
    run_bench(plan(), tmp_path, options=BenchOptions())
    with pytest.raises(OutputError, match=r"holds another run \(other"):
        run_bench(changed, tmp_path, options=options)


def test_other_versions_are_another_measurement_for_a_page_says_them_once(tmp_path, measured):
    run_bench(plan(), tmp_path, options=BenchOptions())
    said = json.loads((tmp_path / "run.json").read_text())
    here = said["identity"]["torch"]
    said["identity"]["torch"] = "1.0"
    (tmp_path / "run.json").write_text(json.dumps(said))
    with pytest.raises(OutputError, match=rf"torch: 1\.0 there, {re.escape(here)} here"):
        run_bench(plan(), tmp_path, options=BenchOptions())


def test_cells_without_a_run_are_nobodys_and_are_not_adopted(tmp_path, measured):
    run_bench(plan(), tmp_path, options=BenchOptions())
    (tmp_path / "run.json").unlink()
    measured.clear()
    for _ in range(2):
        with pytest.raises(OutputError, match=r"holds cells, but no run\.json"):
            run_bench(plan(), tmp_path, options=BenchOptions())
    assert measured == []


def test_what_is_unknown_there_and_here_is_no_difference(tmp_path, measured):
    run_bench(plan(), tmp_path, options=BenchOptions())
    said = json.loads((tmp_path / "run.json").read_text())
    said["identity"] = {name: value for name, value in said["identity"].items() if value != ""}
    (tmp_path / "run.json").write_text(json.dumps(said))
    assert run_bench(plan(), tmp_path, options=BenchOptions()).exit_code == 0


def test_an_accuracy_runs_directory_is_refused(tmp_path, measured):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="not a run description"):
        run_bench(plan(), tmp_path, options=BenchOptions())


def arguments(spec):
    return {
        "spec": spec, "device": "cpu", "precision": "fp32", "implementation": "auto", "threads": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tiny_spec(tmp_path_factory):
    """A tiny CLIP."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    path = tmp_path_factory.mktemp("worker") / "tiny.json"
    path.write_text(json.dumps(config))
    return f"open_clip:{path}=random:0"


@pytest.fixture(scope="module")
def worker(tiny_spec):
    """A process with it."""
    with Worker(**arguments(tiny_spec)) as made:
        yield made


def test_a_process_measures_counts_and_says_what_it_cannot(worker):
    cell = dataclasses.asdict(Cell(tower="both", batch=2, height=48, width=32, tokens=9))
    assert worker.facts["patch_px"] == 16
    assert worker.ask("prepare", cell=cell)["first_call_s"] > 0
    times = worker.ask("measure", seconds=0.05)["seconds"]
    assert len(times) >= 3
    assert all(t > 0 for t in times)
    tiny = dataclasses.asdict(Cell(tower="image", batch=1, height=8, width=8))
    with pytest.raises(WorkerFailed, match="hold no patch") as failed:
        worker.ask("prepare", cell=tiny)
    assert failed.value.status == "not_possible"
    huge = dataclasses.asdict(Cell(tower="image", batch=1_000_000, height=8192, width=8192))
    with pytest.raises(WorkerFailed) as failed:
        worker.ask("prepare", cell=huge)
    assert failed.value.status == "out_of_memory"
    # It lives on.
    assert worker.ask("prepare", cell=cell)["warm_up_calls"] >= 3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' high-water marks")
def test_the_peak_that_is_read_holds_what_a_cell_allocates(worker):
    before = worker.resident_bytes()
    cell = Cell(tower="image", batch=64, height=512, width=512)
    worker.ask("prepare", cell=dataclasses.asdict(cell))
    pixels = 64 * 3 * 512 * 512 * 4
    assert worker.peak_bytes() - before > pixels


def test_a_process_that_was_killed_for_memory_is_told_from_one_that_somebody_killed(worker, monkeypatch):
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailed, match="SIGKILL"):
        worker.ask("measure", seconds=0.01)
    for before, now, status in ((3, 4, "out_of_memory"), (3, 3, "crashed"), (None, None, "out_of_memory")):
        monkeypatch.setattr(worker, "_killed_before", before)
        monkeypatch.setattr(workers, "_killed_for_memory", lambda now=now: now)
        assert worker._ended().status == status


def test_what_linux_killed_for_memory_is_counted(tmp_path):
    path = tmp_path / "vmstat"
    assert workers._killed_for_memory(path) is None
    path.write_text("pgfault 7\noom_kill 3\nother 1\n")
    assert workers._killed_for_memory(path) == 3
    path.write_text("pgfault 7\n")
    assert workers._killed_for_memory(path) is None


def killed_when_asked(monkeypatch, last):
    """Have every process be killed when it is asked to do one thing."""
    asked = Worker.ask

    def ask(self, do, **what):
        if do == last:
            os.kill(self.pid, signal.SIGKILL)
        return asked(self, do, **what)

    monkeypatch.setattr(Worker, "ask", ask)
    monkeypatch.setattr(ahead, "CEILING_S", 0.0)


def test_a_model_whose_process_ends_while_it_is_paced_is_planned_all_the_same(tiny_spec, monkeypatch):
    killed_when_asked(monkeypatch, "measure")
    found = ahead.look_ahead([tiny_spec], CELLS[:1], BenchOptions())
    assert found.paces == {}
    assert found.known[0, CELLS[0].key].flops > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' high-water marks")
def test_what_loading_left_in_the_heap_hides_no_memory(tmp_path):
    code = (
        "import sys; from rwkvclip_eval.bench.heap import trim_heap\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "kept = [bytearray(100_000) for _ in range(2000)]; end = bytearray(100_000); del kept\n"
        "before = rss(); trim_heap(); print(before - rss())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) > 150_000_000


def test_a_model_that_cannot_be_loaded_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(UserError, match="rwkv-clip-b33"):
        ahead.look_ahead(["rwkv-clip-b33=random:0"], CELLS, BenchOptions())


def test_a_precision_that_a_model_cannot_do_costs_its_cells_alone(tiny_spec, monkeypatch):
    class Fussy(Worker):
        def __init__(self, **given):
            if given["precision"] == "fp16":
                raise WorkerFailed("not_possible", "values are not finite in fp16")
            super().__init__(**given)

    monkeypatch.setattr(ahead, "Worker", Fussy)
    cells = [CELLS[0], dataclasses.replace(CELLS[0], precision="fp16")]
    found = ahead.look_ahead([tiny_spec], cells, BenchOptions())
    first, second = (found.known[0, cell.key] for cell in cells)
    assert (first.status, second.status, second.reason) == (
        "ok",
        "not_possible",
        "values are not finite in fp16",
    )


def test_a_process_that_ends_while_flops_are_counted_leaves_them_open(tiny_spec, monkeypatch):
    killed_when_asked(monkeypatch, "count")
    known = ahead.look_ahead([tiny_spec], CELLS, BenchOptions()).known
    assert {(one.status, one.flops) for one in known.values()} == {("ok", None)}


@pytest.mark.parametrize(
    ("failed", "status"), [("crashed", "ok"), ("out_of_memory", "ok"), ("not_possible", "not_possible")]
)
def test_what_cannot_be_counted_may_run_all_the_same(failed, status):
    facts = {"image_size_px": [64, 64], "context_length": 77, "patch_px": 32}
    answer = {"flops": None, "failed": failed, "reason": "no meta kernel"}
    model = ahead._before(Measured(model="a", spec="a"), CELLS[0], answer, facts, None)
    assert (model.status, model.flops) == (status, None)


def test_a_process_that_cannot_be_started_is_a_reason(tiny_spec, monkeypatch):
    def full():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(workers.tempfile, "TemporaryFile", full)
    with pytest.raises(WorkerFailed, match="could not be started: No usable temporary") as failed:
        Worker(**arguments(tiny_spec))
    assert failed.value.status == "crashed"


@pytest.mark.parametrize(("processors", "most"), [(2, 0.05), (10, 0.05), (32, 0.5 / 32)])
def test_of_many_processors_others_may_use_half_a_one(monkeypatch, processors, most):
    monkeypatch.setattr(load, "_own_processors", lambda: [None] * processors)
    assert load.most_of_others() == pytest.approx(most)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system binds no process to processors")
def test_the_load_is_that_of_the_processors_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {1, 3})
    monkeypatch.setattr(load.psutil, "cpu_times", lambda percpu: ["a", "b", "c", "d"])
    assert load._own_processors() == ["b", "d"]


def test_other_processes_are_seen():
    code = "import time; end = time.time() + 20\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        others = load.OtherLoad()
        time.sleep(1.0)
        disturbed, ours = others.share(), load.OtherLoad([busy.pid])
        time.sleep(1.0)
        assert disturbed > 0.05
        # Told that it is one of ours, it is no other.
        assert ours.share() < disturbed + 0.5
        busy.kill()


def test_an_estimate_goes_by_the_pace_and_the_start_that_were_measured():
    effort = Effort(turn_s=0.5, repeats=5)
    given = plan(cells=CELLS[:1], models=("a",))
    at_pace = dataclasses.replace(given, paces={(0, "fp32", False): 1e9}, starts={0: 4.0})
    # A call of one second: three to warm up, turns of three in each of five repeats, forth and back, six to
    # take it apart.
    assert at_pace.seconds(CELLS[0], effort) == pytest.approx(5 * load.LOOK_S + 4 + 3 + 5 * 2 * 1.5 + 6)
    # One of ten seconds is made once a repeat, and twice to take it apart.
    slow = dataclasses.replace(at_pace, paces={(0, "fp32", False): 1e8})
    assert slow.seconds(CELLS[0], effort) == pytest.approx(5 * load.LOOK_S + 4 + 30 + 5 * 10 + 20)
    fresh = dataclasses.replace(effort, fresh=True)
    assert at_pace.seconds(CELLS[0], fresh) == pytest.approx(5 * load.LOOK_S + 5 * 7 + 5 * 2 * 1.5 + 6)


def test_a_cell_that_a_model_is_spared_costs_no_time_of_it():
    both = plan(cells=CELLS[:1])
    alone = both.seconds(CELLS[0], Effort())
    both.known[0, CELLS[0].key] = dataclasses.replace(both.models[0], status="not_in_grid")
    assert both.seconds(CELLS[0], Effort()) < alone


def test_the_time_left_is_corrected_by_what_cells_took(tmp_path, measured, monkeypatch):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(session.time, "monotonic", lambda: float(next(clock)))
    told = []
    given = plan()
    run_bench(given, tmp_path, options=BenchOptions(), on_cell=lambda cell, done, left: told.append(left))
    assert told[0] == pytest.approx(given.total_seconds(Effort()))
    assert told[1] >= 100


def test_the_cell_that_is_timed_before_is_the_largest_that_is_small():
    cells = [Cell(tower="image", batch=b, height=s, width=s) for b in (1, 8, 32) for s in (224, 448)]
    cells.append(Cell(tower="text", batch=64, tokens=1024))
    found = list(ahead._pace_cells(cells, "fp32", "cpu"))
    assert [(c.tower, c.batch, c.height) for c in found] == [("image", 8, 224), ("text", 64, 0)]
    assert list(ahead._pace_cells(cells, "bf16", "cpu")) == []
