"""The report as LaTeX: its main tables with booktabs rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.rows import Cell
    from rwkvclip_eval.report.tables import Table


_BOLD, _PLAIN = "\x02", "\x03"
"""Around what is bold until tabulate has escaped the cells; no title holds them: none holds controls."""


def _latex_cell(cell: Cell) -> str:
    text = f"{_BOLD}{cell.text}{_PLAIN}" if cell.best else cell.text
    return f"{text} ({cell.coverage})" if cell.missing and cell.value is not None else text


def latex(tables: Sequence[Table]) -> str:
    """Return the main tables with booktabs rules; in bold what is clearly the best."""
    from tabulate import tabulate

    parts = [
        "% Needs \\usepackage{booktabs}. "
        "Bold: the best trained model, its 95 % interval apart from those of all others."
    ]
    for table in tables:
        lines = []
        for row in (*table.rows, *table.averages):
            # Bold goes in after tabulate has escaped the cells.
            values = [_latex_cell(row.cells[m]) for m in table.models]
            lines.append([row.full_title, row.metric_text, *values])
        body = tabulate(
            lines, ["Dataset", "Metric", *table.models], tablefmt="latex_booktabs", disable_numparse=True
        )
        body = (
            body.replace(_BOLD, r"\textbf{").replace(_PLAIN, "}").replace("→", "$\\to$").replace("—", "---")
        )
        parts.append(f"% {table.title}\n{body}")
    return "\n\n".join(parts) + "\n"
