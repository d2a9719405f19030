"""Measurements of speed as CSV, Markdown and a page of their own."""

from __future__ import annotations

import base64
import csv
import io
import math
from importlib.resources import files
from typing import TYPE_CHECKING

from rwkvclip_eval.printable import csv_cell
from rwkvclip_eval.records.conditions import CONDITIONS, conditions
from rwkvclip_eval.records.published_speed import tower_speeds
from rwkvclip_eval.report.efficiency import why_ambiguous
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid
from rwkvclip_eval.report.formats.parts import HEAD as PARTS_HEAD
from rwkvclip_eval.report.formats.parts import part_rows
from rwkvclip_eval.report.formats.readings import readings, watched
from rwkvclip_eval.report.growth import growth
from rwkvclip_eval.report.plots.drawing import themed
from rwkvclip_eval.report.plots.style import MAX_MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.metrics.ratios import Estimate
    from rwkvclip_eval.records.schema import RunInfo
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.growth import Crossover
    from rwkvclip_eval.report.plots.drawing import Plot

HEAD = (
    "cell",
    "model",
    "per second",
    "times as fast",
    "verdict",
    "p50 / p99, ms (calls)",
    "memory, MB",
    "GFLOP/s (of ceiling)",
)
UNUSUAL = 0.25
"""A call taken apart that takes longer by this than the others is told."""
BEYOND = "†"
"""Marks sizes beyond those that a model was made for."""
CSV_HEAD = (
    *(
        "model",
        "spec",
        "tower",
        "height_px",
        "width_px",
        "tokens",
        "batch",
        "precision",
        "compiled",
        "status",
    ),
    *("samples_per_second", "low", "high", "repeats", "speed_up", "speed_up_low", "speed_up_high", "verdict"),
    *(
        "calls",
        "p50_ms",
        "p90_ms",
        "p95_ms",
        "p99_ms",
        "memory_beyond_model_mb",
        "peak_process_mb",
        "gflop_per_call",
    ),
    *("gflop_per_second", "share_of_ceiling", "parameters", "load_s", "first_call_s", "implementation"),
    *("noisy", "reason"),
    *("joules_per_sample", "energy_note", "largest_batch", "largest_batch_note"),
    *("attention_kernels", "allocated_mb", "reserved_mb", "process_device_mb"),
    *("clock_mhz", "power_w", "temperature_c", "held_back"),
    "beyond_trained",
    *CONDITIONS,
)


def efficiency_csv(rows: Sequence[SpeedRow], info: RunInfo) -> str:
    """Return a row per cell and model; what was not measured is empty.

    Each ends with what it was measured on and with, so that tables of several runs can be put together.
    """
    told = conditions(info)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for row in rows:
        cell, m = row.cell, row.measured
        latency = [1e3 * m.latency_s[p] if p in m.latency_s else "" for p in ("p50", "p90", "p95", "p99")]
        peak = "" if m.peak_bytes is None else m.peak_bytes / 1e6
        content = (
            *(m.model, m.spec, cell.tower, cell.height, cell.width, cell.tokens, cell.batch, cell.precision),
            *(cell.compiled, m.status, *_ends(row.rate), len(m.repeats), *_ends(row.speed_up), row.verdict),
            *(row.calls, *latency, row.megabytes, peak, None if m.flops is None else m.flops / 1e9),
            *(row.gflops_per_second, row.share, m.num_parameters, m.load_s, m.first_call_s, m.implementation),
            *(row.noisy, m.reason),
            *(None if m.energy_j is None else m.energy_j / cell.batch, m.energy_note),
            *(m.largest_batch, m.largest_note, m.attention_kernels),
            *(None if n is None else n / 1e6 for n in (m.allocated_bytes, m.reserved_bytes, m.device_bytes)),
            *readings(m),
            m.beyond,
            *(told[name] for name in CONDITIONS),
        )
        writer.writerow([csv_cell("" if value is None else value) for value in content])
    return out.getvalue()


def _ends(estimate: Estimate | None) -> tuple[float | str, float | str, float | str]:
    if estimate is None:
        return "", "", ""
    return estimate.value, estimate.low, estimate.high


def cells_of(row: SpeedRow) -> list[str]:
    """Return what a table shows of a row, under `HEAD`."""
    m = row.measured
    if row.rate is None:
        return [row.cell.label, m.model, m.status.replace("_", " "), "", "", "", "", ""]
    speed = "" if row.speed_up is None else estimate_text(row.speed_up)
    pace = "" if row.gflops_per_second is None else f"{row.gflops_per_second:,.0f}"
    pace += "" if row.share is None else f" ({100 * row.share:.0f} %)"
    memory = "" if row.megabytes is None else f"{row.megabytes:,.0f}"
    latency = f"{1e3 * m.latency_s['p50']:.1f} / {1e3 * m.latency_s['p99']:.1f} ({row.calls:,})"
    rate = estimate_text(row.rate) + (BEYOND if m.beyond else "")
    return [row.cell.label, m.model, rate, speed, row.verdict, latency, memory, pace]


def estimate_text(estimate: Estimate) -> str:
    """Return a quantity with its 95 % interval."""
    value, low, high = (
        f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in (estimate.value, estimate.low, estimate.high)
    )
    return value if estimate.n < 2 else f"{value} ({low}–{high})"


def remarks(rows: Sequence[SpeedRow]) -> list[str]:
    """Return what a reader must know: what is lacking, what is noisy, how times grow."""
    said = []
    compared = {row.cell for row in rows if row.speed_up is not None}
    for row in rows:
        if row.rate is None:
            said.append(f"{row.measured.model}, {row.cell.label}: {row.measured.reason}")
        elif why := why_ambiguous(row):
            said.append(f"{row.measured.model}, {row.cell.label}: no verdict, {why}.")
        elif row.noisy and row.cell not in compared:
            said.append(f"{row.measured.model}, {row.cell.label}: the machine was too noisy: {row.noisy}.")
    return [
        *said,
        *_not_drawn(rows),
        *_beyond(rows),
        *watched(rows),
        *_attention(rows),
        *_largest(rows),
        *_energy(rows),
        *_growths(rows),
        *_apart(rows),
        *_published(rows),
    ]


def _apart(rows: Sequence[SpeedRow]) -> list[str]:
    """Return what parts lack, and whose call that was taken apart was none like the others."""
    said = []
    for row in rows:
        if row.measured.parts_note:
            said.append(
                f"{row.measured.model}, {row.cell.label}: parts: {row.measured.parts_note.rstrip('.')}."
            )
        usual, whole = row.measured.latency_s.get("p50"), sum(p.seconds for p in row.measured.parts)
        if usual and whole > (1 + UNUSUAL) * usual:
            said.append(
                f"{row.measured.model}, {row.cell.label}: the call whose parts are shown took "
                f"{whole / usual:.2f} times as long as the others."
            )
    return said


def _not_drawn(rows: Sequence[SpeedRow]) -> list[str]:
    models = {row.measured.model for row in rows}
    if len(models) <= MAX_MODELS:
        return []
    return [f"Plots show {MAX_MODELS} of {len(models)} models, the last among them."]


def _beyond(rows: Sequence[SpeedRow]) -> list[str]:
    """Return what the mark means, with the sizes that models were made for."""
    made = dict.fromkeys(
        f"{row.measured.model}: {row.measured.beyond}" for row in rows if row.measured.beyond
    )
    if not made:
        return []
    return [f"{BEYOND} For speed alone, beyond what the model was made for ({'; '.join(made)})."]


def _attention(rows: Sequence[SpeedRow]) -> list[str]:
    """Return which kernels attention ran as, of each model."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if kernels := row.measured.attention_kernels:
            found.setdefault(row.measured.model, {})[kernels] = None
    return [f"{model}: torch ran attention as {', '.join(kernels)}." for model, kernels in found.items()]


def _published(rows: Sequence[SpeedRow]) -> list[str]:
    """Return what others published of the same models in the same cells: of other hardware, and no rival."""
    found = [
        one.label
        for row in rows
        if row.rate is not None
        for one in tower_speeds(row.measured.spec.partition("=")[0], row.cell)
    ]
    return [f"Published: {label}." for label in dict.fromkeys(found)]


def _largest(rows: Sequence[SpeedRow]) -> list[str]:
    said = []
    for row in rows:
        m, cell = row.measured, row.cell
        if m.largest_note:
            found = f"was {m.largest_note}"
            if m.largest_batch is not None:
                found = f"is {m.largest_batch} ({m.largest_note})."
            what = f"{cell.tower} tower, {cell.shape}, {cell.precision}"
            said.append(f"{m.model}, {what}: the largest batch that fits {found}")
    return said


def _energy(rows: Sequence[SpeedRow]) -> list[str]:
    """Return the joules of each sample, and once why there are none."""
    said = [
        f"{row.measured.model}, {row.cell.label}: {row.measured.energy_j / row.cell.batch:.3g} J each "
        f"({row.measured.energy_note})."
        for row in rows
        if row.measured.energy_j is not None
    ]
    why = {row.measured.energy_note for row in rows if row.rate is not None and row.measured.energy_j is None}
    return said + [f"Energy: {note}." for note in sorted(why - {""})]


def _growths(rows: Sequence[SpeedRow]) -> list[str]:
    """Return exponents and crossovers of each tower, batch, precision and mode."""
    said = []
    models = list(dict.fromkeys(row.measured.model for row in rows))
    for tower, unit in (("image", "patches"), ("text", "tokens")):
        towers = [row for row in rows if row.cell.tower == tower]
        for batch, precision, compiled in dict.fromkeys(
            (row.cell.batch, row.cell.precision, row.cell.compiled) for row in towers
        ):
            own = [
                row
                for row in towers
                if (row.cell.batch, row.cell.precision, row.cell.compiled) == (batch, precision, compiled)
            ]
            where = f"{tower} tower, batch {batch}, {precision}{', compiled' if compiled else ''}"
            left = sum(bool(row.noisy) for row in own)
            noisy = f"; {left} noisy numbers left out" if left else ""
            for model in models:
                found = growth(own, model, models[-1])
                if (power := found.exponent) is not None:
                    said.append(
                        f"{model}, {where}: time grows as {unit} to the power {power.value:.2f} "
                        f"({power.low:.2f} to {power.high:.2f}){noisy}."
                    )
                for what, crossovers in (("fast", found.crossovers), ("small", found.memory_crossovers)):
                    said += [
                        f"{model}, {where}: as {what} as {models[-1]} at {crossover_text(one, tower)}{noisy}."
                        for one in crossovers
                    ]
    return said


def crossover_text(one: Crossover, tower: str) -> str:
    """Return a size with its 95 % interval: the side of a square image, or tokens."""
    ends = (one.size, one.low, one.high)
    size, low, high = (None if n is None else math.sqrt(n) if tower == "image" else n for n in ends)
    unit = "px" if tower == "image" else "tokens"
    return f"{size:.0f} {unit}" + (f" ({low:.0f} to {high:.0f})" if low is not None else "")


def efficiency_markdown(rows: Sequence[SpeedRow], info: RunInfo) -> str:
    """Return the table and remarks, with hardware and versions."""
    lines = [[escape_markdown(cell) for cell in cells_of(row)] for row in rows]
    notes = "\n".join(f"- {escape_markdown(text)}" for text in remarks(rows))
    parts = [[escape_markdown(cell) for cell in line] for line in part_rows(rows)]
    split = f"\n## Parts of a forward pass\n\n{grid(parts, PARTS_HEAD)}\n" if parts else ""
    where = escape_markdown(_where(info))
    return f"# Speed and memory\n\n{where}\n\n{grid(lines, HEAD)}\n\n{notes}\n{split}"


def _where(info: RunInfo) -> str:
    told = ", ".join(f"{name} {value}" for name, value in conditions(info).items() if value)
    return f"Measured on {told}. Command: {info.command}"


def efficiency_page(rows: Sequence[SpeedRow], info: RunInfo, plots: Sequence[Plot]) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = files("rwkvclip_eval.report.formats")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("efficiency.html.j2").read_text(encoding="utf-8"))
    return template.render(
        # The stylesheet is ours; everything else is escaped.
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        head=HEAD,
        rows=[cells_of(row) for row in rows],
        parts_head=PARTS_HEAD,
        parts=part_rows(rows),
        remarks=remarks(rows),
        where=_where(info),
        plots=plots,
        last=rows[-1].measured.model if rows else "",
        svg=lambda svg: base64.b64encode(themed(svg).encode()).decode(),
    )
