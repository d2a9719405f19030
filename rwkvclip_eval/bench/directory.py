"""The run directory of a measurement: what it is of, what is measured already, its records."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rwkvclip_eval.bench.records import records_of
from rwkvclip_eval.environment import environment
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.conditions import CONDITIONS, told_conditions
from rwkvclip_eval.records.efficiency import TASK, read_block
from rwkvclip_eval.records.reading import read_run_info, write_records
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rwkvclip_eval.bench.ahead import BenchOptions, Plan
    from rwkvclip_eval.records.efficiency import Block, Cell


def kept_blocks(plan: Plan, out: Path, device: str) -> Iterator[tuple[Cell, Block]]:
    """Yield the cells that are measured already.

    Measured again are: a file that is not as it was written, or of other models or another device; and a cell
    in which a process ended, for nobody knows whether it would once more.
    """
    expected = [(model.model, model.spec) for model in plan.models]
    for cell in plan.cells:
        path = out / "cells" / f"{cell.key}.json"
        if not path.exists():
            continue
        try:
            block = read_block(path)
        except OutputError:
            continue
        same = block.device == device and [(m.model, m.spec) for m in block.models] == expected
        if same and not any(m.status == "crashed" for m in block.models):
            yield cell, block


def write_all(plan: Plan, out: Path, blocks: Mapping[str, Block]) -> None:
    """Write the records of all blocks, in the order of the grid."""
    ordered = [blocks[cell.key] for cell in plan.cells if cell.key in blocks]
    write_records(out / "results.jsonl", [record for block in ordered for record in records_of(block)])


def run_info(plan: Plan, options: BenchOptions, command: str, grid: str) -> RunInfo:
    """Return what `run.json` says: what a measurement must share to be continued, and where it was made."""
    cells = [dataclasses.asdict(cell) for cell in plan.cells]
    identity = {
        "suite": TASK,
        "cells": sorted(cell.key for cell in plan.cells),
        "models": [model.spec for model in plan.models],
        # A configuration file may have changed under its name.
        "fingerprints": list(plan.fingerprints),
        "device": options.device,
        "implementation": options.implementation,
        "threads": options.threads,
        "effort": dataclasses.asdict(options.effort),
        "largest_batch": options.largest_batch,
    }
    facts = environment()
    # A page says once what its times were measured on and with: what it says holds for every cell.
    told = told_conditions(facts, identity)
    # Results that lie in the checkout are changes of it, too.
    told["commit"] = told["commit"].partition(" ")[0]
    identity = {**told, **identity}
    return RunInfo(
        command=command,
        suite_name=f"{TASK}: {grid}" if grid else TASK,
        suite_text=json.dumps(cells),
        suite_sha256="",
        models=[model.spec for model in plan.models],
        identity=identity,
        environment=facts,
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def begin_or_continue(out: Path, info: RunInfo) -> None:
    """Write run.json, after checking that what the directory holds is the same measurement.

    Raises:
        OutputError: it holds another run, or cells of which no run.json says what they were measured on.
    """
    path = out / "run.json"
    if not path.exists() and next((out / "cells").glob("*.json"), None):
        raise OutputError(
            f"{out / 'cells'} holds cells, but no {path.name} beside it says what they were measured on and "
            "with. Choose another --out, or remove them."
        )
    if path.exists():
        before = read_run_info(path)
        # Lists and tuples are one in JSON.
        given = json.loads(json.dumps(info.identity))
        other = [
            f"{name}: {before.identity.get(name) or 'unknown'} there, {value or 'unknown'} here"
            if name in CONDITIONS
            else name
            for name, value in given.items()
            if (before.identity.get(name) or "") != (value or "")
        ]
        if other:
            raise OutputError(
                f"{out} holds another run (other {', '.join(other)}). Choose another --out, or the same "
                "options."
            )
        info = dataclasses.replace(info, started_utc=before.started_utc, num_commands=before.num_commands + 1)
    write_text(path, json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False))
