"""What `bench` says of a cell, beside a clock and a reader of memory of our own."""

import dataclasses
import json
import statistics
import time

import psutil
import pytest
import torch

from rwkvclip_eval.bench.worker import Worker
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell

CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 256, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
CELL = Cell(tower="image", batch=64, height=64, width=64)
TURNS = 9


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(CONFIG))
    return f"open_clip:{path}=random:0"


def started(spec):
    return Worker(spec=spec, device="cpu", precision="fp32", implementation="auto", threads=1)


@pytest.mark.slow  # times, which a busy machine changes: by itself, on a quiet one
def test_throughput_is_that_of_a_hand_written_loop_within_3_percent(spec):
    torch.set_num_threads(1)
    encoder, pixels = load_encoder(spec), torch.randn(CELL.batch, 3, CELL.height, CELL.width)
    tower = encoder.wrapped.towers.image
    ratios = []
    with started(spec) as worker, torch.inference_mode():
        worker.ask("prepare", cell=dataclasses.asdict(CELL))
        for _ in range(3):
            tower(pixels)
        for _ in range(TURNS):
            theirs = statistics.median(worker.ask("measure", seconds=0.5)["seconds"])
            times, end = [], time.perf_counter() + 0.5
            while time.perf_counter() < end:
                begun = time.perf_counter()
                tower(pixels)
                times.append(time.perf_counter() - begun)
            ratios.append(theirs / statistics.median(times))
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)


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
