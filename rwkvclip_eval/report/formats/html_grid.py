"""Tables as the page shows them: one line a cell, tinted by how good it is, models across or down."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.records.metrics import PRIMARY
from rwkvclip_eval.report.formats.paper_text import half_text
from rwkvclip_eval.report.plots.style import captioned, counted
from rwkvclip_eval.report.rows import restrict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.first_screen import Card
    from rwkvclip_eval.report.overview import View
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

MANY_MODELS = 6
"""More of them are rows of their tables, not columns."""
TINTS = 4
"""Steps of the tint above none."""
MOST_BESIDE = 3
"""Models of a card whose difference from published numbers is not folded."""
_LEAST_SPAN = 4
"""Half intervals that the whole tint is spread over at least, so that noise is hardly tinted apart."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands at the head of a column or a line.

    Attributes:
        model: its name; empty for all else.
        title: of all else.
        metric: what is measured, where the table's own does not say.
        sub: what an average leaves out, or what a model is.
        remark: what to know of a dataset.
        problem: why numbers must not be compared between models.
    """

    model: str = ""
    title: str = ""
    metric: str = ""
    sub: str = ""
    remark: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One number.

    Attributes:
        cell: the number, or why there is none; None where the table has none.
        key: of its row.
        model: whose it is.
        tint: 0 for the worst of its row or for none, up to `TINTS` for the best.
    """

    cell: Cell | None
    key: tuple[str, str, str, str]
    model: str
    tint: int = 0

    @property
    def half(self) -> str:
        """Return the distance to the farther end of the interval, in the number's unit; empty without one."""
        c = self.cell
        if c is None or c.value is None or c.low is None or c.high is None:
            return ""
        half = max(c.value - c.low, c.high - c.value)
        return half_text(100 * half if c.metric.in_percent else half, c.text)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row.

    Attributes:
        head: its own.
        cells: one a column.
        first: the first of those of its dataset.
    """

    head: Head
    cells: tuple[GridCell, ...]
    first: bool = True


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of the page.

    Attributes:
        corner: what its lines are.
        columns: heads.
        lines: rows of models, or of datasets.
        averages: rows of averages.
        groups: headings over the columns with how many each is over; empty where there are none.
        metric: of all numbers whose head does not say another.
        remarks: dataset and what to know of it, where its head has no room.
        counted: on how many images or queries its numbers are; empty where that is not said.
    """

    corner: str
    columns: tuple[Head, ...]
    lines: tuple[Line, ...]
    averages: tuple[Line, ...] = ()
    groups: tuple[tuple[str, str, int], ...] = ()
    metric: str = ""
    remarks: tuple[tuple[str, str], ...] = ()
    counted: str = ""

    @property
    def about(self) -> str:
        """Return what the caption says besides what the numbers are."""
        halves = any(cell.half for line in (*self.lines, *self.averages) for cell in line.cells)
        interval = "± to the farther end of the 95 % interval" if halves else ""
        return captioned(interval, self.counted)

    @property
    def said(self) -> str:
        """Return what the numbers are, for those whose head does not say it; empty where every head does."""
        heads = [*self.columns, *(line.head for line in (*self.lines, *self.averages))]
        other = ", where nothing else is said" if any(head.metric for head in heads) else ""
        return f"{self.metric[:1].upper()}{self.metric[1:]}{other}" if self.metric else ""


def tints(row: Row) -> dict[str, int]:
    """Return the tint of each model's number: as far from the worst as it is, on a scale of the intervals.

    What cannot be ranked has none; nor has a number that is compared with nothing.
    """
    able = {m: c for m, c in row.cells.items() if c.rankable and c.value is not None}
    if len(able) < 2 or row.problem:
        return {}
    sign = -1.0 if row.metric.better == "lower" else 1.0
    values = {m: sign * (c.value or 0.0) for m, c in able.items()}
    halves = sorted((c.high - c.low) / 2 for c in able.values() if c.low is not None and c.high is not None)
    best, worst = max(values.values()), min(values.values())
    span = max(best - worst, _LEAST_SPAN * halves[len(halves) // 2] if halves else 0.0)
    if not span:
        return {}
    return {m: round(TINTS * (1 - (best - value) / span)) for m, value in values.items()}


def datasets_down(rows: Sequence[Row], averages: Sequence[Row], models: Sequence[str]) -> Grid:
    """Return a table with a line a row, models as columns."""
    metric = common_metric(rows)
    return Grid(
        corner="Dataset",
        columns=tuple(Head(model=m) for m in models),
        lines=tuple(_lines(rows, models, metric)),
        averages=tuple(_lines(averages, models, metric)),
        metric=metric,
        counted=counted(rows, models),
    )


def _lines(rows: Sequence[Row], models: Sequence[str], metric: str) -> list[Line]:
    lines = []
    last = ""
    for row in rows:
        shade = tints(row)
        cells = tuple(_grid_cell(row, m, shade) for m in models)
        head = dataclasses.replace(_head(row, metric), remark=row.remark)
        lines.append(Line(head=head, cells=cells, first=row.title != last))
        last = row.title
    return lines


def _grid_cell(row: Row, model: str, shade: Mapping[str, int]) -> GridCell:
    return GridCell(cell=row.cells.get(model), key=row.key, model=model, tint=shade.get(model, 0))


def _head(row: Row, metric: str) -> Head:
    return Head(
        title=row.title,
        metric=_metric(row, metric),
        sub=row.leaves_out_text,
        problem=row.problem,
    )


def _metric(row: Row, common: str = "") -> str:
    """Return a row's metric where the table does not say it; an average of primary metrics says it itself."""
    return "" if row.metric == PRIMARY or row.metric_text == common else row.metric_text


def models_down(
    rows: Sequence[Row],
    averages: Sequence[Row],
    models: Sequence[str],
    lines: Mapping[str, str] | None = None,
) -> Grid:
    """Return a table with a line a model; averages are its first columns.

    Args:
        rows: datasets.
        averages: of them.
        models: in order.
        lines: what to say of each model.
    """
    columns = [*averages, *rows]
    metric = common_metric(rows)
    shades = {row.key: tints(row) for row in columns}
    titles = [(title, len(list(own))) for title, own in groupby(row.title for row in columns)]
    several = any(span > 1 for _, span in titles)
    heads = [_head(row, metric) for row in columns]
    if several:
        # The dataset stands above its metrics.
        heads = [
            Head(title=row.metric_text or row.title, sub=head.sub, problem=head.problem)
            for head, row in zip(heads, columns, strict=True)
        ]
    return Grid(
        corner="Model",
        columns=tuple(heads),
        lines=tuple(
            Line(
                head=Head(model=m, sub=(lines or {}).get(m, "")),
                cells=tuple(_grid_cell(row, m, shades[row.key]) for row in columns),
            )
            for m in models
        ),
        groups=tuple((title, "", span) for title, span in titles) if several else (),
        metric="" if several else metric,
        remarks=tuple((row.title, row.remark) for row in rows if row.remark),
        counted=counted(rows, models),
    )


def overview_grid(view: View, models: Sequence[str], lines: Mapping[str, str]) -> Grid:
    """Return the table of a view: a line a model, its averages by kind of task.

    Args:
        view: of the overview.
        models: in order.
        lines: what to say of each model.
    """
    rows = [row for group in view.groups for row in group.rows]
    plain = models_down(rows, (), models, lines)
    return Grid(
        corner="Model",
        columns=tuple(_head(row, "") for row in rows),
        lines=plain.lines,
        groups=tuple((group.kind, group.under, len(group.rows)) for group in view.groups),
    )


def common_metric(rows: Sequence[Row]) -> str:
    """Return the metric of most rows; empty where the rows of a dataset have several."""
    titles = Counter(row.title for row in rows)
    if not rows or max(titles.values()) > 1:
        return ""
    return Counter(row.metric_text for row in rows).most_common(1)[0][0]


def table_fields(table: Table, models: Sequence[str], steps: Mapping[str, int]) -> dict[str, Any]:
    """Return what the page shows of a table of the report.

    Args:
        table: of the report.
        models: those that sum the report up; other checkpoints have a table of their own.
        steps: checkpoint → its step or epoch.
    """
    shown = [m for m in table.models if m in models] or list(table.models)
    rows, averages, further = (
        [restrict(row, shown) for row in some] for some in (table.rows, table.averages, table.further)
    )
    series = {m: key for row in table.rows for m, key in row.series.items() if m in table.models}
    checkpoints = sorted(series, key=lambda m: (series[m], steps.get(m, 0)))
    return {
        "table": table,
        "main": _both_ways(rows, averages, shown),
        "further": _both_ways(further, (), shown) if further else [],
        "checkpoints": [{"grid": models_down(table.rows, table.averages, checkpoints), "kind": ""}]
        if len(checkpoints) > sum(m in shown for m in checkpoints)
        else [],
    }


def _both_ways(rows: Sequence[Row], averages: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table, of many models one for the screen and one that paper is wide enough for."""
    down = datasets_down(rows, averages, models)
    if len(models) <= MANY_MODELS:
        return [{"grid": down, "kind": ""}]
    return [{"grid": models_down(rows, averages, models), "kind": "screen"}, {"grid": down, "kind": "paper"}]


def card_fields(card: Card) -> dict[str, Any]:
    """Return what the page shows of a card."""
    return {
        "table": card.table,
        "row": card.row,
        "model": card.model,
        "cell": card.cell,
        "number": GridCell(cell=card.cell, key=card.row.key, model=card.model),
        "metric": "" if card.row.metric == PRIMARY else card.row.metric.title,
        "standing": card.standing,
        "beside": card.beside[:MOST_BESIDE],
        "further": card.beside[MOST_BESIDE:],
        "several": len(card.row.cells) > 1,
    }
