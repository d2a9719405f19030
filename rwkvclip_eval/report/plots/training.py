"""Metric against step or epoch, and training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.report.plots.drawing import GRID, INK, LINE, MARK, Drawing, Plot
from rwkvclip_eval.report.plots.style import DASHES, MARKERS, captioned, counted, summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rwkvclip_eval.report.loading import TrainingCurve
    from rwkvclip_eval.report.tables import Table

MOST_BINS = 2000
"""Stretches of a long curve; of each the least and the greatest value are drawn."""
UNITS = {"step": "training step", "epoch": "epoch", "": "training step or epoch"}
"""What checkpoints' numbers count → how an axis says it; steps and epochs share none."""


def against_step(
    table: Table,
    unit: str,
    series: Mapping[str, str],
    steps: Mapping[str, int],
    colours: Mapping[str, str],
) -> Iterator[Plot]:
    """Yield the metric of checkpoints against what their numbers count, a line for each series."""
    from rwkvclip_eval.report.headline import headline_rows

    rows = [r for r in headline_rows(table) if r.metric.in_percent][:2]
    own = {key: sorted((m for m in table.models if series.get(m) == key), key=steps.__getitem__)
           for key in dict.fromkeys(series[m] for m in table.models if m in series)}  # fmt: skip
    if not rows or all(len(models) < 2 for models in own.values()):
        return
    figure = Drawing(1.8, len(rows))
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
                marker=MARKERS[i % len(MARKERS)],
                markersize=MARK,
                linewidth=LINE,
                linestyle=DASHES[i % len(DASHES)],
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
        ax.set_xlabel(f"{UNITS[unit]} of the checkpoint")
        ax.set_ylabel(f"{row.metric.title}, %")
        ax.set_title(row.title, color=INK, fontsize=8)
        ax.grid(axis="y", color=GRID, linewidth=0.6)
    if drawn:
        figure.legend(list(drawn.values()), list(drawn))
        models = [m for group in own.values() for m in group]
        title = captioned(
            f"{table.title}, %, against {UNITS[unit]}, bands are 95 % intervals", counted(table.rows, models)
        )
        name = f"{unit or 'checkpoint'}s-{table.slug}"
        yield figure.plot(name, title, f"Lines. {summary(rows, models)}", table.slug)


def training(curves: Sequence[TrainingCurve], colours: Mapping[str, str]) -> Plot:
    """Return the curves of training logs."""
    columns = ["loss"] + [
        c for c in ("val_loss", "val_metric") if any(r.get(c) is not None for k in curves for r in k.rows)
    ]
    figure = Drawing(1.8, len(columns))
    drawn: dict[str, Any] = {}
    for ax, column in zip(figure.axes, columns, strict=True):
        for number, curve in enumerate(curves):
            points = [(r["step"], float(r[column])) for r in curve.rows if r.get(column) is not None]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            window = max(1, len(y) // 25)
            if window > 1:
                ax.plot(*_thinned(x, y), color=colours[curve.model], alpha=0.25, linewidth=0.7)
            sums = np.convolve(y, np.ones(window))[: len(y)]
            smooth = _thinned(x, sums / np.minimum(np.arange(1, len(y) + 1), window))
            style = {"linewidth": LINE, "linestyle": DASHES[number % len(DASHES)]}
            (drawn[curve.model],) = ax.plot(*smooth, color=colours[curve.model], **style)
        ax.set_xlabel("step")
        ax.set_title(
            {"loss": "training loss", "val_loss": "validation loss", "val_metric": "validation metric"}[
                column
            ],
            color=INK,
            fontsize=8,
        )
        ax.grid(axis="y", color=GRID, linewidth=0.6)
    figure.legend(list(drawn.values()), list(drawn))
    ends = []
    for curve in curves:
        losses = [(r["step"], float(r["loss"])) for r in curve.rows if r.get("loss") is not None]
        if losses:
            (first, before), (last, after) = losses[0], losses[-1]
            ends.append(f"{curve.model}: loss {before:.3g} at step {first}, {after:.3g} at step {last}")
    title = "Loss and metric of training logs against step; strong lines are running means"
    return figure.plot("training", title, f"Lines. {'; '.join(ends)}", "")


def _thinned(x: Sequence[int], y: Sequence[float] | np.ndarray[Any, Any]) -> tuple[list[int], list[float]]:
    """Return the points of a curve that are drawn: of a long one, ends and extremes of stretches."""
    kept = {0, len(x) - 1}
    if len(x) <= 2 * MOST_BINS:
        kept = set(range(len(x)))
    else:
        for places in np.array_split(np.arange(len(x)), MOST_BINS):
            values = np.asarray(y[places[0] : places[-1] + 1])
            kept |= {int(places[values.argmin()]), int(places[values.argmax()])}
    return [x[i] for i in sorted(kept)], [float(y[i]) for i in sorted(kept)]
