"""The gap between images and texts in a model's embedding space, as retrieval records tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.plots.drawing import GRID, INK, MARK, SMALL, Drawing, Plot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.plots.style import Look
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_NOTES = ("modality_gap", "unmatched_cosine", "matched_cosine")
_ROWS = 60


def gap_plot(table: Table, rows: Sequence[Row], looks: Mapping[str, Look]) -> Plot | None:
    """Return a row per dataset and model: distance of the means, and cosines of unmatched and matched pairs.

    Args:
        table: the rows' own.
        rows: of retrieval.
        looks: model → how it is drawn; others are not drawn.
    """
    lines: dict[tuple[str, str], tuple[float, ...]] = {}
    for row in rows:
        for model in looks:
            cell = row.cells.get(model)
            notes = cell.entry.record.notes if cell and cell.entry else {}
            if all(isinstance(notes.get(name), int | float) for name in _NOTES):
                lines.setdefault((row.title, model), tuple(float(notes[name]) for name in _NOTES))
    if not lines:
        return None
    titles = list(dict.fromkeys(title for title, _ in lines))
    shown = dict(list(lines.items())[:_ROWS])
    places = [i + 0.6 * titles.index(title) for i, (title, _) in enumerate(shown)]
    figure = Drawing(0.14 * (places[-1] + 1.4), 2)
    distances, cosines = figure.axes
    handles: dict[str, Any] = {}
    for place, ((_, model), (gap, unmatched, matched)) in zip(places, shown.items(), strict=True):
        look = looks[model]
        (handles[model],) = distances.plot([gap], [place], **look.dots(MARK))
        cosines.plot([unmatched, matched], [place, place], color=look.colour, linewidth=0.9)
        cosines.plot([matched], [place], **look.dots(MARK))
        cosines.plot([unmatched], [place], **(look.dots(MARK) | {"markerfacecolor": "none"}))
    firsts = [
        (places[i], title)
        for i, (title, _) in enumerate(shown)
        if title not in [t for t, _ in list(shown)[:i]]
    ]
    for ax in figure.axes:
        ax.set_yticks([place for place, _ in firsts], [title.replace("_", " ") for _, title in firsts])
        ax.tick_params(axis="y", labelsize=SMALL)
        ax.set_ylim(places[-1] + 0.7, -0.7)
        ax.grid(axis="x", color=GRID, linewidth=0.6)
    distances.set_xlim(0, 1.08 * max(gap for gap, *_ in shown.values()) or 1)
    distances.set_title("distance of mean image and text", color=INK, fontsize=7)
    cosines.set_title("mean cosine; open: unmatched pairs", color=INK, fontsize=7)
    figure.legend(list(handles.values()), list(handles))
    words = "; ".join(
        f"{title}, {model}: gap {gap:.3f}, cosine of other pairs {unmatched:.3f}, of matched {matched:.3f}"
        for (title, model), (gap, unmatched, matched) in list(shown.items())[:30]
    )
    left = f"; {len(shown)} of {len(lines)} rows" if len(lines) > len(shown) else ""
    title = (
        f"{table.title}: how far images and texts lie apart, as distance and as cosine (from −1 to 1){left}"
    )
    return figure.plot(f"modality-gap-{table.slug}", title, f"Dots. {words}", table.slug)
