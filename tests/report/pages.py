"""The page of a run without its drawings, which take most of the time."""

from pathlib import Path

from rwkvclip_eval.records.published import PublishedRow, read_published
from rwkvclip_eval.report.formats.html import render_page
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.paper_tables import paper_tables
from rwkvclip_eval.report.tables import build_tables
from rwkvclip_eval.report.titles import titled, titled_tables


def page_of(run: Path, rows: list[PublishedRow] | None = None) -> str:
    loaded = load_runs([run])
    shown = titled(loaded)
    tables = titled_tables(shown)
    headline = write_headline(shown, tables)
    papers = paper_tables(
        build_tables(loaded.entries, loaded.averages),
        headline.models,
        read_published() if rows is None else rows,
    )
    return render_page(shown, tables, headline, [], papers)
