"""What the training loop adds to a nano step: the CPU time of its thread outside gradients and optimizer.

Decoding and augmenting are the loader's, which runs in processes of its own here; what the loop spends on
taking their batches is counted, waiting for them is not.
"""

import sys
import time

import pytest
import torch

from rwkvclip_train import loop
from rwkvclip_train.gradients import StepGradients
from rwkvclip_train.recipe import load_recipe
from rwkvclip_train.update import Update

STEPS, FIRST = 120, 20
"""Steps of a run, and those in which processes start and memory grows."""
SHARE_LIMIT = 0.03


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano-digits-rwkv-clip", "nano-digits-clip"])
def test_the_loop_adds_less_than_three_per_cent_to_a_nano_step(
    name, benchmark, tmp_path, monkeypatch, capsys
):
    began, inside = [], []

    class TimedGradients(StepGradients):
        def __call__(self, *args):
            start = time.thread_time()
            began.append(start)
            result = super().__call__(*args)
            inside.append(time.thread_time() - start)
            return result

    class TimedUpdate(Update):
        def __call__(self, *args):
            start = time.thread_time()
            result = super().__call__(*args)
            inside[-1] += time.thread_time() - start
            return result

    monkeypatch.setattr(loop, "StepGradients", TimedGradients)
    monkeypatch.setattr(loop, "Update", TimedUpdate)
    recipe = load_recipe(name, [f"steps={STEPS}", f"checkpoint_every={STEPS}"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        benchmark.pedantic(loop.train, args=(recipe, tmp_path), kwargs={"num_workers": 1}, rounds=1)
    finally:
        torch.set_num_threads(threads)
    # From the beginning of one step's gradients to that of the last one's.
    whole, spent = began[-1] - began[FIRST], sum(inside[FIRST:-1])
    share = (whole - spent) / whole
    benchmark.extra_info.update(share_outside=share)
    steps = len(began) - 1 - FIRST
    with capsys.disabled():
        sys.stdout.write(
            f"\n{name}: {1e3 * whole / steps:.2f} ms of CPU time a step, "
            f"{1e3 * (whole - spent) / steps:.2f} ms ({100 * share:.1f} %) outside "
            f"gradients and optimizer; {steps} steps, one thread\n"
        )
    assert share < SHARE_LIMIT
