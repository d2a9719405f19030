"""One of the paper's tables as CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.printable import csv_cell, one_line

if TYPE_CHECKING:
    from rwkvclip_eval.report.paper_rows import PaperTable

PER_COLUMN = ("value", "ci_low", "ci_high", "resolved", "state")


def paper_csv(table: PaperTable) -> str:
    """Return a row per method, and below a measured one its differences to a published one (`against`).

    Each column of the table has five: value (per cent; points of a difference), both ends of the 95 %
    interval, the smallest difference that the set resolves, and a state: how the number was had, or why there
    is none; of a difference `noise` where it is smaller than what is resolved.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["kind", "method", "against", "protocol", "precision", "subset", "trained", "sources"]
    writer.writerow([*head, *(csv_cell(f"{c.name}.{part}") for c in table.columns for part in PER_COLUMN)])
    for row in (*table.published, *table.measured):
        kind = "measured" if row.measured else "published"
        facts = [row.protocol, row.precision, row.subset, row.trained]
        sources = "; ".join(table.sources[i - 1] for i in row.sources)
        line: list[Any] = [kind, row.method, "", *facts, sources]
        for cell in row.cells:
            state = " ".join(filter(None, (cell.status, "best" if cell.bold else "")))
            line += [_number(cell.value), _number(cell.low), _number(cell.high), "", state]
        writer.writerow(map(_cell, line))
        if row.differences:
            line = ["difference", row.method, row.against, *facts, ""]
            for each in row.differences:
                if each is None:
                    line += ["", "", "", "", "none"]
                    continue
                numbers = (each.value, each.low, each.high, each.resolved)
                line += [*map(_number, numbers), "noise" if each.noise else "beyond noise"]
            writer.writerow(map(_cell, line))
    return out.getvalue()


def _number(value: float | None) -> object:
    """Return a number without the digits that only its arithmetic has."""
    return "" if value is None else round(value, 6)


def _cell(value: object) -> object:
    return csv_cell(one_line(value)) if isinstance(value, str) else value
