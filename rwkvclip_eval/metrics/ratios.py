"""Ratios of times measured in turns, with intervals, and what may be said of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_REPEATS = 5
CONFIDENCE = 0.95

MARGINS = {"cpu": 0.05}
"""Kind of device → relative difference that counts as none, and the widest ± of a quiet machine's times."""
MARGIN = 0.03
"""On other devices."""

SpeedVerdict = Literal["FASTER", "SLOWER", "SAME", "AMBIGUOUS"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A positive quantity with its 95 % interval.

    Attributes:
        value: geometric mean over the repeats.
        low: lower end.
        high: upper end.
        n: repeats.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width on the logarithmic scale: 0.03 is about ±3 %."""
        return math.log(self.high / self.low) / 2 if self.low > 0 else math.inf


def margin_of(device: str) -> float:
    """Return the margin on a device, as torch names it: `cpu`, `cuda:1`."""
    return MARGINS.get(device.partition(":")[0], MARGIN)


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Return the geometric mean of repeats with its t interval on the logarithmic scale.

    Args:
        values: positive numbers, one a repeat; one alone has an interval from 0 to infinity.

    Raises:
        ValueError: there is none, or one is not positive.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.asarray(values, dtype=np.float64))
    if not len(logs) or not np.isfinite(logs).all():
        raise ValueError(f"expected positive numbers, got {list(values)}")
    mean, n = float(logs.mean()), len(logs)
    if n == 1:
        return Estimate(value=math.exp(mean), low=0.0, high=math.inf, n=1)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), n=n)


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Return the ratio of two models' times, repeat by repeat, so that what slows both falls out.

    Args:
        numerator: times of one, a repeat each.
        denominator: times of the other in the same repeats.

    Raises:
        ValueError: the lengths differ, there is none, or one is not positive.
    """
    return geometric_mean([a / b for a, b in zip(numerator, denominator, strict=True)])


def speed_verdict(speed_up: Estimate, *, margin: float, noisy: bool = False) -> SpeedVerdict:
    """Return what a ratio of times says of the one it is the speed-up of.

    SAME where the whole interval lies within the margin; FASTER and SLOWER where it lies on one side of 1;
    AMBIGUOUS elsewhere, with fewer repeats than five, and where the machine was too noisy: told so, or an
    interval wider than ± the margin.

    Args:
        speed_up: the other's time by this one's.
        margin: relative difference that counts as none, and the widest interval of a quiet machine.
        noisy: whether other load was seen.
    """
    if noisy or speed_up.n < LEAST_REPEATS or speed_up.half_width > math.log1p(margin):
        return "AMBIGUOUS"
    if speed_up.low >= 1 / (1 + margin) and speed_up.high <= 1 + margin:
        return "SAME"
    if speed_up.low > 1:
        return "FASTER"
    return "SLOWER" if speed_up.high < 1 else "AMBIGUOUS"
