"""`doctor --full`: every operator compared over shapes, dtypes and gradients, then timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rwkvclip_eval.doctor.checks import Check, DoctorReport
from rwkvclip_eval.doctor.diagnosis import diagnose

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = TypeVar("Row")


def full_check(out_dir: Path) -> DoctorReport:
    """Also compare every operator over shapes, dtypes and gradients, then time it, on every device here.

    Writes doctor.json and doctor.md (all cases, times, hardware and versions) into `out_dir`.

    Raises:
        OutputError: `out_dir` cannot be written.
    """
    # These import torch, which may be what is missing.
    from rwkvclip_eval.bench import operators, towers
    from rwkvclip_eval.doctor import comparison
    from rwkvclip_eval.doctor import report as written

    report = diagnose()
    if any(check.name == "torch" and check.status != "ok" for check in report.checks):
        return report
    # Written after each part: whatever ends the process later, what was found stays.
    written.write(out_dir, report)
    cases, lost = _all_of(comparison.compare_all(), "comparison of the operators")
    report = DoctorReport((*report.checks, *comparison.summarise(cases), *lost))
    times, lost = _all_of(operators.time_all(), "times of the operators")
    report = DoctorReport((*report.checks, *lost))
    written.write(out_dir, report, cases, times)
    of_towers, lost = _all_of(towers.time_towers(), "times of the towers")
    report = DoctorReport((*report.checks, *lost))
    written.write(out_dir, report, cases, times, of_towers)
    return report


def _all_of(rows: Iterable[Row], what: str) -> tuple[list[Row], list[Check]]:
    """Return the rows there are and, where they broke off, the check that says why."""
    found: list[Row] = []
    try:
        # One at a time: list(rows) would lose what came before an error.
        for row in rows:
            found.append(row)
    except Exception as error:  # runs unattended: one part's end must not be the others'
        detail = f"broke off after {len(found)} rows ({type(error).__name__}: {error})"
        cure = "mend what it names, then run again; the other parts are complete"
        return found, [Check(area="operator", name=what, status="failed", detail=detail, cure=cure)]
    return found, []
