"""A step as `bench` times it beside the training package's own, in turns on one thread.

The loop also takes the norm of the gradient and clips it, which is printed beside it.
"""

import sys
import time

import pytest
import torch
from step_pair import bench_step, own_step

TURNS = 40
LIMIT = 0.03


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nano-digits-rwkv-clip", "nano-digits-clip"])
def test_bench_times_a_step_as_training_takes_it_within_3_percent(recipe, benchmark, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    subject, cell = bench_step(recipe, tmp_path)
    steps = {
        "bench": subject.call(cell),
        "training": own_step(recipe, clipped=False),
        "clipped": own_step(recipe, clipped=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}

    def turn():
        order = list(steps.items())
        for name, step in order if len(taken["bench"]) % 2 else reversed(order):
            begun = time.thread_time()
            step()
            taken[name].append(time.thread_time() - begun)

    try:
        benchmark.pedantic(turn, rounds=TURNS, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    # The least time of many is what neighbours on the machine disturb least.
    least = {name: min(times) for name, times in taken.items()}
    ratio, clipped = (least[name] / least["bench"] for name in ("training", "clipped"))
    benchmark.extra_info.update(ratio=ratio, clipped=clipped)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{recipe}: training's own step takes {ratio:.3f} of bench's, with clipping {clipped:.3f}\n"
        )
    assert ratio == pytest.approx(1, abs=LIMIT)
