"""The long examination of the Bi-WKV operator: every implementation against float64, then timed.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.doctor import Check, devices_of, judge
from rwkvclip_eval.environment import environment
from rwkvclip_eval.results import write_text
from rwkvclip_models import ops

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from rwkvclip_eval.doctor import DoctorReport

# Released towers (T 49, 196 and 77; N 80 and 64), their neighbours, and the smallest there are.
TOKENS = (1, 2, 3, 16, 17, 49, 77, 196, 197)
HEAD_WIDTHS = (16, 64, 80)
DECAYS = {"trained": (-6.0, 1.0), "extreme": (-20.0, 5.0)}
"""Range of raw w; exp(−exp(5)) underflows float32 and exp(−exp(−20)) rounds to 1."""
EXTREME_TOKENS = (17, 197)
NAMES = ("y", "grad r", "grad k", "grad v", "grad w", "grad u")

TIMED_SHAPES = {
    "image B/32": (32, 49, 8, 80),
    "image B/16": (8, 196, 8, 80),
    "text": (32, 77, 10, 64),
}
TIMED_BUDGET_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Agreement of one implementation on one problem."""

    implementation: str
    device: str
    dtype: str
    num_tokens: int
    head_width: int
    decays: str
    """`trained` or `extreme`."""
    errors: dict[str, float]
    """Output and each gradient: max |difference| / max |reference| (absolute where the reference is 0)."""
    problem: str = ""
    """Why it did not run; empty when it did."""

    @property
    def worst(self) -> float:
        """The largest error; NaN if one is, infinity if it did not run."""
        if self.problem:
            return math.inf
        values = list(self.errors.values())
        return math.nan if any(map(math.isnan, values)) else max(values)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one implementation on one released shape."""

    implementation: str
    device: str
    dtype: str
    shape: str
    """B × T × H × N, with the tower it stems from."""
    direction: str
    """`forward` or `forward + backward`."""
    median_ms: float
    low_ms: float
    """25th percentile."""
    high_ms: float
    """75th percentile."""
    repeats: int


def compare_all() -> list[Case]:
    """Return the agreement of every available implementation over the grid, in every dtype its device has."""
    available = [i.name for i in ops.implementations() if i.available]
    grid = [*product(TOKENS, HEAD_WIDTHS, ["trained"]), *product(EXTREME_TOKENS, HEAD_WIDTHS, ["extreme"])]
    cases = []
    for num_tokens, head_width, decays in grid:
        operands, weight = _problem(num_tokens, head_width, decays)
        exact = _run("reference", [x.double() for x in operands], weight.double())
        for name in available:
            for device, dtype in _settings(name):
                errors, problem = _compare(name, operands, weight, exact, device, dtype)
                cases.append(
                    Case(
                        implementation=name,
                        device=device,
                        dtype=str(dtype).removeprefix("torch."),
                        num_tokens=num_tokens,
                        head_width=head_width,
                        decays=decays,
                        errors=errors,
                        problem=problem,
                    )
                )
    return cases


def summarise(cases: Iterable[Case]) -> list[Check]:
    """Return one row per implementation, device and dtype: its worst case."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.implementation, case.device, case.dtype), []).append(case)
    checks = []
    for (name, device, dtype), members in groups.items():
        label = f"bi_wkv6 {name} on {device} in {dtype}, {len(members)} cases"
        # NaN compares false with everything, so it is put above infinity by hand.
        worst = max(members, key=lambda c: (math.isnan(c.worst), c.worst))
        where = f"T {worst.num_tokens}, N {worst.head_width}, {worst.decays} decays"
        if worst.problem:
            detail = f"does not run in {dtype} ({where}): {worst.problem}"
            cure = "choose another implementation by name and report this row"
            checks.append(Check(area="operator", name=label, status="failed", detail=detail, cure=cure))
        else:
            checks.append(judge(label, worst.worst, dtype, f"worst case ({where})"))
    return checks


def time_all() -> list[Timing]:
    """Return times of every available implementation but the reference, on the released towers' shapes."""
    timings = []
    for implementation in ops.implementations():
        if not implementation.available or implementation.name == "reference":
            continue
        for device in devices_of(implementation.name):
            for dtype in (torch.float32, torch.bfloat16):
                for tower, shape in TIMED_SHAPES.items():
                    timings += time_one(implementation.name, device, dtype, tower, shape)
    return timings


def write(out_dir: Path, report: DoctorReport, cases: Sequence[Case], times: Sequence[Timing]) -> None:
    """Write doctor.json (everything) and doctor.md (rows, worst errors, times) into `out_dir`.

    Raises:
        OutputError: the folder cannot be written.
    """
    facts = environment()
    everything = {
        "environment": facts,
        "ok": report.ok,
        "checks": [dataclasses.asdict(c) for c in report.checks],
        # JSON has no NaN or infinity; null says the case gave no number.
        "cases": [
            dataclasses.asdict(c)
            | {"errors": {k: v if math.isfinite(v) else None for k, v in c.errors.items()}}
            for c in cases
        ],
        "times": [dataclasses.asdict(t) for t in times],
    }
    write_text(out_dir / "doctor.json", json.dumps(everything, indent=1, allow_nan=False) + "\n")
    gpus = ", ".join(gpu["name"] for gpu in facts["gpus"]) or "no GPU"
    timing_rows = [
        (
            *(t.implementation, t.device, t.dtype, t.shape, t.direction),
            *(f"{t.median_ms:.2f} ({t.low_ms:.2f}–{t.high_ms:.2f})", str(t.repeats)),
        )
        for t in times
    ]
    text = [
        "# Diagnosis",
        f"{facts['cpu']['model']} ({facts['cpu']['num_threads']} threads), {gpus}; "
        f"torch {facts['packages']['torch']}, CUDA {facts['cuda']}, Python {facts['python']}; "
        + ("everything passed." if report.ok else "**something failed.**"),
        _markdown(report.HEADERS, report.rows()),
        "## Operator times",
        "Milliseconds, median (quartiles); shapes B × T × H × N. The reference is not timed: it is the "
        "definition, not meant to run.",
        _markdown(("implementation", "device", "dtype", "shape", "direction", "ms", "repeats"), timing_rows),
    ]
    write_text(out_dir / "doctor.md", "\n\n".join(text) + "\n")


def _markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(headers), "|" + " --- |" * len(headers), *map(line, rows)])


def _problem(num_tokens: int, head_width: int, decays: str) -> tuple[list[Tensor], Tensor]:
    """Return operands r, k, v, w, u and the output's gradient, float32; all but w, u exact in bfloat16."""
    generator = torch.Generator().manual_seed(1000 * head_width + num_tokens)
    shape = (2, num_tokens, 2, head_width)
    # Eight significant bits are exact in bfloat16, and in float16 but for values below 1e-5: one reference
    # serves every dtype.
    r, k, v, weight = (torch.randn(shape, generator=generator).bfloat16().float() for _ in range(4))
    w = torch.empty(shape).uniform_(*DECAYS[decays], generator=generator)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)
    return [r, k, v, w, u], weight


def _run(name: str, operands: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Return output and gradients, in the order of `NAMES`."""
    r, k, v, w, u = (x.detach().clone().requires_grad_() for x in operands)
    y = ops.bi_wkv6(r, k, v, w, u, implementation=name)
    return [y.detach(), *torch.autograd.grad(y, (r, k, v, w, u), weight)]


def _cast(operands: Sequence[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    low = torch.promote_types(dtype, torch.float32)
    return [x.to(device, dtype if index < 3 else low) for index, x in enumerate(operands)]


def _compare(
    name: str,
    operands: Sequence[Tensor],
    weight: Tensor,
    exact: Sequence[Tensor],
    device: str,
    dtype: torch.dtype,
) -> tuple[dict[str, float], str]:
    try:
        ran = _run(name, _cast(operands, device, dtype), weight.to(device, dtype))
    except Exception as error:  # a kernel that does not run is a finding
        return {}, f"{type(error).__name__}: {error}"
    errors = {}
    for what, got, want in zip(NAMES, ran, exact, strict=True):
        scale = float(want.abs().max())
        errors[what] = float((got.cpu().double() - want).abs().max()) / (scale or 1.0)
    return errors, ""


def _settings(implementation: str) -> Iterator[tuple[str, torch.dtype]]:
    """Yield the devices and dtypes to compare an implementation in."""
    for device in devices_of(implementation):
        yield device, torch.float32
        # The reference computes in float32 below that, and its float64 is what all are held against.
        if implementation != "reference":
            for dtype in ops.dtypes_of(implementation)[1:]:
                if device != "mps" or dtype != torch.float64:
                    yield device, dtype


def time_one(
    name: str,
    device: str,
    dtype: torch.dtype,
    tower: str,
    shape: tuple[int, int, int, int],
    *,
    directions: Sequence[str] = ("forward", "forward + backward"),
    budget_s: float | None = None,
) -> list[Timing]:
    """Return forward and forward + backward times; interquartile range over the repeats of the budget."""
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    w = torch.empty(shape).uniform_(*DECAYS["trained"], generator=generator)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)
    operands = _cast([r, k, v, w, u], device, dtype)
    weight = torch.ones(shape, dtype=dtype, device=device)

    def forward() -> None:
        with torch.inference_mode():
            a, b, c, d, e = operands
            ops.bi_wkv6(a, b, c, d, e, implementation=name)

    def both() -> None:
        _run(name, operands, weight)

    timings = []
    for direction in directions:
        call = forward if direction == "forward" else both
        seconds = (
            torch.tensor(
                _seconds(call, device, TIMED_BUDGET_S if budget_s is None else budget_s), dtype=torch.float64
            )
            * 1e3
        )
        low, median, high = seconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        timings.append(
            Timing(
                implementation=name,
                device=device,
                dtype=str(dtype).removeprefix("torch."),
                shape=f"{tower}: {' × '.join(map(str, shape))}",
                direction=direction,
                median_ms=median,
                low_ms=low,
                high_ms=high,
                repeats=len(seconds),
            )
        )
    return timings


def _seconds(call: Any, device: str, budget_s: float) -> list[float]:
    """Return wall seconds of single calls, device synchronised, after two warm-up calls."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        elif device == "mps":
            torch.mps.synchronize()

    for _ in range(2):
        call()
    wait()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 5 or (time.perf_counter() - begin < budget_s and len(seconds) < 100):
        start = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds
