"""Speed and memory against the size of an input, and every other drawing of a measurement."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from rwkvclip_eval.report.efficiency import growth, length_of
from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, LINE, MARK, SMALL, Drawing, Plot
from rwkvclip_eval.report.plots.speed_dots import TABLE, exponents, latencies, speed_ups
from rwkvclip_eval.report.plots.style import DASHES, looks, model_colours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.plots.style import Look

_TELLING = 0.1
"""An exponent is shown where its interval is within ± this."""


def efficiency_plots(rows: Sequence[SpeedRow]) -> Iterator[Plot]:
    """Yield throughput and memory against size for each tower, batch and precision, then dots with intervals.

    Those are exponents, speed-ups and latencies.

    Args:
        rows: of one run, as `speed_rows` gives them.
    """
    models = list(dict.fromkeys(row.measured.model for row in rows))
    look = looks(models, (), model_colours(models, {}))
    towers = [row for row in rows if row.cell.tower in ("image", "text") and row.rate is not None]
    for key, group in groupby(sorted(towers, key=lambda r: _series(r.cell)), key=lambda r: _series(r.cell)):
        own = list(group)
        if len({length_of(row.cell) for row in own}) > 1:
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
    image = tower == "image"
    figure = Drawing(1.7, 2)
    handles, said = [], []
    for i, model in enumerate(m for m in models if m in look):
        own = sorted((r for r in rows if r.measured.model == model), key=lambda r: length_of(r.cell))
        if not own:
            continue
        x = [math.sqrt(length_of(r.cell)) if image else length_of(r.cell) for r in own]
        line = {"linestyle": DASHES[i % len(DASHES)], "linewidth": LINE}
        style = {**look[model].dots(MARK), **line}
        rates = [r.rate for r in own if r.rate is not None]
        low = [e.value - e.low if e.n > 1 else 0.0 for e in rates]
        high = [e.high - e.value if e.n > 1 else 0.0 for e in rates]
        handles.append(figure.axes[0].errorbar(x, [e.value for e in rates], [low, high], **style))
        kept = [(at, r.megabytes) for at, r in zip(x, own, strict=True) if r.megabytes]
        if kept:
            figure.axes[1].plot([at for at, _ in kept], [mb for _, mb in kept], **style)
        found = growth(rows, model, models[-1]).exponent
        known = found is not None and found.high - found.low < 2 * _TELLING
        said.append(f"{model} (time ∝ size^{found.value:.2f})" if found and known else model)
    unit = "px" if image else "tokens"
    figure.axes[0].set_ylabel("images/s" if image else "texts/s")
    figure.axes[1].set_ylabel("memory, MB")
    crossed = _mark_crossovers(figure, rows, models, unit)
    rated = [r.rate.value for r in rows if r.rate is not None]
    figure.axes[0].set_ylim(min(rated) / 2, max(rated) * 2)
    for ax in figure.axes:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.grid(color=GRID, linewidth=0.6)
        ticks = sorted({math.sqrt(length_of(r.cell)) if image else length_of(r.cell) for r in rows})
        ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("side of a square image of as many pixels, px" if image else "tokens")
    figure.legend(handles, said)
    how = f"batch {batch}, {precision}{', compiled' if compiled else ''}"
    words = "; ".join(
        f"{r.measured.model} at {r.cell.shape}: {r.rate.value:.3g}/s" for r in rows if r.rate is not None
    )
    name = f"efficiency-{tower}-batch{batch}-{precision}{'-compiled' if compiled else ''}"
    title = f"{tower.capitalize()} tower against {unit}, {how}"
    return figure.plot(name, title, f"{title}: {words}.{crossed}", TABLE)


def _mark_crossovers(figure: Drawing, rows: Sequence[SpeedRow], models: Sequence[str], unit: str) -> str:
    """Draw where models are as fast as the last, and return it in words."""
    said = ""
    for model in models[:-1]:
        for at in growth(rows, model, models[-1]).crossovers:
            x = math.sqrt(at) if unit == "px" else at
            figure.axes[0].axvline(x, color=CHANCE, linewidth=0.8, linestyle=(0, (2, 2)))
            place = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": SMALL, "color": CHANCE}
            # Crossovers may lie close together.
            figure.axes[0].annotate(f" {x:.0f}", (x, 1 - 0.08 * (said.count("as fast as") % 4)), **place)
            said += f" {model} is as fast as {models[-1]} at {x:.0f} {unit}."
    return said
