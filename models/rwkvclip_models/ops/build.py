"""Builds the compiled implementations from the shipped C++ and CUDA sources, just in time, with ninja.

The libraries have a plain C interface and know nothing of torch: no toolkit or ABI has to match it. A
finished library is moved into the cache in one step under a name that holds the hash of everything it depends
on, so an interrupted build leaves nothing that could be taken for one, and processes that start together
build once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rwkvclip_models.disk import file_digest, user_cache
from rwkvclip_models.files import expanded
from rwkvclip_models.ops.compilers import BuildError, cxx, host_flags, nvcc, output, version
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
CPU_TARGET = "RWKVCLIP_CPU_TARGET"
"""Environment variable: the processor to build for, as -march (-mcpu on ARM) names it: `x86-64-v3` for a
cluster of mixed machines that share a library; this machine's own by default."""
MIN_CAPABILITY = (8, 0)
"""Oldest GPU with the tensor core instructions of the CUDA sources."""

SOURCES = {
    "cpu": ("*_cpu.cpp", "cpu_abi.cpp", "*.h"),
    "cuda": ("*.cu", "*.cuh"),
    "scan_baseline": ("scan_baseline.cpp",),
}
"""What each library is made of; `scan_baseline` serves the benchmarks alone."""

_loaded: dict[str, ctypes.CDLL | BuildError] = {}
_loading = threading.Lock()


def library(name: str) -> ctypes.CDLL:
    """Return a library of `SOURCES`, built if the cache does not hold it; one attempt per process.

    Raises:
        BuildError: no compiler, too old a compiler, no place to build, or the compiler failed.
    """
    with _loading:
        if name not in _loaded:
            try:
                _loaded[name] = _load(name)
            except BuildError as error:
                _loaded[name] = error
        found = _loaded[name]
    if isinstance(found, BuildError):
        raise found
    return found


def built(name: str) -> str:
    """Return in words what a library is and by what it was built.

    Raises:
        BuildError: as `library`.
    """
    return f"{Path(library(name)._name).name}, built by {version(nvcc() if name == 'cuda' else cxx())}"


def cache_dir() -> Path:
    """Return where libraries are kept: `$RWKVCLIP_BUILD_DIR`, else a folder in the user's cache.

    Raises:
        BuildError: the user's home folder is asked for and unknown.
    """
    try:
        if own := os.environ.get("RWKVCLIP_BUILD_DIR"):
            return expanded(own)
        return user_cache("build")
    except RuntimeError as error:
        raise BuildError(
            f"No folder to build in: {error}", "Set RWKVCLIP_BUILD_DIR to a folder you can write to."
        ) from None


def _load(name: str) -> ctypes.CDLL:
    try:
        folder = resource_dir("cuda")
    except FileNotFoundError as error:
        raise BuildError(str(error), "Or use the torch implementation.") from None
    files = sorted({path for pattern in SOURCES[name] for path in folder.glob(pattern)})
    compiler = nvcc() if name == "cuda" else cxx()
    rule = _cuda_rule(compiler) if name == "cuda" else _cpu_rule()
    identity = _identity(compiler, rule, name)
    digest = hashlib.sha256(repr((identity, torch.__version__, rule)).encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache_dir() / f"rwkvclip_{name}-{digest.hexdigest()[:20]}.so"
    units = [path for path in files if path.suffix in {".cpp", ".cu"}]
    if _is_whole(target):
        with contextlib.suppress(OSError, AttributeError):
            return _open(target)
        # Whole, but not for this machine's loader; what a new build makes may be.
        with contextlib.suppress(OSError):
            _checksum(target).unlink(missing_ok=True)
    _build(target, compiler, rule, units)
    try:
        return _open(target)
    except (OSError, AttributeError) as error:
        raise BuildError(
            f"{target.name} was built but does not load: {error}.",
            "Set RWKVCLIP_BUILD_DIR to a folder whose files may be executed, or mend the compiler.",
        ) from None


def _open(target: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(target))
    loaded.rwkvclip_error.restype = ctypes.c_char_p
    return loaded


def _checksum(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _is_whole(target: Path) -> bool:
    """Return whether a library holds what was built: loading one cut short would kill the process."""
    try:
        return file_digest(target) == _checksum(target).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False  # not there, or in a folder that may not be entered; building there says so


def _cpu_rule() -> tuple[str, ...]:
    option = "-mcpu" if os.uname().machine in {"aarch64", "arm64"} else "-march"
    here = f"{option}={_cpu_target()}"
    # Apple's compiler has no OpenMP of its own; without it the library runs on one thread.
    threads = () if sys.platform == "darwin" else ("-fopenmp",)
    return (*CXX_FLAGS, here, *threads)


def _cpu_target() -> str:
    """Return what processor to build for: `$RWKVCLIP_CPU_TARGET`, else this machine's own.

    Raises:
        BuildError: it is no name of a processor.
    """
    target = os.environ.get(CPU_TARGET) or "native"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,60}", target):
        raise BuildError(
            f"{CPU_TARGET} is {target[:60]!r}, which is no name of a processor.",
            "Set it to one that the compiler knows, such as x86-64-v3, or unset it.",
        )
    return target


def _cuda_rule(compiler: Sequence[str]) -> tuple[str, ...]:
    here = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    chosen = [capability for capability in here or [MIN_CAPABILITY] if capability >= MIN_CAPABILITY]
    if not chosen:
        had, wanted = (".".join(map(str, x)) for x in (here[-1], MIN_CAPABILITY))
        raise BuildError(
            f"The GPU's compute capability is {had}, below {wanted}.", "Use 'triton' or a newer GPU."
        )
    targets = [f"-gencode=arch=compute_{a}{b},code=[sm_{a}{b},compute_{a}{b}]" for a, b in chosen]
    if here:
        known = output([*compiler, "--list-gpu-arch"]).split()
        if unknown := [f"{a}.{b}" for a, b in chosen if f"compute_{a}{b}" not in known]:
            raise BuildError(
                f"{compiler[0]} ({version(compiler)}) knows no GPU of compute capability "
                f"{', '.join(unknown)}, which this machine has.",
                "Install a newer CUDA toolkit and set CUDA_HOME to its folder; 'triton' needs none.",
            )
    return ("-std=c++17", "-O3", "-Xcompiler=-fPIC", *host_flags(), *targets)


def _identity(compiler: Sequence[str], rule: Sequence[str], name: str) -> str:
    """Return the compilers' versions and, for native code, what they take this processor for."""
    identity = output([*compiler, "--version"])
    if name != "cuda":
        native = [flag for flag in rule if flag.startswith("-m")]
        identity += output([*compiler, *native, "-dM", "-E", "-x", "c++", os.devnull])
    elif host_flags():
        identity += output([*cxx(), "--version"])
    return identity


def _ninja() -> str:
    with contextlib.suppress(ImportError):
        import ninja

        if (path := Path(ninja.BIN_DIR) / "ninja").exists():
            return str(path)
    if found := shutil.which("ninja"):
        return found
    raise BuildError("ninja is not installed.", "pip install ninja")


def _build(target: Path, compiler: Sequence[str], rule: Sequence[str], units: Sequence[Path]) -> None:
    ninja = _ninja()
    try:
        if target.parent.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(target):
            if _is_whole(target):
                return
            prefix = f".{target.stem}-"
            for stale in target.parent.glob(f"{prefix}*"):
                if stale.is_dir():
                    shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as scratch:
                _compile(Path(scratch), ninja, compiler, rule, units)
                made = Path(scratch) / "library.so"
                digest = file_digest(made)
                # Before the library: without it, or beside another, it says that one must be built.
                _checksum(made).write_text(digest, encoding="ascii")
                _checksum(made).replace(_checksum(target))
                made.replace(target)
    except OSError as error:
        raise BuildError(
            f"{target.parent} cannot be written ({error.strerror or error}).",
            "Set RWKVCLIP_BUILD_DIR to a folder you can write to.",
        ) from None


@contextlib.contextmanager
def _only_builder(target: Path) -> Iterator[None]:
    """Hold the lock of one library; the operating system releases it whatever becomes of the process."""
    import fcntl

    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(
    scratch: Path, ninja: str, compiler: Sequence[str], rule: Sequence[str], units: Sequence[Path]
) -> None:
    def escape(text: object) -> str:
        return re.sub(r"([$ :])", r"$\1", str(text))

    def shell(words: Sequence[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    objects = [f"{unit.stem}.o" for unit in units]
    lines = [
        f"compiler = {shell(compiler)}",
        f"flags = {shell(rule)}",
        "rule compile",
        "  command = $compiler $flags -c $in -o $out",
        "rule link",
        "  command = $compiler $flags -shared $in -o $out",
        *(f"build {out}: compile {escape(unit)}" for out, unit in zip(objects, units, strict=True)),
        f"build library.so: link {' '.join(objects)}",
        "",
    ]
    (scratch / "build.ninja").write_text("\n".join(lines), encoding="utf-8")
    command = [ninja, "-C", str(scratch)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        log = scratch.parent / f"{scratch.name.split('-')[0].lstrip('.')}.log"
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        noise = ("[", "FAILED", "ninja:", shlex.join(compiler))
        said = [line for line in done.stdout.splitlines() if not line.startswith(noise)]
        errors = [line for line in said if re.search(r"(error|fatal)\s*:", line, re.IGNORECASE)]
        first = next(iter((*errors, *said)), f"ninja's exit status is {done.returncode}.")
        raise BuildError(f"{' '.join(compiler)} failed: {first.strip()}", f"The whole output is in {log}.")
