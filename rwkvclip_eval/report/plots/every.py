"""Every plot that the numbers of a report allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, near_matches
from rwkvclip_eval.errors import shown as shown_name
from rwkvclip_eval.report.differences import deltas, mean_delta, published_numbers
from rwkvclip_eval.report.outcomes import read_outcomes
from rwkvclip_eval.report.plots.accuracy_speed import accuracy_speed_plot
from rwkvclip_eval.report.plots.differences import difference_plot
from rwkvclip_eval.report.plots.dots import dots
from rwkvclip_eval.report.plots.gap import gap_plot
from rwkvclip_eval.report.plots.outcomes import outcome_plots
from rwkvclip_eval.report.plots.probes import few_shot_plot, regularisation_plot
from rwkvclip_eval.report.plots.recalls import recall_slopes
from rwkvclip_eval.report.plots.style import captioned, counted, looks, model_colours
from rwkvclip_eval.report.plots.training import UNITS, against_step, training
from rwkvclip_eval.report.series import final_models, find_series

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.published import PublishedRow
    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed
    from rwkvclip_eval.report.differences import Published
    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.plots.drawing import Plot
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

_MOST_PUBLISHED = 3
"""Methods beside the models of a drawing."""
_MOST_PAIRS = 1
"""Models whose difference from the first is drawn unasked."""


def draw_plots(
    tables: Sequence[Table],
    loaded: Loaded,
    published: Sequence[PublishedRow] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> list[Plot]:
    """Return every plot the numbers allow.

    Args:
        tables: of the report.
        loaded: what the tables were made from.
        published: numbers to draw beside those of the tables.
        pairs: models or published methods whose difference to draw; by default the first model less the
            second and less the published method with most numbers.

    Raises:
        OutputError: predictions are damaged, or not those of the records.
        UserError: no table has both of a pair.
    """
    import matplotlib as mpl

    # A `$` in a model's name is no mathematics.
    with mpl.rc_context({"text.parse_math": False}):
        return _draw(tables, loaded, published, pairs)


def speed_plots(speeds: Sequence[AccuracySpeed], loaded: Loaded) -> list[Plot]:
    """Return accuracy against speed, a plot a measurement that has models of the report.

    Args:
        speeds: of each measurement.
        loaded: what the report is of.
    """
    import matplotlib as mpl

    colours = _colours(loaded)
    plots = []
    with mpl.rc_context({"text.parse_math": False}):
        for number, found in enumerate(speeds):
            plot = accuracy_speed_plot(found, looks(list(found.speeds), (), colours), number)
            plots += [plot] if plot is not None else []
    return plots


def _colours(loaded: Loaded) -> dict[str, str]:
    names = [*(e.model for e in loaded.entries), *(c.model for c in loaded.curves)]
    return model_colours(list(dict.fromkeys(names)), find_series(loaded.entries))


def _draw(
    tables: Sequence[Table],
    loaded: Loaded,
    published: Sequence[PublishedRow],
    pairs: Sequence[tuple[str, str]],
) -> list[Plot]:
    entries, curves = loaded.entries, loaded.curves
    series = find_series(entries)
    names = list(dict.fromkeys([*(e.model for e in entries), *(c.model for c in curves)]))
    colours = _colours(loaded)
    steps = {e.model: int(e.record.model_info["step"]) for e in entries if e.model in series}
    units = {e.model: str(e.record.model_info.get("step_unit", "")) for e in entries if e.model in series}
    final = final_models(entries)
    shown = [m for m in names if m in final]
    beside = {table.slug: published_numbers(table, published) for table in tables}
    _require_known(pairs, names, [method for methods in beside.values() for method in methods])
    outcomes = read_outcomes([e for e in entries if e.model in final])
    plots: list[Plot] = []
    for table in tables:
        recalls = [r for r in table.rows if r.metric.k is not None]
        few = [r for r in table.rows if r.metric.shots is not None]
        others = [r for r in table.rows if r not in (*recalls, *few) and r.metric.in_percent]
        methods = beside[table.slug]
        own = [m for m in shown if m in table.models]
        drawn = looks(own, list(methods)[:_MOST_PUBLISHED], colours)
        if any(c.value is not None for r in others for m, c in r.cells.items() if m in final):
            plots += dots(table, others, drawn, methods, len(own))
        plots += _differences(table, others, own, methods, pairs)
        plots += outcome_plots(table, others, looks(own, (), colours), outcomes)
        panels = (
            few_shot_plot(table, few, looks(own, (), colours), len(own)),
            regularisation_plot(table, loaded.regularisation, looks(own, (), colours), len(own)),
        )
        plots += [plot for plot in panels if plot is not None]
        for dataset in dict.fromkeys(r.title for r in recalls):
            rows = [r for r in recalls if r.title == dataset]
            if any(c.value is not None for r in rows for m, c in r.cells.items() if m in drawn):
                plots.append(recall_slopes(table, dataset, rows, drawn, methods))
        if (gap := gap_plot(table, recalls, looks(own, (), colours))) is not None:
            plots.append(gap)
        if set(table.models) & set(series):
            for unit in UNITS:
                counted = {m: key for m, key in series.items() if units[m] == unit}
                plots.extend(against_step(table, unit, counted, steps, colours))
    if curves:
        plots.append(training(curves, colours))
    return plots


def _differences(
    table: Table,
    rows: Sequence[Row],
    models: Sequence[str],
    published: Published,
    asked: Sequence[tuple[str, str]],
) -> Iterator[Plot]:
    """Yield the differences of the pairs asked for, else of the first model and a few others."""
    pairs = list(asked)
    if not asked and models:
        beside = [*models[1 : 1 + _MOST_PAIRS], *list(published)[:1]]
        pairs = [(models[0], other) for other in beside]
    for number, (one, other) in enumerate(pairs):
        parts = deltas(rows, one, other, published)
        # Of a single dataset the table says it all.
        if len(parts) > 1:
            yield difference_plot(
                parts,
                mean_delta(parts),
                one,
                other,
                name=f"difference-{table.slug}-{number}",
                title=captioned(
                    f"{table.title}: {one} less {other}, with 95 % intervals, points",
                    counted([r for r in rows if r.title in {p.title for p in parts}], (one, other)),
                ),
                table=table.slug,
            )


def _require_known(pairs: Sequence[tuple[str, str]], models: Sequence[str], methods: Sequence[str]) -> None:
    known = list(dict.fromkeys([*models, *methods]))
    for name in (name for pair in pairs for name in pair):
        if name not in known:
            raise UserError(
                f"{shown_name(name)} is neither a model of these runs nor a published method beside them."
                f"{near_matches(name, known)} Known: {', '.join(known)}."
            )
