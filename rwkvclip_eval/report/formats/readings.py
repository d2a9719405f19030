"""What a measured device's sensors said, in words."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.records.efficiency import Measured
    from rwkvclip_eval.report.efficiency import SpeedRow

UNITS = {"clock_mhz": ("clock", "MHz"), "power_w": ("power", "W"), "temperature_c": ("temperature", "°C")}


def readings(measured: Measured) -> tuple[float | None, float | None, float | None, str | None]:
    """Return the median clock (MHz) and power (W), the highest temperature (°C), and what held it back.

    None is what the system did not tell.
    """
    clocks, powers, temperatures = (_told(measured, name) for name in UNITS)
    held = [repeat.held_back for repeat in measured.repeats if repeat.held_back is not None]
    return (
        statistics.median(clocks) if clocks else None,
        statistics.median(powers) if powers else None,
        max(temperatures, default=None),
        ", ".join(_reasons(held)) if held else None,
    )


def _told(measured: Measured, name: str) -> list[float]:
    return [value for repeat in measured.repeats if (value := getattr(repeat, name)) is not None]


def _reasons(held: Sequence[str]) -> list[str]:
    """Return each of the reasons that repeats name."""
    return list(dict.fromkeys(reason for one in held for reason in one.split(", ") if reason))


def watched(rows: Sequence[SpeedRow]) -> list[str]:
    """Return the ranges of clock, power and temperature over all repeats, and what held the device back."""
    said = []
    for name, (title, unit) in UNITS.items():
        if found := [value for row in rows for value in _told(row.measured, name)]:
            said.append(f"{title} {min(found):,.0f} to {max(found):,.0f} {unit}")
    held = [r.held_back for row in rows for r in row.measured.repeats if r.held_back is not None]
    for reason in _reasons(held):
        said.append(f"held back by {reason} in {sum(reason in h for h in held)} of {len(held)} repeats")
    if held and not any(held):
        said.append(f"held back by nothing in {len(held)} repeats")
    sources = dict.fromkeys(row.watched for row in rows if row.watched)
    return [f"Watched: {'; '.join(sources)}{': ' if said else ''}{', '.join(said)}."] if sources else []
