"""Whether an implementation that is built computes well on this machine, found out in a process of its own.

A kernel that reads where it must not leaves its process' GPU context unusable, and the fallback with it; a
library with an instruction that this processor lacks ends its process. It is never this process that tries
first. Verdicts are kept beside the built libraries, one file each, named for all that could change them;
delete them to try again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from rwkvclip_models.disk import file_digest, write_text
from rwkvclip_models.errors import UserError, shortened
from rwkvclip_models.files import read_json
from rwkvclip_models.ops import build, compilers

TIMEOUT_S = 300.0
"""A trial takes seconds, and a minute where Triton compiles; longer than this, it hangs."""

HANG_KEPT_S = 86400.0
"""How long a trial that did not end counts: a machine under load is no verdict for good, and a hang none to
wait for in every process."""

FORMAT = 3
"""Of the files that keep verdicts; raised when a trial tries something else."""

_PASSING = (
    *("out of memory", "MemoryError", "allocate memory", "bad_alloc", "temporarily unavailable"),
    *("busy or unavailable", "No space left", "no process could be", "SIGKILL"),
)
"""Words of failures that say nothing of the implementation: the next process tries again."""
_HANG = "did not end within"
_TOOLS = {
    "cuda": "Bring driver, torch and compiler to versions that fit, then run again.",
    "cpu": "Set CXX to another compiler, then run again.",
}
"""Cures, by kind of device."""
_REPORT = "Report this; `rwkvclip-eval doctor --full` has the details."


def verdict(name: str, device: str) -> tuple[str, str]:
    """Return why an implementation that is built cannot be used, and what to do; empty if it computes well.

    Args:
        name: of the implementation.
        device: as torch names it, with its index.
    """
    place = where(name, device)
    kept = _kept_in(name, place)
    found = _read(kept)
    if found is None:
        found = _try(name, device, place)
        if not any(words in found[0] for words in _PASSING):
            # A folder that cannot be written costs the next process its own trial.
            expires = time.time() + HANG_KEPT_S if _HANG in found[0] else None
            with contextlib.suppress(UserError):
                write_text(kept, json.dumps({"reason": found[0], "cure": found[1], "expires": expires}))
    return found


def where(name: str, device: str) -> str:
    """Return what an implementation runs on and is compiled by, with the versions that must fit."""
    if not device.startswith("cuda"):
        return device
    if name == "cuda":
        compiler = compilers.version(compilers.nvcc())
    else:
        compiler = f"Triton {importlib.metadata.version('triton')}"
    return f"{torch.cuda.get_device_name(device)}, driver for CUDA {driver()}, {compiler}"


def driver() -> str:
    """Return the newest CUDA version that the driver knows."""
    found = ctypes.c_int()
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    return f"{found.value // 1000}.{found.value % 1000 // 10}" if found.value else "unknown"


def _kept_in(name: str, place: str) -> Path:
    """Return the file that keeps the verdict on these bytes of code, on this device, with these versions."""
    if name in build.SOURCES:
        # The library's name holds the hash of all it is made of.
        code = Path(build.library(name)._name).name
    else:
        sources = sorted(Path(__file__).parent.glob(f"{name}_*.py"))
        code = file_digest(*sources)
    said = repr((FORMAT, code, place, torch.__version__))
    return build.cache_dir() / f"trial_{name}-{hashlib.sha256(said.encode()).hexdigest()[:20]}.json"


def _read(path: Path) -> tuple[str, str] | None:
    try:
        found = read_json(path, what="verdict", limit=1 << 16)
    except UserError:
        return None
    if not isinstance(found, dict) or set(found) != {"reason", "cure", "expires"}:
        return None
    reason, cure, expires = found["reason"], found["cure"], found["expires"]
    if not isinstance(reason, str) or not isinstance(cure, str) or bool(reason) != bool(cure):
        return None
    counts = expires is None or (isinstance(expires, float) and time.time() < expires)
    return (reason, cure) if counts else None


def _try(name: str, device: str, place: str) -> tuple[str, str]:
    """Try an implementation in a new process, and return as `verdict` does."""
    tools = _TOOLS[device.partition(":")[0]]
    # Safe path: what lies in the current folder is not imported.
    paths = [path for path in sys.path if Path(path).is_absolute()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            [*_command(), name, device], env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its trial on {place} {_HANG} {TIMEOUT_S:.0f} s.", tools
    except OSError as error:
        return f"no process could be started to try it: {error}.", "Free memory or processes, then run again."
    if done.returncode < 0:
        return f"its trial on {place} was ended by {_signal(-done.returncode)}.", tools
    answer = _answer(done.stdout)
    if done.returncode or answer is None:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"its trial on {place} ended with exit code {done.returncode}: {shortened(said, 300)}", tools
    failed, wrong = answer
    if failed:
        return f"it does not run on {place}: {failed}", tools
    return (wrong, _REPORT) if wrong else ("", "")


def _answer(text: bytes) -> tuple[str, str] | None:
    """Return `error` and `wrong` of what `attempt` prints; None where it is not exactly that."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != {"error", "wrong"}:
        return None
    failed, wrong = found["error"], found["wrong"]
    return (failed, wrong) if isinstance(failed, str) and isinstance(wrong, str) else None


def _command() -> list[str]:
    # Inside another program, Python may not know its own command; an empty one cannot be started.
    return [sys.executable or "", "-P", "-m", "rwkvclip_models.ops.attempt"]


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
