"""The report as CSV: every record, and the tables of each task."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.printable import csv_cell
from rwkvclip_eval.records.schema import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.report.loading import Entry
    from rwkvclip_eval.report.rows import Cell
    from rwkvclip_eval.report.tables import Table


_MEANING = ("metric_title", "unit_of_value", "better")
_SPREAD = ("model_info", "metric_info", "tables")
"""Fields that are told otherwise, or of files that are not beside the table."""


def results_csv(entries: Iterable[Entry]) -> str:
    """Return one tidy row per record: its fields, `model_info.KEY`, its metric's meaning, `column`, `run`.

    Values are fractions, not per cent; mappings are JSON; before a text that begins as a formula stands `'`.
    """
    entries = list(entries)
    fields = [f.name for f in dataclasses.fields(Record) if f.name not in _SPREAD]
    info = list(dict.fromkeys(key for e in entries for key in e.record.model_info))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        map(csv_cell, [*fields, *(f"model_info.{key}" for key in info), *_MEANING, "column", "run"])
    )
    for e in entries:
        own = [_csv_value(getattr(e.record, name)) for name in fields]
        facts = [_csv_value(e.record.model_info.get(key)) for key in info]
        meaning = [e.record.measure.title, e.record.measure.unit, e.record.measure.better]
        writer.writerow(map(csv_cell, [*own, *facts, *meaning, e.model, e.run.name]))
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else value


def table_csv(tables: Sequence[Table]) -> str:
    """Return one task's tables: a row per dataset and metric, per model value, interval, n and state.

    The n of an average is the number of datasets it has, of the `datasets` it is over. The state
    `best` is of a number whose interval lies apart from all others.
    """
    models = list(dict.fromkeys(m for t in tables for m in t.models))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    per_model = ("value", "ci_low", "ci_high", "n", "state")
    head = ["task", "protocol", "subset", "kind", "dataset", "metric", "datasets", "leaves_out", "problem"]
    head += _MEANING
    writer.writerow(map(csv_cell, [*head, *(f"{m}.{column}" for m in models for column in per_model)]))
    for table in tables:
        for row in (*table.rows, *table.averages, *table.further):
            line: list[Any] = [table.task, table.protocol, table.subset, row.kind, row.title, row.metric.name]
            line += [len(row.datasets) or "", ", ".join(row.leaves_out), row.problem]
            line += [row.metric.title, row.metric.unit, row.metric.better]
            for m in models:
                c = row.cells.get(m)
                n = c.entry.record.n if c and c.entry else None
                if c and c.num_datasets:
                    n = c.num_datasets - len(c.missing)
                values = (c.value, c.low, c.high, n, _state(c)) if c else (None, None, None, None, "not_run")
                line += ["" if v is None else v for v in values]
            writer.writerow(map(csv_cell, line))
    return out.getvalue()


def _state(cell: Cell) -> str:
    if cell.value is None:
        return cell.status
    states = [
        "best" if cell.best else "",
        "" if cell.trained else "untrained",
        "incomplete" if cell.missing else "",
        "older" if cell.older else "",
        "conservative" if cell.conservative else "",
    ]
    return " ".join(filter(None, states)) or "ok"
