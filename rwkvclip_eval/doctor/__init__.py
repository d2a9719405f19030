"""Checks this machine: versions, devices, operator implementations and whether they agree."""

from __future__ import annotations

from typing import Any

from rwkvclip_eval.doctor.checks import Check, DoctorReport
from rwkvclip_eval.doctor.diagnosis import diagnose
from rwkvclip_eval.doctor.full import full_check
from rwkvclip_eval.moved import elsewhere

__all__ = ["Check", "DoctorReport", "diagnose", "full_check"]


def __getattr__(name: str) -> Any:
    return elsewhere(__name__, name)
