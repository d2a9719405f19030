"""What the doctor reports: a row per thing looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.environment import devices

if TYPE_CHECKING:
    from collections.abc import Sequence

Status = Literal["ok", "absent", "warning", "failed"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the diagnosis.

    Attributes:
        area: `versions`, `devices` or `operator`.
        name: what was looked at.
        status: `ok`; `absent`: not there and not needed for everything; `warning`: works, but slower than it
            could; `failed`: must be mended.
        detail: what was found.
        cure: what to do about it; empty when ok.
    """

    area: str
    name: str
    status: Status
    detail: str
    cure: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """The diagnosis.

    Attributes:
        checks: rows in the order of the examination.
    """

    checks: tuple[Check, ...]

    HEADERS = ("area", "name", "status", "detail", "cure")

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what is absent or slower does not count."""
        return all(check.status != "failed" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0, or 1 if a check failed."""
        return 0 if self.ok else 1

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return the table under `HEADERS`."""
        return [(c.area, c.name, c.status, c.detail, c.cure) for c in self.checks]


def judge(name: str, error: float, dtype: str, what: str = "output and gradients", value: str = "") -> Check:
    """Return the row for a measured relative error of `value`, or of all values; NaN fails."""
    from rwkvclip_models.ops.agreement import tolerance

    limit = tolerance(dtype, value)
    if error <= limit:
        detail = f"agrees with the reference: {what} in {dtype} within {error:.1e} (allowed {limit:.0e})"
        return Check(area="operator", name=name, status="ok", detail=detail)
    return Check(
        area="operator",
        name=name,
        status="failed",
        detail=f"differs from the reference: {what} in {dtype} by {error:.1e} (allowed {limit:.0e})",
        cure="do not use this implementation here; choose another by name and report this row",
    )


def devices_of(implementation: str) -> Sequence[str]:
    """Return the devices of this machine that an implementation is made for."""
    from rwkvclip_models import ops

    only = ops.devices_of(implementation)
    return [device for device in devices() if not only or device in only]
