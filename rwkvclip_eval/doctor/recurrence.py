"""The long examination of the Bi-WKV operator: every implementation against float64 over a grid.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.doctor import elementwise as elementwise_check
from rwkvclip_eval.doctor.checks import Check, devices_of, judge, tolerance
from rwkvclip_models import ops
from rwkvclip_models.ops import Shift
from rwkvclip_models.ops.choice import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

TOKENS = (1, 2, 3, 15, 16, 17, 49, 50, 77, 196, 197, 209, 1024, 4097, 16384)
"""Lengths at one head width: the released towers', their neighbours, from 209 on CUDA's chunked form, and one
beyond the 12544 patches of an image of 1792 px."""
HEAD_WIDTHS = (16, 32, 64, 80, 96, 128)
"""Head widths at a few lengths; 64 and 80 are the released ones."""
DECAYS = {"trained": (-6.0, 1.0), "extreme": (-20.0, 6.0)}
"""Range of raw w; exp(−exp(6)) underflows float32 and exp(−exp(−20)) rounds to 1."""
BASE_WIDTH = 64
"""Head width of the problems of every length."""
EXACT_TOKENS = {True: 256, False: 77}
"""Longest sequence held against the definition, slow beyond: at base width with trained decays, or not."""
NAMES = ("y", "grad r", "grad k", "grad v", "grad w", "grad u")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Sizes and kind of one problem."""

    num_tokens: int
    head_width: int
    decays: str = "trained"
    """A key of `DECAYS`."""
    batch: int = 2
    heads: int = 2
    strided: bool = False
    """Whether operands are transposed in memory and the gradient is broadcast."""

    @property
    def defined(self) -> bool:
        """Whether the definition computes it; else float64 `torch` stands in, itself held against that."""
        base = self.head_width == BASE_WIDTH and self.decays == "trained"
        return self.num_tokens <= EXACT_TOKENS[base]


def problems() -> Iterator[Problem]:
    """Yield the grid: every length at one width, every width at a few lengths, then what is unusual."""
    for num_tokens in TOKENS:
        # Long ones take seconds each; one head says as much as four.
        few = 1 if num_tokens > EXACT_TOKENS[True] else 2
        yield Problem(num_tokens=num_tokens, head_width=BASE_WIDTH, batch=few, heads=few)
    for width in HEAD_WIDTHS:
        for num_tokens in (77, 196, 300):
            yield Problem(num_tokens=num_tokens, head_width=width, batch=1)
        for num_tokens in (17, 230):
            yield Problem(num_tokens=num_tokens, head_width=width, batch=1, decays="extreme")
    for num_tokens in (17, 230):
        yield Problem(num_tokens=num_tokens, head_width=80, strided=True)
        yield Problem(num_tokens=num_tokens, head_width=80, batch=0)
        yield Problem(num_tokens=num_tokens, head_width=80, heads=1)
        yield Problem(num_tokens=num_tokens, head_width=80, batch=3, heads=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Agreement of one implementation on one problem."""

    implementation: str
    device: str
    dtype: str
    num_tokens: int
    head_width: int
    decays: str
    """`trained` or `extreme`; empty for the elementwise operators."""
    batch: int
    heads: int
    strided: bool
    operator: str = "bi_wkv6"
    """`bi_wkv6` or `elementwise`, all of these together."""
    errors: dict[str, float]
    """Output and each gradient: max |difference| / max |reference| (absolute where the reference is 0)."""
    problem: str = ""
    """Why it did not run; empty when it did."""

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


def compare_all() -> Iterator[Case]:
    """Yield the agreement of every available implementation over the grid, in every dtype its device has.

    New memory is filled with NaN, so that what a kernel leaves unwritten is seen.
    """
    available = [i.name for i in ops.implementations() if i.available]
    for problem in problems():
        operands, weight = _problem(problem)
        base = "reference" if problem.defined else "torch"
        exact = _run(base, [x.double() for x in operands], weight.double())
        for name in available:
            if name == "reference" and not problem.defined:
                continue
            for device, dtype in _settings(name):
                run = partial(_run, name, _cast(operands, device, dtype), weight.to(device, dtype))
                errors, why = _compare(run, exact)
                yield Case(
                    implementation=name,
                    device=device,
                    dtype=str(dtype).removeprefix("torch."),
                    **dataclasses.asdict(problem),
                    errors=errors,
                    problem=why,
                )
    yield from _compare_elementwise([name for name in available if name not in PLAIN])


def _compare_elementwise(available: Sequence[str]) -> Iterator[Case]:
    sizes = [
        *product((2,), (2,), elementwise_check.WIDTHS, elementwise_check.GRIDS),
        *((batch, 1, 64, elementwise_check.GRIDS[1]) for batch in (0, 1)),
    ]
    for batch, heads, width, grid in sizes:
        rows, columns, directions = grid
        shift = Shift(rows, columns, heads, directions)
        given = elementwise_check.operands(batch, heads, width, grid)
        double = {name: x.double() for name, x in given.items()}
        exact = elementwise_check.run("torch", double, heads, shift)
        for name in available:
            for device, dtype in _settings(name):
                cast = {key: x.to(device, dtype) for key, x in given.items()}
                errors, why = _compare(partial(elementwise_check.run, name, cast, heads, shift), exact)
                yield Case(
                    operator="elementwise",
                    implementation=name,
                    device=device,
                    dtype=str(dtype).removeprefix("torch."),
                    num_tokens=rows * columns,
                    head_width=width,
                    decays="",
                    batch=batch,
                    heads=heads,
                    strided=True,
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


def _problem(problem: Problem) -> tuple[list[Tensor], Tensor]:
    """Return operands r, k, v, w, u and the output's gradient, float32; all but w, u exact in bfloat16."""
    width, num_tokens, heads = problem.head_width, problem.num_tokens, problem.heads
    generator = torch.Generator().manual_seed(1000 * width + num_tokens)
    shape = (problem.batch, num_tokens, heads, width)
    # Eight significant bits are exact in bfloat16, and in float16 but for values below 1e-5: one reference
    # serves every dtype.
    r, k, v, weight = (torch.randn(shape, generator=generator).bfloat16().float() for _ in range(4))
    w = torch.empty(shape).uniform_(*DECAYS[problem.decays], generator=generator)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)
    if problem.strided:
        r, k, v, w = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (r, k, v, w))
        u, weight = u.t().contiguous().t(), weight[:, :1].expand(shape)
    return [r, k, v, w, u], weight


def _run(name: str, operands: Sequence[Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Return output and gradients, by the names of `NAMES`."""
    # No copies: these would lose the strides under test.
    r, k, v, w, u = (x.detach().requires_grad_() for x in operands)
    y = ops.bi_wkv6(r, k, v, w, u, implementation=name)
    found = (y.detach(), *torch.autograd.grad(y, (r, k, v, w, u), weight))
    return dict(zip(NAMES, found, strict=True))


def _cast(operands: Sequence[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    low = torch.promote_types(dtype, torch.float32)
    return [x.to(device, dtype if index < 3 else low) for index, x in enumerate(operands)]


def _compare(
    run: Callable[[], Mapping[str, Tensor]], exact: Mapping[str, Tensor]
) -> tuple[dict[str, float], str]:
    """Return the error of everything `run` returns, or why it did not run."""
    try:
        with _new_memory_is_nan():
            ran = {name: x.cpu().double() for name, x in run().items()}
    except Exception as error:  # a kernel that does not run is a finding
        return {}, f"{type(error).__name__}: {error}"
    errors = {}
    for name, want in exact.items():
        got = ran[name]
        if got.shape != want.shape:
            return {}, f"{name} is of shape {list(got.shape)}, not {list(want.shape)}"
        scale = float(want.abs().max()) if want.numel() else 0.0
        errors[name] = float((got - want).abs().max()) / (scale or 1.0) if want.numel() else 0.0
    return errors, ""


@contextlib.contextmanager
def _new_memory_is_nan() -> Iterator[None]:
    """Fill new tensors with NaN: torch does so where it is asked to be deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        # Determinism itself is not the question, and some of torch's own operators have none.
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn)


def _settings(implementation: str) -> Iterator[tuple[str, torch.dtype]]:
    """Yield the devices and dtypes to compare an implementation in."""
    for device in devices_of(implementation):
        yield device, torch.float32
        # The reference computes in float32 below that, and its float64 is what all are held against.
        if implementation != "reference":
            for dtype in ops.dtypes_of(implementation)[1:]:
                if device != "mps" or dtype != torch.float64:
                    yield device, dtype
