"""The first screen: the rows that sum a report up, and one sentence of what was found.

The sentence claims a lead only where the tables mark one as best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import PRIMARY
from rwkvclip_eval.report.rows import gap_text, intervals_apart, leaders, nearest, ranking, restrict
from rwkvclip_eval.report.series import final_models

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table


_UNTRAINED = "only untrained models were scored on "
_CHANCE = ", which shows chance, not skill"
_ONLY = "it is the only model, so nothing is compared"


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What a reader sees first.

    Attributes:
        sentence: what was found.
        models: those of the headline table: of a training run's checkpoints the last.
        columns: the rows that become the headline table's columns.
        caveats: what the reader must know before quoting a number.
    """

    sentence: str
    models: tuple[str, ...]
    columns: tuple[tuple[Table, Row], ...]
    caveats: tuple[str, ...]


def headline_rows(table: Table, models: Collection[str] | None = None) -> list[Row]:
    """Return the rows of `table` that sum it up: averages, else the datasets.

    Of recalls that is R@1 only, of shots the fewest, the middle and the most.

    Args:
        table: a table of the report.
        models: those to keep and rank; all by default.
    """
    rows = list(table.averages or table.rows)
    at_1 = [r for r in rows if r.metric.k == 1]
    if len(rows) > 3 and all(r.metric.shots is not None for r in rows):
        rows = [rows[0], rows[len(rows) // 2], rows[-1]]
    chosen = at_1 or rows[: 3 if table.averages else 6]
    return chosen if models is None else [restrict(r, models) for r in chosen]


def write_headline(loaded: Loaded, tables: Sequence[Table]) -> Headline:
    """Return the sentence and its caveats."""
    models = tuple(final_models(loaded.entries))
    chosen: dict[str, Table] = {}
    for table in tables:
        chosen.setdefault(table.task, table)
    named = len({t.protocol for t in tables}) > 1
    clauses: list[str] = []
    for table in chosen.values():
        rows = [r for r in headline_rows(table, models) if any(c.value is not None for c in r.cells.values())]
        if rows:
            clauses += _table_clauses(rows, _task(table, named))
    clauses = _said_once(clauses, len(models), any(e.trained for e in loaded.entries))
    sentence = "; ".join(clauses) + "." if clauses else _nothing(loaded)
    # A sentence that opens with a model's name keeps the name's case.
    if sentence.startswith(("only untrained ", "no model ", "no trained ")):
        sentence = sentence[0].upper() + sentence[1:]
    return Headline(
        sentence=sentence,
        models=models,
        columns=tuple((table, row) for table in tables for row in headline_rows(table, models)),
        caveats=tuple(_caveats(loaded, tables)),
    )


def _said_once(clauses: Sequence[str], num_models: int, trained: bool) -> list[str]:
    """Return `clauses` without what several say alike: the first or the last of them says it for all."""
    said = list(clauses)
    if not trained:
        said[1:] = [c.replace(_UNTRAINED, "on ", 1) for c in said[1:]]
        if all(c.endswith(_CHANCE) for c in said):
            said[:-1] = [c.removesuffix(_CHANCE) for c in said[:-1]]
    elif num_models == 1:
        alone = [i for i, c in enumerate(said) if c.endswith(f"; {_ONLY}")]
        for i in alone[:-1]:
            said[i] = said[i].removesuffix(f"; {_ONLY}")
    return said


def _table_clauses(rows: Sequence[Row], task: str) -> list[str]:
    """Return what is said of a table: of both directions of retrieval at once where one model leads both."""
    pair = rows[:2] if all(r.metric.k is not None for r in rows[:2]) else rows[:1]
    leads = [_clear_lead(row) for row in pair]
    found = [lead for lead in leads if lead is not None]
    if len(pair) == 2 and len(found) == 2 and found[0][0] == found[1][0] and _same_place(*pair):
        sides = ", and ".join(
            f"{row.metric.title} {_figure(row.cells[first])}, {gap} ahead of {second}"
            for row, (first, second, gap) in zip(pair, found, strict=True)
        )
        over = (
            f" over {len(pair[0].datasets)} datasets" if pair[0].kind == "average" else f" on {pair[0].title}"
        )
        return [f"{found[0][0]} leads {task} in both directions{over}: {sides}, all 95 % intervals apart"]
    return [_clause(row, task) for row in pair]


def _same_place(first: Row, second: Row) -> bool:
    return first.title == second.title and first.metric != second.metric


def _nothing(loaded: Loaded) -> str:
    facts = ", ".join(f"{n} {what}" for n, what in _without_number(loaded))
    return f"No number came out of this run: of {len(loaded.entries)} tried, {facts or 'none was scored'}."


def _without_number(loaded: Loaded) -> list[tuple[int, str]]:
    """Return how many units have no number and why, in words; nothing of reasons that none has."""
    statuses: list[str] = [e.record.status for e in loaded.entries]
    counts = (
        (statuses.count("failed"), "failed"),
        (statuses.count("missing_data"), "lacked data"),
        (statuses.count("not_applicable"), "did not apply to the model"),
    )
    return [(count, words) for count, words in counts if count]


def _incomplete(tables: Iterable[Table]) -> Iterable[str]:
    """Yield which averages are of a part of their datasets, models that have the same part at once."""
    for table in tables:
        for row in table.averages[:1]:
            parts: dict[tuple[str, str], list[str]] = {}
            for model, cell in row.cells.items():
                if cell.missing and cell.value is not None:
                    parts.setdefault((cell.coverage, cell.part(row.datasets)), []).append(model)
            for (covered, part), models in parts.items():
                yield f"the average of {_join(models)} ({table.title}) covers {covered} datasets, {part}"


def _clear_lead(row: Row) -> tuple[str, str, str] | None:
    """Return leader, runner-up and distance where one is marked as best; None elsewhere."""
    ranked = ranking(row)
    if not ranked or not ranked[0][1].best:
        return None
    return ranked[0][0], ranked[1][0], gap_text(row, ranked[0][1], ranked[1][1])


def _clause(row: Row, task: str) -> str:
    where = f"{task} ({_place(row)})"
    ranked = ranking(row)
    if not ranked:
        return _unranked(row, where)
    first, best = ranked[0]
    if len(ranked) == 1:
        return f"{first} reaches {_figure(best)} on {where}; {_alone(row, first)}"
    if row.problem:
        return f"no model is ranked on {where}, because {row.problem}"
    second, runner_up = nearest(row)
    if len(tied := leaders(row)) > 1:
        return f"{_join(tied)} are level at {_figure(best)} on {where}"
    gap = gap_text(row, best, runner_up)
    apart = intervals_apart(best, runner_up)
    if apart is None:
        older = "made as today " if best.older or runner_up.older else ""
        return (
            f"{first} has {_figure(best)} on {where}, {gap} from {second}, but without intervals {older}no "
            "lead is claimed"
        )
    if apart:
        return (
            f"{first} leads {where} with {_figure(best)}, {gap} ahead of {second}, their 95 % intervals apart"
        )
    return (
        f"{first} and {second} are not separated on {where}: {_figure(best)} against {_figure(runner_up)}, "
        "with overlapping 95 % intervals"
    )


def _alone(row: Row, model: str) -> str:
    """Return why nothing is ranked beside `model`, the only one that could be."""
    others = {m: c for m, c in row.cells.items() if m != model}
    if not others:
        return _ONLY
    if any(c.trained and c.missing for c in others.values()):
        return "no other trained model has the complete average, so nothing is ranked"
    return "no other trained model has a number there, so nothing is ranked"


def _unranked(row: Row, where: str) -> str:
    have = {m: c for m, c in row.cells.items() if c.value is not None}
    if all(not c.trained for c in have.values()):
        figures = ", ".join(
            f"{m} {_figure(c)}"
            + (f" over {len(row.datasets) - len(c.missing)} of them" if c.missing else "")
            + (f" (chance {_value(row.metric, c.chance)})" if c.chance is not None else "")
            for m, c in have.items()
        )
        return f"{_UNTRAINED}{where}: {figures}{_against_chance(row.metric, have)}"
    trained = {m: c for m, c in have.items() if c.trained}
    if len(trained) == 1:
        ((model, cell),) = trained.items()
        return (
            f"{model} reaches {_figure(cell)} on {where}, but over {cell.coverage} of them "
            f"({cell.part(row.datasets)}), and an average of a part is not ranked"
        )
    lacking = ", ".join(f"{m} covers {c.coverage}" for m, c in trained.items())
    return f"no trained model has the complete average on {where}, so none is ranked ({lacking})"


def _against_chance(metric: Metric, have: Mapping[str, Cell]) -> str:
    """Return what numbers of untrained models show beside the task's own chance."""
    if any(c.beats_chance is None for c in have.values()):
        return ""
    beating = [m for m, c in have.items() if c.beats_chance]
    if not beating:
        return _CHANCE
    who = "" if len(beating) == len(have) else f" for {_join(beating)}"
    beats = "less" if metric.better == "lower" else "more"
    return f", {beats} than chance{who}, though nothing was trained"


def _task(table: Table, named: bool) -> str:
    subset = " on a subset" if table.subset else ""
    return f"{table.task_title.lower()}{subset}{f' under protocol {table.protocol}' if named else ''}"


def _place(row: Row) -> str:
    if row.kind == "dataset":
        return f"{row.title}, {row.metric.title}"
    named = f"average of {len(row.datasets)} datasets"
    if row.leaves_out:
        named = row.title.replace("Average", "average", 1)
    return named if row.metric.name == PRIMARY.name else f"{row.metric.title}, {named}"


def _figure(cell: Cell) -> str:
    return _value(cell.metric, cell.value)


def _value(metric: Metric, value: float | None) -> str:
    return f"{metric.text(value)}{' %' * metric.in_percent}"


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def _caveats(loaded: Loaded, tables: Sequence[Table]) -> Iterable[str]:
    untrained = list(dict.fromkeys(e.model for e in loaded.entries if not e.trained))
    if len(final_models(loaded.entries)) < len(loaded.models):
        yield "Checkpoints: of each training run the last one stands here; all are in the tables below."
    if untrained:
        yield f"Untrained (random weights), never ranked: {', '.join(untrained)}."
    if any(t.subset for t in tables):
        full = "some" if any(not t.subset for t in tables) else "all"
        yield f"Subset: {full} results are of part of a split; they do not compare with full runs."
    if incomplete := list(_incomplete(tables)):
        yield f"Incomplete, so not ranked: {'; '.join(incomplete)}."
    if without := _without_number(loaded):
        number, first = without[0]
        others = [f"{count} {words}" for count, words in without[1:]]
        told = ", ".join([f"{number} {'unit' if number == 1 else 'units'} {first}", *others])
        yield f"{told}; see “Without a number”."
    older = sum(bool(c.older) for t in tables for r in (*t.rows, *t.further) for c in r.cells.values())
    if older:
        numbers = "number is" if older == 1 else "numbers are"
        yield f"{older} {numbers} of an older task version, with an interval or search made otherwise today."
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
