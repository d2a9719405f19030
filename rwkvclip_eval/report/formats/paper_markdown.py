"""One of the paper's tables as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.printable import one_line
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid
from rwkvclip_eval.report.formats.paper_text import difference_text, half_text, spread_text
from rwkvclip_eval.report.paper_notes import reading

if TYPE_CHECKING:
    from rwkvclip_eval.report.paper_rows import Difference, PaperCell, PaperRow, PaperTable


def paper_markdown(table: PaperTable) -> str:
    """Return a file of its own: title, table, how to read it, notes and sources."""
    parts = [f"# {_escaped(table.title)}", *paper_markdown_parts(table)]
    return "\n\n".join([*parts[:2], "\n".join(f"- {line}" for line in reading([table])), *parts[2:]]) + "\n"


def paper_markdown_parts(table: PaperTable) -> list[str]:
    """Return the table, then its notes, then its sources, without a title."""
    lines: list[list[str]] = []
    lines += [_published(row) for row in table.published if row.compared]
    for row in table.measured:
        lines.append([_escaped(row.label), *map(_cell, row.cells)])
        if row.differences:
            lines.append([f"Δ to {_escaped(row.against)}", *map(_difference, row.differences)])
    lines += [_published(row) for row in table.published if not row.compared]
    head = ["Method", *(_escaped(" ".join((*column.groups, column.title))) for column in table.columns)]
    sources = "\n".join(f"{i}. {_escaped(source)}" for i, source in enumerate(table.sources, 1))
    return [
        grid(lines, head),
        *map(_escaped, (*table.metrics, *table.notes)),
        *([sources] if sources else []),
    ]


def _published(row: PaperRow) -> list[str]:
    cited = f" [{', '.join(map(str, row.sources))}]"
    return [_escaped(row.label) + cited, *map(_cell, row.cells)]


def _escaped(text: str) -> str:
    return escape_markdown(one_line(text))


def _cell(cell: PaperCell) -> str:
    text = cell.text.replace("~", r"\~")
    number = f"**{text}**" if cell.bold else text
    return f"{number} ±{half_text(cell.half)}" if cell.half is not None else number


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = f"{difference_text(difference)} {spread_text(difference)}"
    return text.replace("~", r"\~").rstrip()
