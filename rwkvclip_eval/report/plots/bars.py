"""Bars of every dataset, and recall against k."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, INK, Drawing, Plot
from rwkvclip_eval.report.plots.style import MARKERS, errors, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_SIDES = ("image→text", "text→image", "")
"""Directions of retrieval, in the order of the panels."""


def bars(table: Table, rows: Sequence[Row], shown: Sequence[str], colours: Mapping[str, str]) -> Plot:
    """Return a bar per dataset and model, with its 95 % interval and what chance gives."""
    models = [m for m in shown if any(m in r.cells and r.cells[m].value is not None for r in rows)]
    bar = 0.78 / len(models)
    figure = Drawing(max(1.9, 0.9 + len(rows) * max(0.36, 0.155 * len(models) + 0.13)))
    ax = figure.axes[0]
    handles = []
    faint = {m for m in models if any(not r.cells[m].trained for r in rows)}
    for i, model in enumerate(models):
        have = [(j, r.cells[model]) for j, r in enumerate(rows) if r.cells[model].value is not None]
        handles.append(
            ax.barh(
                [j - 0.39 + bar * (i + 0.5) for j, _ in have],
                [100 * (c.value or 0) for _, c in have],
                height=bar * 0.86,
                color=colours[model],
                alpha=0.35 if model in faint else 1.0,
                xerr=errors([c for _, c in have]),
                error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 0},
            )
        )
    labels = [f"{m} (untrained)" if m in faint else m for m in models]
    chance = [(j, _chance(row)) for j, row in enumerate(rows)]
    lines = [(j, c) for j, c in chance if c is not None]
    if lines:
        drawn = ax.vlines(
            [100 * c for _, c in lines],
            [j - 0.44 for j, _ in lines],
            [j + 0.44 for j, _ in lines],
            colors=CHANCE,
            linestyles=(0, (2, 1.5)),
            linewidth=1.3,
        )
        handles.append(drawn)
        labels.append("chance")
    ax.set_yticks(range(len(rows)), [r.title.replace("_", " ") for r in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    same = {r.metric for r in rows}
    ax.set_xlabel(f"{same.pop().title if len(same) == 1 else 'primary metric of each dataset'}, %")
    figure.legend(handles, labels)
    title = f"{table.title}: every dataset, with 95 % intervals"
    return figure.plot(f"bars-{table.slug}", title, f"Bars. {summary(rows, models)}", table.slug)


def _chance(row: Row) -> float | None:
    for cell in row.cells.values():
        notes = cell.entry.record.notes if cell.entry is not None else {}
        for name in ("chance", "chance_level"):
            if isinstance(notes.get(name), int | float):
                return float(notes[name])
    return None


def recall_curves(
    table: Table, dataset: str, rows: Sequence[Row], shown: Sequence[str], colours: Mapping[str, str]
) -> Plot:
    """Return one dataset's recall against k, a panel for each direction."""
    sides = [s for s in _SIDES if any(r.metric.direction == s for r in rows)]
    models = [m for m in shown if m in table.models]
    figure = Drawing(3.3, len(sides))
    drawn: dict[str, Any] = {}
    top = max(100 * (c.high or c.value or 0) for r in rows for c in r.cells.values())
    for ax, side in zip(figure.axes, sides, strict=True):
        own = [r for r in rows if r.metric.direction == side]
        ks = [r.metric.k for r in own]
        for i, model in enumerate(models):
            have = [
                (k, r.cells[model]) for k, r in zip(ks, own, strict=True) if r.cells[model].value is not None
            ]
            if have:
                drawn[model] = ax.errorbar(
                    [k for k, _ in have],
                    [100 * (c.value or 0) for _, c in have],
                    yerr=errors([c for _, c in have]),
                    color=colours[model],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=5,
                    linewidth=1.8,
                    elinewidth=1.2,
                    linestyle="-" if all(c.trained for _, c in have) else ":",
                )
        ax.set_xticks(ks)
        ax.set_ylim(-0.03 * top, min(102, top * 1.08) or 1)
        ax.set_xlabel("k")
        ax.set_ylabel("recall@k, %" if ax is figure.axes[0] else "")
        ax.set_title(side.replace("→", " → "), color=INK, fontsize=10.5)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
    untrained = {m for m in drawn if any(not r.cells[m].trained for r in rows)}
    figure.legend(list(drawn.values()), [f"{m} (untrained)" if m in untrained else m for m in drawn])
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    title = f"Recall at k on {dataset} ({table.protocol}{', subset' if table.subset else ''})"
    return figure.plot(f"recall-{table.slug}-{slug}", title, f"Lines. {summary(rows, models)}", table.slug)
