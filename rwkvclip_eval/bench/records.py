"""Measurements of speed as records, so that they stand beside accuracies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rwkvclip_eval.metrics.ratios import geometric_mean
from rwkvclip_eval.records.efficiency import (
    ENERGY,
    LARGEST_BATCH,
    LATENCY,
    PEAK_MEMORY,
    TASK,
    THROUGHPUT,
    read_blocks,
)
from rwkvclip_eval.records.reading import read_records
from rwkvclip_eval.records.schema import Record, folder_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.efficiency import Block, Measured
    from rwkvclip_eval.records.metrics import Metric

TASK_VERSION = 1


def records_of(block: Block) -> Iterator[Record]:
    """Yield a record per number of each model; one that says why where there is none."""
    for measured in block.models:
        if measured.status != "ok" or not measured.repeats:
            status = "not_applicable" if measured.status in ("not_possible", "not_in_grid") else "failed"
            yield _record(block, measured, None, status=status, reason=measured.reason or "no time was taken")
            yield from _largest(block, measured)
            continue
        rate = geometric_mean(measured.rates(block.cell))
        yield _record(
            block,
            measured,
            THROUGHPUT[block.cell.what],
            value=rate.value,
            ci_low=rate.low if rate.n > 1 else None,
            ci_high=rate.high if math.isfinite(rate.high) else None,
            ci_method="t interval of log rates over repeats" if rate.n > 1 else "",
            n=rate.n,
            primary=True,
        )
        calls = sum(repeat.calls for repeat in measured.repeats)
        for point, metric in LATENCY.items():
            yield _record(block, measured, metric, value=1e3 * measured.latency_s[point], n=calls)
        # Of a GPU what its own process holds of the machine's memory says nothing.
        peak = measured.allocated_bytes or measured.peak_bytes
        if peak is not None:
            yield _record(block, measured, PEAK_MEMORY, value=peak / 1e6, n=1)
        if measured.energy_j is not None:
            yield _record(block, measured, ENERGY, value=measured.energy_j / block.cell.batch, n=calls)
        yield from _largest(block, measured)


def _largest(block: Block, measured: Measured) -> Iterator[Record]:
    if measured.largest_batch is not None:
        yield _record(block, measured, LARGEST_BATCH, value=measured.largest_batch, n=1)


def _record(block: Block, measured: Measured, metric: Metric | None, **fields: object) -> Record:
    cell = block.cell
    how = f"{cell.precision}, batch {cell.batch}{', compiled' if cell.compiled else ''}, {block.device}"
    fields = {"status": "ok", **fields}
    notes = {
        "noisy": block.noisy,
        "flops": measured.flops,
        "implementation": measured.implementation,
        "energy": measured.energy_note,
        "beyond the trained": measured.beyond,
        "largest_batch": measured.largest_note,
    }
    return Record(
        unit=folder_name(measured.model, TASK, cell.key),
        model=measured.model,
        model_info={
            "name": measured.model,
            "spec": measured.spec,
            "num_parameters": measured.num_parameters,
            "precision": cell.precision,
        },
        task=TASK,
        task_version=TASK_VERSION,
        dataset=f"{cell.tower} {cell.shape}",
        split="random",
        protocol=how,
        metric=metric.name if metric else "",
        metric_info=metric,
        notes={name: value for name, value in notes.items() if value},
        created_utc=block.created_utc,
        **fields,  # type: ignore[arg-type]  # fields of Record
    )


def check_records(run: Path) -> tuple[int, int, list[list[str]]]:
    """Derive the records of a measurement again from its cells, whose digests are checked by reading them.

    Args:
        run: directory.

    Returns:
        How many records there are, how many of them come out, and of each that differs its unit, metric, what
        is recorded and what comes out, field by field; one that lacks on either side is empty there.

    Raises:
        OutputError: a file is none, or a cell's is not as it was written.
    """
    records = read_records(run / "results.jsonl")
    derived = {(one.unit, one.metric): _facts(one) for block in read_blocks(run) for one in records_of(block)}
    recorded: dict[tuple[str, str], dict[str, str]] = {}
    wrong: list[list[str]] = []
    for record in records:
        key = record.unit, record.metric
        if key in recorded:
            wrong.append([*key, "the same record once more", ""])
            continue
        recorded[key] = _facts(record)
    for key in dict.fromkeys((*recorded, *derived)):
        one, other = recorded.get(key, {}), derived.get(key, {})
        if names := [name for name in {**one, **other} if one.get(name) != other.get(name)]:
            wrong.append([*key, _told(one, names), _told(other, names)])
    equal = sum(one == derived.get(key) for key, one in recorded.items())
    return len(records), equal, wrong


def _facts(record: Record) -> dict[str, str]:
    """Return what a record says, field by field; not the title of its metric, which may be put otherwise."""
    said = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    metric, _ = said.pop("metric_info"), said.pop("schema_version")
    said |= {"unit of measure": metric and metric.unit, "better": metric and metric.better}
    facts: dict[str, object] = {}
    for name, value in said.items():
        facts |= (
            {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    # Of numbers as many digits as no rounding of a logarithm changes.
    return {name: f"{value:.9g}" if isinstance(value, float) else str(value) for name, value in facts.items()}


def _told(facts: Mapping[str, str], names: Sequence[str]) -> str:
    """Return some of the facts on a record, none where it lacks; of one alone its number or its reason."""
    shown = [name for name in names if name in ("value", "reason")] if len(names) == len(facts) else names
    return ", ".join(f"{name} {facts[name]}" for name in shown if facts.get(name))
