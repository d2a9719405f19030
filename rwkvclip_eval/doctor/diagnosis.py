"""Says whether this installation can do its work: versions, devices, operators that compute what they should.

Needs torch, numpy and the command line's library; anything else that is missing is a row, not a crash.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from rwkvclip_eval.environment import PACKAGES, environment, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

Status = Literal["ok", "absent", "warning", "failed"]

Row = TypeVar("Row")

GIB = 1 << 30

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
"""Largest max |difference| / max |reference| of output and gradients, by dtype name.

float32 is what separates rounding from error beside the official code. Half precisions keep 8 and 11 bits;
operands, output and gradients are each rounded once.
"""

DECAY_GRADIENT_TOLERANCE = 5e-5
"""The same for "grad w" in float32: its terms, one per pair of tokens around a decay, cancel."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the diagnosis."""

    area: str
    """`versions`, `devices` or `operator`."""
    name: str
    """What was looked at."""
    status: Status
    """`ok`; `absent`: not there and not needed for everything; `warning`: works, but slower than it could;
    `failed`: must be mended.
    """
    detail: str
    """What was found."""
    cure: str = ""
    """What to do about it; empty when ok."""


@dataclass(frozen=True)
class DoctorReport:
    """The diagnosis.

    Attributes:
        checks: rows in the order of the examination.
    """

    checks: tuple[Check, ...]

    HEADERS = ("area", "name", "status", "detail", "cure")

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what is absent or slower does not count."""
        return all(check.status != "failed" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0, or 1 if a check failed."""
        return 0 if self.ok else 1

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return the table under `HEADERS`."""
        return [(c.area, c.name, c.status, c.detail, c.cure) for c in self.checks]


def diagnose() -> DoctorReport:
    """Look at versions, devices and operator implementations; takes seconds."""
    return DoctorReport((*_versions(), *_compilers(), *_devices(), *_operators()))


def full_check(out_dir: Path) -> DoctorReport:
    """Also compare every operator over shapes, dtypes and gradients, then time it, on every device here.

    Writes doctor.json and doctor.md (all cases, times, hardware and versions) into `out_dir`.

    Raises:
        OutputError: `out_dir` cannot be written.
    """
    from rwkvclip_eval.bench import operators as operator_speed
    from rwkvclip_eval.bench import towers as tower_speed
    from rwkvclip_eval.doctor import full as doctor_report
    from rwkvclip_eval.doctor import recurrence as operator_check

    report = diagnose()
    if any(check.name == "torch" and check.status != "ok" for check in report.checks):
        return report
    # Written after each part: whatever ends the process later, what was found stays.
    doctor_report.write(out_dir, report)
    cases, lost = _all_of(operator_check.compare_all(), "comparison of the operators")
    report = DoctorReport((*report.checks, *operator_check.summarise(cases), *lost))
    times, lost = _all_of(operator_speed.time_all(), "times of the operators")
    report = DoctorReport((*report.checks, *lost))
    doctor_report.write(out_dir, report, cases, times)
    towers, lost = _all_of(tower_speed.time_towers(), "times of the towers")
    report = DoctorReport((*report.checks, *lost))
    doctor_report.write(out_dir, report, cases, times, towers)
    return report


def _all_of(rows: Iterable[Row], what: str) -> tuple[list[Row], list[Check]]:
    """Return the rows there are and, where they broke off, the check that says why."""
    found: list[Row] = []
    try:
        # One at a time: list(rows) would lose what came before an error.
        for row in rows:
            found.append(row)
    except Exception as error:  # runs unattended: one part's end must not be the others'
        detail = f"broke off after {len(found)} rows ({type(error).__name__}: {error})"
        cure = "mend what it names, then run again; the other parts are complete"
        return found, [Check(area="operator", name=what, status="failed", detail=detail, cure=cure)]
    return found, []


def _versions() -> Iterator[Check]:
    """Yield a row per distribution: installed, in the range this package declares, importable."""
    yield Check(area="versions", name="python", status="ok", detail=sys.version.split()[0])
    ranges = _declared_ranges()
    for name in PACKAGES:
        if name == "rwkvclip-eval":
            yield _own_version()
            continue
        found, wanted = version(name), ranges.get(_canonical(name), "")
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


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _declared_ranges() -> dict[str, str]:
    """Return distribution → version range that the installed package declares; empty from bare sources."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return {}
    try:
        declared = importlib.metadata.requires("rwkvclip-eval") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {_canonical(r.name): str(r.specifier) for r in map(Requirement, declared) if r.marker is None}


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

    chosen = {device: ops.resolve("auto", device=device) for device in here()}
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


def tolerance(dtype: str, value: str = "") -> float:
    """Return the largest relative error of an output or gradient, called as in `operator_check.NAMES`."""
    return DECAY_GRADIENT_TOLERANCE if (dtype, value) == ("float32", "grad w") else TOLERANCES[dtype]


def judge(name: str, error: float, dtype: str, what: str = "output and gradients", value: str = "") -> Check:
    """Return the row for a measured relative error of `value`, or of all values; NaN fails."""
    limit = tolerance(dtype, value)
    if error <= limit:
        detail = f"agrees with the reference: {what} in {dtype} within {error:.1e} (allowed {limit:.0e})"
        return Check(area="operator", name=name, status="ok", detail=detail)
    return Check(
        area="operator",
        name=name,
        status="failed",
        detail=f"differs from the reference: {what} in {dtype} by {error:.1e} (allowed {limit:.0e})",
        cure="do not use this implementation here; choose another by name and report this row",
    )


def here() -> Sequence[str]:
    """Return the kinds of device torch can use on this machine: `cpu`, then `cuda` or `mps`."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def devices_of(implementation: str) -> Sequence[str]:
    """Return the devices of this machine that an implementation is made for."""
    from rwkvclip_models import ops

    only = ops.devices_of(implementation)
    return [device for device in here() if not only or device in only]
