"""What measurements of speed say: rates, and ratios with their verdicts. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.metrics.ratios import (
    LEAST_REPEATS,
    Estimate,
    geometric_mean,
    margin_of,
    paired_ratio,
    speed_verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.records.efficiency import Block, Cell, Measured


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One model in one cell, beside the last model of the run.

    Attributes:
        cell: what was measured.
        measured: what the model did.
        rate: images, texts or pairs a second; None where it has no number.
        speed_up: the last model's time by this one's; None for the last model and where either lacks.
        verdict: FASTER, SLOWER, SAME or AMBIGUOUS; empty without a ratio.
        noisy: why the times are not to be trusted; empty where they are.
        margin: relative difference that is of no consequence on the device.
        watched: what told of clock, power and heat, or why nothing did.
        share: of the device's ceiling that the FLOPs a second are; None where unknown.
    """

    cell: Cell
    measured: Measured
    rate: Estimate | None
    speed_up: Estimate | None
    verdict: str
    noisy: str
    margin: float
    watched: str
    share: float | None

    @property
    def calls(self) -> int:
        """How many calls its latencies are of."""
        return sum(repeat.calls for repeat in self.measured.repeats)

    @property
    def gflops_per_second(self) -> float | None:
        """FLOPs that it does in a second, in 10⁹; None where they were not counted."""
        if self.rate is None or self.measured.flops is None:
            return None
        return self.measured.flops * self.rate.value / self.cell.batch / 1e9

    @property
    def megabytes(self) -> float | None:
        """Most memory beyond the loaded model: on a GPU torch's, on a CPU the process'."""
        m = self.measured
        if m.allocated_bytes is not None:
            return max(0, m.allocated_bytes - (m.loaded_bytes or 0)) / 1e6
        if m.peak_bytes is None or m.baseline_bytes is None:
            return None
        return max(0, m.peak_bytes - m.baseline_bytes) / 1e6


def speed_rows(blocks: Sequence[Block]) -> list[SpeedRow]:
    """Return a row per cell and model."""
    rows = []
    for block in blocks:
        last = block.models[-1]
        for measured in block.models:
            rate = speed_up = None
            verdict, share = "", None
            if measured.status == "ok" and measured.repeats:
                rate = geometric_mean(measured.rates(block.cell))
                if block.ceiling_flops and measured.flops is not None:
                    share = measured.flops * rate.value / block.cell.batch / block.ceiling_flops
                if (
                    measured is not last
                    and last.status == "ok"
                    and len(last.repeats) == len(measured.repeats)
                ):
                    speed_up = paired_ratio(last.seconds, measured.seconds)
                    verdict = speed_verdict(speed_up, margin=margin_of(block.device), noisy=bool(block.noisy))
            rows.append(
                SpeedRow(
                    cell=block.cell,
                    measured=measured,
                    rate=rate,
                    speed_up=speed_up,
                    verdict=verdict,
                    noisy=block.noisy,
                    margin=margin_of(block.device),
                    watched=block.watched,
                    share=share,
                )
            )
    return rows


def why_ambiguous(row: SpeedRow) -> str:
    """Return why there is no verdict on a ratio, in words; empty where there is one."""
    if row.verdict != "AMBIGUOUS" or row.speed_up is None:
        return ""
    if row.noisy:
        return f"the machine was too noisy: {row.noisy}"
    if row.speed_up.n < LEAST_REPEATS:
        return f"{row.speed_up.n} repeats; a verdict needs {LEAST_REPEATS}"
    if row.speed_up.half_width > math.log1p(row.margin):
        return "the machine was too noisy: the interval is wide"
    return "the interval holds 1 and reaches beyond the margin"
