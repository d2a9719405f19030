"""Differences of two models, one row a dataset: sorted as in the papers, or in the order given (a forest)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.report.plots.drawing import GRID, INK, LINE, MARK, MUTED, PAPER, SMALL, WARN, Drawing, Plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.differences import Delta

_ROW_IN = 0.155
_BAR_COLOURS = {True: "#9db8cc", False: "#e3c7b3"}
"""Of gains, and of losses: darker and lighter in greyscale, too."""


def difference_plot(
    parts: Sequence[Delta], mean: Delta, one: str, other: str, *, name: str, title: str, table: str
) -> Plot:
    """Return the differences of two models sorted from the largest gain down, with the mean below.

    Args:
        parts: one a dataset.
        mean: of them.
        one: the model.
        other: what it is compared with.
        name: of the files.
        title: heading.
        table: slug of the table it belongs to.
    """
    ordered = sorted(parts, key=lambda part: -part.value)
    return forest(ordered, mean, one, other, name=name, title=title, table=table, bars=True)


def forest(
    parts: Sequence[Delta],
    mean: Delta | None,
    one: str,
    other: str,
    *,
    name: str,
    title: str,
    table: str = "",
    bars: bool = False,
    margin: float | None = None,
) -> Plot:
    """Return differences with their 95 % intervals in the order given, the mean below a line.

    Filled marks are paired by image, open ones are not; the diamond is the mean.

    Args:
        parts: one a dataset.
        mean: of them; None where there is none.
        one: the model.
        other: what it is compared with.
        name: of the files.
        title: heading.
        table: slug of the table it belongs to.
        bars: draw each difference as a bar, too.
        margin: loss that is of no consequence, drawn as a line.
    """
    rows = [*parts, *([mean] if mean is not None else [])]
    # The mean stands half a row apart.
    places = [i + 0.5 * (i == len(parts)) for i in range(len(rows))]
    figure = Drawing(_ROW_IN * (places[-1] + 1.2))
    ax = figure.axes[0]
    ax.axvline(0, color=MUTED, linewidth=0.8)
    if margin is not None:
        ax.axvline(-100 * margin, color=WARN, linewidth=0.8, linestyle=(0, (4, 2)))
    if bars:
        ax.barh(
            places[: len(parts)],
            [100 * part.value for part in parts],
            height=0.62,
            color=[_BAR_COLOURS[part.value >= 0] for part in parts],
            linewidth=0,
        )
    ends = [
        (place, 100 * row.low, 100 * row.high)
        for place, row in zip(places, rows, strict=True)
        if row.low is not None and row.high is not None
    ]
    ax.hlines(
        [place for place, *_ in ends],
        [low for _, low, _ in ends],
        [high for *_, high in ends],
        colors=INK,
        linewidth=LINE,
    )
    handles, labels = [], []
    for is_mean, paired, what in (
        (False, True, "paired by image, 95 % interval"),
        (False, False, "not paired, 95 % interval"),
        (True, True, "mean"),
        (True, False, "mean, not paired"),
    ):
        drawn = [
            (100 * row.value, place)
            for i, (place, row) in enumerate(zip(places, rows, strict=True))
            if (i == len(parts), row.paired) == (is_mean, paired)
        ]
        if drawn:
            (marks,) = ax.plot(
                [x for x, _ in drawn],
                [y for _, y in drawn],
                linestyle="none",
                marker="D" if is_mean else "o",
                markersize=MARK + is_mean,
                color=INK,
                markerfacecolor=INK if paired else PAPER,
                markeredgewidth=0.8,
            )
            handles.append(marks)
            labels.append(what)
    if mean is not None:
        ax.axhline(len(parts) - 0.25, color=MUTED, linewidth=0.6)
    ax.set_yticks(places, [row.title.replace("_", " ") for row in rows])
    ax.set_ylim(places[-1] + 0.6, -0.6)
    ax.margins(x=0.03)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    right = ax.secondary_yaxis("right")
    right.set_yticks(places, [_points(row.value) for row in rows])
    right.tick_params(colors=INK, length=0, labelsize=SMALL)
    right.spines["right"].set_visible(False)
    ax.set_xlabel(f"points of {one}\nless {other}")
    figure.legend(handles, labels)
    words = "; ".join(f"{row.title} {_said(row)}" for row in rows[:60])
    return figure.plot(name, title, f"Differences in points. {words}", table)


def _said(row: Delta) -> str:
    ends = "" if row.low is None or row.high is None else f" ({_points(row.low)} to {_points(row.high)})"
    return f"{_points(row.value)}{ends}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
