"""Checks this machine: versions, devices, operator implementations and whether they agree."""

from rwkvclip_eval.doctor.checks import Check, DoctorReport
from rwkvclip_eval.doctor.diagnosis import diagnose
from rwkvclip_eval.doctor.full import full_check
from rwkvclip_models.moved import forward

__all__ = ["Check", "DoctorReport", "diagnose", "full_check"]

forward(__name__)
