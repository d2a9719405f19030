"""The parts of forward passes as a table."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rwkvclip_eval.printable import csv_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.efficiency import SpeedRow

HEAD = ("cell", "model", "part", "ms", "share", "GFLOP/s", "GB/s", "FLOPs a byte")


def part_rows(rows: Sequence[SpeedRow]) -> list[list[str]]:
    """Return a line per cell, model and part, under `HEAD`; parts of a pass sum to it, `rest` among them."""
    found = []
    for row in rows:
        whole = sum(part.seconds for part in row.measured.parts)
        for part in row.measured.parts:
            rate, traffic = (
                f"{amount / part.seconds / 1e9:.3g}" if amount and part.seconds else ""
                for amount in (part.flops, part.bytes)
            )
            intensity = f"{part.flops / part.bytes:.3g}" if part.flops and part.bytes else ""
            share = f"{100 * part.seconds / whole:.1f} %" if whole else ""
            found.append(
                [
                    row.cell.label,
                    row.measured.model,
                    part.name,
                    f"{1e3 * part.seconds:.3g}",
                    share,
                    rate,
                    traffic,
                    intensity,
                ]
            )
    return found


def parts_csv(rows: Sequence[SpeedRow]) -> str:
    """Return the table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([csv_cell(cell) for cell in line] for line in part_rows(rows))
    return out.getvalue()
