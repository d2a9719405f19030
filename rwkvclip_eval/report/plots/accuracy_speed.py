"""Accuracy against images a second, and against energy where it was measured; the models that none beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, INK, LINE, MARK, Drawing, Plot
from rwkvclip_eval.report.plots.style import captioned, log_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed, Number
    from rwkvclip_eval.report.plots.style import Look

TABLE = "speed"


def accuracy_speed_plot(found: AccuracySpeed, looks: Mapping[str, Look], number: int = 0) -> Plot | None:
    """Return a panel for each number of accuracy, below it one against energy; None where there is no pair.

    Args:
        found: accuracies and speeds.
        looks: model → how it is drawn; others are not drawn.
        number: of the measurement, for the name of the files.
    """
    models = [m for m in found.speeds if m in looks]
    shown = [n for n in found.numbers if any(found.cell(n, m) is not None for m in models)]
    if not shown:
        return None
    energy = any(found.speeds[m].joules is not None for m in models)
    figure = Drawing(1.8, len(shown) * (1 + energy), len(shown))
    handles: dict[str, Any] = {}
    words = []
    for i, one in enumerate(shown):
        ax = figure.axes[i]
        _panel(ax, found, one, {m: looks[m] for m in models}, handles)
        ax.set_xlabel("images/s")
        said = [
            f"{m} {cell.text} at {found.speeds[m].rate.value:.3g} images/s"
            for m in models
            if (cell := found.cell(one, m)) is not None
        ]
        words.append(f"{one.title}: {', '.join(said)}; on the front: {', '.join(found.front(one))}")
        if energy:
            _energy_panel(figure.axes[len(shown) + i], found, one, {m: looks[m] for m in models})
    labels = {m: m if found.speeds[m].noisy == "" else f"{m} (noisy)" for m in models}
    figure.legend(list(handles.values()), [labels.get(name, name) for name in handles])
    title = captioned(
        f"Accuracy against images a second on {found.device}{' and against energy' * energy}, both with 95 % "
        "intervals",
        "what the paper's Figure 1 is about, whose axes are not published",
        "ringed and joined: no other model is both as accurate and as fast",
        "faint: untrained, or times too noisy",
    )
    return figure.plot(f"accuracy-speed-{number}", title, f"Dots. {'; '.join(words)}", TABLE)


def _panel(
    ax: Any, found: AccuracySpeed, one: Number, looks: Mapping[str, Look], handles: dict[str, Any]
) -> None:
    scale = 100 if one.row.metric.in_percent else 1
    points = {m: cell for m in looks if (cell := found.cell(one, m)) is not None}
    front = [m for m in found.front(one) if m in points]
    places = [(found.speeds[m].rate.value, scale * (points[m].value or 0.0)) for m in front]
    if places:
        (handles["front"],) = ax.plot(
            [x for x, _ in places],
            [y for _, y in places],
            color=CHANCE,
            linewidth=0.8,
            linestyle=(0, (3, 2)),
            marker="o",
            markersize=MARK + 4,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=0.8,
        )
    for model, cell in points.items():
        speed, look = found.speeds[model], looks[model]
        y = scale * (cell.value or 0.0)
        faint = bool(speed.noisy) or not cell.trained
        if cell.low is not None and cell.high is not None:
            ends = scale * cell.low, scale * cell.high
            ax.vlines(speed.rate.value, *ends, colors=look.colour, linewidth=LINE, alpha=0.45 if faint else 1)
        if speed.rate.n > 1:
            ax.hlines(y, speed.rate.low, speed.rate.high, colors=look.colour, linewidth=LINE)
        (handles[model],) = ax.plot([speed.rate.value], [y], **look.dots(MARK, faint=faint))
    _dress(ax, one)


def _energy_panel(ax: Any, found: AccuracySpeed, one: Number, looks: Mapping[str, Look]) -> None:
    scale = 100 if one.row.metric.in_percent else 1
    for model, look in looks.items():
        cell, joules = found.cell(one, model), found.speeds[model].joules
        if cell is not None and joules is not None:
            ax.plot([joules], [scale * (cell.value or 0.0)], **look.dots(MARK, faint=not cell.trained))
    ax.set_xlabel("J per image")
    _dress(ax, one)


def _dress(ax: Any, one: Number) -> None:
    ax.set_xscale("log")
    ax.margins(x=0.15, y=0.15)
    ticks = log_ticks(*ax.get_xlim())
    ax.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_ylabel(one.row.metric.label)
    ax.set_title(one.title, loc="left", color=INK, fontsize=7, pad=3)
