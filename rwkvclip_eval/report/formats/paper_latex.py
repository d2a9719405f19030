"""One of the paper's tables as LaTeX, ready to paste: booktabs, caption, label."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import shortened
from rwkvclip_eval.report.formats.latex_text import escape_latex
from rwkvclip_eval.report.formats.paper_text import difference_text, half_text, spread_text
from rwkvclip_eval.report.paper_notes import caption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.paper_rows import Difference, PaperCell, PaperRow, PaperTable

MAX_COLUMNS = 15
"""Numbers side by side; a table of more is set in parts below each other."""
_LABEL_LENGTH = 80


def paper_latex(table: PaperTable) -> str:
    """Return the table, its published rows above a rule; sources and notes stand in comments.

    Published rows of other training data than the paper's are commented out, unless there are no others.
    """
    num = len(table.columns)
    size = -(-num // -(-num // MAX_COLUMNS))
    parts = [_part(table, range(at, min(at + size, num))) for at in range(0, num, size)]
    lines = [
        r"% Needs \usepackage{booktabs} and \usepackage{graphicx}.",
        *(f"% [{i}] {escape_latex(source)}" for i, source in enumerate(table.sources, 1)),
        "% A row that begins with % was trained on other data: take the sign away to show it.",
        *(f"% {escape_latex(note)}" for note in table.notes),
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_about(' '.join((f'{table.title}.', *table.metrics, caption(table))))}}}",
        rf"\label{{tab:{table.name}}}",
        r"\smallskip",
        "\n\n\\medskip\n".join(parts),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _part(table: PaperTable, places: Sequence[int]) -> str:
    """Return the columns at `places` as a tabular that is no wider than the text."""
    from pandas import DataFrame, Index, MultiIndex

    paths = [table.paths[i] for i in places]
    shown = [row for row in table.published if any(row.cells[i].value is not None for i in places)]
    rows = [_numbers(row, places) for row in shown]
    # Published rows, then those of each measured row, its differences below it.
    ours = [[_numbers(row, places), *_differences(row, places)] for row in table.measured]
    depth = len(paths[0])
    heads = [tuple(map(escape_latex, path)) for path in ((*[""] * (depth - 1), "Method"), *paths)]
    columns = MultiIndex.from_tuples(heads) if depth > 1 else Index([title for (title,) in heads])
    cells = [*rows, *(line for own in ours for line in own)]
    style = DataFrame(cells, columns=columns).style.hide(axis="index")
    text = style.to_latex(hrules=True, column_format="l" + "c" * len(places), multicol_align="c")
    begin, top, *inner, bottom, end = text.strip().split("\n")
    head, rule, body = inner[:depth], inner[depth], inner[depth + 1 :]
    assert len(body) == len(cells), "a row of a table is a line"
    compared = any(row.compared for row in shown)
    published = [
        line if row.compared or not compared else f"% {line}" for row, line in zip(shown, body, strict=False)
    ]
    lines = [begin, top]
    for level, line in enumerate(head):
        lines += [line, *(_rules(paths, level) if level < depth - 1 else [])]
    lines += [rule, *published, *([r"\midrule"] if published and ours else [])]
    at = len(published)
    for own in ours:
        lines += [*([r"\addlinespace"] if at > len(published) else []), *body[at : at + len(own)]]
        at += len(own)
    lines += [bottom, end]
    width = r"\ifdim\width>\textwidth\textwidth\else\width\fi"
    return f"\\resizebox{{{width}}}{{!}}{{%\n" + "\n".join(lines) + "}"


def _rules(paths: Sequence[tuple[str, ...]], level: int) -> list[str]:
    """Return the rules below the headings of a level, each over its columns."""
    found, at = [], 2
    for path, group in groupby(paths, key=lambda path: path[: level + 1]):
        num = len(list(group))
        if path[level]:
            found.append(rf"\cmidrule(lr){{{at}-{at + num - 1}}}")
        at += num
    return ["".join(found)] if found else []


def _numbers(row: PaperRow, places: Sequence[int]) -> list[str]:
    return [escape_latex(shortened(row.label, _LABEL_LENGTH)), *(_cell(row.cells[i]) for i in places)]


def _differences(row: PaperRow, places: Sequence[int]) -> list[list[str]]:
    if not row.differences or all(row.differences[i] is None for i in places):
        return []
    label = rf"\quad $\Delta$ to {escape_latex(shortened(row.against, _LABEL_LENGTH))}"
    return [[label, *(_difference(row.differences[i]) for i in places)]]


def _cell(cell: PaperCell) -> str:
    number = _about(cell.text)
    number = rf"\textbf{{{number}}}" if cell.bold else number
    return number + (_small(f"±{half_text(cell.half)}") if cell.half is not None else "")


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = _about(difference_text(difference))
    return text + (_small(spread) if (spread := spread_text(difference)) else "")


def _about(text: str) -> str:
    """Return text of ours, its `~` as the sign that stands before numbers read from a figure."""
    return escape_latex(text).replace(r"\textasciitilde{}", r"$\sim$")


def _small(text: str) -> str:
    return rf"{{\scriptsize\,{escape_latex(text)}}}"
