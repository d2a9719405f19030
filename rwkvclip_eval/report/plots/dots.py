"""Dots of every dataset: filled with an interval what was measured here, open what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, MUTED, SMALL, TEXT, Drawing, Plot
from rwkvclip_eval.report.plots.style import captioned, counted, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.differences import Published
    from rwkvclip_eval.report.plots.style import Look
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_MANY = 7
"""Models from which on dots are small and close."""
_DOT, _SMALL_DOT = 3.8, 3.3
"""Points."""
_APART, _GAP_IN, _LEAST_IN = 1.25, 0.09, 0.19
"""Heights of a dot from one to the next of a row, so that none covers another; between rows; of a row."""
_LONG = 20
"""Rows from which on they stand in two columns."""
_MOST_IN = 8.0
"""Height of a panel at most, so that a drawing with its legend fits on a page."""


def dots(
    table: Table,
    rows: Sequence[Row],
    looks: Mapping[str, Look],
    published: Published,
    num_models: int,
    *,
    name: str = "dots",
    title: str = "",
) -> list[Plot]:
    """Return one row per dataset with a dot per model: value, 95 % interval, and what chance gives.

    What is taller than a page is several drawings.

    Args:
        table: the rows' own.
        rows: numbers in per cent.
        looks: model or published method → how it is drawn; others are not drawn.
        published: numbers of the methods.
        num_models: those of the table, some of which may have no look.
        name: of the files, before the table's.
        title: heading; that of values by default.
    """
    models = [m for m in looks if any(_value(r, m, published) is not None for r in rows)]
    dot = _SMALL_DOT if len(models) >= _MANY else _DOT
    row_in = _row_in(dot, len(models))
    columns = 2 if len(rows) >= _LONG or row_in * len(rows) > _MOST_IN else 1
    pages = -(-len(rows) // (columns * max(1, int(_MOST_IN / row_in))))
    each = -(-len(rows) // pages)
    own = [m for m in models if looks[m].filled]
    drawn = sum(look.filled for look in looks.values())
    plots = []
    for page in range(pages):
        part = rows[page * each : (page + 1) * each]
        figure = Drawing(row_in * -(-len(part) // columns), columns)
        handles = _draw(figure, part, {m: looks[m] for m in models}, published, dot)
        said = captioned(
            title or f"{table.title}: {_measured(rows)} of every dataset, %, with 95 % intervals",
            f"drawing {page + 1} of {pages}" if pages > 1 else "",
            counted(part, own),
            "dotted: chance" if "chance" in handles else "",
            "open marks are published numbers, under the protocols of their sources"
            if len(own) < len(models)
            else "",
            f"the first {drawn} of {num_models} models" if num_models > drawn else "",
        )
        file = f"{name}-{table.slug}{f'-{page + 1}' if page else ''}"
        plots.append(figure.plot(file, said, f"Dots. {summary(part, own)}", table.slug))
    return plots


def _draw(
    figure: Drawing, rows: Sequence[Row], looks: Mapping[str, Look], published: Published, dot: float
) -> dict[str, Any]:
    """Draw rows one below the other, in as many columns as there are panels.

    Args:
        figure: empty.
        rows: numbers in per cent.
        looks: model or published method → how it is drawn.
        published: numbers of the methods.
        dot: size of one, points.

    Returns:
        Name of each model, and `chance` → what the legend shows of it.
    """
    models = list(looks)
    columns = len(figure.axes)
    each = -(-len(rows) // columns)
    faint = {m for m in models if any(m in r.cells and not r.cells[m].trained for r in rows)}
    handles: dict[str, Any] = {}
    for panel, ax in enumerate(figure.axes):
        part = rows[panel * each : (panel + 1) * each]
        for i, model in enumerate(models):
            look = looks[model]
            offset = (i - (len(models) - 1) / 2) * _APART * dot / 72 / _row_in(dot, len(models))
            found = [(j + offset, row, _value(row, model, published)) for j, row in enumerate(part)]
            there = [(y, row, value) for y, row, value in found if value is not None]
            cells = [(y, row.cells[model]) for y, row, _ in there if model in row.cells]
            ends = [(y, c.low, c.high) for y, c in cells if c.low is not None and c.high is not None]
            ax.hlines(
                [y for y, *_ in ends],
                [100 * low for _, low, _ in ends],
                [100 * high for *_, high in ends],
                colors=look.colour,
                linewidth=0.9,
                alpha=0.4 if model in faint else 1,
            )
            (handles[model],) = ax.plot(
                [100 * value for _, _, value in there],
                [y for y, _, _ in there],
                **look.dots(dot, faint=model in faint),
            )
        levels = [(j, _chance(row)) for j, row in enumerate(part)]
        lines = [(j, c) for j, c in levels if c is not None]
        if lines:
            handles["chance"] = ax.vlines(
                [100 * c for _, c in lines],
                [j - 0.4 for j, _ in lines],
                [j + 0.4 for j, _ in lines],
                colors=CHANCE,
                linestyles=(0, (1.5, 1)),
                linewidth=1.0,
            )
        ax.set_yticks(range(len(part)), [row.title.replace("_", " ") for row in part])
        ax.set_ylim(each - 0.5, -0.5)
        between = [j + 0.5 for j in range(len(part) - 1)]
        whole = ax.get_yaxis_transform()
        ax.hlines(between, 0, 1, transform=whole, colors=GRID, linewidth=0.5, zorder=0)
        ax.tick_params(axis="y", labelsize=SMALL if columns > 1 else TEXT)
        ax.grid(axis="x", color=GRID, linewidth=0.6)
    limits = [ax.get_xlim() for ax in figure.axes]
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    for ax in figure.axes:
        ax.set_xlim(max(low, -1.5), min(high, 101.5))
    figure.figure.supxlabel(f"{_measured(rows)}, %", color=MUTED, fontsize=TEXT)
    labels = {m: f"{m} (untrained)" if m in faint else m for m in models}
    labels |= {m: f"{m} (published)" for m in models if not looks[m].filled}
    handles = {key: handles[key] for key in (*models, "chance") if key in handles}
    figure.legend(list(handles.values()), [labels.get(key, key) for key in handles])
    return handles


def _row_in(dot: float, num_models: int) -> float:
    return max(_LEAST_IN, _GAP_IN + _APART * dot / 72 * num_models)


def _measured(rows: Sequence[Row]) -> str:
    same = {r.metric for r in rows}
    return same.pop().title if len(same) == 1 else "primary metric"


def _value(row: Row, model: str, published: Published) -> float | None:
    if model in row.cells:
        return row.cells[model].value
    return published.get(model, {}).get((row.dataset, row.metric.title))


def _chance(row: Row) -> float | None:
    for cell in row.cells.values():
        notes = cell.entry.record.notes if cell.entry is not None else {}
        for name in ("chance", "chance_level"):
            if isinstance(notes.get(name), int | float):
                return float(notes[name])
    return None
