"""Where to compute: a device that exists, and the cores this process may use. Importing it loads no torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rwkvclip_models.errors import UserError, near_matches

if TYPE_CHECKING:
    import torch

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device called `device`, known to be there.

    Raises:
        UserError: it is none of cpu, cuda, cuda:N and mps, or this machine or PyTorch build lacks it.
    """
    import torch

    kind = str(device).partition(":")[0]
    if kind not in _KINDS:
        hint = near_matches(kind, _KINDS)
        raise UserError(f"Unknown device {str(device)!r}.{hint} Known: {', '.join(_KINDS)}.")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"Device {str(device)!r} is not cpu, cuda, cuda:N or mps.") from error
    if kind == "cpu":
        _check_cpu(resolved)
    if kind == "cuda":
        if not torch.cuda.is_available():
            built = "finds no NVIDIA driver or GPU" if torch.version.cuda else "is a build without CUDA"
            raise UserError(f"Device {str(device)!r} asked for, but PyTorch {torch.__version__} {built}.")
        if (resolved.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"Device {str(device)!r} asked for, but there are {torch.cuda.device_count()} CUDA devices, "
                "counted from cuda:0."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("Device 'mps' asked for, but this is not a Mac with Metal or PyTorch lacks it.")
    return resolved


def _check_cpu(device: torch.device) -> None:
    # PyTorch takes any index for the one CPU.
    if device.index:
        raise UserError(f"Device {str(device)!r} asked for, but there is one CPU device: give cpu.")


def num_cores() -> int:
    """Return how many CPU cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """Return how many threads to compute with: as many as OMP_NUM_THREADS says, else one for each core.

    More threads than free cores wait for each other, so a job beside others needs to be told.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isascii() and asked.isdigit() and int(asked) else num_cores()
