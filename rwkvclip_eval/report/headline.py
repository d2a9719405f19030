"""The first screen: the rows that sum a report up, and one sentence of what was found.

The sentence claims a lead only where the 95 % intervals of the two best models do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.report.tables import (
    format_value,
    is_percent,
    leaders,
    lower_is_better,
    metric_label,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.tables import Cell, Row, Table


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What a reader sees first."""

    sentence: str
    caveats: tuple[str, ...]
    """What the reader must know before quoting a number."""


def headline_rows(table: Table) -> list[Row]:
    """Return the rows of `table` that sum it up: averages, else the datasets; of recalls, R@1 only."""
    rows = list(table.averages or table.rows)
    at_1 = [r for r in rows if r.metric.endswith("recall@1")]
    return at_1 or rows[: 3 if table.averages else 6]


def write_headline(loaded: Loaded, tables: Sequence[Table]) -> Headline:
    """Return the sentence and its caveats."""
    chosen: dict[str, Table] = {}
    for table in tables:
        chosen.setdefault(table.task, table)
    clauses = []
    for table in chosen.values():
        rows = [r for r in headline_rows(table) if any(c.value is not None for c in r.cells.values())]
        if rows and not table.averages and "recall@" not in rows[0].metric and len(rows) > 1:
            rows = rows[:1]
        clauses += [_clause(row, table) for row in rows[:2]]
    sentence = "; ".join(clauses) + "." if clauses else _nothing(loaded)
    return Headline(
        sentence=sentence[:1].upper() + sentence[1:] if not clauses else sentence,
        caveats=tuple(_caveats(loaded, tables)),
    )


def _nothing(loaded: Loaded) -> str:
    statuses: list[str] = [e.record.status for e in loaded.entries]
    counts = (
        (statuses.count("failed"), "failed"),
        (statuses.count("missing_data"), "lacked their data"),
        (statuses.count("not_applicable"), "did not apply to their model"),
    )
    facts = ", ".join(f"{n} {what}" for n, what in counts if n)
    return f"no number came out of this run: of {len(statuses)} units, {facts or 'none was scored'}."


def _clause(row: Row, table: Table) -> str:
    where = _where(row, table)
    ranked = sorted(
        ((m, c) for m, c in row.cells.items() if c.rankable and c.value is not None),
        key=lambda item: (item[1].value or 0.0) * (1 if lower_is_better(row.metric) else -1),
    )
    if not ranked:
        return _unranked(row, where)
    (first, best), others = ranked[0], ranked[1:]
    figure = _figure(best)
    if not others:
        beside = [m for m in row.cells if m != first]
        alone = (
            "no other model was scored"
            if not beside
            else f"no other trained model has {'the complete average' if row.kind == 'average' else 'it'}"
        )
        return f"{first} reaches {figure} on {where} ({alone}, so nothing is ranked)"
    if row.problem:
        return f"models cannot be ranked on {where}: {row.problem}"
    second, runner_up = others[0]
    if len(tied := leaders(row)) > 1:
        return f"{_join(tied)} are level at {figure} on {where}"
    gap = abs((best.value or 0.0) - (runner_up.value or 0.0))
    unit = " points" if is_percent(row.metric) else ""
    distance = f"{format_value(row.metric, gap)}{unit}"
    separate = _separate(best, runner_up)
    if separate is None:
        return (
            f"{first} has {figure} on {where}, {distance} from {second}; without intervals this is no claim "
            "that it leads"
        )
    if separate:
        return (
            f"{first} leads on {where} with {figure}, {distance} ahead of {second}, and the 95 % intervals "
            "do not overlap"
        )
    return (
        f"{first} and {second} are not separated on {where}: {figure} against {_figure(runner_up)}, "
        "with overlapping 95 % intervals"
    )


def _unranked(row: Row, where: str) -> str:
    have = {m: c for m, c in row.cells.items() if c.value is not None}
    if all(not c.trained for c in have.values()):
        figures = ", ".join(f"{m} {_figure(c)}" for m, c in have.items())
        return f"only untrained models were scored on {where} ({figures}): this shows chance, not skill"
    trained = {m: c for m, c in have.items() if c.trained}
    lacking = ", ".join(
        f"{m} has {len(row.datasets) - len(c.missing)} of {len(row.datasets)}" for m, c in trained.items()
    )
    return f"no trained model has the complete average on {where} ({lacking} datasets), so none is ranked"


def _where(row: Row, table: Table) -> str:
    metric = metric_label(row.metric)
    task = table.task_title.lower()
    place = (
        f"the average of {len(row.datasets)} datasets" if row.kind == "average" else f"{row.title} {metric}"
    )
    if row.kind == "average" and row.metric != "primary_metric_accuracy":
        place = f"{metric}, averaged over {len(row.datasets)} datasets"
    return f"{task} ({place}{', on a subset' if table.subset else ''}; protocol {table.protocol})"


def _figure(cell: Cell) -> str:
    return f"{cell.text} %" if is_percent(cell.metric) else cell.text


def _separate(first: Cell, second: Cell) -> bool | None:
    """Return whether the intervals lie apart; None where one is missing."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.low > second.high or second.low > first.high


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def _caveats(loaded: Loaded, tables: Sequence[Table]) -> Iterable[str]:
    untrained = list(dict.fromkeys(e.model for e in loaded.entries if not e.trained))
    if untrained:
        yield f"Untrained (random weights), never ranked: {', '.join(untrained)}."
    if any(t.subset for t in tables):
        full = "some" if any(not t.subset for t in tables) else "all"
        yield f"Subset: {full} results are of part of a split; they do not compare with full runs."
    for table in tables:
        for row in table.averages[:1]:
            for model, cell in row.cells.items():
                if cell.missing and cell.value is not None:
                    yield (
                        f"Incomplete: the average of {model} ({table.title}) covers "
                        f"{len(row.datasets) - len(cell.missing)} of {len(row.datasets)} datasets; missing: "
                        f"{', '.join(cell.missing)}."
                    )
    statuses: list[str] = [e.record.status for e in loaded.entries]
    for status, words in (
        ("failed", "failed"),
        ("missing_data", "lacked their data"),
        ("not_applicable", "did not apply to their model"),
    ):
        if n := statuses.count(status):
            yield f"{n} {'unit' if n == 1 else 'units'} {words}; see “Without a number”."
    flagged = sum(bool(r.problem) for t in tables for r in (*t.rows, *t.further))
    if flagged:
        rows = "row is" if flagged == 1 else "rows are"
        yield f"{flagged} {rows} not comparable between models (marked ⚠)."
    damaged = sum(e.record.num_missing > 0 for e in loaded.entries)
    if damaged:
        numbers = "number leaves" if damaged == 1 else "numbers leave"
        yield f"{damaged} {numbers} out damaged images, as allowed."
    unfinished = [r.name for r in loaded.runs if r.info is not None and r.info.duration_s is None]
    if unfinished:
        yield f"Not finished when this report was made: {', '.join(unfinished)}."
