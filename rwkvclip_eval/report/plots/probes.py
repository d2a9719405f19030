"""The plots of linear probes: regularisation curves, and scores against shots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import GRID, INK, LINE, MUTED, SMALL, TEXT, WARN, Drawing, Plot
from rwkvclip_eval.report.plots.style import DASHES, Look, captioned, counted
from rwkvclip_eval.report.probe_facts import status_text
from rwkvclip_eval.report.wording import dataset_title

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.curves import RegularisationCurve
    from rwkvclip_eval.report.loading import Entry
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_COLUMNS_OF_PANELS = 4
# A dot: at its certified optimum; a stroke: not. None of them is a model's own shape.
_STATUS_MARKERS = {"converged": ".", "stopped_early": "|", "iteration_limit": "x", "unattainable": "_"}
_OTHER_MARKER = "+"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def regularisation_plot(
    table: Table,
    curves: Sequence[RegularisationCurve],
    looks: Mapping[str, Look],
    num_models: int,
) -> Plot | None:
    """Return a panel per dataset with the validation score against λ, or None where no curve is kept.

    Args:
        table: of the probes.
        curves: validation scores against λ.
        looks: model → how it is drawn; others are not drawn.
        num_models: those of the table, some of which may have no look.
    """
    by_cell = {(curve.unit, curve.model): curve for curve in curves}
    panels: dict[str, list[tuple[RegularisationCurve, Entry]]] = {}
    for row in table.rows:
        for model in looks:
            cell = row.cells.get(model)
            entry = cell.entry if cell else None
            curve = by_cell.get((entry.record.unit, model)) if entry else None
            if entry is not None and curve is not None and curve.search:
                own = panels.setdefault(dataset_title(entry), [])
                own += [(curve, entry)] if all(c is not curve for c, _ in own) else []
    if not panels:
        return None
    found = [curve for own in panels.values() for curve, _ in own]
    used = {fit.status for curve in found for fit in curve.search}
    states = [s for s in _STATUS_MARKERS if s in used] + sorted(used - set(_STATUS_MARKERS))
    figure, axes = _panels(len(panels))
    strengths = [fit.l2 for curve in found for fit in curve.search]
    drawn: dict[str, Any] = {}
    words = []
    for ax, (title, own) in zip(axes, panels.items(), strict=True):
        at_edge = False
        for curve, entry in own:
            look = looks[curve.model]
            # The line is that of the optima; where none was reached, the mark stands by itself.
            known = [(fit, 100 * fit.score) for fit in curve.search if fit.score is not None]
            line = [(fit.l2, score) for fit, score in known if fit.status == "converged"]
            name = curve.model if entry.trained else f"{curve.model} (untrained)"
            style = _line(look, list(looks).index(curve.model))
            ax.plot([x for x, _ in line], [y for _, y in line], **style | {"marker": ""})
            (drawn[name],) = ax.plot([], [], **style)
            for state in states:
                points = [
                    (f.l2, 100 * f.score) for f in curve.search if f.status == state and f.score is not None
                ]
                if points:
                    _mark(ax, points, state, look.colour)
            notes = entry.record.notes
            best = [(f.l2, y) for f, y in known if math.isclose(f.l2, notes["l2"], rel_tol=1e-6)]
            ax.plot([x for x, _ in best], [y for _, y in best], **style | {"linestyle": "none"})
            edge = bool(notes.get("l2_at_edge"))
            at_edge = at_edge or edge
            words.append(f"{title}, {curve.model}: best λ {notes['l2']:.3g}{', at the edge' * edge}")
        ax.set_xscale("log")
        ax.set_xlim(min(strengths) / 3, max(strengths) * 3)
        ax.minorticks_off()
        ticks = _decades(min(strengths), max(strengths))
        ax.set_xticks([10.0**e for e in ticks], [f"10{str(e).translate(_SUPERSCRIPT)}" for e in ticks])
        _title(ax, title, "best λ at the edge" if at_edge else "")
    legend = [(handle, name) for name, handle in drawn.items()]
    (ring,) = axes[0].plot([], [], **_line(Look(MUTED, "o"), 0) | {"linestyle": "none"})
    legend += [(ring, "in a model's own mark: its best λ")]
    if len(states) > 1:
        legend += [(_mark(axes[0], [], state, MUTED), status_text(state)) for state in states]
    figure.legend([handle for handle, _ in legend], [label for _, label in legend])
    figure.figure.supxlabel("λ", color=MUTED, fontsize=TEXT)
    figure.figure.supylabel("validation score, %", color=MUTED, fontsize=TEXT)
    title = captioned(
        f"{table.title}: validation score, %, against λ, which multiplies ½‖W‖² against the summed loss",
        _left_out(looks, num_models),
    )
    return figure.plot(f"regularisation-{table.slug}", title, f"Lines. {'; '.join(words[:60])}", table.slug)


def few_shot_plot(
    table: Table, rows: Sequence[Row], looks: Mapping[str, Look], num_models: int
) -> Plot | None:
    """Return a panel per dataset with the score against shots, its 95 % interval as a band.

    Args:
        table: the rows' own.
        rows: scores at numbers of shots.
        looks: model → how it is drawn; others are not drawn.
        num_models: those of the table, some of which may have no look.
    """
    by_title: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        if row.metric.shots is not None:
            by_title.setdefault(row.title, []).append((row.metric.shots, row))
    # Shots, value and both ends in points; NaN ends draw no band.
    panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    without_images = False
    for title, own in by_title.items():
        for model in looks:
            line: list[tuple[float, ...]] = []
            for shots, row in sorted(own, key=lambda item: item[0]):
                cell = row.cells.get(model)
                if cell is not None and cell.value is not None and cell.entry is not None:
                    ends = [math.nan if end is None else 100 * end for end in (cell.low, cell.high)]
                    line.append((shots, 100 * cell.value, *ends))
                    covers = cell.entry.record.notes.get("interval_covers")
                    without_images = without_images or (cell.low is not None and not covers)
            if line:
                panels.setdefault(title, {})[model] = line
    if not panels:
        return None
    figure, axes = _panels(len(panels))
    drawn: dict[str, Any] = {}
    words = []
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for model, line in lines.items():
            x, y, low, high = zip(*line, strict=True)
            look = looks[model]
            style = {"linestyle": DASHES[list(looks).index(model) % len(DASHES)], "linewidth": LINE}
            (drawn[model],) = ax.plot(x, y, **look.dots(3.5) | style)
            ax.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)
            said = ", ".join(f"{k} shots {v:.1f}" for k, v in zip(x, y, strict=True))
            words.append(f"{title}, {model}: {said}")
        ax.set_xscale("log", base=2)
        ax.minorticks_off()
        every = sorted({k for line in lines.values() for k, *_ in line})
        ax.set_xticks(every, [str(k) for k in every])
        _title(ax, title, "")
    figure.legend(list(drawn.values()), list(drawn))
    figure.figure.supxlabel("training images per class", color=MUTED, fontsize=TEXT)
    figure.figure.supylabel("primary metric, %", color=MUTED, fontsize=TEXT)
    older = ", those of task versions before 7 without the test images" if without_images else ""
    title = captioned(
        f"{table.title}: primary metric, %, mean over seeds, bands are 95 % intervals over seeds and test "
        f"images{older}",
        counted([row for own in by_title.values() for _, row in own], looks),
        _left_out(looks, num_models),
    )
    return figure.plot(f"few-shot-{table.slug}", title, f"Lines. {'; '.join(words[:60])}", table.slug)


def _panels(count: int) -> tuple[Drawing, list[Any]]:
    columns = min(count, _COLUMNS_OF_PANELS)
    # One panel alone is given the room to be read; many are small.
    figure = Drawing(1.7 if columns < 3 else 0.85, count, columns)
    for ax in figure.axes:
        ax.tick_params(labelsize=SMALL if columns > 2 else TEXT)
        ax.grid(axis="y", color=GRID, linewidth=0.6)
        ax.margins(y=0.16)
    return figure, figure.axes


def _title(ax: Any, title: str, warning: str) -> None:
    ax.set_title(title.replace("_", " "), loc="left", color=INK, fontsize=7, pad=3)
    if warning:
        ax.set_title(warning, loc="right", color=WARN, fontsize=SMALL, pad=3)


def _mark(ax: Any, points: Sequence[tuple[float, float]], status: str, colour: str) -> Any:
    """Draw the fits that ended as `status` and return what a legend shows of them."""
    (marks,) = ax.plot(
        [x for x, _ in points],
        [y for _, y in points],
        linestyle="none",
        marker=_STATUS_MARKERS.get(status, _OTHER_MARKER),
        markersize=4.0,
        color=colour,
        markeredgewidth=0.8,
    )
    return marks


def _line(look: Look, number: int) -> dict[str, Any]:
    """Return how the curve of the model of this number is drawn, with its open mark for the best λ."""
    return {
        "color": look.colour,
        "linestyle": DASHES[number % len(DASHES)],
        "linewidth": 1.0,
        "marker": look.marker,
        "markersize": 5.5,
        "markerfacecolor": "none",
        "markeredgewidth": 1.0,
    }


def _left_out(looks: Mapping[str, Look], num_models: int) -> str:
    return f"the first {len(looks)} of {num_models} models" if num_models > len(looks) else ""


def _decades(low: float, high: float) -> list[int]:
    """Return at most four exponents of ten within [low, high], evenly spaced."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first) / 3))
    return list(range(first, last + 1, step))
