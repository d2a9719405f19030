"""What a page begins with: at most three numbers, each with what it is compared with, and a short sentence.

A lead is claimed only where the tables mark one as best.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.published import UNKNOWN
from rwkvclip_eval.report.rows import gap_text, leaders, nearest, ranking, restrict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.report.headline import Headline
    from rwkvclip_eval.report.overview import Group, View
    from rwkvclip_eval.report.paper_rows import Difference, PaperTable
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

MAX_CARDS = 3
_MAX_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A model's number less its published counterpart.

    Attributes:
        model: whose it is.
        difference: in points.
        against: the published method.
        published: its number as printed.
        apart: in words that the counterpart is not known to be of this protocol; empty where it is.
    """

    model: str
    difference: Difference
    against: str
    published: str
    apart: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One number of a report's first screen.

    Attributes:
        table: where it stands with all others.
        row: what it is of, over all models.
        model: whose it is: the best of those that can be ranked, else the first.
        standing: how it stands to the other models, in words; empty where nothing is compared.
        beside: the difference of each model that has a published counterpart from it, the card's own first.
    """

    table: Table
    row: Row
    model: str
    standing: str = ""
    beside: tuple[Beside, ...] = ()

    @property
    def cell(self) -> Cell:
        """Return the number."""
        return self.row.cells[self.model]


def result_cards(
    views: Sequence[View],
    tables: Sequence[Table],
    papers: Sequence[PaperTable],
    models: Sequence[str],
) -> list[Card]:
    """Return the numbers to begin with: one of each kind of task first, then more of what there is.

    Args:
        views: the overview's.
        tables: the report's, for datasets where there is little else.
        papers: the paper's tables, for differences from published numbers.
        models: those to choose from.
    """
    groups = [group for view in views for group in view.groups]
    first = [(group.table, group.rows[0]) for group in groups]
    others = [(group.table, row) for group in groups for row in group.rows[1:]]
    datasets = [(t, restrict(row, models)) for t in tables for row in t.rows if row.primary]
    chosen: dict[object, Card] = {}
    for table, row in (*first, *others, *datasets):
        if len(chosen) < MAX_CARDS and row.key not in chosen and _has_number(row):
            chosen[row.key] = _card(table, row, papers)
    return list(chosen.values())


def _has_number(row: Row) -> bool:
    return any(cell.value is not None for cell in row.cells.values())


def _card(table: Table, row: Row, papers: Sequence[PaperTable]) -> Card:
    ranked = ranking(row)
    model = ranked[0][0] if ranked else next(m for m, c in row.cells.items() if c.value is not None)
    models = list(dict.fromkeys([model, *(m for m, _ in ranked), *row.cells]))
    found = (_beside(m, table, row, papers) for m in models)
    beside = tuple(one for one in found if one is not None)
    return Card(table=table, row=row, model=model, standing=_standing(row), beside=beside)


def _standing(row: Row) -> str:
    ranked = ranking(row)
    if len(ranked) < 2:
        return ""
    if row.problem:
        return "not comparable between models"
    first, best = ranked[0]
    second, next_best = nearest(row)
    if len(level := leaders(row)) > 1:
        return f"level with {_name(level[1]) if len(level) == 2 else f'{len(level) - 1} others'}"
    if row.cells[first].best:
        return f"leads, {gap_text(row, best, next_best)} ahead of {_name(second)}"
    return (
        f"highest of {len(ranked)}, not separated from {_name(second)}"
        if row.metric.better == "higher"
        else (f"lowest of {len(ranked)}, not separated from {_name(second)}")
    )


def _beside(model: str, table: Table, row: Row, papers: Sequence[PaperTable]) -> Beside | None:
    """Return a number's difference from its published counterpart, None where there is none."""
    for paper in papers:
        if paper.task != table.task:
            continue
        for own in paper.measured:
            if (own.method, own.protocol, own.subset) != (model, table.protocol, table.subset):
                continue
            for i, difference in enumerate(own.differences):
                column = paper.columns[i]
                same = column.over == row.parts if column.over else {column.key} == _dataset(row)
                value = own.cells[i].value
                if difference is not None and value is not None and same:
                    theirs = [p.cells[i] for p in paper.published if p.method == own.against]
                    printed = min(theirs, key=lambda c: abs(value - (c.value or 0.0) - difference.value))
                    return Beside(
                        model=model,
                        difference=difference,
                        against=own.against,
                        published=printed.text,
                        apart=_apart(own.against_protocol, table.protocol),
                    )
    return None


def _apart(theirs: str, ours: str) -> str:
    if not theirs or theirs == ours:
        return ""
    if theirs == UNKNOWN:
        return "protocol not stated: Δ holds what a change of protocol would do"
    return f"other protocol, {theirs}: Δ holds the change to {ours}"


def _dataset(row: Row) -> set[tuple[str, str]]:
    return {(row.dataset, row.metric.name)} if row.kind == "dataset" else set()


def short_sentence(headline: Headline, views: Sequence[View], papers: Sequence[PaperTable]) -> str:
    """Return in one short sentence who leads where; of a single model, how it stands to what is published."""
    groups = views[0].groups if views else ()
    rows = [row for group in groups for row in group.rows]
    if not any(map(_has_number, rows)):
        return headline.sentence
    able = dict.fromkeys(m for row in rows for m, _ in ranking(row))
    if not able:
        trained = [
            (m, c, row) for row in rows for m, c in row.cells.items() if c.trained and c.value is not None
        ]
        if not trained:
            return "Only untrained models were scored, so nothing is ranked."
        model, cell, row = trained[0]
        if len({m for m, *_ in trained}) > 1:
            return "No trained model has a complete average, so none is ranked."
        return (
            f"{_name(model)} has {cell.coverage} datasets ({cell.part(row.datasets)}), so nothing is ranked."
        )
    if len(able) == 1:
        return _of_one(next(iter(able)), len(headline.models), papers)
    return _of_several(list(_leads(groups)))


def _of_one(model: str, num_models: int, papers: Sequence[PaperTable]) -> str:
    said = (
        f"{model} is the only {'model' if num_models == 1 else 'trained model with complete averages'} here"
    )
    pairs = [
        (row, each)
        for paper in papers
        for row in paper.measured
        if row.method == model
        for each, column in zip(row.differences, paper.columns, strict=False)
        if each is not None and not column.over
    ]
    found = [each for _, each in pairs]
    if not found:
        return f"{said}, so nothing is ranked."
    apart = [each for each in found if not each.noise]
    higher = sum(each.value > 0 for each in apart)
    counts = {"within the noise": len(found) - len(apart), "higher": higher, "lower": len(apart) - higher}
    counted = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    numbers = "number" if len(found) == 1 else "numbers"
    others = sum(row.protocol != row.against_protocol for row, _ in pairs)
    some = "all" if others == len(found) else others
    which = f" ({some} of another or unstated protocol)" if others else ""
    return f"{said}; beside {len(found)} published {numbers}{which}: {counted}."


def _leads(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """Yield each kind of task with the model that clearly leads all of its numbers, else with nothing.

    Of retrieval each direction is a kind of its own where no model leads both.
    """
    for group in groups:
        rows = [row for row in group.rows if _has_number(row)]
        clear = [next((m for m, c in row.cells.items() if c.best), "") for row in rows]
        name = {"Zero-shot": "zero-shot classification", "k-NN": "k-NN probe"}.get(
            group.kind, group.kind.lower()
        )
        ways = dict.fromkeys(row.metric.direction for row in rows)
        if len(set(clear)) > 1 and len(ways) == len(rows):
            yield from ((f"{way} {name}", model) for way, model in zip(ways, clear, strict=True))
        else:
            yield name, clear[0] if len(set(clear)) == 1 else ""


def _of_several(found: Sequence[tuple[str, str]]) -> str:
    leads: dict[str, list[str]] = {}
    for kind, model in found:
        leads.setdefault(model, []).append(kind)
    open_ones = leads.pop("", [])
    said = [f"{_name(model)} leads {_joined(kinds)}" for model, kinds in leads.items()]
    if said and open_ones:
        said.append(f"no lead is clear on {_joined(open_ones)}")
    return f"{'; '.join(said)}." if said else f"No lead is clear on {_joined(open_ones)}."


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _name(model: str) -> str:
    """Return a model's name for a sentence: cut where it is very long, and turning no neighbour."""
    cut = model if len(model) <= _MAX_NAME else f"{model[: _MAX_NAME - 1]}…"
    turns = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in cut)
    return f"\u2068{cut}\u2069" if turns else cut
