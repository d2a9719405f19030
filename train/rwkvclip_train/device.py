"""Where to compute: a device that exists, and as many threads as this process may use."""

from __future__ import annotations

import os

import torch

from rwkvclip_eval.errors import UserError


def open_device(name: str) -> torch.device:
    """Return the device called `name`.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The device {name!r} cannot be used: {reason} Expected cpu, cuda, cuda:N or mps of this machine."
        ) from error
    return device


def available_cores() -> int:
    """Return how many CPU cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
