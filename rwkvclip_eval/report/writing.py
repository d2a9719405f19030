"""Writes a report: from run directories alone, any time, on a machine without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, name_some, shown
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_models.disk import atomic_path, refuse_others, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed
    from rwkvclip_eval.report.headline import Headline
    from rwkvclip_eval.report.plots.drawing import Plot


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """The files of a report.

    Attributes:
        index: index.html, self-contained.
        markdown: report.md.
        results_csv: results.csv, one tidy row per record.
        task_csvs: TASK.csv, models side by side.
        latex: report.tex, booktabs tables.
        paper_tables: tables/NAME.tex, .md, .csv and .json, the paper's tables beside published numbers.
        plots: plots/NAME.svg, .png and .pdf as wide as two columns of a paper, plots/NAME-narrow.* as one.
    """

    index: Path
    markdown: Path
    results_csv: Path
    task_csvs: tuple[Path, ...]
    latex: Path
    paper_tables: tuple[Path, ...]
    plots: tuple[Path, ...]


_LAST_SECOND = 253_402_300_799
"""Of the year 9999, the last that a date can have."""


def check_source_date() -> None:
    """Refuse a `SOURCE_DATE_EPOCH` that is no time, as the reproducible-builds specification asks.

    Reports hold no time of their making; matplotlib, which draws them, reads the variable.

    Raises:
        UserError: it is none.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    digits = given.isascii() and given.isdecimal() and len(given) <= len(str(_LAST_SECOND))
    if given and not (digits and int(given) <= _LAST_SECOND):
        raise UserError(
            f"The environment variable SOURCE_DATE_EPOCH must be whole seconds since 1970, 0 to "
            f"{_LAST_SECOND}, got {shown(given)}; correct it or unset it."
        )


_MARKS = {"index.html": "rwkvclip-eval", "report.md": "## Provenance", "results.csv": "dataset_fingerprint"}
"""Of files that are often somebody's own: what ours hold."""


def write_report(
    runs: Sequence[Path],
    out: Path,
    published: Sequence[Path] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> ReportPaths:
    """Write the report of the run directories `runs` (job-array members included) into the folder `out`.

    Args:
        runs: run directories; measurements of speed among them stand beside the same models' accuracies.
        out: folder.
        published: folders of CSV files with published numbers beside those that are shipped.
        pairs: models or published methods whose difference to draw, see `draw_plots`.

    Raises:
        OutputError: a run holds no results or contradicts another, or `out` cannot be written or has such
            files of somebody else.
        UserError: a file of published numbers does not fit, there is no such model or method, or
            `SOURCE_DATE_EPOCH` is no time.
    """
    check_source_date()
    refuse_others(out, _MARKS)
    from rwkvclip_eval.records.efficiency import is_measurement
    from rwkvclip_eval.records.published import read_published
    from rwkvclip_eval.report.conformance import conformance
    from rwkvclip_eval.report.formats.accuracy_speed import accuracy_speed_csv
    from rwkvclip_eval.report.formats.csv import results_csv, table_csv
    from rwkvclip_eval.report.formats.html import render_page
    from rwkvclip_eval.report.formats.latex import latex
    from rwkvclip_eval.report.formats.markdown import markdown
    from rwkvclip_eval.report.formats.paper_csv import paper_csv
    from rwkvclip_eval.report.formats.paper_json import paper_json
    from rwkvclip_eval.report.formats.paper_latex import paper_latex
    from rwkvclip_eval.report.formats.paper_markdown import paper_markdown
    from rwkvclip_eval.report.headline import write_headline
    from rwkvclip_eval.report.loading import load_runs, without_speed
    from rwkvclip_eval.report.paper_tables import paper_tables
    from rwkvclip_eval.report.plots.every import draw_plots, speed_plots
    from rwkvclip_eval.report.tables import build_tables
    from rwkvclip_eval.report.titles import titled, titled_tables

    measurements = [run for run in runs if is_measurement(run)]
    loaded = without_speed(load_runs([run for run in runs if run not in measurements]))
    tables = build_tables(loaded.entries, loaded.averages)
    headline = write_headline(loaded, tables)
    rows = read_published(published)
    beside = paper_tables(tables, headline.models, rows)
    conforming = conformance([entry.record for entry in loaded.entries], rows)
    # What people read calls datasets by their titles, CSV and JSON by their record names.
    shown = titled(loaded)
    shown_tables = titled_tables(shown)
    plots = draw_plots(shown_tables, shown, rows, pairs)
    shown_headline = write_headline(shown, shown_tables)
    speeds = _speeds(measurements, shown_headline)
    plots += speed_plots(speeds, shown)

    pictures = write_plots(plots, out)
    task_csvs = []
    for task in dict.fromkeys(t.task for t in tables):
        path = out / f"{folder_name(task)}.csv"
        write_text(path, table_csv([t for t in tables if t.task == task]))
        task_csvs.append(path)
    forms = {"tex": paper_latex, "md": paper_markdown, "csv": paper_csv, "json": paper_json}
    papers = []
    for one in beside:
        for ending, form in forms.items():
            path = out / "tables" / f"{one.name}.{ending}"
            write_text(path, form(one))
            papers.append(path)
    paths = ReportPaths(
        index=out / "index.html",
        markdown=out / "report.md",
        results_csv=out / "results.csv",
        task_csvs=tuple(task_csvs),
        latex=out / "report.tex",
        paper_tables=tuple(papers),
        plots=tuple(pictures),
    )
    write_text(paths.results_csv, results_csv(loaded.entries))
    write_text(paths.latex, latex(shown_tables))
    write_text(
        paths.markdown, markdown(shown, shown_tables, shown_headline, plots, beside, conforming, speeds)
    )
    if speeds:
        write_text(out / "accuracy_speed.csv", accuracy_speed_csv(speeds))
    page = render_page(shown, shown_tables, shown_headline, plots, beside, conforming, speeds)
    write_text(paths.index, page)
    return paths


def _speeds(measurements: Sequence[Path], headline: Headline) -> list[AccuracySpeed]:
    """Return the speeds of each measurement beside the numbers that sum a report up."""
    from rwkvclip_eval.records.efficiency import read_blocks
    from rwkvclip_eval.report.accuracy_speed import accuracy_speed
    from rwkvclip_eval.report.overview import overview

    groups = [group for view in overview(headline.columns)[:1] for group in view.groups]
    return [accuracy_speed(groups, headline.models, read_blocks(run)) for run in measurements]


def write_plots(plots: Sequence[Plot], out: Path) -> list[Path]:
    """Write plots into `out`/plots, each wide and narrow as SVG, PNG and PDF; return the files."""
    pictures = []
    for plot in plots:
        for name, picture in ((plot.name, plot.wide), (f"{plot.name}-narrow", plot.narrow)):
            for kind, content in (
                ("svg", picture.svg.encode()),
                ("png", picture.png),
                ("pdf", picture.pdf),
            ):
                path = out / "plots" / f"{name}.{kind}"
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
                pictures.append(path)
    return pictures


def write_pages(
    runs: Sequence[Path],
    out: Path,
    published: Sequence[Path] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """Write the report of runs of suites, and a page of its own for each measurement; return the pages.

    Args:
        runs: run directories of both kinds.
        out: folder; beside other runs a measurement has `efficiency-NAME` in it.
        published: as `write_report` takes it.
        pairs: as `write_report` takes it.

    Raises:
        OutputError: as `write_report` and `write_efficiency`.
        UserError: as `write_report`.
    """
    from rwkvclip_eval.records.efficiency import is_measurement

    measurements = {run.resolve(): run for run in runs if is_measurement(run)}
    names = [resolved.name for resolved in measurements]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(
            f"Several measurements lie in folders named {name_some(twice)}, and a report keeps each under "
            "its folder's name. Rename one."
        )
    pages = [
        write_efficiency(run, out / f"efficiency-{resolved.name}" if len(runs) > 1 else out)
        for resolved, run in measurements.items()
    ]
    if any(run.resolve() not in measurements for run in runs):
        pages.append(write_report(runs, out, published, pairs).index)
    return pages


def write_efficiency(run: Path, out: Path) -> Path:
    """Write what a run of `bench` measured as page, CSV, Markdown and plots; return the page.

    Args:
        run: its directory.
        out: folder.

    Raises:
        OutputError: there is no measurement, one is not as it was written, or `out` cannot be written or has
            such files of somebody else.
    """
    import matplotlib as mpl

    from rwkvclip_eval.records.efficiency import read_blocks
    from rwkvclip_eval.records.reading import read_run_info
    from rwkvclip_eval.report.efficiency import speed_rows
    from rwkvclip_eval.report.formats.efficiency import (
        efficiency_csv,
        efficiency_markdown,
        efficiency_page,
    )
    from rwkvclip_eval.report.formats.parts import parts_csv
    from rwkvclip_eval.report.plots.efficiency import efficiency_plots
    from rwkvclip_eval.report.plots.parts import part_plots

    refuse_others(out, _MARKS)
    blocks, info = read_blocks(run), read_run_info(run / "run.json")
    rows = speed_rows(blocks)
    # A `$` in a model's name is no mathematics.
    with mpl.rc_context({"text.parse_math": False}):
        plots = [*efficiency_plots(rows), *part_plots(blocks)]
    write_plots(plots, out)
    write_text(out / "parts.csv", parts_csv(rows))
    write_text(out / "efficiency.csv", efficiency_csv(rows, info))
    write_text(out / "efficiency.md", efficiency_markdown(rows, info))
    page = out / "index.html"
    write_text(page, efficiency_page(rows, info, plots))
    return page
