"""Writes what was measured of the streaming form: CSV, Markdown and a plot."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import TYPE_CHECKING

from rwkvclip_eval.printable import csv_cell
from rwkvclip_eval.records.streaming import FORMS, StreamingPoint
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HEAD = (
    *("patches", "image, px", "token arrays, MiB"),
    *(f"{form}, peak MiB" for form in FORMS),
    *(f"{form}, s" for form in FORMS),
    "times as long",
)


def streaming_rows(points: Sequence[StreamingPoint]) -> list[list[str]]:
    """Return a row for each size, under `HEAD`; where there is no number, why."""
    sizes = dict.fromkeys((p.tokens, p.height_px, p.width_px, p.token_bytes) for p in points)
    found = {(p.tokens, p.form): p for p in points}
    rows = []
    for tokens, height, width, held in sizes:
        own = [found.get((tokens, form)) for form in FORMS]
        seconds = [p.seconds if p else None for p in own]
        ratio = f"{seconds[0] / seconds[1]:.2f}" if seconds[0] and seconds[1] else ""
        rows.append(
            [
                *(f"{tokens:,}", f"{height}×{width}", mib(held)),
                *("" if p is None else mib(p.peak_bytes) for p in own),
                *("" if p is None else p.problem or f"{p.seconds:.2f}" for p in own),
                ratio,
            ]
        )
    return rows


def mib(size: int | None) -> str:
    """Return bytes in MiB, a digit behind the point where they are few."""
    if size is None:
        return ""
    return f"{size / 2**20:.1f}" if size < 10 * 2**20 else f"{size / 2**20:,.0f}"


def write_streaming(
    points: Sequence[StreamingPoint], out: Path, environment: Mapping[str, object], command: str
) -> Path:
    """Write streaming.csv, streaming.md and plots/streaming.* into `out`; return the Markdown file.

    Args:
        points: in the order measured.
        out: folder.
        environment: of `environment()`.
        command: that was typed.

    Raises:
        OutputError: the folder cannot be written.
    """
    from rwkvclip_eval.records.conditions import told_conditions
    from rwkvclip_eval.report.plots.streaming import streaming_plot
    from rwkvclip_eval.report.writing import write_plots
    from rwkvclip_models.disk import write_text

    columns = [field.name for field in dataclasses.fields(StreamingPoint)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for point in points:
        values = dataclasses.astuple(point)
        writer.writerow([csv_cell("" if value is None else value) for value in values])
    write_text(out / "streaming.csv", table.getvalue())
    plot = streaming_plot(points)
    picture = []
    if plot is not None:
        write_plots([plot], out)
        picture = [f"![{escape_markdown(plot.alt)}](plots/streaming.png)"]
    first = points[0]
    identity = {"device": first.device, "threads": first.threads}
    told = ", ".join(f"{n} {v}" for n, v in told_conditions(environment, identity).items() if v)
    text = [
        "# Streaming form of the image tower",
        escape_markdown(f"Measured on {told}. Command: {command}"),
        "Peak memory is what a call takes beyond what was held before it. *Times as long*: streaming by "
        "parallel.",
        grid([[escape_markdown(cell) for cell in row] for row in streaming_rows(points)], HEAD),
        *picture,
    ]
    write_text(out / "streaming.md", "\n\n".join(text) + "\n")
    return out / "streaming.md"
