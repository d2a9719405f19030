"""Accuracy beside speed as rows of text: for the page, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rwkvclip_eval.printable import csv_cell
from rwkvclip_eval.report.formats.efficiency import estimate_text
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid
from rwkvclip_eval.report.formats.paper_text import half_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed
    from rwkvclip_eval.report.rows import Cell

READING = (
    "One row a model: what sums its accuracy up, ± to the farther end of the 95 % interval, beside images a "
    "second of its image tower at its own input size and precision, in one batch for all, with the 95 % "
    "interval over repeats. Weights do not matter for speed. Front: no other model is both as accurate and "
    "as fast; it is of the numbers as they are, so that models of overlapping intervals may change places."
)


def heads(found: AccuracySpeed) -> list[str]:
    """Return the heads of the columns."""
    numbers = [f"{one.title}, {one.row.metric.label} ({one.protocol})" for one in found.numbers]
    energy = ["J per image"] if _has_energy(found) else []
    return ["Model", *numbers, f"images/s on {found.device}", *energy, "measured as", "on the front of"]


def lines(found: AccuracySpeed) -> list[list[str]]:
    """Return a line for each model that has a speed."""
    fronts = {one.title: found.front(one) for one in found.numbers}
    out = []
    for model, speed in found.speeds.items():
        cells = [found.cell(one, model) for one in found.numbers]
        energy = ["" if speed.joules is None else f"{speed.joules:.3g}"] if _has_energy(found) else []
        noisy = f"; too noisy: {speed.noisy}" if speed.noisy else ""
        on = ", ".join(title.partition(",")[0] for title, own in fronts.items() if model in own)
        texts = [_cell(cell) for cell in cells]
        out.append([model, *texts, estimate_text(speed.rate), *energy, f"{speed.how}{noisy}", on])
    return out


def remarks(found: AccuracySpeed) -> list[str]:
    """Return which models have no speed, and why."""
    return [f"{model}: {why}." for model, why in found.apart.items()]


def accuracy_speed_markdown(several: Sequence[AccuracySpeed]) -> list[str]:
    """Return a section as parts; nothing where no model has both."""
    parts: list[str] = []
    for found in several:
        if found.speeds:
            rows = [[escape_markdown(cell) for cell in line] for line in lines(found)]
            parts.append(grid(rows, [escape_markdown(head) for head in heads(found)]))
        parts += [escape_markdown(text) for text in remarks(found)]
    return ["## Accuracy and speed", READING, *parts] if parts else []


def accuracy_speed_csv(several: Sequence[AccuracySpeed]) -> str:
    """Return a row per model and number of accuracy, with fractions and plain numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("model", "number", "protocol", "metric", "value", "ci_low", "ci_high", "device"),
            *("images_per_second", "images_per_second_low", "images_per_second_high", "joules_per_image"),
            *("measured_as", "noisy", "on_front"),
        ]
    )
    for found in several:
        for one in found.numbers:
            front = found.front(one)
            for model, speed in found.speeds.items():
                cell = found.cell(one, model)
                row = [
                    *(model, one.title, one.protocol, one.row.metric.name),
                    *((cell.value, cell.low, cell.high) if cell else (None,) * 3),
                    *(found.device, speed.rate.value, speed.rate.low, speed.rate.high, speed.joules),
                    *(speed.how, speed.noisy, model in front),
                ]
                writer.writerow([csv_cell("" if each is None else each) for each in row])
    return out.getvalue()


def section(several: Sequence[AccuracySpeed]) -> list[dict[str, object]]:
    """Return what the page shows: a table for each measurement."""
    return [
        {"heads": heads(found), "lines": lines(found), "remarks": remarks(found)}
        for found in several
        if found.speeds or found.apart
    ]


def _has_energy(found: AccuracySpeed) -> bool:
    return any(speed.joules is not None for speed in found.speeds.values())


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    said = "" if cell.trained else " (untrained)"
    said += f" (incomplete, {cell.coverage})" if cell.missing else ""
    if cell.low is None or cell.high is None or cell.value is None:
        return f"{cell.text}{said}"
    half = max(cell.value - cell.low, cell.high - cell.value)
    return f"{cell.text} ±{half_text(100 * half if cell.metric.in_percent else half, cell.text)}{said}"
