"""A step as `bench` times it beside the training package's own, in turns on one thread.

Of each there are several, for one and the same step is up to 3 % faster or slower by where its memory lies.
The loop also takes the norm of the gradient and clips it, which is printed beside it.
"""

import functools
import itertools
import statistics
import sys
import time

import pytest
import torch
from step_pair import bench_step, own_step

TURNS, INSTANCES = 30, 4
LIMIT = 0.03


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nano-digits-rwkv-clip", "nano-digits-clip"])
def test_bench_times_a_step_as_training_takes_it_within_3_percent(recipe, benchmark, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def bench():
        subject, cell = bench_step(recipe, tmp_path)
        return subject.call(cell)

    makers = {
        "bench": bench,
        "training": functools.partial(own_step, recipe, clipped=False),
        "clipped": functools.partial(own_step, recipe, clipped=True),
    }
    steps = {(name, i): make() for i in range(INSTANCES) for name, make in makers.items()}
    logs: dict[str, list[float]] = {name: [] for name in makers}
    turns = itertools.count()

    def turn():
        taken: dict[str, list[float]] = {name: [] for name in makers}
        for name, i in steps if next(turns) % 2 else reversed(steps):
            begun = time.thread_time()
            steps[name, i]()
            taken[name].append(time.thread_time() - begun)
        for name, times in taken.items():
            logs[name].append(statistics.geometric_mean(times))

    try:
        benchmark.pedantic(turn, rounds=TURNS, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    # What slows a machine down for longer than a turn slows all down.
    ratio, clipped = (
        statistics.median(own / base for own, base in zip(logs[name], logs["bench"], strict=True))
        for name in ("training", "clipped")
    )
    benchmark.extra_info.update(ratio=ratio, clipped=clipped)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{recipe}: training's own step takes {ratio:.3f} of bench's, with clipping {clipped:.3f}\n"
        )
    assert ratio == pytest.approx(1, abs=LIMIT)
