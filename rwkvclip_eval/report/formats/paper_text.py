"""The numbers of the paper's tables as texts, which every form of them shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rwkvclip_eval.report.paper_rows import Difference

MINUS = "−"


def half_text(half: float | None, beside: str = "0.0") -> str:
    """Return a half width with the decimals of its number, never as 0; empty where there is none.

    Args:
        half: in the number's unit.
        beside: the number as shown.
    """
    if half is None:
        return ""
    mantissa, _, power = beside.partition("e")
    if power:
        return f"{half:.1e}"
    decimals = len(mantissa.partition(".")[2])
    return f"{max(half, 10.0**-decimals):.{decimals}f}"


def difference_text(difference: Difference) -> str:
    """Return a difference in points with its sign, `≈` before what is inside the noise."""
    size = f"{abs(difference.value):.1f}"
    sign = "±" if size == "0.0" else "+" if difference.value > 0 else MINUS
    return f"{'≈ ' if difference.noise else ''}{'~' if difference.about else ''}{sign}{size}"


def spread_text(difference: Difference) -> str:
    """Return the half width of a difference and, in brackets, what the set resolves; empty without them."""
    if difference.half is None or difference.resolved is None:
        return ""
    return f"±{half_text(difference.half)} ({half_text(difference.resolved)})"
