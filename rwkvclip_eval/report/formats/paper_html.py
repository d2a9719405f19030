"""The paper's tables as a section of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.report.formats.paper_text import difference_text, half_text, spread_text
from rwkvclip_eval.report.formats.templates import environment
from rwkvclip_eval.report.paper_notes import reading
from rwkvclip_eval.report.wording import STATUS_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.paper_rows import PaperCell, PaperTable

_WORDS = STATUS_WORDS | {
    "not_published": "not published",
    "other_version": "published of another version",
    "several_versions": "several versions, none of which is meant",
    "incomplete": "not every dataset has its number",
}


def paper_html(tables: Sequence[PaperTable], colours: Mapping[str, str]) -> str:
    """Return the section as HTML; empty where there is no table.

    Args:
        tables: the paper's.
        colours: model → its colour in the report.
    """
    if not tables:
        return ""
    return (
        environment()
        .get_template("paper_tables.html.j2")
        .render(
            tables=tables,
            colours=colours,
            reading=reading(tables),
            why=_why,
            half=half_text,
            difference=difference_text,
            spread=spread_text,
        )
    )


def _why(cell: PaperCell) -> str:
    return _WORDS.get(cell.status, cell.status)
