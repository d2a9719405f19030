"""What `bench` says of a cell, beside a clock and a reader of memory of our own."""

import dataclasses
import json
import statistics
import time

import psutil
import pytest
import torch

from rwkvclip_eval.bench import child
from rwkvclip_eval.bench.worker import Worker
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell

CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 256, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
CELL = Cell(tower="image", batch=64, height=64, width=64)
TURNS, CALLS = 60, 5


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(CONFIG))
    return f"open_clip:{path}=random:0"


def started(spec):
    return Worker(spec=spec, device="cpu", precision="fp32", implementation="auto", threads=1)


@pytest.mark.slow  # times, which a busy machine changes: by itself, on a quiet one
def test_throughput_is_that_of_a_hand_written_loop_within_3_percent(spec):
    """In one process, a short turn after a short turn: two processes differ by where their memory lies."""
    torch.set_num_threads(1)
    server = child._Server(spec, "cpu", "fp32", "auto", 1)
    server.do_prepare(dataclasses.asdict(CELL))
    pixels = torch.randn(CELL.batch, 3, CELL.height, CELL.width)
    tower = load_encoder(spec).wrapped.towers.image

    def by_hand():
        times = []
        with torch.inference_mode():
            for _ in range(CALLS):
                begun = time.perf_counter()
                tower(pixels)
                times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def as_bench_does():
        return statistics.median(server.do_measure(CALLS * server._call_s)["seconds"])

    ratios = []
    for turn in range(TURNS):
        order = (by_hand, as_bench_does) if turn % 2 else (as_bench_does, by_hand)
        taken = {loop: loop() for loop in order}
        ratios.append(taken[as_bench_does] / taken[by_hand])
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)


@pytest.mark.slow  # as above
def test_the_calls_of_a_turn_take_the_time_that_passes_outside_within_3_percent(spec):
    with started(spec) as worker:
        worker.ask("prepare", cell=dataclasses.asdict(CELL))
        shares = []
        for _ in range(5):
            begun = time.perf_counter()
            times = worker.ask("measure", seconds=2.0)["seconds"]
            shares.append(sum(times) / (time.perf_counter() - begun))
    assert statistics.median(shares) == pytest.approx(1, abs=0.03)


@pytest.mark.slow  # half a gigabyte, and a second reader that looks again and again
def test_the_peak_beyond_the_model_is_that_of_another_reader_within_5_percent(spec):
    # What the pixels take is known, and all but all of the peak: a batch of one patch each.
    cell = dataclasses.replace(CELL, batch=4096, height=64, width=64)
    with started(spec) as worker:
        process, seen = psutil.Process(worker.pid), 0
        worker._process.stdin.write(
            json.dumps({"do": "prepare", "cell": dataclasses.asdict(cell)}).encode() + b"\n"
        )
        worker._process.stdin.flush()
        answered = False
        while not answered:
            seen = max(seen, process.memory_info().rss)
            answered = worker._line(time.monotonic() + 0.001) is not None
        peak = worker.peak_bytes() - worker.baseline_bytes
        pixels = 4 * cell.batch * 3 * cell.height * cell.width
        assert peak > pixels
        assert peak == pytest.approx(seen - worker.baseline_bytes, rel=0.05)
