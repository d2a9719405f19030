"""Published numbers and ours side by side: read from the shipped table, with sources, never completed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import PRIMARY
from rwkvclip_eval.records.metrics import known as known_metric
from rwkvclip_eval.report.wording import TASK_TITLES
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

    Key = tuple[str, str]
    Line = dict[str, str]

_OUR_TASK = {"zero_shot_robustness": "zero_shot_classification"}
"""Published task → ours, where the literature has a name of its own for some datasets of one."""
_TITLES = TASK_TITLES | {"zero_shot_robustness": "Zero-shot robustness"}
_AVERAGE = "average"
"""What the table calls a dataset that is a mean; its metric then says over which set."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Published numbers of one task on the datasets and metrics that were run in full.

    Attributes:
        task_title: the task in words.
        columns: dataset (or average) and metric (in words) of each column.
        ours: model, protocol, and its numbers in per cent as in the tables above (empty: none).
        rows: method, its numbers in per cent as printed in the source (empty: not published), source numbers.
        sources: numbered from 1.
    """

    task_title: str
    columns: tuple[tuple[str, str], ...]
    ours: tuple[tuple[str, str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]
    sources: tuple[str, ...]


def published_tables(tables: Sequence[Table], models: Sequence[str] | None = None) -> list[PublishedTable]:
    """Return a table per published task that has numbers of a dataset and metric that were run.

    Subsets bring none. A published average is shown only beside an average of ours over the same datasets
    by the same metrics.

    Args:
        tables: those of the report.
        models: whose numbers to show; all by default.
    """
    path = resource_dir("published") / "published.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found = []
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [t for t in tables if t.task == _OUR_TASK.get(task, task) and not t.subset]
        of_task = [line for line in lines if line["task"] == task]
        known = {(line["dataset"], line["metric"]) for line in of_task}
        keys = dict.fromkeys((r.dataset, r.metric.name) for t in own for r in (*t.rows, *t.further))
        shown = [key for key in keys if key in known]
        if shown:
            found.append(_table(_TITLES[task], own, shown, of_task, models))
    return found


def average_sets(lines: Iterable[Line]) -> dict[str, frozenset[Key]]:
    """Return published average → the datasets and metrics it is over, from the lines of one task.

    A source that prints an average prints its datasets too, except where the line is derived: that one is
    over the same datasets as the other averages of its name.
    """
    methods: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        methods.setdefault((_method(line), line["source"]), []).append(line)
    sets: dict[str, frozenset[Key]] = {}
    for own in methods.values():
        values = frozenset((line["dataset"], line["metric"]) for line in own if line["dataset"] != _AVERAGE)
        for line in own:
            if line["dataset"] == _AVERAGE and values:
                sets[line["metric"]] = values
    return sets


def _table(
    title: str,
    tables: Sequence[Table],
    shown: Sequence[Key],
    lines: Sequence[Line],
    models: Sequence[str] | None,
) -> PublishedTable:
    averages: dict[str, list[Row]] = {}
    for metric, datasets in average_sets(lines).items():
        rows = [row for t in tables for row in t.averages if row.parts == datasets]
        if rows:
            averages[metric] = rows
    keys = [*shown, *((_AVERAGE, metric) for metric in averages)]
    methods: dict[str, dict[Key, Line]] = {}
    for line in lines:
        methods.setdefault(_method(line), {})[line["dataset"], line["metric"]] = line
    sources: list[str] = []
    published = []
    for method, values in methods.items():
        cells = [values.get(key) for key in keys]
        if not any(cells):
            continue
        used = list(dict.fromkeys(_source(line) for line in cells if line is not None))
        sources += [s for s in used if s not in sources]
        numbers = tuple(line["value"] if line else "" for line in cells)
        published.append((method, numbers, tuple(sources.index(s) + 1 for s in used)))
    ours = []
    for table in tables:
        own: dict[Key, list[Row]] = {}
        for row in (*table.rows, *table.further):
            own.setdefault((row.dataset, row.metric.name), []).append(row)
        for metric, found in averages.items():
            own[_AVERAGE, metric] = [row for row in found if row in table.averages]
        for model in table.models:
            numbers = tuple(_figure([row.cells[model] for row in own.get(key, ())]) for key in keys)
            if any(numbers) and (models is None or model in models):
                ours.append((model, table.protocol, numbers))
    columns = [(dataset, known_metric(metric).title) for dataset, metric in shown]
    columns += [(f"average of {len(rows[0].parts)}", PRIMARY.title) for rows in averages.values()]
    return PublishedTable(
        task_title=title,
        columns=tuple(columns),
        ours=tuple(ours),
        rows=tuple(published),
        sources=tuple(sources),
    )


def _figure(cells: Sequence[Cell]) -> str:
    """Return the number as shown; nothing where there is none, or several versions that it may be."""
    have = [c for c in cells if c.value is not None]
    if len(have) != 1:
        return ""
    return f"{have[0].metric.text(have[0].value)}{f' ({c})' if (c := have[0].coverage) else ''}"


def _method(line: Mapping[str, str]) -> str:
    return f"{line['method']} {line['backbone']}, {line['pretrain_data']}"


def _source(line: Line) -> str:
    return line["source"] if line["status"] == "published" else f"{line['source']} ({line['status']})"
