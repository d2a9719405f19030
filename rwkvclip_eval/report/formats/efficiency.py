"""Measurements of speed as CSV, Markdown and a page of their own."""

from __future__ import annotations

import base64
import csv
import io
from importlib.resources import files
from typing import TYPE_CHECKING

from rwkvclip_eval.printable import csv_cell
from rwkvclip_eval.records.conditions import CONDITIONS, conditions
from rwkvclip_eval.records.published_speed import tower_speeds
from rwkvclip_eval.report.efficiency import growth, why_ambiguous
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid
from rwkvclip_eval.report.formats.parts import HEAD as PARTS_HEAD
from rwkvclip_eval.report.formats.parts import part_rows
from rwkvclip_eval.report.formats.readings import readings, watched
from rwkvclip_eval.report.plots.drawing import themed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.metrics.ratios import Estimate
    from rwkvclip_eval.records.schema import RunInfo
    from rwkvclip_eval.report.efficiency import SpeedRow
    from rwkvclip_eval.report.plots.drawing import Plot

HEAD = (
    "cell",
    "model",
    "per second",
    "times as fast",
    "verdict",
    "p50 / p99, ms",
    "memory, MB",
    "of ceiling",
)
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
    *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "memory_beyond_model_mb", "peak_process_mb", "gflop_per_call"),
    *("share_of_ceiling", "parameters", "load_s", "first_call_s", "implementation", "noisy", "reason"),
    *("joules_per_sample", "energy_note", "largest_batch", "largest_batch_note"),
    *("attention_kernels", "process_device_mb", "clock_mhz", "power_w", "temperature_c", "held_back"),
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
            *(*latency, row.megabytes, peak, None if m.flops is None else m.flops / 1e9, row.share),
            *(m.num_parameters, m.load_s, m.first_call_s, m.implementation, row.noisy, m.reason),
            *(None if m.energy_j is None else m.energy_j / cell.batch, m.energy_note),
            *(m.largest_batch, m.largest_note, m.attention_kernels),
            *(None if m.device_bytes is None else m.device_bytes / 1e6, *readings(m)),
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
    share = "" if row.share is None else f"{100 * row.share:.0f} %"
    memory = "" if row.megabytes is None else f"{row.megabytes:,.0f}"
    latency = f"{1e3 * m.latency_s['p50']:.1f} / {1e3 * m.latency_s['p99']:.1f}"
    return [row.cell.label, m.model, estimate_text(row.rate), speed, row.verdict, latency, memory, share]


def estimate_text(estimate: Estimate) -> str:
    """Return a quantity with its 95 % interval."""
    value, low, high = (
        f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in (estimate.value, estimate.low, estimate.high)
    )
    return value if estimate.n < 2 else f"{value} ({low}–{high})"


def remarks(rows: Sequence[SpeedRow], device: str) -> list[str]:
    """Return what a reader must know: what is lacking, what is noisy, how times grow."""
    said = []
    for row in rows:
        if row.rate is None:
            said.append(f"{row.measured.model}, {row.cell.label}: {row.measured.reason}")
        elif why := why_ambiguous(row, device):
            said.append(f"{row.measured.model}, {row.cell.label}: no verdict, {why}.")
    return [
        *said,
        *watched(rows),
        *_attention(rows),
        *_largest(rows),
        *_energy(rows),
        *_growths(rows),
        *_published(rows),
    ]


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
    said = []
    models = list(dict.fromkeys(row.measured.model for row in rows))
    for tower, unit in (("image", "patches"), ("text", "tokens")):
        keys = dict.fromkeys(
            (r.cell.batch, r.cell.precision, r.cell.compiled) for r in rows if r.cell.tower == tower
        )
        for key in keys:
            own = [
                r
                for r in rows
                if r.cell.tower == tower and (r.cell.batch, r.cell.precision, r.cell.compiled) == key
            ]
            for model in models:
                found = growth(own, model, models[-1]).exponent
                if found is not None:
                    said.append(
                        f"{model}, {tower} tower, batch {key[0]}, {key[1]}: time grows as {unit} to the "
                        f"power {found.value:.2f} ({found.low:.2f} to {found.high:.2f})."
                    )
    return said


def efficiency_markdown(rows: Sequence[SpeedRow], info: RunInfo, device: str) -> str:
    """Return the table and remarks, with hardware and versions."""
    lines = [[escape_markdown(cell) for cell in cells_of(row)] for row in rows]
    notes = "\n".join(f"- {escape_markdown(text)}" for text in remarks(rows, device))
    parts = [[escape_markdown(cell) for cell in line] for line in part_rows(rows)]
    split = f"\n## Parts of a forward pass\n\n{grid(parts, PARTS_HEAD)}\n" if parts else ""
    where = escape_markdown(_where(info))
    return f"# Speed and memory\n\n{where}\n\n{grid(lines, HEAD)}\n\n{notes}\n{split}"


def _where(info: RunInfo) -> str:
    told = ", ".join(f"{name} {value}" for name, value in conditions(info).items() if value)
    return f"Measured on {told}. Command: {info.command}"


def efficiency_page(rows: Sequence[SpeedRow], info: RunInfo, device: str, plots: Sequence[Plot]) -> str:
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
        remarks=remarks(rows, device),
        where=_where(info),
        plots=plots,
        last=rows[-1].measured.model if rows else "",
        svg=lambda svg: base64.b64encode(themed(svg).encode()).decode(),
    )
