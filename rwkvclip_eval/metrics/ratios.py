"""Ratios of times measured in turns, with intervals, and what may be said of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

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


class LogRatio(NamedTuple):
    """Logarithm of a ratio, with what its t interval is made of.

    Attributes:
        mean: estimate.
        error: its standard error.
        freedom: degrees of freedom; infinite where the error is 0.
    """

    mean: float
    error: float
    freedom: float

    @property
    def value(self) -> float:
        """The ratio."""
        return math.exp(self.mean)

    def ends(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return both ends of the ratio's interval."""
        from scipy.stats import t

        half = self.error * float(t.ppf((1 + confidence) / 2, self.freedom)) if self.error else 0.0
        return math.exp(self.mean - half), math.exp(self.mean + half)

    @property
    def p_below(self) -> float:
        """One-sided p that the ratio is below 1 by chance."""
        from scipy.stats import t

        if not self.error:
            return float(self.mean >= 0)
        return float(t.cdf(self.mean / self.error, self.freedom))

    @property
    def p_above(self) -> float:
        """One-sided p that the ratio is above 1 by chance."""
        return LogRatio(-self.mean, self.error, self.freedom).p_below


def unpaired_ratio(numerator: Estimate, denominator: Estimate) -> LogRatio:
    """Return the ratio of two quantities whose repeats have nothing to do with each other (Welch 1947).

    Args:
        numerator: of at least two repeats.
        denominator: of at least two repeats.

    Raises:
        ValueError: one has a single repeat.
    """
    if min(numerator.n, denominator.n) < 2:
        raise ValueError("expected at least two repeats of each")
    from scipy.stats import t

    squares = [
        (one.half_width / float(t.ppf((1 + CONFIDENCE) / 2, one.n - 1))) ** 2
        for one in (numerator, denominator)
    ]
    mean = math.log(numerator.value / denominator.value)
    return LogRatio(mean, math.sqrt(sum(squares)), _freedom(squares, (numerator.n - 1, denominator.n - 1)))


def mean_ratio(ratios: Sequence[LogRatio]) -> LogRatio:
    """Return the geometric mean of ratios that were measured apart.

    Args:
        ratios: at least one.
    """
    n = len(ratios)
    squares = [(one.error / n) ** 2 for one in ratios]
    freedom = _freedom(squares, [one.freedom for one in ratios])
    return LogRatio(sum(one.mean for one in ratios) / n, math.sqrt(sum(squares)), freedom)


def _freedom(squares: Sequence[float], each: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of squared errors (Satterthwaite 1946)."""
    below = sum(square**2 / freedom for square, freedom in zip(squares, each, strict=True))
    return sum(squares) ** 2 / below if below else math.inf


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
