"""Measures a grid of cells into a run directory; the same command continues it."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.bench import turns
from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.bench.worker import Worker, WorkerFailed
from rwkvclip_eval.encoders.spec import expand_specs
from rwkvclip_eval.environment import environment
from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_eval.records.efficiency import TASK, Measured, read_block, write_block
from rwkvclip_eval.records.reading import read_run_info, write_records
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.efficiency import Block, Cell

ASSUMED_SHARE = 0.35
"""Of the device's ceiling that a model reaches, for the estimate of the time before anything is measured."""
START_S = 12.0
"""Seconds that a process takes to start, load and warm up, for the same estimate."""
CEILING_S = 2.0


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        device: cpu, cuda, cuda:N or mps.
        implementation: of Bi-WKV.
        threads: of a process on a CPU.
        effort: how long each cell is measured.
        max_minutes: no cell is begun after so many; None for no limit.
        seed: of the order of cells.
    """

    device: str = "cpu"
    implementation: str = "auto"
    threads: int = 1
    effort: turns.Effort = field(default_factory=turns.Effort)
    max_minutes: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured, and what is known before.

    Attributes:
        cells: in the order of the grid.
        models: one a spec: name, spec and parameters.
        specs: as given.
        known: what each model is in a cell before it is measured: its FLOPs, or why it cannot.
        ceilings: precision → FLOP/s of square products.
    """

    cells: Sequence[Cell]
    models: Sequence[Measured]
    specs: Sequence[str]
    known: dict[tuple[int, str], Measured]
    ceilings: dict[str, float]

    def seconds(self, cell: Cell, effort: turns.Effort) -> float:
        """Return about how long a cell takes."""
        total = 0.0
        for index in range(len(self.specs)):
            facts = self.known[index, cell.key]
            if facts.status != "ok":
                continue
            call = (facts.flops or 0) / (ASSUMED_SHARE * self.ceilings.get(cell.precision, 1e11))
            turn = max(effort.turn_s, 3 * call)
            starts = effort.repeats if effort.fresh else 1
            total += starts * (START_S + 3 * call) + effort.repeats * 2 * turn
        return total


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
    def exit_code(self) -> int:
        """0 where every model has its numbers in every cell it can do; 3 where something is lacking."""
        lost = any(m.status in ("out_of_memory", "crashed") for b in self.blocks for m in b.models)
        return 3 if self.left or lost else 0


def look_ahead(
    specs: Sequence[str], cells: Sequence[Cell], options: BenchOptions, *, most_patches: int | None = None
) -> Plan:
    """Return what a measurement will do: which cells each model can take, their FLOPs, the device's ceiling.

    Args:
        specs: of the models, each of one checkpoint.
        cells: of the grid.
        options: how.
        most_patches: image cells of more are left out of the grid; None for no limit.

    Raises:
        UserError: a model cannot be loaded, is named twice, or there is no cell.
    """
    if not cells:
        raise UserError("The grid has no cell; name at least one tower, size and batch.")
    specs = [spec.text for spec in expand_specs(specs)]
    models: list[Measured] = []
    known: dict[tuple[int, str], Measured] = {}
    for index, spec in enumerate(specs):
        try:
            with Worker(**_arguments(spec, "fp32", options)) as worker:
                found = worker.ask("count", cells=[dataclasses.asdict(cell) for cell in cells])["cells"]
                facts = worker.facts
        except WorkerFailed as failed:
            raise UserError(f"{spec}: {failed.reason}") from failed
        model = Measured(model=facts["model"], spec=facts["spec"], num_parameters=facts["num_parameters"])
        if model.model in [one.model for one in models]:
            raise UserError(f"Two models are called {model.model}; give each its own name: NAME@LABEL=…")
        models.append(model)
        for cell, answer in zip(cells, found, strict=True):
            known[index, cell.key] = _before(model, cell, answer, facts, most_patches)
    ceilings = {
        precision: _ceiling(specs[0], precision, options)
        for precision in sorted({cell.precision for cell in cells})
    }
    return Plan(cells=cells, models=models, specs=specs, known=known, ceilings=ceilings)


def _before(
    model: Measured, cell: Cell, answer: dict[str, Any], facts: dict[str, Any], most_patches: int | None
) -> Measured:
    if "failed" in answer:
        return dataclasses.replace(model, status=answer["failed"], reason=answer["reason"])
    patches, patch = 0, facts["patch_px"]
    if cell.height and patch:
        patches = -(-cell.height // patch) * -(-cell.width // patch)
    if most_patches is not None and patches > most_patches:
        reason = f"not in the default grid: {patches} patches an image, beyond {most_patches}"
        return dataclasses.replace(model, status="not_in_grid", reason=reason)
    return dataclasses.replace(model, flops=answer["flops"])


def _ceiling(spec: str, precision: str, options: BenchOptions) -> float:
    with Worker(**_arguments(spec, precision, options)) as worker:
        found = worker.ask("ceiling", precision=precision, seconds=CEILING_S)
    return float(found["flops_per_second"])


def _arguments(spec: str, precision: str, options: BenchOptions) -> dict[str, Any]:
    return {
        "spec": spec,
        "device": options.device,
        "precision": precision,
        "implementation": options.implementation,
        "threads": options.threads,
    }


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

    info = _info(plan, options, command, grid)
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
        _continue(out, info)
        start = time.monotonic()
        blocks = {cell.key: block for cell, block in _kept(plan, out)}
        waiting = [cell for cell in plan.cells if cell.key not in blocks]
        random.Random(options.seed).shuffle(waiting)
        left: list[Cell] = []
        for index, cell in enumerate(waiting):
            if options.max_minutes is not None and time.monotonic() - start > 60 * options.max_minutes:
                left = waiting[index:]
                break
            remaining = sum(plan.seconds(one, options.effort) for one in waiting[index:])
            on_cell(cell, len(blocks), remaining)
            blocks[cell.key] = _measure(plan, cell, options)
            write_block(out / "cells" / f"{cell.key}.json", blocks[cell.key])
            _write_records(plan, out, blocks)
        _write_records(plan, out, blocks)
    ordered = [blocks[cell.key] for cell in plan.cells if cell.key in blocks]
    return Summary(blocks=ordered, left=left)


def _measure(plan: Plan, cell: Cell, options: BenchOptions) -> Block:
    return turns.measure(
        cell,
        [plan.known[index, cell.key] for index in range(len(plan.specs))],
        [_arguments(spec, cell.precision, options) for spec in plan.specs],
        device=options.device,
        effort=options.effort,
        ceiling_flops=plan.ceilings.get(cell.precision),
    )


def _kept(plan: Plan, out: Path) -> Iterator[tuple[Cell, Block]]:
    """Yield the cells that are measured already; a file that is not as it was written is measured again."""
    for cell in plan.cells:
        path = out / "cells" / f"{cell.key}.json"
        if path.exists():
            try:
                yield cell, read_block(path)
            except OutputError:
                continue


def _write_records(plan: Plan, out: Path, blocks: dict[str, Block]) -> None:
    ordered = [blocks[cell.key] for cell in plan.cells if cell.key in blocks]
    write_records(out / "results.jsonl", [record for block in ordered for record in records_of(block)])


def _info(plan: Plan, options: BenchOptions, command: str, grid: str) -> RunInfo:
    cells = [dataclasses.asdict(cell) for cell in plan.cells]
    identity = {
        "suite": TASK,
        "cells": sorted(cell.key for cell in plan.cells),
        "models": [model.spec for model in plan.models],
        "device": options.device,
        "implementation": options.implementation,
        "threads": options.threads,
        "effort": dataclasses.asdict(options.effort),
    }
    return RunInfo(
        command=command,
        suite_name=f"{TASK}: {grid}" if grid else TASK,
        suite_text=json.dumps(cells),
        suite_sha256="",
        models=[model.spec for model in plan.models],
        identity=identity,
        environment=environment(),
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _continue(out: Path, info: RunInfo) -> None:
    """Write run.json, after checking that what the directory holds is the same measurement.

    Raises:
        OutputError: it holds another run.
    """
    path = out / "run.json"
    if path.exists():
        before = read_run_info(path)
        # Lists and tuples are one in JSON.
        given = json.loads(json.dumps(info.identity))
        other = [name for name, value in given.items() if before.identity.get(name) != value]
        if other:
            raise OutputError(
                f"{out} holds another run (other {', '.join(other)}). Choose another --out, or the same "
                "options."
            )
        info = dataclasses.replace(info, started_utc=before.started_utc, num_commands=before.num_commands + 1)
    write_text(path, json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False))
