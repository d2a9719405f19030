"""Every plot that the numbers of a report allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.report.plots.bars import bars, recall_curves
from rwkvclip_eval.report.plots.probes import few_shot_plot, regularisation_plot
from rwkvclip_eval.report.plots.style import model_colours
from rwkvclip_eval.report.plots.training import UNITS, against_step, training
from rwkvclip_eval.report.series import final_models, find_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.plots.drawing import Plot
    from rwkvclip_eval.report.tables import Table


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
            plots.append(bars(table, others, shown, colours))
        panels = (
            few_shot_plot(table, few, shown, colours),
            regularisation_plot(table, loaded.regularisation, shown, colours),
        )
        plots += [plot for plot in panels if plot is not None]
        for dataset in dict.fromkeys(r.title for r in recalls):
            rows = [r for r in recalls if r.title == dataset]
            if any(c.value is not None for r in rows for c in r.cells.values()):
                plots.append(recall_curves(table, dataset, rows, shown, colours))
        if set(table.models) & set(series):
            for unit in UNITS:
                own = {m: key for m, key in series.items() if units[m] == unit}
                plots.extend(against_step(table, unit, own, steps, colours))
    if curves:
        plots.append(training(curves, colours))
    return plots
