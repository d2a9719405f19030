"""The long examination of the Bi-WKV operator: every implementation against float64 over a grid.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.doctor import Check, devices_of, judge
from rwkvclip_models import ops

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

# Released towers (T 49, 196 and 77; N 80 and 64), their neighbours, and the smallest there are.
TOKENS = (1, 2, 3, 16, 17, 49, 77, 196, 197)
HEAD_WIDTHS = (16, 64, 80)
DECAYS = {"trained": (-6.0, 1.0), "extreme": (-20.0, 5.0)}
"""Range of raw w; exp(−exp(5)) underflows float32 and exp(−exp(−20)) rounds to 1."""
EXTREME_TOKENS = (17, 197)
NAMES = ("y", "grad r", "grad k", "grad v", "grad w", "grad u")


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


def compare_all() -> Iterator[Case]:
    """Yield the agreement of every available implementation over the grid, in every dtype its device has."""
    available = [i.name for i in ops.implementations() if i.available]
    grid = [*product(TOKENS, HEAD_WIDTHS, ["trained"]), *product(EXTREME_TOKENS, HEAD_WIDTHS, ["extreme"])]
    for num_tokens, head_width, decays in grid:
        operands, weight = _problem(num_tokens, head_width, decays)
        exact = _run("reference", [x.double() for x in operands], weight.double())
        for name in available:
            for device, dtype in _settings(name):
                errors, problem = _compare(name, operands, weight, exact, device, dtype)
                yield Case(
                    implementation=name,
                    device=device,
                    dtype=str(dtype).removeprefix("torch."),
                    num_tokens=num_tokens,
                    head_width=head_width,
                    decays=decays,
                    errors=errors,
                    problem=problem,
                )


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
