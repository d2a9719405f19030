"""The largest batch that fits into memory, by bisection; every try is a process of its own."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import psutil

from rwkvclip_eval.bench.worker import Worker, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_eval.records.efficiency import Cell, Measured

SHARE = 0.8
"""Of the memory that is available that a process on a CPU may take."""


def largest_that(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest n from 1 to `most` that `fits`, 0 for none; where n fits, all below must."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, min(2 * high, most) if high < most else most + 1
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def with_largest_batch(measured: Measured, arguments: dict[str, Any], cell: Cell, most: int) -> Measured:
    """Return what is known of a model with the largest batch of a cell's shape, or why it is not known.

    On a GPU a batch fits if it does not run out of memory; on a CPU if the process stays within `SHARE` of
    what was available, which Linux holds it to.

    Args:
        measured: so far.
        arguments: that its process is started with (`Worker`).
        cell: its batch does not matter.
        most: that is tried.
    """
    budget = None
    if not arguments["device"].startswith("cuda"):
        budget = int(SHARE * psutil.virtual_memory().available)
    fitting = [0]

    def tried(batch: int) -> bool:
        if not fits(arguments, cell, batch, budget):
            return False
        fitting.append(batch)
        return True

    try:
        found = largest_that(tried, most)
    except WorkerFailed as failed:
        least = f" ({max(fitting)} fits)" if max(fitting) else ""
        return dataclasses.replace(measured, largest_note=f"not found{least}: {failed.reason}")
    where = "the GPU's memory" if budget is None else f"{budget / 1e9:.1f} GB, {SHARE:.0%} of what was free"
    if budget is not None and not sys.platform.startswith("linux"):
        where += ", which this system holds nobody to"
    note = f"of up to {most}, in {where}" if found < most else f"not beyond: more were not tried ({where})"
    return dataclasses.replace(measured, largest_batch=found, largest_note=note)


def fits(arguments: dict[str, Any], cell: Cell, batch: int, budget_bytes: int | None) -> bool:
    """Return whether a call with so many samples fits.

    Args:
        arguments: that the process is started with.
        cell: of another batch.
        batch: samples.
        budget_bytes: memory of the whole process; None for what there is.

    Raises:
        WorkerFailed: it fails for another reason.
    """
    try:
        with Worker(**arguments) as worker:
            asked = dataclasses.asdict(dataclasses.replace(cell, batch=batch))
            worker.ask("fit", cell=asked, budget_bytes=budget_bytes)
            peak = worker.peak_bytes()
    except WorkerFailed as failed:
        if failed.status == "out_of_memory":
            return False
        raise
    return budget_bytes is None or peak is None or peak <= budget_bytes
