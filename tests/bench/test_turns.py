"""How a cell is measured: turns forth and back, disturbed repeats again, a failure that costs one model."""

import itertools

import pytest

from rwkvclip_eval.bench import turns
from rwkvclip_eval.bench.turns import Effort, measure
from rwkvclip_eval.bench.watch import HEAT, Blind, Look
from rwkvclip_eval.bench.worker import WorkerFailed
from rwkvclip_eval.records.efficiency import Cell, Measured

CELL = Cell(tower="image", batch=4, height=32, width=32)
FAST = Effort(turn_s=0.1, repeats=5, most_repeats=7, gate_s=0)


class Stage:
    """Workers with scripted times, and what was asked of them in order."""

    def __init__(self, monkeypatch, times, loads=(0.0,), fails=(), source=None):
        self.log, self.apart, self.loads, self.fails = [], [], itertools.cycle(loads), dict(fails)
        self.first = {name: series[0] for name, series in times.items()}
        self.times = {name: itertools.cycle(series) for name, series in times.items()}
        monkeypatch.setattr(turns, "Worker", self.worker)
        monkeypatch.setattr(turns, "wait_for_quiet", lambda own, seconds, gpu_share: True)
        monkeypatch.setattr(turns, "OtherLoad", lambda own: self)
        monkeypatch.setattr(turns, "source_of", lambda device, uuid: source or Blind("not watched"))

    def share(self):
        return next(self.loads)

    def worker(self, name):
        stage = self

        class Scripted:
            baseline_bytes, pid = 100, 1

            def __init__(self):
                self.facts = {"implementation": "x", "num_parameters": 7, "load_s": 1.0}

            def ask(self, do, **what):
                stage.log.append((name, do))
                stage.apart += [what["calls"]] if do == "parts" else []
                if stage.fails.get(name) == do:
                    raise WorkerFailed("out_of_memory", "no memory left.")
                if do == "prepare":
                    chosen = {"attention_kernels": "flash"} if name == "b" else {}
                    return {"first_call_s": 2.0, "seconds": stage.first[name], **chosen}
                if do == "parts":
                    return {"parts": [{"name": "rest", "seconds": 0.1, "flops": 3, "bytes": 4}]}
                return {"seconds": [next(stage.times[name])] * 3}

            def peak_bytes(self):
                return 500

            def close(self):
                stage.log.append((name, "close"))

        return Scripted()


def run(names=("a", "b"), effort=FAST):
    models = [Measured(model=name, spec=name) for name in names]
    return measure(CELL, models, [{"name": name} for name in names], device="cpu", effort=effort)


def test_models_take_their_turns_forth_and_back(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]})
    block = run()
    asked = [name for name, do in stage.log if do == "measure"]
    forth, back = ["a", "b", "b", "a"], ["b", "a", "a", "b"]
    assert asked == [*forth, *back] * 2 + forth
    assert [len(m.repeats) for m in block.models] == [5, 5]
    assert block.models[0].latency_s["p99"] == pytest.approx(0.1)
    assert (block.models[0].peak_bytes, block.models[0].baseline_bytes) == (500, 100)
    assert block.noisy == ""


def test_a_call_longer_than_a_turn_is_made_once_a_repeat(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.4]})
    run()
    assert [name for name, do in stage.log if do == "measure"] == ["a", "b", "b", "a"] * 2 + ["a", "b"]


def test_a_long_call_is_taken_apart_once(monkeypatch):
    stage = Stage(monkeypatch, {"a": [1.0], "b": [1.1]})
    run()
    assert stage.apart == [5, 1]


def test_a_repeat_during_which_others_were_busy_is_measured_again(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, loads=(0.5, 0.0))
    block = run()
    assert sum(do == "measure" for _, do in stage.log) == 2 * 4 * 5
    assert block.noisy == ""
    assert {r.other_load for r in block.models[0].repeats} == {0.0}


def test_a_machine_that_stays_busy_is_said_to_be_so(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, loads=(0.5,))
    assert "other processes took more than 5% of the processors in 5 of 5 repeats" in run().noisy


def test_who_does_not_leave_is_waited_for_in_one_repeat_alone(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, loads=(0.5,))
    run()
    assert sum(do == "measure" for _, do in stage.log) == 4 * (5 + turns.MOST_AGAIN)


class Device(Blind):
    """Scripted readings: clocks and watts look after look, counts and use after use."""

    def __init__(self, clocks=(1000.0,), heat=(0,), used=(0.0,)):
        super().__init__("scripted")
        self.clocks, self.heat, self.used = map(itertools.cycle, (clocks, heat, used))

    def look(self):
        return Look(clock_mhz=next(self.clocks), power_w=300.0, temperature_c=60.0)

    def held_back(self):
        return {HEAT: next(self.heat)}

    def busy_share(self):
        return next(self.used)

    def bytes_of(self, pid):
        return 900 + pid


def test_a_repeat_keeps_what_the_device_did_meanwhile(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, source=Device(clocks=(1000.0, 1400.0)))
    block = run()
    first = block.models[0].repeats[0]
    assert (first.clock_mhz, first.power_w, first.temperature_c, first.held_back) == (1200.0, 300.0, 60.0, "")
    assert (block.models[0].device_bytes, block.watched, block.noisy) == (901, "scripted", "")
    assert [m.attention_kernels for m in block.models] == ["", "flash"]


def test_a_repeat_that_heat_slowed_down_is_measured_again(monkeypatch):
    # Counts at the begin and the end of a try: the first of two rises.
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, source=Device(heat=(0, 7, 7, 7)))
    assert run().noisy == ""
    assert sum(do == "measure" for _, do in stage.log) == 2 * 4 * 5


def test_a_device_that_stays_hot_is_said_to_be_so(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, source=Device(heat=range(1000)))
    assert run().noisy == "the device slowed down for heat in 5 of 5 repeats"


def test_a_gpu_that_others_use_is_said_to_be_so(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, source=Device(used=(0.3,)))
    assert run().noisy == "others used the GPU for more than 5% of the time in 5 of 5 repeats"


def test_wide_intervals_are_measured_longer_and_then_said_to_be_so(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2, 0.2, 0.3, 0.3]})
    block = run()
    assert len(block.models[0].repeats) == 7
    assert "intervals stayed wider than ±5%" in block.noisy


@pytest.mark.parametrize("when", ["prepare", "measure"])
def test_a_model_that_fails_costs_the_others_nothing(monkeypatch, when):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, fails={"a": when})
    first, second = run().models
    told = "no memory left (1 other loaded meanwhile)"
    assert (first.status, first.reason, len(first.repeats)) == ("out_of_memory", told, 0)
    assert (second.status, len(second.repeats)) == ("ok", 5)


def test_processes_are_fresh_for_every_repeat_where_asked_for(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]})
    run(effort=Effort(turn_s=0.1, repeats=5, fresh=True, gate_s=0))
    assert sum(entry == ("a", "prepare") for entry in stage.log) == 5


def test_processes_end_with_their_cell(monkeypatch):
    stage = Stage(monkeypatch, {"a": [0.1], "b": [0.2]})
    run()
    assert stage.log.count(("a", "close")) == stage.log.count(("b", "close")) == 1


def test_who_ran_out_of_memory_says_how_many_shared_it(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]}, fails={"a": "prepare"})
    assert run().models[0].reason == "no memory left (1 other loaded meanwhile)"
    Stage(monkeypatch, {"a": [0.1]}, fails={"a": "prepare"})
    assert run(("a",)).models[0].reason == "no memory left."


def test_a_model_that_is_gone_is_lost_and_not_impossible(monkeypatch):
    Stage(monkeypatch, {"a": [0.1], "b": [0.2]})
    made = turns.Worker

    def gone(name):
        if name == "a":
            raise WorkerFailed("not_possible", "no such file")
        return made(name)

    monkeypatch.setattr(turns, "Worker", gone)
    assert [(m.status, m.reason) for m in run().models] == [("crashed", "no such file"), ("ok", "")]
