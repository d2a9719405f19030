"""Measures a grid of cells into a run directory; the same command continues it."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.bench import turns
from rwkvclip_eval.bench.ahead import BenchOptions, Plan, worker_arguments
from rwkvclip_eval.bench.directory import begin_or_continue, kept_blocks, run_info, write_all
from rwkvclip_eval.bench.largest import with_largest_batch
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.efficiency import write_block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.efficiency import Block, Cell


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a command did.

    Attributes:
        blocks: every cell measured so far, in the order of the grid.
        left: cells not measured, for lack of time.
    """

    blocks: Sequence[Block]
    left: Sequence[Cell]

    @property
    def lost(self) -> list[str]:
        """What has no number though it should, with the reason."""
        return [
            f"{m.model}, {block.cell.label}: {m.reason.rstrip('.')}"
            for block in self.blocks
            for m in block.models
            if m.status in ("out_of_memory", "crashed")
        ]

    @property
    def exit_code(self) -> int:
        """0 where every model has its numbers in every cell it can do; 3 where something is lacking."""
        return 3 if self.left or self.lost else 0


def run_bench(
    plan: Plan,
    out: Path,
    *,
    options: BenchOptions,
    command: str = "",
    grid: str = "",
    on_cell: Callable[[Cell, int, float], None] = lambda cell, index, left: None,
) -> Summary:
    """Measure what is not yet on disk, cell by cell in a random order, and write records.

    Args:
        plan: what to measure.
        out: run directory.
        options: how.
        command: as typed, for the record.
        grid: its name, for the record.
        on_cell: told each cell before it is measured, how many are done, and about how many seconds are left.

    Raises:
        OutputError: the directory holds another measurement, cannot be written, or somebody else writes it.
    """
    from filelock import FileLock, Timeout

    info = run_info(plan, options, command, grid)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"Another process is measuring into {out}; wait for it or choose another."
        ) from error
    except OSError as error:
        raise OutputError(f"Cannot write the run directory {out}: {error.strerror or error}.") from error
    with lock:
        begin_or_continue(out, info)
        start = time.monotonic()
        over = plan.began + 60 * (math.inf if options.max_minutes is None else options.max_minutes)
        blocks = {cell.key: block for cell, block in kept_blocks(plan, out, options.device)}
        waiting = [cell for cell in plan.cells if cell.key not in blocks]
        random.Random(options.seed).shuffle(waiting)
        left: list[Cell] = []
        for index, cell in enumerate(waiting):
            if time.monotonic() > over:
                left = waiting[index:]
                break
            ahead = sum(plan.seconds(one, options.effort) for one in waiting[index:])
            behind = sum(plan.seconds(one, options.effort) for one in waiting[:index])
            # What the cells so far took corrects the estimate of the others.
            on_cell(cell, len(blocks), ahead * ((time.monotonic() - start) / behind if behind else 1))
            blocks[cell.key] = _measure(plan, cell, options)
            write_block(out / "cells" / f"{cell.key}.json", blocks[cell.key])
            write_all(plan, out, blocks)
        write_all(plan, out, blocks)
    ordered = [blocks[cell.key] for cell in plan.cells if cell.key in blocks]
    return Summary(blocks=ordered, left=left)


def _measure(plan: Plan, cell: Cell, options: BenchOptions) -> Block:
    arguments = [worker_arguments(spec, cell.precision, options) for spec in plan.specs]
    block = turns.measure(
        cell,
        [plan.known[index, cell.key] for index in range(len(plan.specs))],
        arguments,
        device=options.device,
        effort=options.effort,
        ceiling_flops=plan.ceilings.get(cell.precision),
        ceiling_bytes=plan.copying,
    )
    most = options.largest_batch
    first = next(one for one in plan.cells if dataclasses.replace(one, batch=cell.batch) == cell)
    if most is None or cell != first:
        return block
    models = [
        with_largest_batch(model, of, cell, most) if model.status in ("ok", "out_of_memory") else model
        for model, of in zip(block.models, arguments, strict=True)
    ]
    return dataclasses.replace(block, models=models)
