"""The process that measures: its GPU is the one that was named, and what its clock holds."""

import json
import types

import pytest
import torch
from test_flops import VIT

from rwkvclip_eval import encoders
from rwkvclip_eval.bench import child
from rwkvclip_eval.records.efficiency import Cell


class Clock:
    """Stands in for `time`; goes forward when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def takes(self, seconds, result=None):
        def call(*_):
            self.now += seconds
            return result

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(child, "time", clock)
    return clock


@pytest.fixture
def encoder(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(VIT))
    return encoders.load_encoder(f"open_clip:{path}=random:0")


def server_on(device, **attributes):
    server = object.__new__(child._Server)
    vars(server).update(_device=device, _call=lambda: None, _call_s=0.0, **attributes)
    return server


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_the_gpu_that_is_named_is_the_one_whose_events_and_memory_count(monkeypatch, encoder, device, chosen):
    told = []
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 7)
    monkeypatch.setattr(encoders, "load_encoder", lambda *_, **__: encoder)
    server = child._Server("rwkv-clip-b32=random:0", device, "fp32", "auto", 1)
    assert told == chosen
    assert server.facts["loaded_bytes"] == (None if device == "cpu" else 7)


@pytest.mark.parametrize(
    ("device", "call_s", "at_once"),
    [("cuda", 0.001, 10), ("cuda", 0.1, 5), ("cuda", 5.0, 1), ("cpu", 0.001, 1), ("mps", 0.001, 1)],
)
def test_a_turn_is_as_long_on_a_gpu_as_elsewhere(monkeypatch, clock, device, call_s, at_once):
    asked = []

    def timed(calls):
        asked.append(calls)
        clock.now += calls * call_s
        return [call_s] * calls

    server = server_on(device, _timed=timed, _peaks=dict)
    server._call_s = call_s
    times = server.do_measure(0.5)["seconds"]
    assert set(asked) == {at_once}
    assert 0.5 - 1e-6 <= sum(times) <= max(0.5 + 10 * call_s, call_s) + 1e-6


def test_the_first_call_does_not_hold_the_making_of_its_inputs(monkeypatch, clock):
    call = clock.takes(1.0)
    subject = types.SimpleNamespace(call=clock.takes(30.0, result=call))
    server = server_on("cpu", _subject=subject)
    monkeypatch.setattr("rwkvclip_eval.bench.parts.attention_kernels", lambda call: [])
    cell = {"tower": "image", "batch": 1, "height": 32, "width": 32, "compiled": False}
    assert server.do_prepare(cell)["first_call_s"] == 1.0


@pytest.mark.parametrize(("tower", "calls"), [("train", 2), ("image", 1)])
def test_a_training_step_fits_when_its_second_does(tower, calls):
    made = []
    subject = types.SimpleNamespace(call=lambda cell: lambda: made.append(cell))
    sizes = {"height": 32, "width": 32, "tokens": 77 * (tower == "train")}
    server_on("cpu", _subject=subject).do_fit({"tower": tower, "batch": 2, **sizes}, None)
    assert made == [Cell(tower=tower, batch=2, **sizes)] * calls


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_no_conversion_counts_against_the_ceiling(monkeypatch, precision, dtype):
    seen = []
    monkeypatch.setattr(torch.nn.functional, "linear", lambda a, b: seen.append((a.dtype, b.dtype)))

    def least(call, seconds):
        call()
        return 1.0

    server_on("cpu", _least=least).do_ceiling(precision, 0.1)
    assert seen == [(dtype, dtype)]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("std::bad_alloc", "out_of_memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "out_of_memory"),
        ("mat1 and mat2 shapes cannot be multiplied", "crashed"),
    ],
)
def test_memory_that_ended_is_known_by_what_libraries_say(said, status):
    assert child._failure(RuntimeError(said))["failed"] == status
