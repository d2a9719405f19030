"""Speed and memory against the size of an input, and speed-ups with their intervals."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from rwkvclip_eval.report.efficiency import growth, length_of
from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, LINE, MARK, SMALL, Drawing, Plot
from rwkvclip_eval.report.plots.style import DASHES, looks, model_colours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.plots.style import Look

TABLE = "efficiency"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
_TELLING = 0.1
"""An exponent is shown where its interval is within ± this."""


def efficiency_plots(rows: Sequence[SpeedRow]) -> Iterator[Plot]:
    """Yield throughput and memory against size for each tower, batch and precision, then the speed-ups."""
    models = list(dict.fromkeys(row.measured.model for row in rows))
    look = looks(models, (), model_colours(models, {}))
    towers = [row for row in rows if row.cell.tower in ("image", "text") and row.rate is not None]
    for key, group in groupby(sorted(towers, key=lambda r: _series(r.cell)), key=lambda r: _series(r.cell)):
        own = list(group)
        if len({length_of(row.cell) for row in own}) > 1:
            yield _against_size(own, models, look, key)
    compared = [row for row in rows if row.speed_up is not None]
    if compared:
        yield _speed_ups(compared, models[-1], look)


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
            figure.axes[0].annotate(f" {x:.0f}", (x, 1), **place)
            said += f" {model} is as fast as {models[-1]} at {x:.0f} {unit}."
    return said


def _speed_ups(rows: Sequence[SpeedRow], last: str, look: dict[str, Look]) -> Plot:
    figure = Drawing(0.17 * len(rows) + 0.1)
    ax = figure.axes[0]
    shown = list(reversed(rows))
    for y, row in enumerate(shown):
        ratio = row.speed_up
        assert ratio is not None
        if row.measured.model in look:
            bars = [[ratio.value - ratio.low], [ratio.high - ratio.value]] if ratio.n > 1 else None
            style = look[row.measured.model].dots(MARK, faint=bool(row.noisy))
            ax.errorbar([ratio.value], [y], xerr=bars, **style)
    ax.axvline(1, color=CHANCE, linewidth=0.8)
    ax.set_xscale("log")
    # An interval may be as wide as it likes; the values are what the axis is for.
    ratios = [row.speed_up.value for row in rows if row.speed_up is not None]
    low, high = min(*ratios, 1.0) / 1.3, max(*ratios, 1.0) * 1.3
    ax.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    ax.minorticks_off()
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    labels = [f"{row.measured.model}: {row.cell.label}" for row in shown]
    ax.set_yticks(range(len(shown)), labels, fontsize=SMALL)
    ax.set_xlabel(f"times as fast as {last}; faint: noisy")
    words = "; ".join(
        f"{row.measured.model}, {row.cell.label}: {row.speed_up.value:.2f} times as fast ({row.verdict})"
        for row in rows[:30]
        if row.speed_up is not None
    )
    return figure.plot("efficiency-speed-up", f"Speed beside {last}", words, TABLE)
