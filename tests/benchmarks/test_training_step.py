"""A step as `bench` times it beside the training package's own, in turns on one thread.

Of each there are several, for one and the same step is up to 3 % faster or slower by where its memory lies.
The loop also takes the norm of the gradient and clips it, which is printed beside it.
"""

import functools
import itertools
import statistics
import sys
import time

import open_clip
import pytest
import torch
import yaml
from step_pair import bench_step, own_step

from rwkvclip_train.recipe import RECIPES

LIMIT = 0.03
# Recipe → turns and instances: a step of B/32 takes ten times as long as one of the nano models.
SIZES = {
    "nano-digits-rwkv-clip": (30, 4),
    "nano-digits-clip": (30, 4),
    "yfcc15m-b32": (16, 1),
    "ViT-B-32": (16, 1),
}
BATCH_OF_B32 = 4


def recipe_of(name, folder):
    """Return a recipe's name or file, in float32 and of a batch that a test has time for."""
    if name.startswith("nano"):
        return name
    shipped = "nano-digits-clip" if name == "ViT-B-32" else name
    said = yaml.safe_load((RECIPES / f"{shipped}.yaml").read_text(encoding="utf-8"))
    said |= {"batch_size": BATCH_OF_B32, "precision": "fp32"}
    if name == "ViT-B-32":
        said["model"]["config"] = open_clip.get_model_config(name)
    path = folder / f"{name.lower()}.yaml"
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    return path


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
def test_bench_times_a_step_as_training_takes_it_within_3_percent(model, benchmark, tmp_path, capsys):
    recipe, (num_turns, instances) = recipe_of(model, tmp_path), SIZES[model]
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
    steps = {(name, i): make() for i in range(instances) for name, make in makers.items()}
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
        benchmark.pedantic(turn, rounds=num_turns, warmup_rounds=2)
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
            f"\n{model}: training's own step takes {ratio:.3f} of bench's, with clipping {clipped:.3f}\n"
        )
    assert ratio == pytest.approx(1, abs=LIMIT)
