"""Published numbers and ours side by side: with sources, never completed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import PRIMARY
from rwkvclip_eval.records.metrics import known as known_metric
from rwkvclip_eval.records.published import AVERAGE, checkpoint_spec, counterparts, read_published
from rwkvclip_eval.report.wording import TASK_TITLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.records.published import PublishedRow
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

    Key = tuple[str, str]

_TITLES = TASK_TITLES | {"zero_shot_robustness": "Zero-shot robustness"}
_BY_CERTAINTY = ("published", "derived", "read_from_figure")


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Published numbers of one task on the datasets and metrics that were run in full.

    Attributes:
        task_title: the task in words.
        columns: dataset (or average) and metric (in words) of each column.
        ours: model, protocol, and its numbers in per cent as in the tables above (empty: none).
        rows: method, its numbers in per cent as printed in the source (`~`: read from a figure; empty: not
            published), source numbers; those that may be of a model shown come first.
        sources: numbered from 1.
        notes: which methods a model may be, one sentence a model.
    """

    task_title: str
    columns: tuple[tuple[str, str], ...]
    ours: tuple[tuple[str, str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


def published_tables(
    tables: Sequence[Table],
    models: Sequence[str] | None = None,
    rows: Sequence[PublishedRow] | None = None,
) -> list[PublishedTable]:
    """Return a table per published task that has numbers of a dataset and metric that were run.

    Subsets bring none. A number of a named version of a dataset is shown beside that version only, and a
    published average only beside an average of ours over the same datasets by the same metrics.

    Args:
        tables: those of the report.
        models: whose numbers to show; all by default.
        rows: the published numbers; those that are shipped by default.

    Raises:
        UserError: a shipped file does not fit.
    """
    every = read_published() if rows is None else rows
    found = []
    for task in dict.fromkeys(row.task for row in every):
        of_task = [row for row in every if row.task == task]
        own = [t for t in tables if t.task == of_task[0].record_task and not t.subset]
        versions: dict[Key, set[str]] = {}
        for row in (row for table in own for row in (*table.rows, *table.further)):
            versions.setdefault((row.dataset, row.metric.name), set()).add(row.version)
        lines: dict[Key, list[PublishedRow]] = {}
        for line in of_task:
            key = _key(line)
            if "@" not in line.dataset or versions.get(key) == {line.dataset}:
                lines.setdefault(key, []).append(line)
        shown = [key for key in versions if key in lines]
        if shown:
            beside = [line for own_lines in lines.values() for line in own_lines]
            found.append(_table(_TITLES[task], own, shown, beside, models))
    return found


def average_sets(lines: Iterable[PublishedRow]) -> dict[str, frozenset[Key]]:
    """Return published average → the datasets and metrics it is over, from the lines of one task.

    A source that prints an average prints its datasets too, except where the line is derived: that one is
    over the same datasets as the other averages of its name.
    """
    methods: dict[tuple[str, str], list[PublishedRow]] = {}
    for line in lines:
        methods.setdefault((line.who, line.source), []).append(line)
    sets: dict[str, frozenset[Key]] = {}
    for own in methods.values():
        values = frozenset(_key(line) for line in own if line.dataset != AVERAGE)
        for line in own:
            if line.dataset == AVERAGE and values:
                sets[line.metric] = values
    return sets


def _key(line: PublishedRow) -> Key:
    return line.dataset.partition("@")[0], line.metric


def _table(
    title: str,
    tables: Sequence[Table],
    shown: Sequence[Key],
    lines: Sequence[PublishedRow],
    models: Sequence[str] | None,
) -> PublishedTable:
    averages: dict[str, list[Row]] = {}
    for metric, datasets in average_sets(lines).items():
        rows = [row for t in tables for row in t.averages if row.parts == datasets]
        if rows:
            averages[metric] = rows
    keys = [*shown, *((AVERAGE, metric) for metric in averages)]
    ours = []
    for table in tables:
        own: dict[Key, list[Row]] = {}
        for row in (*table.rows, *table.further):
            own.setdefault((row.dataset, row.metric.name), []).append(row)
        for metric, found in averages.items():
            own[AVERAGE, metric] = [row for row in found if row in table.averages]
        for model in table.models:
            numbers = tuple(_figure([row.cells[model] for row in own.get(key, ())]) for key in keys)
            if any(numbers) and (models is None or model in models):
                ours.append((model, table.protocol, numbers))
    methods: dict[str, dict[Key, PublishedRow]] = {}
    for line in sorted(lines, key=lambda line: _BY_CERTAINTY.index(line.status)):
        if line.value:
            methods.setdefault(line.who, {}).setdefault(_key(line), line)
    told = {who: cells for who, cells in methods.items() if any(key in cells for key in keys)}
    specs = _specs(tables)
    alike = {
        model: list(dict.fromkeys(line.who for line in counterparts(spec, lines) if line.who in told))
        for model, spec in specs.items()
        if any(model == name for name, _, _ in ours)
    }
    first = dict.fromkeys(who for found in alike.values() for who in found)
    order = [*first, *(w for w in dict.fromkeys(line.who for line in lines) if w in told and w not in first)]
    sources: list[str] = []
    published = []
    for who in order:
        cells = [told[who].get(key) for key in keys]
        used = list(dict.fromkeys(line.where_from for line in cells if line is not None))
        sources += [s for s in used if s not in sources]
        numbers = tuple(line.text if line else "" for line in cells)
        published.append((who, numbers, tuple(sources.index(s) + 1 for s in used)))
    columns = [(dataset, known_metric(metric).title) for dataset, metric in shown]
    columns += [(f"average of {len(rows[0].parts)}", PRIMARY.title) for rows in averages.values()]
    return PublishedTable(
        task_title=title,
        columns=tuple(columns),
        ours=tuple(ours),
        rows=tuple(published),
        sources=tuple(sources),
        notes=tuple(_note(model, specs[model], found) for model, found in alike.items() if found),
    )


def _specs(tables: Sequence[Table]) -> dict[str, str]:
    """Return model → its spec, of those that were loaded."""
    found: dict[str, str] = {}
    for table in tables:
        for row in (*table.rows, *table.further):
            for model, cell in row.cells.items():
                if cell.entry is not None and cell.trained:
                    record = cell.entry.record
                    found.setdefault(model, str(record.model_info.get("spec") or record.model))
    return found


def _note(model: str, spec: str, methods: Sequence[str]) -> str:
    """Return which published methods a model may be; more than one unless its weights are released ones."""
    open_one = len(methods) > 1 and checkpoint_spec(spec) not in methods
    doubt = "; which of them, its checkpoint does not say" if open_one else ""
    return f"Published counterparts of {model}: {'; '.join(methods)}{doubt}."


def _figure(cells: Sequence[Cell]) -> str:
    """Return the number as shown; nothing where there is none, or several versions that it may be."""
    have = [c for c in cells if c.value is not None]
    if len(have) != 1:
        return ""
    return f"{have[0].metric.text(have[0].value)}{f' ({c})' if (c := have[0].coverage) else ''}"
