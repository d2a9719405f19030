"""Ratios of alternatives that were timed in turns."""

import numpy as np


def ratio(seconds, name, base):
    """Return 10th, 50th and 90th percentile of the ratio of neighbours in time."""
    return np.percentile((seconds[name] / seconds[base]).numpy(), [10, 50, 90])


def in_words(title, seconds, base):
    """Return a table: median time and ratio to `base` of every alternative."""
    lines = [f"\n{title}"]
    for name, taken in seconds.items():
        low, median, high = ratio(seconds, name, base)
        milliseconds = np.median(taken.numpy()) * 1e3
        lines.append(f"  {name:<28} {milliseconds:9.2f} ms  {median:.3f} of {base} ({low:.2f} to {high:.2f})")
    return "\n".join(lines) + "\n"
