"""Draws a run's plots without rendering them, and reads what stands in the figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwkvclip_eval.records.published import read_published
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.plots.drawing import NARROW_IN, WIDE_IN, Drawing, Plot
from rwkvclip_eval.report.plots.every import draw_plots
from rwkvclip_eval.report.tables import Table, build_tables

Drawn = dict[str, Any]


def tables_of(run: Path) -> list[Table]:
    loaded = load_runs([run])
    return build_tables(loaded.entries)


def draw(run: Path) -> list[Plot]:
    loaded = load_runs([run])
    tables = build_tables(loaded.entries)
    return draw_plots(tables, loaded, read_published())


def laid_out(figure: Drawing, *, narrow: bool) -> Drawing:
    """Lay a drawing out as its picture is."""
    figure._shorten_names(34 if narrow else 60)
    columns = -(-figure._columns // 2) if narrow else figure._columns
    figure._lay_out(NARROW_IN if narrow else WIDE_IN, columns)
    return figure


def heights(figure: Drawing) -> list[float]:
    """Heights of the panels between their axes, inches."""
    return [ax.get_position().height * figure.figure.get_figheight() for ax in figure.axes]


def legend_gap(figure: Drawing) -> float:
    """Distance from the legend to what is drawn highest in a panel, inches; negative where they overlap."""
    (legend,) = figure.figure.legends
    box = legend.get_window_extent(figure.figure._get_renderer())
    top = max(ax.get_tightbbox().y1 for ax in figure.axes)
    return float(box.y0 - top) / figure.figure.dpi


def marks(figure: Drawing, panel: int = 0) -> Iterator[tuple[Any, float, float]]:
    """Yield marker, x and y of every mark of a panel."""
    for line in figure.axes[panel].lines:
        if line.get_marker() not in ("None", None, "", " "):
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
                yield line.get_marker(), float(x), float(y)


def spans(figure: Drawing, panel: int = 0) -> list[tuple[float, float]]:
    """Ends of the horizontal lines of a panel."""
    ax = figure.axes[panel]
    lines = [line.get_xdata() for line in ax.lines if line.get_marker() in ("None", None)]
    paths = [path.vertices for collection in ax.collections for path in collection.get_paths()]
    lines += [ends[:, 0] for ends in paths if len(ends) == 2 and ends[0, 1] == ends[1, 1]]
    return [(float(x[0]), float(x[1])) for x in lines if len(x) == 2]
