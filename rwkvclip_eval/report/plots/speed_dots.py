"""Speed-ups, latencies and scaling exponents as dots with intervals, a line of the drawing a cell."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from rwkvclip_eval.report.growth import growth, length_of
from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, MARK, SMALL, Drawing, Plot
from rwkvclip_eval.report.plots.style import log_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.plots.style import Look

TABLE = "efficiency"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
_CLOSE_TICKS = (0.7, 0.9, 1.1)
"""Those for which a wide axis has no room."""
_LINE_IN = 0.17
"""Height of a line of two models."""
_SPREAD = 0.5
"""Of the models of a line, in lines."""
_IN_WORDS = 30
"""Dots that the words for those who cannot see them name."""
_NAMES = {"train": "Training step", "both": "Both towers"}


class _Dot(NamedTuple):
    """One model on one line.

    Attributes:
        model: its name.
        value: place on the axis.
        low: lower end of its bar.
        high: upper end.
        faint: measured on a noisy machine.
        words: what it says.
        marks: places on the bar.
    """

    model: str
    value: float
    low: float
    high: float
    faint: bool
    words: str
    marks: Sequence[float] = ()


_Lines = dict[str, list[_Dot]]
"""Label of a line → its dots."""


def speed_ups(rows: Sequence[SpeedRow], look: dict[str, Look]) -> Iterator[Plot]:
    """Yield a drawing for each tower and precision: how many times as fast as the last model, by cell."""
    last = rows[-1].measured.model
    compared = [row for row in rows if row.speed_up is not None]
    for (tower, precision, compiled), own in _grouped(compared):
        lines: _Lines = {}
        for row in own:
            ratio, name = row.speed_up, row.measured.model
            assert ratio is not None
            known = ratio.n > 1
            dot = _Dot(
                model=name,
                value=ratio.value,
                low=ratio.low if known else ratio.value,
                high=ratio.high if known else ratio.value,
                faint=bool(row.noisy),
                words=f"{name}, {_line(row.cell)}: {ratio.value:.2f} times as fast ({row.verdict})",
            )
            lines.setdefault(_line(row.cell), []).append(dot)
        title = f"{_name(tower)}, {precision}{', compiled' if compiled else ''}: times as fast as {last}"
        name = f"efficiency-speed-up-{tower}-{precision}{'-compiled' if compiled else ''}"
        yield _ratios(lines, look, name, title, last)


def latencies(rows: Sequence[SpeedRow], look: dict[str, Look]) -> Iterator[Plot]:
    """Yield a drawing for each tower and precision: p50 to p99 of a call at the smallest batch."""
    for (tower, precision, compiled), group in _grouped([row for row in rows if row.measured.latency_s]):
        batch = min(row.cell.batch for row in group)
        lines: _Lines = {}
        calls = []
        for row in group:
            if row.cell.batch != batch:
                continue
            calls.append(row.calls)
            name = row.measured.model
            p50, p90, p95, p99 = (1e3 * row.measured.latency_s[p] for p in ("p50", "p90", "p95", "p99"))
            words = f"{name}, {_line(row.cell)}: {p50:.3g} ms, p99 {p99:.3g} ms"
            dot = _Dot(name, p50, p50, p99, bool(row.noisy), words, (p90, p95))
            lines.setdefault(_line(row.cell), []).append(dot)
        how = f"{precision}{', compiled' if compiled else ''}"
        title = f"{_name(tower)}, {how}: latency of a call, p50 (dot), p90, p95 (ticks) and p99 (end)"
        figure, axis = _drawn(lines, look)
        axis.set_xscale("log")
        low = min(dot.low for dots in lines.values() for dot in dots) / 1.2
        high = max(dot.high for dots in lines.values() for dot in dots) * 1.2
        axis.set_xlim(low, high)
        _name_ticks(axis, log_ticks(low, high), "{:g}")
        axis.set_xlabel(f"ms, {_span(calls)} calls each\nfaint: noisy")
        name = f"efficiency-latency-{tower}-{precision}{'-compiled' if compiled else ''}"
        yield figure.plot(name, title, _words(title, lines), TABLE)


def exponents(rows: Sequence[SpeedRow], look: dict[str, Look]) -> Iterator[Plot]:
    """Yield a drawing of how time grows with tokens, by tower, batch and precision: 1 linear, 2 quadratic."""
    models = list(dict.fromkeys(row.measured.model for row in rows))
    lines: _Lines = {}
    for (tower, precision, compiled), group in _grouped(rows):
        if tower not in ("image", "text"):
            continue
        for batch in sorted({row.cell.batch for row in group}):
            own = [row for row in group if row.cell.batch == batch]
            label = f"{tower}, batch {batch}, {precision}{', compiled' if compiled else ''}"
            for name in models:
                found = growth(own, name, models[-1]).exponent
                if found is None:
                    continue
                words = f"{name}, {label}: {found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
                dot = _Dot(name, found.value, found.low, found.high, False, words)
                lines.setdefault(label, []).append(dot)
    if lines:
        figure, axis = _drawn(lines, look)
        for at in (1, 2):
            axis.axvline(at, color=CHANCE, linewidth=0.8)
        values = [dot.value for dots in lines.values() for dot in dots]
        axis.set_xlim(min(0.0, *values) - 0.1, max(2.0, *values) + 0.1)
        axis.set_xlabel("exponent of time against tokens\n1 linear, 2 quadratic; without noisy cells")
        title = "How time grows with the tokens of an input"
        yield figure.plot("efficiency-exponents", title, _words(title, lines), TABLE)


def _span(counts: Sequence[int]) -> str:
    """Return the least and most of some counts, in words."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _grouped(rows: Sequence[SpeedRow]) -> Iterator[tuple[tuple[str, str, bool], list[SpeedRow]]]:
    """Yield tower, precision and mode with their rows, by size and batch."""

    def key(row: SpeedRow) -> tuple[str, str, bool]:
        return row.cell.tower, row.cell.precision, row.cell.compiled

    ordered = sorted(rows, key=lambda row: (*key(row), length_of(row.cell), row.cell.batch))
    for found, group in groupby(ordered, key=key):
        yield found, list(group)


def _line(cell: Cell) -> str:
    return f"{cell.shape}, batch {cell.batch}"


def _name(tower: str) -> str:
    return _NAMES.get(tower, f"{tower.capitalize()} tower")


def _ratios(lines: _Lines, look: dict[str, Look], name: str, title: str, last: str) -> Plot:
    figure, axis = _drawn(lines, look)
    axis.axvline(1, color=CHANCE, linewidth=0.8)
    axis.set_xscale("log")
    # An interval may be as wide as it likes; the values are what the axis is for.
    values = [dot.value for dots in lines.values() for dot in dots]
    low, high = min(*values, 1.0) / 1.3, max(*values, 1.0) * 1.3
    axis.set_xlim(low, high)
    _name_ticks(axis, _TICKS if high / low <= 1.5 else [t for t in _TICKS if t not in _CLOSE_TICKS], "{:g}×")
    axis.set_xlabel(f"times as fast as {last}\nfaint: noisy")
    return figure.plot(name, title, _words(title, lines), TABLE)


def _name_ticks(axis: Any, ticks: Sequence[float], form: str) -> None:
    """Put those ticks on a logarithmic axis that lie within its limits."""
    low, high = axis.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_xticks(shown, [form.format(tick) for tick in shown])
    axis.minorticks_off()


def _drawn(lines: _Lines, look: dict[str, Look]) -> tuple[Drawing, Any]:
    """Return a drawing with a line for each label, the first on top, and its axes."""
    models = list(dict.fromkeys(dot.model for dots in lines.values() for dot in dots))
    shown = [name for name in models if name in look]
    figure = Drawing(_LINE_IN * len(lines) * max(1.0, len(shown) / 2))
    axis = figure.axes[0]
    handles = {}
    for i, dots in enumerate(lines.values()):
        for dot in dots:
            if dot.model not in look:
                continue
            place = shown.index(dot.model) / max(1, len(shown) - 1) - 0.5 if len(shown) > 1 else 0.0
            bar = [[max(0.0, dot.value - dot.low)], [max(0.0, dot.high - dot.value)]]
            style = look[dot.model].dots(MARK, faint=dot.faint)
            made = axis.errorbar([dot.value], [i + _SPREAD * place], xerr=bar, elinewidth=0.9, **style)
            axis.plot(
                dot.marks, [i + _SPREAD * place] * len(dot.marks), "|", color=style["color"], markersize=5
            )
            if not dot.faint or dot.model not in handles:
                handles[dot.model] = made
    axis.set_yticks(range(len(lines)), list(lines), fontsize=SMALL)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    figure.legend([handles[name] for name in shown if name in handles], [n for n in shown if n in handles])
    return figure, axis


def _words(title: str, lines: _Lines) -> str:
    said = [dot.words for dots in lines.values() for dot in dots]
    return f"{title}. {'; '.join(said[:_IN_WORDS])}"
