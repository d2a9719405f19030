"""One of the paper's tables as JSON, with all that the other forms show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.printable import printable_json
from rwkvclip_eval.report.paper_notes import reading

if TYPE_CHECKING:
    from rwkvclip_eval.report.paper_layout import Column
    from rwkvclip_eval.report.paper_rows import Difference, PaperCell, PaperRow, PaperTable


def paper_json(table: PaperTable) -> str:
    """Return columns, rows (published, then measured), notes and sources; numbers in per cent and points.

    `cells` and `differences` of a row are in the order of `columns`; what is not there is null, with the
    reason in `status`. `sources` of a row counts from 1.
    """
    content = {
        "name": table.name,
        "title": table.title,
        "unit": "per cent",
        "reading": list(reading([table])),
        "columns": [_column(column) for column in table.columns],
        "rows": [_row(row) for row in (*table.published, *table.measured)],
        "notes": [*table.metrics, *table.notes],
        "sources": list(table.sources),
    }
    return json.dumps(printable_json(content), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "title": column.title,
        "groups": list(column.groups),
        "dataset": column.dataset or None,
        "metric": column.metric.name,
        "average_over": sorted(map(list, column.over)) or None,
    }


def _row(row: PaperRow) -> dict[str, Any]:
    return {
        "kind": "measured" if row.measured else "published",
        "method": row.method,
        "protocol": row.protocol,
        "precision": row.precision,
        "compared": row.compared,
        "subset": row.subset,
        "trained": row.trained,
        "sources": list(row.sources),
        "cells": [_cell(cell) for cell in row.cells],
        "difference_to": row.against or None,
        "differences": [_difference(each) for each in row.differences] or None,
    }


def _cell(cell: PaperCell) -> dict[str, Any]:
    return {
        "value": cell.value,
        "text": cell.text,
        "ci_low": cell.low,
        "ci_high": cell.high,
        "status": cell.status,
        "versions": list(cell.versions),
        "not_held_against_published": cell.apart or None,
        "best": cell.bold,
    }


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {
        "value": difference.value,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "resolved": difference.resolved,
        "inside_noise": difference.noise,
        "read_from_figure": difference.about,
    }
