"""The plots of a report: bars per dataset, recall curves, metric against step or epoch, training curves.

The palette is Okabe & Ito's, told apart with any colour vision; a model has one colour in every plot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.curves import few_shot_plot, regularisation_plot
from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, INK, Drawing, Plot
from rwkvclip_eval.report.series import final_models, find_series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rwkvclip_eval.report.loading import Loaded, TrainingCurve
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table

# Okabe & Ito's and two more; those after them are darker, then lighter forms of these.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a6ad8", "#8c6d46")
_UNITS = {"step": "training step", "epoch": "epoch", "": "training step or epoch"}
"""What checkpoints' numbers count → how an axis says it; steps and epochs share none."""
_MARKERS = "osD^vPX*"


_SIDES = ("image→text", "text→image", "")
"""Directions of retrieval, in the order of the panels."""


def model_colours(models: Sequence[str], series: Mapping[str, str]) -> dict[str, str]:
    """Return a colour per model; the checkpoints of one series share theirs."""
    keys = list(dict.fromkeys(series.get(m, m) for m in models))
    return {m: _colour(keys.index(series.get(m, m))) for m in models}


def _colour(number: int) -> str:
    """Return a colour of its own for each number: the palette, then its darker and lighter forms."""
    base = _PALETTE[number % len(_PALETTE)]
    tier = number // len(_PALETTE)
    if tier == 0:
        return base
    # Steps of the golden ratio never meet again.
    towards, share = (0, 255)[tier % 2 == 0], 0.3 + 0.4 * ((tier - 1) * 0.618034 % 1)
    channels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (towards - c) * share):02x}" for c in channels)


def draw_plots(tables: Sequence[Table], loaded: Loaded) -> list[Plot]:
    """Return every plot the numbers allow."""
    import matplotlib as mpl

    # A `$` in a model's name is no mathematics.
    with mpl.rc_context({"text.parse_math": False}):
        return _draw(tables, loaded)


def _draw(tables: Sequence[Table], loaded: Loaded) -> list[Plot]:
    entries, curves = loaded.entries, loaded.curves
    series = find_series(entries)
    names = list(dict.fromkeys([*(e.model for e in entries), *(c.model for c in curves)]))
    colours = model_colours(names, series)
    steps = {e.model: int(e.record.model_info["step"]) for e in entries if e.model in series}
    units = {e.model: str(e.record.model_info.get("step_unit", "")) for e in entries if e.model in series}
    final = final_models(entries)
    shown = [m for m in names if m in final]
    plots: list[Plot] = []
    for table in tables:
        recalls = [r for r in table.rows if r.metric.k is not None]
        few = [r for r in table.rows if r.metric.shots is not None]
        others = [r for r in table.rows if r not in (*recalls, *few) and r.metric.in_percent]
        if any(c.value is not None for r in others for m, c in r.cells.items() if m in final):
            plots.append(_bars(table, others, shown, colours))
        panels = (
            few_shot_plot(table, few, shown, colours),
            regularisation_plot(table, loaded.regularisation, shown, colours),
        )
        plots += [plot for plot in panels if plot is not None]
        for dataset in dict.fromkeys(r.title for r in recalls):
            rows = [r for r in recalls if r.title == dataset]
            if any(c.value is not None for r in rows for c in r.cells.values()):
                plots.append(_recall_curves(table, dataset, rows, shown, colours))
        if set(table.models) & set(series):
            for unit in _UNITS:
                own = {m: key for m, key in series.items() if units[m] == unit}
                plots.extend(_against_step(table, unit, own, steps, colours))
    if curves:
        plots.append(_training(curves, colours))
    return plots


def _errors(cells: Sequence[Cell]) -> list[list[float]]:
    """Return distances from value to interval, [2][len(cells)], in points; zero where there is none."""
    below = [100 * ((c.value or 0) - c.low) if c.low is not None else 0.0 for c in cells]
    above = [100 * (c.high - (c.value or 0)) if c.high is not None else 0.0 for c in cells]
    return [[max(0.0, d) for d in below], [max(0.0, d) for d in above]]


def _summary(rows: Sequence[Row], models: Sequence[str]) -> str:
    return "; ".join(
        f"{row.title} {row.metric.title}: "
        + ", ".join(f"{m} {row.cells[m].text}" for m in models if row.cells[m].value is not None)
        for row in rows[:30]
    )


def _bars(table: Table, rows: Sequence[Row], shown: Sequence[str], colours: Mapping[str, str]) -> Plot:
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
                xerr=_errors([c for _, c in have]),
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
    return figure.plot(f"bars-{table.slug}", title, f"Bars. {_summary(rows, models)}", table.slug)


def _chance(row: Row) -> float | None:
    for cell in row.cells.values():
        notes = cell.entry.record.notes if cell.entry is not None else {}
        for name in ("chance", "chance_level"):
            if isinstance(notes.get(name), int | float):
                return float(notes[name])
    return None


def _recall_curves(
    table: Table, dataset: str, rows: Sequence[Row], shown: Sequence[str], colours: Mapping[str, str]
) -> Plot:
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
                    yerr=_errors([c for _, c in have]),
                    color=colours[model],
                    marker=_MARKERS[i % len(_MARKERS)],
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
    return figure.plot(f"recall-{table.slug}-{slug}", title, f"Lines. {_summary(rows, models)}", table.slug)


def _against_step(
    table: Table,
    unit: str,
    series: Mapping[str, str],
    steps: Mapping[str, int],
    colours: Mapping[str, str],
) -> Iterator[Plot]:
    from rwkvclip_eval.report.headline import headline_rows

    rows = [r for r in headline_rows(table) if r.metric.in_percent][:2]
    own = {key: sorted((m for m in table.models if series.get(m) == key), key=steps.__getitem__)
           for key in dict.fromkeys(series[m] for m in table.models if m in series)}  # fmt: skip
    if not rows or all(len(models) < 2 for models in own.values()):
        return
    figure = Drawing(3.3, len(rows))
    drawn: dict[str, Any] = {}
    for ax, row in zip(figure.axes, rows, strict=True):
        for i, (key, models) in enumerate(own.items()):
            have = [(steps[m], row.cells[m]) for m in models if row.cells[m].value is not None]
            have = [(s, c) for s, c in have if not c.missing]
            if not have:
                continue
            x = [s for s, _ in have]
            (drawn[key],) = ax.plot(
                x,
                [100 * (c.value or 0) for _, c in have],
                color=colours[models[0]],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=5,
                linewidth=1.8,
            )
            banded = [(s, c.low, c.high) for s, c in have if c.low is not None and c.high is not None]
            ax.fill_between(
                [s for s, _, _ in banded],
                [100 * low for _, low, _ in banded],
                [100 * high for _, _, high in banded],
                color=colours[models[0]],
                alpha=0.18,
                linewidth=0,
            )
        ax.set_xlabel(f"{_UNITS[unit]} of the checkpoint")
        ax.set_ylabel(f"{row.metric.title}, %")
        ax.set_title(row.title, color=INK, fontsize=10.5)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
    if drawn:
        figure.legend(list(drawn.values()), list(drawn))
        models = [m for group in own.values() for m in group]
        title = f"{table.title}: against {_UNITS[unit]}, bands are 95 % intervals"
        name = f"{unit or 'checkpoint'}s-{table.slug}"
        yield figure.plot(name, title, f"Lines. {_summary(rows, models)}", table.slug)


def _training(curves: Sequence[TrainingCurve], colours: Mapping[str, str]) -> Plot:
    columns = ["loss"] + [
        c for c in ("val_loss", "val_metric") if any(r.get(c) is not None for k in curves for r in k.rows)
    ]
    figure = Drawing(3.3, len(columns))
    drawn: dict[str, Any] = {}
    for ax, column in zip(figure.axes, columns, strict=True):
        for curve in curves:
            points = [(r["step"], float(r[column])) for r in curve.rows if r.get(column) is not None]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            window = max(1, len(y) // 25)
            if window > 1:
                ax.plot(x, y, color=colours[curve.model], alpha=0.25, linewidth=1)
            smooth = [sum(y[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(y))]
            (drawn[curve.model],) = ax.plot(x, smooth, color=colours[curve.model], linewidth=1.9)
        ax.set_xlabel("step")
        ax.set_title(
            {"loss": "training loss", "val_loss": "validation loss", "val_metric": "validation metric"}[
                column
            ],
            color=INK,
            fontsize=10.5,
        )
        ax.grid(axis="y", color=GRID, linewidth=0.8)
    figure.legend(list(drawn.values()), list(drawn))
    ends = []
    for curve in curves:
        losses = [(r["step"], float(r["loss"])) for r in curve.rows if r.get("loss") is not None]
        if losses:
            (first, before), (last, after) = losses[0], losses[-1]
            ends.append(f"{curve.model}: loss {before:.3g} at step {first}, {after:.3g} at step {last}")
    title = "Training curves; strong lines are running means"
    return figure.plot("training", title, f"Lines. {'; '.join(ends)}", "")
