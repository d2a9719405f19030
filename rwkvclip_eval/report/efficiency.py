"""What measurements of speed say: rates, ratios with their verdicts, crossovers, how time grows. No torch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.metrics.ratios import (
    LEAST_REPEATS,
    MARGIN,
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
        watched: what told of clock, power and heat, or why nothing did.
        share: of the device's ceiling that the FLOPs a second are; None where unknown.
    """

    cell: Cell
    measured: Measured
    rate: Estimate | None
    speed_up: Estimate | None
    verdict: str
    noisy: str
    watched: str
    share: float | None

    @property
    def megabytes(self) -> float | None:
        """Most memory beyond the loaded model: on a GPU torch's, on a CPU the process'."""
        m = self.measured
        if m.allocated_bytes is not None:
            return m.allocated_bytes / 1e6
        if m.peak_bytes is None or m.baseline_bytes is None:
            return None
        return max(0, m.peak_bytes - m.baseline_bytes) / 1e6


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a model's time grows with the tokens of an input.

    Attributes:
        exponent: of time against tokens: 1 is linear, 2 quadratic, 0 a constant.
        crossovers: tokens or px at which it becomes as fast as the last model, between two measured sizes.
    """

    exponent: Estimate | None
    crossovers: Sequence[float]


def speed_rows(blocks: Sequence[Block]) -> list[SpeedRow]:
    """Return a row per cell and model."""
    rows = []
    for block in blocks:
        last = block.models[-1]
        for measured in block.models:
            rate = speed_up = None
            verdict, share = "", None
            if measured.status == "ok" and measured.repeats:
                rate = geometric_mean([block.cell.batch / s for s in measured.seconds])
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
                    watched=block.watched,
                    share=share,
                )
            )
    return rows


def why_ambiguous(row: SpeedRow, device: str) -> str:
    """Return why there is no verdict on a ratio, in words; empty where there is one."""
    if row.verdict != "AMBIGUOUS" or row.speed_up is None:
        return ""
    if row.noisy:
        return f"the machine was too noisy: {row.noisy}"
    if row.speed_up.n < LEAST_REPEATS:
        return f"{row.speed_up.n} repeats; a verdict needs {LEAST_REPEATS}"
    if row.speed_up.half_width > math.log1p(margin_of(device)):
        return "the machine was too noisy: the interval is wide"
    return "the interval holds 1 and reaches beyond the margin"


def length_of(cell: Cell) -> int:
    """Return what a cell's input grows in: pixels of an image, tokens of a text."""
    return cell.height * cell.width or cell.tokens


def growth(rows: Sequence[SpeedRow], model: str, other: str) -> Growth:
    """Return how time grows over the rows of one tower, batch and precision, which differ in size alone.

    The exponent is the slope of a straight line through log time against log size, fitted in each repeat,
    with the t interval over repeats. A crossover is where the ratio of times, straight between two sizes on
    logarithmic axes, is 1; sizes at which the two differ by less than 3 % decide nothing.

    Args:
        rows: of all models.
        model: whose.
        other: what it is beside.
    """
    of = {
        name: sorted(
            (r for r in rows if r.measured.model == name and r.rate is not None),
            key=lambda r: length_of(r.cell),
        )
        for name in (model, other)
    }
    own = of[model]
    exponent = None
    repeats = min((len(r.measured.repeats) for r in own), default=0)
    if len(own) >= 3 and repeats >= 2:
        x = np.log([length_of(r.cell) for r in own])
        slopes = [
            float(np.polyfit(x, np.log([r.measured.seconds[i] for r in own]), 1)[0]) for i in range(repeats)
        ]
        from scipy.stats import t

        half = float(t.ppf(0.975, repeats - 1)) * float(np.std(slopes, ddof=1)) / math.sqrt(repeats)
        mean = float(np.mean(slopes))
        exponent = Estimate(value=mean, low=mean - half, high=mean + half, n=repeats)
    times = {length_of(r.cell): r.cell.batch / r.rate.value for r in of[other] if r.rate}
    points = [
        (math.log(length_of(r.cell)), math.log(r.cell.batch / r.rate.value / times[length_of(r.cell)]))
        for r in own
        if r.rate and length_of(r.cell) in times
    ]
    # The lines of two equal models would cross at every size.
    points = [point for point in points if abs(point[1]) > math.log1p(MARGIN)]
    found = [
        math.exp(x0 - y0 * (x1 - x0) / (y1 - y0))
        for (x0, y0), (x1, y1) in itertools.pairwise(points)
        if y0 * y1 < 0
    ]
    return Growth(exponent=exponent, crossovers=found)
