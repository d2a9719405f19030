"""Speed and memory against the size of an input, and every other drawing of a measurement."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.growth import growth, length_of
from rwkvclip_eval.report.plots.drawing import GRID, LINE, MARK, PAPER, SMALL, Drawing, Plot
from rwkvclip_eval.report.plots.speed_dots import TABLE, exponents, latencies, speed_ups
from rwkvclip_eval.report.plots.style import DASHES, captioned, log_ticks, looks_with_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.plots.style import Look

LOST = ("out_of_memory", "crashed")
"""Statuses that leave a cross at the bottom of a drawing."""


def efficiency_plots(rows: Sequence[SpeedRow]) -> Iterator[Plot]:
    """Yield throughput and memory against size for each tower, batch and precision, then dots with intervals.

    Those are exponents, speed-ups and latencies.

    Args:
        rows: of one run, as `speed_rows` gives them.
    """
    models = list(dict.fromkeys(row.measured.model for row in rows))
    look = looks_with_reference(models)
    towers = [row for row in rows if row.cell.tower in ("image", "text")]
    for key, group in groupby(sorted(towers, key=lambda r: _series(r.cell)), key=lambda r: _series(r.cell)):
        own = list(group)
        if len({length_of(row.cell) for row in own if row.rate is not None}) > 1:
            yield _against_size(own, models, look, key)
    yield from exponents(rows, look)
    yield from speed_ups(rows, look)
    yield from latencies(rows, look)


def _series(cell: Cell) -> tuple[str, str, int, bool]:
    return cell.tower, cell.precision, cell.batch, cell.compiled


def _against_size(
    rows: Sequence[SpeedRow], models: Sequence[str], look: dict[str, Look], key: tuple[str, str, int, bool]
) -> Plot:
    tower, precision, batch, compiled = key
    figure = Drawing(1.7, 2)
    handles, said = [], []
    for i, model in enumerate(m for m in models if m in look):
        own = sorted((r for r in rows if r.measured.model == model), key=lambda r: length_of(r.cell))
        timed = [r for r in own if r.rate is not None]
        if not timed:
            continue
        x = [_place(r.cell) for r in timed]
        line = {"linestyle": DASHES[i % len(DASHES)], "linewidth": LINE}
        style = {**look[model].dots(MARK), **line}
        rates = [r.rate for r in timed if r.rate is not None]
        low = [e.value - e.low if e.n > 1 else 0.0 for e in rates]
        high = [e.high - e.value if e.n > 1 else 0.0 for e in rates]
        handles.append(figure.axes[0].errorbar(x, [e.value for e in rates], [low, high], **style))
        kept = [(at, r.megabytes) for at, r in zip(x, timed, strict=True) if r.megabytes]
        if kept:
            figure.axes[1].plot([at for at, _ in kept], [mb for _, mb in kept], **style)
        for at, row in zip(x, timed, strict=True):
            if row.noisy and row.rate is not None:
                # An open dot: its number stands, and no claim rests on it.
                figure.axes[0].plot([at], [row.rate.value], **{**style, "markerfacecolor": PAPER}, zorder=3)
        for row in own:
            if row.measured.status in LOST:
                _mark_lost(figure, row, look[model].colour)
        said.append(model)
    figure.axes[0].set_ylabel("images/s" if tower == "image" else "texts/s")
    figure.axes[1].set_ylabel("memory, MB")
    rated = [r.rate.value for r in rows if r.rate is not None]
    figure.axes[0].set_ylim(min(rated) / 2, max(rated) * 2)
    crossed = _mark_crossovers(figure, rows, models, look, tower)
    beyond = min((_place(r.cell) for r in rows if r.measured.beyond), default=None)
    for ax in figure.axes:
        _dress(ax, [_place(r.cell) for r in rows if r.rate or r.measured.status in LOST], beyond)
        ax.set_xlabel("√(height × width), px" if tower == "image" else "tokens")
    figure.legend(handles, said)
    how = f"batch {batch}, {precision}{', compiled' if compiled else ''}"
    words = "; ".join(
        f"{r.measured.model} at {r.cell.shape}: "
        + (f"{r.rate.value:.3g}/s{' (noisy)' if r.noisy else ''}" if r.rate else r.measured.status)
        for r in rows
    )
    name = f"efficiency-{tower}-batch{batch}-{precision}{'-compiled' if compiled else ''}"
    title = captioned(
        f"{tower.capitalize()} tower against {'px' if tower == 'image' else 'tokens'}, {how}",
        "open: noisy" if any(r.noisy for r in rows) else "",
        "×: out of memory or crashed" if any(r.measured.status in LOST for r in rows) else "",
        "shaded: beyond the sizes that models were made for" if beyond is not None else "",
    )
    return figure.plot(name, title, f"{title}: {words}.{crossed}", TABLE)


def _place(cell: Cell) -> float:
    """Return where a cell stands: the side of a square of as many pixels, or tokens."""
    return math.sqrt(length_of(cell)) if cell.tower == "image" else length_of(cell)


def _dress(ax: Any, places: Sequence[float], beyond: float | None) -> None:
    """Make both axes logarithmic, with every size named, and shade sizes beyond those of training."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(color=GRID, linewidth=0.6)
    ticks = sorted(set(places))
    ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    high = log_ticks(*ax.get_ylim())
    ax.set_yticks(high, [f"{tick:,g}" for tick in high])
    ax.minorticks_off()
    if beyond is not None:
        below = [tick for tick in ticks if tick < beyond]
        ends = ax.get_xlim()
        begin = math.sqrt(below[-1] * beyond) if below else ends[0]
        ax.axvspan(begin, ends[1], color=GRID, alpha=0.35, linewidth=0, zorder=0)
        ax.set_xlim(ends)


def _mark_lost(figure: Drawing, row: SpeedRow, colour: str) -> None:
    """Draw a cross at the bottom where a model has no number."""
    ax = figure.axes[0]
    ax.plot([_place(row.cell)], [0.04], "x", transform=ax.get_xaxis_transform(), color=colour, markersize=5)


def _mark_crossovers(
    figure: Drawing, rows: Sequence[SpeedRow], models: Sequence[str], look: dict[str, Look], tower: str
) -> str:
    """Draw where models are as fast, and take as much memory, as the last; return it in words."""
    said = ""
    marked = [0, 0]
    for model in (m for m in models[:-1] if m in look):
        found = growth(rows, model, models[-1])
        for panel, (what, each) in enumerate(
            (("is as fast", found.crossovers), ("takes as much memory", found.memory_crossovers))
        ):
            ax = figure.axes[panel]
            for one in each:
                x = math.sqrt(one.size) if tower == "image" else one.size
                colour = look[model].colour
                ax.axvline(x, color=colour, linewidth=0.8, linestyle=(0, (2, 2)))
                place = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": SMALL}
                # Crossovers may lie close together.
                ax.annotate(f" {x:.0f}", (x, 1 - 0.08 * (marked[panel] % 4)), color=colour, **place)
                marked[panel] += 1
                unit = "px" if tower == "image" else "tokens"
                said += f" {model} {what} as {models[-1]} at {x:.0f} {unit}."
    return said
