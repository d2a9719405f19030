"""Says whether this installation can do its work: versions, devices, operators that compute what they should.

Needs torch, numpy and the command line's library; anything else that is missing is a row, not a crash.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from typing import TYPE_CHECKING

from rwkvclip_eval.doctor.checks import Check, DoctorReport, Status, devices_of, judge
from rwkvclip_eval.environment import PACKAGES, devices, environment, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GIB = 1 << 30


def diagnose() -> DoctorReport:
    """Look at versions, devices and operator implementations; takes seconds."""
    return DoctorReport((*_versions(), *_compilers(), *_devices(), *_operators()))


def _versions() -> Iterator[Check]:
    """Yield a row per distribution: installed, in the range this package declares, importable."""
    yield Check(area="versions", name="python", status="ok", detail=sys.version.split()[0])
    ranges = _declared_ranges()
    for name in PACKAGES:
        if name == "rwkvclip-eval":
            yield _own_version()
            continue
        found, wanted = version(name), _range_of(name, ranges)
        cure = f"pip install '{name}{wanted}'"
        needed = name in {"torch", "numpy"}
        if found is None:
            status: Status = "failed" if needed else "absent"
            yield Check(area="versions", name=name, status=status, detail="not installed", cure=cure)
        elif not _satisfies(found, wanted):
            detail = f"{found}; {wanted} is needed"
            yield Check(area="versions", name=name, status="failed", detail=detail, cure=cure)
        elif error := _import_error(name):
            yield Check(area="versions", name=name, status="failed", detail=f"{found}: {error}", cure=cure)
        else:
            yield Check(area="versions", name=name, status="ok", detail=found)


def _compilers() -> Iterator[Check]:
    """Yield a row per compiler of operators: which one is taken, or why none."""
    try:
        from rwkvclip_models.ops import compilers
    except (ImportError, OSError):  # torch is broken, which has its own row
        return
    for name, find in (("C++ compiler", compilers.cxx), ("nvcc", compilers.nvcc)):
        status, detail, cure = _compiler(find)
        yield Check(area="versions", name=name, status=status, detail=detail, cure=cure)


def _compiler(find: Callable[[], Sequence[str]]) -> tuple[Status, str, str]:
    """Return status, version or why there is none, and cure."""
    from rwkvclip_models.ops import compilers

    try:
        return "ok", compilers.version(find()), ""
    except compilers.BuildError as error:
        return "absent", error.reason, error.cure


def _own_version() -> Check:
    from rwkvclip_eval.version import __version__

    installed = version("rwkvclip-eval")
    detail = __version__ if installed else f"{__version__}, run from its sources without being installed"
    return Check(area="versions", name="rwkvclip-eval", status="ok", detail=detail)


def _import_error(name: str) -> str:
    """Return why a compiled package does not import, which a version number cannot tell; empty if it does."""
    # torchvision built for another torch is the usual break; the others take seconds to import.
    if name not in {"torch", "torchvision", "numpy"}:
        return ""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken build raises anything
        return f"cannot be imported ({type(error).__name__}: {error})"
    return ""


def _range_of(name: str, ranges: Mapping[str, str]) -> str:
    if not ranges:
        return ""
    from packaging.utils import canonicalize_name

    return ranges.get(canonicalize_name(name), "")


def _declared_ranges() -> dict[str, str]:
    """Return distribution → version range that the installed package declares; empty from bare sources."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        return {}
    try:
        declared = importlib.metadata.requires("rwkvclip-eval") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {
        canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, declared) if r.marker is None
    }


def _satisfies(found: str, wanted: str) -> bool:
    if not wanted:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(found, prereleases=True)


def _devices() -> Iterator[Check]:
    """Yield a row for the processor and each accelerator, each shown to multiply two matrices."""
    facts = environment()
    cpu, memory = facts["cpu"], facts["memory_bytes"]
    detail = f"{cpu['model']}, {cpu['num_cores']} cores" + (f", {memory / GIB:.0f} GiB" if memory else "")
    yield Check(area="devices", name="cpu", status="ok", detail=detail)
    try:
        import torch
    except (ImportError, OSError):
        return
    if not facts["gpus"]:
        build, driver = facts["cuda"], facts["nvidia_driver"]
        if build is None:
            detail, cure = "torch is built without CUDA", "for an NVIDIA GPU install a CUDA build of torch"
        elif driver is None:
            detail, cure = (
                "no NVIDIA driver found",
                "none needed without an NVIDIA GPU, else install its driver",
            )
        else:
            detail = f"driver {driver}, but torch (CUDA {build}) sees no GPU"
            cure = "check CUDA_VISIBLE_DEVICES, and that the driver is new enough for this CUDA"
        yield Check(area="devices", name="cuda", status="absent", detail=detail, cure=cure)
    for index, gpu in enumerate(facts["gpus"]):
        detail = (
            f"{gpu['name']}, {gpu['memory_bytes'] / GIB:.0f} GiB, compute capability "
            f"{gpu['compute_capability']}, driver {facts['nvidia_driver']}, CUDA {facts['cuda']}"
        )
        yield _works(f"cuda:{index}", detail)
    if torch.backends.mps.is_available():
        yield _works("mps", "Apple GPU")


def _works(device: str, detail: str) -> Check:
    """Return whether a device adds up: ones of 64 × 64 times ones is 64 everywhere."""
    import torch

    try:
        ones = torch.ones(64, 64, device=device)
        right = bool((ones @ ones == 64).all())
    except RuntimeError as error:
        found, cure = f"{detail}: {error}", "free its memory, or mend driver and torch until this line passes"
        return Check(area="devices", name=device, status="failed", detail=found, cure=cure)
    if not right:
        cure = "do not trust this device; test its memory"
        return Check(
            area="devices", name=device, status="failed", detail=f"{detail}: wrong product", cure=cure
        )
    return Check(area="devices", name=device, status="ok", detail=detail)


def _operators() -> Iterator[Check]:
    """Yield a row per Bi-WKV implementation and device: is it there, does it agree with the reference."""
    try:
        import torch

        from rwkvclip_models import ops
        from rwkvclip_models.ops import build, compilers
    except (ImportError, OSError) as problem:
        cure = "mend torch (see versions), then run again"
        yield Check(area="operator", name="bi_wkv6", status="failed", detail=str(problem), cure=cure)
        return
    for implementation in ops.implementations():
        name = f"bi_wkv6 {implementation.name}"
        if not implementation.available:
            detail, cure = implementation.reason, implementation.cure
            if implementation.name == "cuda" and not torch.cuda.is_available():
                # Nothing is built without a GPU; whether it could be is told all the same.
                detail += f" Its compiler: {_compiler(compilers.nvcc)[1]}"
            yield Check(area="operator", name=name, status="absent", detail=detail, cure=cure)
            continue
        for device in devices_of(implementation.name):
            label = f"{name} on {device}"
            try:
                error = max(
                    examine(implementation.name, device, torch.float32)
                    for examine in (ops.check, ops.check_fused)
                )
                more = f"; {_time_of(implementation.name, device)}"
                if implementation.name in build.SOURCES:
                    more += f"; {build.built(implementation.name)}"
            except Exception as problem:  # a kernel that does not run is a finding
                detail, cure = f"{type(problem).__name__}: {problem}", "see cuda/README.md"
                yield Check(area="operator", name=label, status="failed", detail=detail, cure=cure)
                continue
            # One number for all of them: the widest tolerance. `full_check` holds each to its own.
            row = judge(label, error, "float32", "output and gradients, elementwise work too,", "grad w")
            yield dataclasses.replace(row, detail=row.detail + more)
    yield _automatic()


def _automatic() -> Check:
    """Return what "auto" takes on each device; a warning where it is not the fastest made for it."""
    from rwkvclip_models import ops
    from rwkvclip_models.ops.choice import AUTO

    chosen = {device: ops.resolve("auto", device=device) for device in devices()}
    detail = ", ".join(f"{name} on {device}" for device, name in chosen.items())
    missing = [
        AUTO[device][0] for device, name in chosen.items() if device in AUTO and AUTO[device][0] != name
    ]
    if not missing:
        return Check(area="operator", name="bi_wkv6 auto", status="ok", detail=detail)
    cure = "; ".join(f"{i.name}: {i.cure}" for i in ops.implementations() if i.name in missing)
    detail += f"; slower than it could be: see {', '.join(missing)}"
    return Check(area="operator", name="bi_wkv6 auto", status="warning", detail=detail, cure=cure)


def _time_of(implementation: str, device: str) -> str:
    """Return the time of one image layer of RWKV-CLIP B/32 at batch 8, in words."""
    from rwkvclip_eval.bench import operators as operator_speed

    shape = (8, 49, 8, 80)
    milliseconds = operator_speed.time_forward(implementation, device, shape)
    return f"forward of {' × '.join(map(str, shape))} in {milliseconds:.2f} ms"
