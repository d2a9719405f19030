"""The C++ and CUDA compilers of this machine: found, tried, and new enough."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_GCC, MIN_CLANG, MIN_NVCC = 9, 11, 12
CUDA_FOLDER = "/usr/local/cuda"
"""Where toolkits are installed if neither CUDA_HOME nor PATH says."""


class BuildError(RuntimeError):
    """A library that cannot be built or loaded here.

    Attributes:
        reason: why.
        cure: what to do about it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason} {cure}")
        self.reason, self.cure = reason, cure


def cxx() -> tuple[str, ...]:
    """Return the command of the C++ compiler: `$CXX` with its arguments, else the first on PATH.

    Raises:
        BuildError: there is none, it does not run, or it is too old.
    """
    if sys.platform == "win32":
        raise BuildError("The CPU library needs GCC or Clang.", "Use the torch implementation on Windows.")
    wanted = [_words(os.environ["CXX"])] if os.environ.get("CXX") else [["c++"], ["g++"], ["clang++"]]
    found = next(((path, *rest) for name, *rest in wanted if (path := shutil.which(name))), None)
    if found is None:
        raise BuildError(
            f"No C++ compiler found ({', '.join(name for name, *_ in wanted)}).",
            f"Install GCC ≥ {MIN_GCC} or Clang ≥ {MIN_CLANG} (Debian: apt install g++), or set CXX.",
        )
    text = output([*found, "--version"])
    version = re.search(r"(\d+)\.\d+", text)
    least = MIN_CLANG if "clang" in text else MIN_GCC
    if version and int(version[1]) < least:
        raise BuildError(
            f"{' '.join(found)} is too old: {text.splitlines()[0]!r}.",
            f"Install GCC ≥ {MIN_GCC} or Clang ≥ {MIN_CLANG} and set CXX to it.",
        )
    return found


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BuildError(f"CXX={command!r} is no command: {error}.", "Mend its quotes.") from None
    if not words:
        raise BuildError(f"CXX={command!r} names no compiler.", "Set it to one, or unset it.")
    return words


def nvcc() -> tuple[str, ...]:
    """Return the command of the CUDA compiler: of `$CUDA_HOME`, else the one that PATH leads to.

    One that does not run or is too old is passed over.

    Raises:
        BuildError: there is none that runs and is new enough.
    """
    home = os.environ.get("CUDA_HOME")
    refused = []
    for folder in (f"{home}/bin" if home else None, os.environ.get("PATH"), f"{home or CUDA_FOLDER}/bin"):
        found = shutil.which("nvcc", path=folder) if folder else None
        if found is not None:
            try:
                return (_new_enough(_behind(found)),)
            except BuildError as error:
                refused.append(error)
    if refused:
        raise BuildError(" ".join(dict.fromkeys(error.reason for error in refused)), refused[0].cure)
    raise BuildError(
        "No CUDA compiler (nvcc) found.",
        "Install the CUDA toolkit and put nvcc on PATH or set CUDA_HOME; 'triton' needs none.",
    )


def _behind(found: str) -> str:
    """Return the compiler that `found` starts, which may be a script in another folder."""
    said = _run([found, "--dryrun", "-E", "-x", "cu", os.devnull]).stderr
    folder = re.search(r"_HERE_=(.+)", said)
    real = Path(folder[1].strip()) / "nvcc" if folder else Path(found)
    return str(real) if real.is_file() else found


def _new_enough(found: str) -> str:
    version = re.search(r"release (\d+)\.", output([found, "--version"]))
    if version and int(version[1]) < MIN_NVCC:
        raise BuildError(
            f"{found} is CUDA {version[1]}; at least {MIN_NVCC} is needed.",
            "Install a newer CUDA toolkit and set CUDA_HOME to its folder.",
        )
    return found


def host_flags() -> tuple[str, ...]:
    """Return the flags by which nvcc compiles host code as `$CXX` says; none where that is not set."""
    if not os.environ.get("CXX"):
        return ()
    words = cxx()
    # What stands before the compiler, such as ccache, is not for nvcc.
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    compiler = shutil.which(words[count - 1]) or words[count - 1]
    return (f"-ccbin={compiler}", *(f"-Xcompiler={flag}" for flag in words[count:]))


def version(command: Sequence[str]) -> str:
    """Return the line in which a compiler tells its name and version.

    Raises:
        BuildError: it does not run, or fails.
    """
    lines = output([*command, "--version"]).splitlines() or [""]
    return next((line for line in lines if "release" in line), lines[0])


def output(command: Sequence[str]) -> str:
    """Return what a compiler writes to its standard output.

    Raises:
        BuildError: it does not run, or fails.
    """
    done = _run(command)
    if done.returncode:
        first = next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
        raise BuildError(f"{command[0]} does not run: {first}.", "Mend or replace the compiler.")
    return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run: {error}.", "Mend or replace the compiler.") from None
