"""A step as `bench` times it beside the training package's own, in turns on one thread."""

import statistics
import sys
import time

import pytest
import torch
from step_pair import bench_step, own_step

TURNS, CALLS = 15, 4
LIMIT = 0.03


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nano-digits-rwkv-clip", "nano-digits-clip"])
def test_bench_times_a_step_as_training_takes_it_within_3_percent(recipe, benchmark, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    subject, cell = bench_step(recipe, tmp_path)
    steps = {"bench": subject.call(cell), "training": own_step(recipe)}
    ratios = []

    def turn():
        taken = {}
        for name, step in steps.items() if len(ratios) % 2 else reversed(steps.items()):
            begun = time.thread_time()
            for _ in range(CALLS):
                step()
            taken[name] = time.thread_time() - begun
        ratios.append(taken["training"] / taken["bench"])

    try:
        benchmark.pedantic(turn, rounds=TURNS, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    ratio = statistics.median(ratios[2:])
    benchmark.extra_info.update(ratio=ratio)
    with capsys.disabled():
        sys.stdout.write(f"\n{recipe}: training's own step takes {ratio:.3f} of bench's\n")
    assert ratio == pytest.approx(1, abs=LIMIT)
