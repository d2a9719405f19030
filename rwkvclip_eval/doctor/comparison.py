"""The long examination of the operators: every implementation against float64 over a grid.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.doctor.checks import Check, devices_of, judge
from rwkvclip_models import ops
from rwkvclip_models.ops.agreement import BASE_WIDTH, EXACT_TOKENS, Elementwise, Recurrence, tolerance
from rwkvclip_models.ops.choice import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOKENS = (1, 2, 3, 15, 16, 17, 49, 50, 77, 196, 197, 209, 1024, 4097, 16384)
"""Lengths at one head width: the released towers', their neighbours, from 209 on CUDA's chunked form, and one
beyond the 12544 patches of an image of 1792 px."""
HEAD_WIDTHS = (16, 32, 64, 80, 96, 128)
"""Head widths at a few lengths; 64 and 80 are the released ones."""
GRIDS = ((1, 1, 4), (7, 7, 4), (14, 14, 4), (5, 3, 4), (77, 1, 2))
"""Rows, columns and directions of the token shift: the released towers' and odd ones."""
GRID_WIDTHS = (16, 80)
"""Head widths of the elementwise operators."""


def problems() -> Iterator[Recurrence]:
    """Yield the grid: every length at one width, every width at a few lengths, then what is unusual."""
    for num_tokens in TOKENS:
        # Long ones take seconds each; one head says as much as four.
        few = 1 if num_tokens > EXACT_TOKENS[True] else 2
        yield Recurrence(num_tokens=num_tokens, head_width=BASE_WIDTH, batch=few, heads=few)
    for width in HEAD_WIDTHS:
        for num_tokens in (77, 196, 300):
            yield Recurrence(num_tokens=num_tokens, head_width=width, batch=1)
        for num_tokens in (17, 230):
            yield Recurrence(num_tokens=num_tokens, head_width=width, batch=1, decays="extreme")
    for num_tokens in (17, 230):
        yield Recurrence(num_tokens=num_tokens, head_width=80, strided=True)
        yield Recurrence(num_tokens=num_tokens, head_width=80, batch=0)
        yield Recurrence(num_tokens=num_tokens, head_width=80, heads=1)
        yield Recurrence(num_tokens=num_tokens, head_width=80, batch=3, heads=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Agreement of one implementation on one problem.

    Attributes:
        implementation: of the operators.
        device: as torch names it.
        dtype: of r, k, v, without `torch.`.
        num_tokens: T.
        head_width: N.
        decays: `trained` or `extreme`; empty for the elementwise operators.
        batch: B.
        heads: H.
        strided: whether operands are not contiguous.
        operator: `bi_wkv6` or `elementwise`, all of these together.
        errors: output and each gradient: max |difference| / max |reference| (absolute where the reference is
            0).
        problem: why it did not run; empty when it did.
    """

    implementation: str
    device: str
    dtype: str
    num_tokens: int
    head_width: int
    decays: str
    batch: int
    heads: int
    strided: bool
    operator: str = "bi_wkv6"
    errors: dict[str, float]
    problem: str = ""

    @property
    def worst(self) -> tuple[bool, float, str]:
        """What comes nearest to its tolerance or most above: is it NaN, its share of it, a key of `errors`.

        A case that did not run is infinitely above.
        """
        if self.problem:
            return False, math.inf, ""
        # NaN compares false with everything, so it is put above infinity by hand.
        shares = ((math.isnan(e), e / tolerance(self.dtype, name), name) for name, e in self.errors.items())
        return max(shares)


def elementwise_problems() -> Iterator[Elementwise]:
    """Yield every grid at every width, then batches of none and one."""
    for width, grid in product(GRID_WIDTHS, GRIDS):
        yield Elementwise(grid=grid, head_width=width)
    for batch in (0, 1):
        yield Elementwise(grid=GRIDS[1], head_width=64, batch=batch, heads=1)


def compare_all() -> Iterator[Case]:
    """Yield the agreement of every available implementation over the grid, in every dtype its device has."""
    available = [i.name for i in ops.implementations() if i.available]
    for problem in problems():
        for name in available:
            if name != "reference" or problem.defined:
                yield from _cases(name, problem)
    for elementwise in elementwise_problems():
        for name in available:
            # The plain ones take the eager forms, which are the reference.
            if name not in PLAIN:
                yield from _cases(name, elementwise)


def _cases(name: str, problem: Recurrence | Elementwise) -> Iterator[Case]:
    """Yield one implementation's agreement on one problem, on each device and in each dtype."""
    for device, dtype in _settings(name):
        errors, why = {}, ""
        try:
            errors = problem.errors(name, device, dtype)
        except Exception as error:  # a kernel that does not run is a finding
            why = f"{type(error).__name__}: {error}"
        yield Case(
            operator=problem.operator,
            implementation=name,
            device=device,
            dtype=str(dtype).removeprefix("torch."),
            num_tokens=problem.num_tokens,
            head_width=problem.head_width,
            decays=problem.decays,
            batch=problem.batch,
            heads=problem.heads,
            strided=problem.strided,
            errors=errors,
            problem=why,
        )


def summarise(cases: Iterable[Case]) -> list[Check]:
    """Return one row per implementation, device and dtype: its worst case."""
    groups: dict[tuple[str, str, str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.operator, case.implementation, case.device, case.dtype), []).append(case)
    checks = []
    for (operator, name, device, dtype), members in groups.items():
        label = f"{operator} {name} on {device} in {dtype}, {len(members)} cases"
        worst = max(members, key=lambda c: c.worst)
        where = f"B {worst.batch}, T {worst.num_tokens}, H {worst.heads}, N {worst.head_width}"
        where += f", {worst.decays} decays" * bool(worst.decays) + ", strided" * worst.strided
        if worst.problem:
            detail = f"does not run in {dtype} ({where}): {worst.problem}"
            cure = "choose another implementation by name and report this row"
            checks.append(Check(area="operator", name=label, status="failed", detail=detail, cure=cure))
        else:
            value = worst.worst[-1]
            what = f"worst case ({value} of {where})"
            checks.append(judge(label, worst.errors[value], dtype, what, value))
    return checks


def _settings(implementation: str) -> Iterator[tuple[str, torch.dtype]]:
    """Yield the devices and dtypes to compare an implementation in."""
    for device in devices_of(implementation):
        yield device, torch.float32
        # The reference computes in float32 below that, and its float64 is what all are held against.
        if implementation != "reference":
            for dtype in ops.dtypes_of(implementation)[1:]:
                if device != "mps" or dtype != torch.float64:
                    yield device, dtype
