"""Times of the operator as a table, in words and on disk."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from typing import TYPE_CHECKING

from rwkvclip_eval.bench.limits import verdicts
from rwkvclip_eval.environment import environment
from rwkvclip_eval.records.published_speed import operator_speeds
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.bench.operators import Timing

HEAD = (
    *("implementation", "device", "dtype", "shape", "direction"),
    *("ms", "of scan", "of copy", "eager ms", "repeats", "clock"),
)
LEGEND = (
    "Milliseconds, median (quartiles), all alternatives of a shape in turns; shapes B × T × H × N. *of "
    "scan*: ratio to one plain sequential pass per direction in float32, which has no backward pass on a "
    "CPU. *of copy*: time to copy the bytes that must be read and written, by the operator's time; 1 is "
    "the limit that bandwidth sets. *eager ms*: of our own on a GPU, calls in a row with what it takes to "
    "dispatch them. The reference is the definition, not meant to run, and is not timed."
)


def timing_rows(times: Sequence[Timing]) -> list[tuple[str, ...]]:
    """Return a line per time, under `HEAD`; where there is none, why."""
    return [
        (
            *(t.implementation, t.device, t.dtype, t.shape, t.direction),
            t.problem or f"{t.median_ms:.3f} ({t.low_ms:.3f}–{t.high_ms:.3f})",
            *("–" if x is None else f"{x:.2f}" for x in (t.of_scan, t.of_copy)),
            "–" if t.eager_ms is None else f"{t.eager_ms:.3f}",
            *(str(t.repeats), t.clock),
        )
        for t in times
    ]


def published_lines(times: Sequence[Timing]) -> list[str]:
    """Return what others published on the shapes that were measured, in words."""
    keys = dict.fromkeys((t.shape.partition(": ")[2], t.dtype, t.direction) for t in times if not t.problem)
    return [row.label for key in keys for row in operator_speeds(*key)]


def versions() -> str:
    """Return what the rivals are, with their versions."""
    try:
        return f"flash-linear-attention {importlib.metadata.version('flash-linear-attention')}"
    except importlib.metadata.PackageNotFoundError:
        return "flash-linear-attention is not installed (pip install 'rwkvclip-eval[bench]')"


def write_times(out: Path, times: Sequence[Timing]) -> None:
    """Write ops.json and ops.md into `out`.

    Raises:
        OutputError: the folder cannot be written.
    """
    from tabulate import tabulate

    facts, published = environment(), published_lines(times)
    judged = [dataclasses.asdict(v) | {"met": v.met} for v in verdicts(times, ())]
    everything = {
        "environment": facts,
        "rivals": versions(),
        "times": [dataclasses.asdict(t) for t in times],
        "published": published,
        "limits": judged,
    }
    write_text(out / "ops.json", json.dumps(everything, indent=1, allow_nan=False) + "\n")
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in timing_rows(times)]
    text = [
        "# Operator times",
        f"{facts['cpu']['model']}, torch {facts['packages']['torch']}; {versions()}.",
        LEGEND,
        tabulate(cells, HEAD, tablefmt="github", disable_numparse=True),
        *(f"Published: {line}" for line in published),
    ]
    write_text(out / "ops.md", "\n\n".join(text) + "\n")
