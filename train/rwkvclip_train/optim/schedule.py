"""The learning rate as a function of the step: a run that continues needs no state of it."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of `step` (from 0): linear warm-up to `peak`, then half a cosine to 0.

    Step `warmup_steps` is the first at `peak`; the last step, `num_steps` − 1, still moves the weights.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return peak * (1 + math.cos(math.pi * progress)) / 2
