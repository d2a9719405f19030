"""What a result was computed with: versions, hardware, commit. Names no folder, host or user of the machine.

Works without torch: what only torch can tell is then absent.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from rwkvclip_models.device import num_cores

PACKAGES = (
    "rwkvclip-eval",
    "torch",
    "torchvision",
    "numpy",
    "triton",
    "ninja",
    "open_clip_torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "clip-benchmark",
    "mteb",
    "datasets",
    "webdataset",
    "scikit-learn",
    "scipy",
    "pandas",
    "pyarrow",
    "pillow",
    "flash-linear-attention",
)
"""Distributions whose version can move a number or a time, or that a part of the suite cannot do without."""


def environment() -> dict[str, Any]:
    """Return a JSON-ready description of the software and hardware this process runs on.

    Keys: `python`, `platform`, `packages` (name → version, None where not installed), `cpu` (`model`,
    `num_cores` usable by this process, `num_threads` of torch), `memory_bytes`, `gpus` (`name`,
    `memory_bytes`, `compute_capability` of each visible one), `cuda` (torch's build), `cudnn`,
    `nvidia_driver`, `git` (`commit`, `clean`; None outside a checkout).
    """
    from rwkvclip_eval.version import __version__

    packages = {name: version(name) for name in PACKAGES}
    packages["rwkvclip-eval"] = __version__
    torch_facts = _torch_facts()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "cpu": {
            "model": _cpu_model(),
            "num_cores": num_cores(),
            "num_threads": torch_facts.pop("num_threads"),
        },
        "memory_bytes": _memory_bytes(),
        "nvidia_driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "git": git_state(Path(__file__).resolve().parent),
        **torch_facts,
    }


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout that tracks the files of `folder` and whether its tree is clean.

    None where no checkout does: an installed package, even one that lies inside another project's checkout.
    """
    git = ("git", "-C", str(folder))
    if not _output(*git, "ls-files", "--", "."):
        return None
    commit = _first_line(*git, "rev-parse", "HEAD")
    changes = _output(*git, "status", "--porcelain")
    return None if commit is None or changes is None else {"commit": commit, "clean": not changes.strip()}


def _torch_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {"num_threads": None, "gpus": [], "cuda": None, "cudnn": None}
    try:
        import torch
    except (ImportError, OSError):  # OSError: a shared library of a broken installation
        return facts
    facts |= {"num_threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # untyped in torch
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            facts["gpus"].append(
                {
                    "name": gpu.name,
                    "memory_bytes": gpu.total_memory,
                    "compute_capability": f"{gpu.major}.{gpu.minor}",
                }
            )
    return facts


def _cpu_model() -> str:
    """Return the processor's marketing name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    name = _first_line("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else None
    return name or platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _output(*command: str) -> str | None:
    """Return what a command prints, None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _first_line(*command: str) -> str | None:
    lines = (_output(*command) or "").splitlines()
    return lines[0].strip() if lines else None


def devices() -> list[str]:
    """Return the kinds of device torch can use on this machine: `cpu`, then `cuda` or `mps`."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
