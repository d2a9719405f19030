"""Learning rate and AdamW's first beta as functions of the step: continuing needs no state of them.

Both are those of torch's OneCycleLR with cosine annealing, as the official script makes it.
"""

from __future__ import annotations

import math

RISE = 25.0
"""The peak of the learning rate over its start."""
FALL = 1e4
"""The start of the learning rate over its end."""
MAX_BETA1, MIN_BETA1 = 0.95, 0.85
"""AdamW's first beta in a cycle, at its ends and at the learning rate's peak."""


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_fraction: float) -> float:
    """Return the learning rate of `step` (from 0): half a cosine from peak / 25 to `peak`, another down.

    The peak is at step warmup_fraction · num_steps − 1, as a number that need not be whole; the last step,
    num_steps − 1, has peak / 250,000.

    Args:
        step: from 0 to num_steps − 1.
        peak: learning rate.
        num_steps: of the run.
        warmup_fraction: share of the steps with a rising rate.
    """
    start = peak / RISE
    return _cycle(step, num_steps, warmup_fraction, (start, peak, start / FALL))


def cycled_beta1(step: int, *, num_steps: int, warmup_fraction: float) -> float:
    """Return the first beta of `step` (from 0): from 0.95 to 0.85 while the rate rises, and back."""
    return _cycle(step, num_steps, warmup_fraction, (MAX_BETA1, MIN_BETA1, MAX_BETA1))


def _cycle(step: int, num_steps: int, warmup_fraction: float, values: tuple[float, float, float]) -> float:
    """Return a value on its way through `values`: at the start, after the warm-up and at the end."""
    start, middle, end = values
    top, last = float(warmup_fraction * num_steps) - 1, num_steps - 1
    if last == 0 or step == top == 0:
        # Where OneCycleLR's only step would be its last, or it would divide by zero.
        return middle
    if step <= top:
        return _cosine(start, middle, step / top)
    return _cosine(middle, end, (step - top) / (last - top))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
