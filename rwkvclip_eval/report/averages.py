"""Averages over datasets: those a suite names, and one over all of a table where it names none."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from rwkvclip_eval.metrics.intervals import Part, average
from rwkvclip_eval.records.metrics import PRIMARY, Metric
from rwkvclip_eval.records.metrics import known as known_metric
from rwkvclip_eval.report.rows import Cell, Row, mark_best

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rwkvclip_eval.records.schema import Average


def build_averages(
    scope: str,
    rows: Sequence[Row],
    further: Sequence[Row],
    models: Sequence[str],
    known: Sequence[str],
    named: Sequence[Average],
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Return the average rows of a table and what to say about them.

    Args:
        scope: slug of the table.
        rows: its main rows.
        further: those of metrics that are not the primary ones.
        models: its columns.
        known: titles of the datasets of this task and protocol, on full splits or subsets.
        named: the averages that suites name for this task and protocol; where there are none, all datasets
            are averaged.
    """
    if not named:
        return _over_all(scope, rows, further, models, known)
    averages: list[Row] = []
    notes: list[str] = []
    for each in named:
        metric = known_metric(each.metric)
        chosen = [
            r
            for r in (*rows, *further)
            if r.version in each.datasets
            and (r.primary if metric == PRIMARY else r.metric.name == metric.name)
        ]
        titles = {version: {r.title for r in chosen if r.version == version} for version in each.datasets}
        several = sorted(title for found in titles.values() if len(found) > 1 for title in found)
        if several:
            notes.append(f"Left out of “{each.name}”, which takes one split each: {', '.join(several)}.")
        if not chosen:
            notes.append(f"“{each.name}” has none of its {len(each.datasets)} datasets here.")
            continue
        members = {version: None for version in each.datasets} | {
            r.version: r for r in chosen if r.title not in several
        }
        if metric != PRIMARY:
            metric = chosen[0].metric
        averages.append(_average_row(scope, each.name, metric, members, models, each.leaves_out))
    return tuple(averages), tuple(notes)


def _over_all(
    scope: str, rows: Sequence[Row], further: Sequence[Row], models: Sequence[str], known: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Return averages over every dataset of a table.

    Where each has one primary metric they are averaged together, as the field does; where there are
    several (recalls), each metric has its own average, and so has each number of shots.
    """
    titles: dict[str, set[str]] = {}
    for row in (*rows, *further):
        titles.setdefault(row.dataset, set()).add(row.title)
    several = {title for group in titles.values() if len(group) > 1 for title in group}
    apart = any(count > 1 for count in Counter(r.title for r in rows).values())
    expected = [title for title in known if title not in several]
    groups: dict[Metric, dict[str, Row | None]] = {}
    for row in rows:
        if row.title in several or not row.metric.in_percent:
            continue
        metric = row.metric if apart else PRIMARY
        if row.metric.shots is not None:
            metric = PRIMARY.of_shots(row.metric.shots)
        groups.setdefault(metric, dict.fromkeys(expected))[row.title] = row
    averages = [
        _average_row(scope, f"Average of {len(expected)}", metric, members, models)
        for metric, members in groups.items()
        if len(expected) > 1
    ]
    notes = []
    if several:
        notes.append(f"Left out of averages, because variants are never mixed: {', '.join(sorted(several))}.")
    return tuple(averages), tuple(notes)


def _average_row(
    scope: str,
    title: str,
    metric: Metric,
    members: Mapping[str, Row | None],
    models: Sequence[str],
    leaves_out: Iterable[str] = (),
) -> Row:
    """Return the average over `members`, dataset → its row (None: there is none)."""
    rows = [row for row in members.values() if row is not None]
    flagged = [row.title for row in rows if row.problem]
    metric, mixed = _meaning(metric, rows)
    row = Row(
        scope=scope,
        title=title,
        metric=metric,
        cells={m: _average_cell(members, m, metric) for m in models},
        kind="average",
        problem=f"not comparable on {', '.join(flagged)}" if flagged else mixed,
        datasets=tuple(members),
        leaves_out=tuple(leaves_out),
        parts=frozenset((row.dataset, row.metric.name) for row in rows),
        series=rows[0].series if rows else {},
    )
    return mark_best(row)


def _meaning(metric: Metric, rows: Sequence[Row]) -> tuple[Metric, str]:
    """Return an average's metric in its rows' unit and direction; where they differ, why none is best."""
    found = {(row.metric.unit, row.metric.better) for row in rows}
    if len(found) > 1:
        return replace(
            metric, unit="number"
        ), "its datasets' metrics differ in unit or in which way is better"
    unit, better = found.pop() if found else (metric.unit, metric.better)
    return replace(metric, unit=unit, better=better), ""


def average_ties(cells: Sequence[Cell]) -> tuple[float | None, float | None]:
    """Return the range of a mean that equal logits leave open; exact numbers stay where they are."""
    if all(cell.ties_low is None for cell in cells):
        return None, None
    lows = [_first(cell.ties_low, cell.value) for cell in cells]
    return _mean(lows), _mean([_first(cell.ties_high, cell.value) for cell in cells])


def _average_cell(members: Mapping[str, Row | None], model: str, metric: Metric) -> Cell:
    cells = {name: row.cells[model] for name, row in members.items() if row is not None}
    cells = {name: cell for name, cell in cells.items() if cell.value is not None}
    missing = tuple(name for name in members if name not in cells)
    values = [c.value for c in cells.values() if c.value is not None]
    if not values:
        return Cell(metric=metric, status="none", missing=missing, num_datasets=len(members))
    ties_low, ties_high = average_ties(list(cells.values()))
    low, high = average_interval(list(cells.values()))
    older = [name for name, cell in cells.items() if cell.older]
    return Cell(
        metric=metric,
        value=math.fsum(values) / len(values),
        low=low,
        high=high,
        chance=_mean([c.chance for c in cells.values()]),
        ties_low=ties_low,
        ties_high=ties_high,
        conservative=any(c.conservative for c in cells.values()),
        older=f"that of {', '.join(older)}" if older else "",
        trained=all(c.trained for c in cells.values()),
        missing=missing,
        num_datasets=len(members),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is unknown."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def average_interval(cells: Sequence[Cell]) -> tuple[float | None, float | None]:
    """Return both ends of the interval of a mean of numbers, at least one; None where one of them has none.

    Of few-shot numbers, `metrics.intervals.average` is told apart what test images and seeds make of them.
    """
    parts = []
    for cell in cells:
        if cell.value is None or cell.low is None or cell.high is None:
            return None, None
        notes = cell.entry.record.notes if cell.entry else {}
        if "seeds_se" in notes and len(cells) > 1:
            seeds = {"seeds_variance": notes["seeds_se"] ** 2, "seeds_freedom": notes["seeds"] - 1}
            parts.append(Part(cell.value, notes["images_low"], notes["images_high"], **seeds))
        else:
            parts.append(Part(cell.value, cell.low, cell.high))
    found = average(parts)
    return found.low, found.high
