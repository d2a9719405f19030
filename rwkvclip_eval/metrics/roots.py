"""Roots and quantiles of single numbers: importing scipy for them costs more than scoring a small run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TINY = 1e-300
_EPSILON = 1e-16
_MOST_TERMS = 10_000
_MOST_STEPS = 200
_NEAR = 1.0
"""Width from which on a root is sought by secants."""


def root(function: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-12) -> float:
    """Return where a continuous function crosses 0, by halving, then by the Illinois form of false position.

    A secant that does not halve the interval is followed by a halving: where the function is all but flat on
    one side, secants would stand still.

    Args:
        function: of opposite signs at both ends.
        low: lower end.
        high: upper end.
        tolerance: width of the interval that is left.
    """
    at_low, at_high, stays = function(low), function(high), ""
    slow = False
    for _ in range(_MOST_STEPS):
        if at_low == 0 or high - low <= tolerance:
            return low
        if at_high == 0:
            return high
        middle, width = (low + high) / 2, high - low
        if width < _NEAR and not slow:
            secant = high - at_high * (high - low) / (at_high - at_low)
            # Half a tolerance inside, so that both ends close in.
            middle = min(max(secant, low + tolerance / 2), high - tolerance / 2)
        found = function(middle)
        if (found > 0) == (at_high > 0):
            high, at_high = middle, found
            # An end that stays a second time counts half, or secants would close in from one side only.
            at_low /= 2 if stays == "low" else 1
            stays = "low"
        else:
            low, at_low = middle, found
            at_high /= 2 if stays == "high" else 1
            stays = "high"
        slow = not slow and high - low > width / 2
    return (low + high) / 2


def beta_quantile(a: float, b: float, share: float) -> float:
    """Return the value below which a share of the beta distribution of `a` and `b`, both above 0, lies.

    Newton's steps inside an interval that is halved where they leave it.
    """
    low, high, x = 0.0, 1.0, a / (a + b)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(_MOST_STEPS):
        excess = beta_share(a, b, x) - share
        low, high = (low, x) if excess > 0 else (x, high)
        density = math.exp(scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))
        step = excess / max(density, _TINY)
        after = x - step if low < x - step < high else (low + high) / 2
        if abs(after - x) <= _EPSILON * x or not low < after < high:
            return after
        x = after
    return x


def beta_share(a: float, b: float, x: float) -> float:
    """Return the share of the beta distribution of `a` and `b` that lies below `x`, between 0 and 1.

    The continued fraction of the incomplete beta function (NIST Handbook, 8.17.22), by Lentz's method.
    """
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) <= _EPSILON * 10:
            break
    return math.exp(log_front) * fraction / a


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
