"""Draws a run's plots without rendering them, and reads what stands in the figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwkvclip_eval.records.published import read_published
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.plots.drawing import Drawing, Plot
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
