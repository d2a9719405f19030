"""Times alternatives in turns, so that drift and other load hit all alike."""

import time

import numpy as np


def in_turns(calls, rounds, wait=lambda: None):
    """Return name → seconds of every round, for calls by name; one round warms up and is not counted."""
    seconds = {name: [] for name in calls}
    names = list(calls)
    for i in range(rounds + 1):
        for name in names if i % 2 else names[::-1]:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(taken[1:]) for name, taken in seconds.items()}


def ratio(seconds, name, base):
    """Return 10th, 50th and 90th percentile of the ratio of neighbours in time."""
    return np.percentile(seconds[name] / seconds[base], [10, 50, 90])


def in_words(title, seconds, base):
    """Return a table: median time and ratio to `base` of every alternative."""
    lines = [f"\n{title}"]
    for name, taken in seconds.items():
        low, median, high = ratio(seconds, name, base)
        lines.append(
            f"  {name:<28} {np.median(taken) * 1e3:9.2f} ms  {median:.3f} of {base} ({low:.2f} to {high:.2f})"
        )
    return "\n".join(lines) + "\n"
