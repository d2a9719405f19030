"""The largest batch that fits: bisection, a budget that the system enforces, reasons where there is none."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_flops import VIT

from rwkvclip_eval.bench import largest
from rwkvclip_eval.bench.largest import fits, largest_that, with_largest_batch
from rwkvclip_eval.bench.worker import Worker, WorkerFailed
from rwkvclip_eval.records.efficiency import Cell, Measured

CELL = Cell(tower="image", height=512, width=512)
PIXELS = 3 * 512 * 512 * 4


@pytest.mark.parametrize("most", [1, 2, 7, 8, 9, 1000])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 777, 5000])
def test_bisection_finds_the_largest(limit, most):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    assert largest_that(fits, most) == min(limit, most)
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert max(tried) <= most
    assert len(tried) <= 2 * most.bit_length() + 1


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    path = tmp_path_factory.mktemp("largest") / "tiny.json"
    path.write_text(json.dumps(VIT))
    spec = f"open_clip:{path}=random:0"
    return {"spec": spec, "device": "cpu", "precision": "fp32", "implementation": "auto", "threads": 1}


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux alone holds a process to a budget"
)
def test_a_batch_fits_its_budget_and_not_one_that_its_pixels_alone_exceed(arguments):
    with Worker(**arguments) as worker:
        loaded = worker.baseline_bytes
    # Pixels, tokens, and what the blocks make of 1024 patches: far below eight times the pixels here.
    assert fits(arguments, CELL, 32, loaded + 8 * 32 * PIXELS)
    assert not fits(arguments, CELL, 32, loaded + 32 * PIXELS // 2)


def test_a_process_that_is_killed_for_memory_is_a_batch_that_does_not_fit(arguments, monkeypatch):
    def ask(self, do, **what):
        self._process.kill()
        return self._answer(5)

    monkeypatch.setattr(Worker, "ask", ask)
    # As where the system does not count whom it killed for memory.
    monkeypatch.setattr("rwkvclip_eval.bench.worker._killed_for_memory", lambda: None)
    assert not fits(arguments, CELL, 1, None)


def test_the_upper_limit_and_the_budget_are_said(arguments, monkeypatch):
    monkeypatch.setattr(largest, "fits", lambda arguments, cell, batch, budget: batch <= 5)
    measured = Measured(model="a", spec="a")
    found = with_largest_batch(measured, arguments, CELL, 64)
    assert found.largest_batch == 5
    assert "of up to 64" in found.largest_note
    assert "80%" in found.largest_note
    assert "more were not tried" in with_largest_batch(measured, arguments, CELL, 4).largest_note


def test_a_model_that_takes_no_such_input_has_no_largest_batch_but_a_reason(arguments, monkeypatch):
    def refuse(*_):
        raise WorkerFailed("not_possible", "images of 8 px hold no patch")

    monkeypatch.setattr(largest, "fits", refuse)
    found = with_largest_batch(Measured(model="a", spec="a"), arguments, CELL, 64)
    assert found == dataclasses.replace(found, largest_batch=None)
    assert found.largest_note == "not found: images of 8 px hold no patch"


def test_a_try_that_fails_otherwise_keeps_what_did_fit(arguments, monkeypatch):
    def slow(arguments, cell, batch, budget):
        if batch > 4:
            raise WorkerFailed("crashed", "its process gave no answer within 900 s.")
        return True

    monkeypatch.setattr(largest, "fits", slow)
    found = with_largest_batch(Measured(model="a", spec="a"), arguments, CELL, 64)
    assert found.largest_note == "not found (4 fits): its process gave no answer within 900 s."


def test_a_system_that_holds_nobody_to_a_budget_is_said_to_be_such(arguments, monkeypatch):
    monkeypatch.setattr(largest, "fits", lambda arguments, cell, batch, budget: batch <= 5)
    monkeypatch.setattr(largest.sys, "platform", "darwin")
    note = with_largest_batch(Measured(model="a", spec="a"), arguments, CELL, 64).largest_note
    assert note.endswith("which this system holds nobody to")
