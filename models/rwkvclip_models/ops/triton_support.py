"""Whether the Triton kernels can run here, and on which device; imports neither Triton nor the kernels."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

MINIMUM_VERSION = (3, 6)
"""Oldest Triton the kernels are tested with, that of PyTorch 2.11."""

MINIMUM_CAPABILITY = (7, 5)
"""Oldest GPU Triton compiles the kernels for (Turing, where they use no tensor cores)."""


def status() -> tuple[bool, str, str]:
    """Return whether the Triton kernels can run here, why not, and what to do; the texts empty if so."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False, "Triton is not installed", "pip install triton (PyTorch for CUDA on Linux brings it)"
    minimum = ".".join(map(str, MINIMUM_VERSION))
    if tuple(int(x) for x in version.split(".")[:2]) < MINIMUM_VERSION:
        return False, f"Triton {version} is older than {minimum}", f"pip install 'triton>={minimum}'"
    if torch.version.hip is not None or not torch.cuda.is_available():
        return (
            False,
            "PyTorch sees no NVIDIA GPU",
            "run on a machine with an NVIDIA GPU, its driver and PyTorch for CUDA",
        )
    capability = torch.cuda.get_device_capability()
    if capability < MINIMUM_CAPABILITY:
        had, wanted = (".".join(map(str, x)) for x in (capability, MINIMUM_CAPABILITY))
        return False, f"the GPU's compute capability is {had}, below {wanted}", "use a newer GPU"
    # Triton compiles a small C module against Python the first time it launches a kernel.
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang"))):
        return False, "Triton finds no C compiler", "install gcc or clang, or name one in CC"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return False, "Triton needs Python.h", "install Python's headers (Debian: python3-dev)"
    return True, "", ""


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return what makes the device of `x` current; on the CPU Triton's interpreter runs the kernels."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
