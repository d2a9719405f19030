"""Largest confusions by class name, reliability diagrams, and calibration errors of zero-shot predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.outcomes import ECE
from rwkvclip_eval.report.plots.dots import dots
from rwkvclip_eval.report.plots.drawing import GRID, INK, MUTED, SMALL, TEXT, Drawing, Plot
from rwkvclip_eval.report.plots.style import DASHES, captioned, counted
from rwkvclip_eval.report.rows import Cell, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rwkvclip_eval.report.outcomes import Outcomes
    from rwkvclip_eval.report.plots.style import Look
    from rwkvclip_eval.report.tables import Table

_CONFUSED_MODELS = 2
"""Models whose confusions are drawn."""
_ROWS = 36
"""Confusions of one drawing, but one of every dataset."""
_MOST_A_DATASET = 5
_PANELS, _LINES = 12, 3
"""Reliability diagrams of one drawing, and models in each."""
_FEW = 10
"""Images of a bin below which its accuracy is chance and is not drawn."""
_BAR = "#9db8cc"

Found = dict[tuple[str, str], "Outcomes"]
"""Unit and model → what its predictions tell."""


def outcome_plots(
    table: Table, rows: Sequence[Row], looks: Mapping[str, Look], found: Found
) -> Iterator[Plot]:
    """Yield confusions of the first models, reliability diagrams, and calibration errors of all.

    Args:
        table: the rows' own.
        rows: one a dataset and metric.
        looks: model → how it is drawn; others are not drawn.
        found: what predictions tell.
    """
    by_model: dict[str, dict[str, Outcomes]] = {}
    for row in rows:
        for model in looks:
            cell = row.cells.get(model)
            outcomes = found.get((cell.entry.record.unit, model)) if cell and cell.entry else None
            if outcomes is not None:
                by_model.setdefault(model, {})[row.title] = outcomes
    for number, (model, own) in enumerate(list(by_model.items())[:_CONFUSED_MODELS]):
        if any(outcomes.confusions for outcomes in own.values()):
            yield confusion_plot(table, model, own, number, len(by_model))
    calibrated = {
        model: {title: outcomes for title, outcomes in own.items() if outcomes.calibration is not None}
        for model, own in by_model.items()
    }
    calibrated = {model: own for model, own in calibrated.items() if own}
    if calibrated:
        yield reliability_plot(table, rows, calibrated, looks)
        yield from _calibration_errors(table, rows, calibrated, looks)


def confusion_plot(
    table: Table, model: str, own: Mapping[str, Outcomes], number: int, num_models: int
) -> Plot:
    """Return a bar per confusion, its length the share of the class' images, with their count.

    Args:
        table: whose numbers the model's are.
        model: name.
        own: title of the dataset → what its predictions tell.
        number: of the model, for the name of the files.
        num_models: that have confusions.
    """
    each = max(1, min(_MOST_A_DATASET, _ROWS // len(own)))
    lines = [(title, c) for title, outcomes in own.items() for c in outcomes.confusions[:each]]
    titles = list(dict.fromkeys(title for title, _ in lines))
    # A line for each dataset's name, above its confusions.
    places = [i + titles.index(title) + 1 for i, (title, _) in enumerate(lines)]
    figure = Drawing(0.135 * (places[-1] + 1.4))
    ax = figure.axes[0]
    ax.barh(places, [100 * c.share for _, c in lines], height=0.7, color=_BAR, linewidth=0)
    names = [f"{_short(c.label)} → {_short(c.prediction)}" for _, c in lines]
    for place, (_, c) in zip(places, lines, strict=True):
        ax.text(100 * c.share, place, f" {c.count}", va="center", color=INK, fontsize=SMALL)
    for title in titles:
        first = next(place for place, (own_title, _) in zip(places, lines, strict=True) if own_title == title)
        ax.text(0, first - 1, f" {title.replace('_', ' ')}", va="center", color=INK, fontsize=TEXT)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.set_ylim(places[-1] + 0.7, -0.7)
    ax.margins(x=0.08)
    ax.set_xlim(left=0)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.set_xlabel("% of the class; beside it images")
    words = "; ".join(
        f"{title} {_short(c.label)} taken for {_short(c.prediction)}: {c.count} ({100 * c.share:.1f} %)"
        for title, c in lines[:40]
    )
    title = f"{table.title}: what {model} takes for something else most often, % of a class's images"
    title += ", their number beside it"
    if num_models > _CONFUSED_MODELS:
        title += f" (drawn for the first {_CONFUSED_MODELS} of {num_models} models)"
    return figure.plot(f"confusions-{table.slug}-{number}", title, f"Bars. {words}", table.slug)


def reliability_plot(
    table: Table,
    rows: Sequence[Row],
    calibrated: Mapping[str, Mapping[str, Outcomes]],
    looks: Mapping[str, Look],
) -> Plot:
    """Return a reliability diagram per dataset, at the models' own logit scale and bias.

    Args:
        table: whose numbers the models' are.
        rows: of these.
        calibrated: model → title of the dataset → what its predictions tell, calibration among it.
        looks: model → how it is drawn.
    """
    models = list(calibrated)[:_LINES]
    titles = list(dict.fromkeys(title for m in models for title in calibrated[m]))
    columns = min(4, len(titles))
    shown = titles[:_PANELS]
    figure = Drawing(1.9 if len(shown) < 3 else 1.1, len(shown), columns)
    handles: dict[str, Any] = {}
    words = []
    for ax, title in zip(figure.axes, shown, strict=True):
        ax.plot([0, 100], [0, 100], color=MUTED, linewidth=0.6, linestyle=(0, (2, 2)))
        for i, model in enumerate(models):
            outcomes = calibrated[model].get(title)
            if outcomes is None or outcomes.calibration is None:
                continue
            found = outcomes.calibration
            there = found.bins.counts >= _FEW
            style = looks[model].dots(3.2)
            style["linestyle"] = DASHES[i % len(DASHES)]
            (handles[model],) = ax.plot(
                100 * found.bins.confidence[there], 100 * found.bins.accuracy[there], linewidth=0.8, **style
            )
            words.append(f"{title}, {model}: ECE {ECE.text(found.error)} %")
        ax.set_xlim(-3, 103)
        ax.set_ylim(-3, 103)
        ax.set_xticks([0, 50, 100])
        ax.set_yticks([0, 50, 100])
        ax.tick_params(labelsize=SMALL if columns > 2 else TEXT)
        ax.grid(color=GRID, linewidth=0.5)
        ax.set_title(title.replace("_", " "), loc="left", color=INK, fontsize=7, pad=3)
    figure.legend(list(handles.values()), list(handles))
    figure.figure.supxlabel("confidence, %", color=MUTED, fontsize=TEXT)
    figure.figure.supylabel("accuracy, %", color=MUTED, fontsize=TEXT)
    title = f"{table.title}: accuracy against confidence, %, at each model's own logit scale and bias"
    title += f", in bins of at least {_FEW} images"
    own = counted([row for row in rows if row.title in shown], models)
    left = [own] * bool(own)
    left += [f"the first {len(shown)} of {len(titles)} datasets"] * (len(titles) > len(shown))
    left += [f"the first {len(models)} of {len(calibrated)} models"] * (len(calibrated) > len(models))
    title = captioned(title, *left)
    return figure.plot(f"reliability-{table.slug}", title, f"Lines. {'; '.join(words)}", table.slug)


def _calibration_errors(
    table: Table,
    rows: Sequence[Row],
    calibrated: Mapping[str, Mapping[str, Outcomes]],
    looks: Mapping[str, Look],
) -> list[Plot]:
    errors = []
    for title in dict.fromkeys(row.title for row in rows):
        cells = {}
        for model, own in calibrated.items():
            found = own[title].calibration if title in own else None
            if found is not None:
                low, high = found.interval.low, found.interval.high
                trained = own[title].entry.trained
                cells[model] = Cell(metric=ECE, value=found.error, low=low, high=high, trained=trained)
        if cells:
            errors.append(Row(scope=table.slug, title=title, metric=ECE, cells=cells))
    own_looks = {m: look for m, look in looks.items() if m in calibrated}
    title = (
        f"{table.title}: expected calibration error, %, at each model's own logit scale, with 95 % intervals"
    )
    title = captioned(
        title, counted([row for row in rows if row.title in {e.title for e in errors}], calibrated)
    )
    return dots(table, errors, own_looks, {}, len(calibrated), name="calibration", title=title)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
