"""Recall at 1, 5 and 10 in both directions, a line per model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import GRID, INK, LINE, MARK, Drawing, Plot
from rwkvclip_eval.report.plots.style import captioned, counted, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.differences import Published
    from rwkvclip_eval.report.plots.style import Look
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_SIDES = ("image→text", "text→image", "")
"""Directions of retrieval, in the order of the panels."""
_SPREAD = 0.5
"""Of the distance between two k, over which the models of one k are spread, so that intervals stand apart."""


def recall_slopes(
    table: Table, dataset: str, rows: Sequence[Row], looks: Mapping[str, Look], published: Published
) -> Plot:
    """Return one dataset's recall against k, a panel for each direction.

    Args:
        table: the rows' own.
        dataset: title.
        rows: its recalls.
        looks: model or published method → how it is drawn; others are not drawn.
        published: numbers of the methods.
    """
    sides = [s for s in _SIDES if any(r.metric.direction == s for r in rows)]
    figure = Drawing(1.8, len(sides))
    handles: dict[str, Any] = {}
    # Value and ends in points by model; those without an interval have none.
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for side in sides:
        own = sorted((r for r in rows if r.metric.direction == side), key=lambda r: r.metric.k or 0)
        for model in looks:
            line = [(i, *ends) for i, r in enumerate(own) if (ends := _ends(r, model, published))]
            if line:
                lines[side, model] = line
    models = [m for m in looks if any((side, m) in lines for side in sides)]
    for ax, side in zip(figure.axes, sides, strict=True):
        for number, model in enumerate(models):
            line = lines.get((side, model), [])
            shift = _SPREAD * (number / (len(models) - 1) - 0.5) if len(models) > 1 else 0.0
            look, x = looks[model], [i + shift for i, *_ in line]
            trained = all(r.cells[model].trained for r in rows if model in r.cells)
            ax.vlines(
                x, [low for *_, low, _ in line], [high for *_, high in line], look.colour, linewidth=LINE
            )
            style = look.dots(MARK)
            style["linestyle"] = "-" if trained and look.filled else ":"
            (handles[model],) = ax.plot(x, [v for _, v, *_ in line], linewidth=0.7, **style)
        ks = sorted({r.metric.k for r in rows if r.metric.direction == side and r.metric.k is not None})
        ax.set_xticks(range(len(ks)), [f"R@{k}" for k in ks])
        ax.set_xlim(-0.5, len(ks) - 0.5)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.set_ylabel("recall, %" if ax is figure.axes[0] else "")
        ax.set_title(side.replace("→", " → "), color=INK, fontsize=8)
        ax.grid(axis="y", color=GRID, linewidth=0.6)
    top = max(ax.get_ylim()[1] for ax in figure.axes)
    for ax in figure.axes:
        ax.set_ylim(top=min(102.0, top))
    untrained = {m for m in models if any(m in r.cells and not r.cells[m].trained for r in rows)}
    labels = {m: f"{m} (untrained)" for m in untrained}
    labels |= {m: f"{m} (published)" for m in models if not looks[m].filled}
    figure.legend([handles[m] for m in models], [labels.get(m, m) for m in models])
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    own_models = [m for m in models if looks[m].filled]
    title = captioned(
        f"Recall at k on {dataset}, %, with 95 % intervals ({table.protocol}{', subset' * table.subset})",
        counted(rows, own_models),
        "open marks are published numbers" if len(own_models) < len(models) else "",
    )
    said = f"Lines. {summary(rows, own_models)}"
    return figure.plot(f"recall-{table.slug}-{slug}", title, said, table.slug)


def _ends(row: Row, model: str, published: Published) -> tuple[float, float, float] | None:
    """Return value and both ends of the interval in points, the ends the value where there is none."""
    if model in row.cells:
        cell = row.cells[model]
        if cell.value is None:
            return None
        ends = [cell.value if end is None else end for end in (cell.low, cell.high)]
        return 100 * cell.value, 100 * ends[0], 100 * ends[1]
    value = published.get(model, {}).get((row.dataset, row.metric.title))
    return None if value is None else (100 * value, 100 * value, 100 * value)
