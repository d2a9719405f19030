"""How fast the Bi-WKV operator is here: implementations in turns, beside a plain scan and what others offer.

Axes: B batch, T tokens, H heads, N head width.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from rwkvclip_eval.bench.clock import loop_of_calls, stopwatch, turns
from rwkvclip_eval.environment import devices
from rwkvclip_models import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    Call = Callable[[], object]

TIMED_SHAPES = {
    "cpu": {"image B/32": (32, 49, 8, 80), "image B/16": (8, 196, 8, 80), "text": (32, 77, 10, 64)},
    "cuda": {
        "image B/32": (512, 49, 8, 80),
        "image B/16": (512, 196, 8, 80),
        "text": (512, 77, 10, 64),
        # As many tokens in all as B/16's, so that linear cost takes as long for both.
        "image B/16, 896 px": (32, 3136, 8, 80),
        "image B/16, 1792 px": (8, 12544, 8, 80),
        # The shape of the figures in `reports/published/speed/`.
        "published": (8, 1024, 8, 64),
    },
    "mps": {"image B/32": (32, 49, 8, 80)},
}
ROUNDS = 9
DIRECTIONS = ("forward", "forward + backward")
SCAN = "plain scan"
"""What ratios are to: one sequential pass per direction, in float32, compiled by the same compiler."""
LINEAR_ATTENTION = {
    "flash-linear-attention, chunks": "chunk_rwkv6",
    "flash-linear-attention, recurrent": "fused_recurrent_rwkv6",
}
"""flash-linear-attention's two forms of the recurrence, with the names of their functions."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one alternative on one released shape.

    Attributes:
        implementation: a Bi-WKV implementation, `plain scan` or one of `LINEAR_ATTENTION`.
        device: as torch names it.
        dtype: of r, k, v, without `torch.`.
        shape: B × T × H × N, with the tower it stems from.
        direction: `forward` or `forward + backward`.
        median_ms: median over the rounds.
        low_ms: 25th percentile.
        high_ms: 75th percentile.
        repeats: rounds.
        of_scan: median ratio to the plain scan's time in the same round; None where no scan could be built.
        of_copy: time to copy as many bytes as the operator must read and write, by its own time: 1 is the
            roofline.
        eager_ms: median of calls in a row with their dispatch, for our own implementations on a GPU.
        clock: what was timed, in words, with the reason where it is not the first choice.
        problem: why it was not timed; empty when it was.
    """

    implementation: str
    device: str
    dtype: str
    shape: str
    direction: str
    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    of_scan: float | None = None
    of_copy: float | None = None
    eager_ms: float | None = None
    clock: str = ""
    problem: str = ""


def time_all() -> Iterator[Timing]:
    """Yield times of every available implementation but the reference, on the released towers' shapes."""
    for device in devices():
        for tower, shape in TIMED_SHAPES[device].items():
            for direction in DIRECTIONS:
                try:
                    yield from _compare(device, tower, shape, direction)
                except Exception as error:  # out of memory, say: the other shapes are timed all the same
                    problem = f"{type(error).__name__}: {error}"
                    yield _failed("all", device, "all", _label(tower, shape), direction, problem)


def time_forward(implementation: str, device: str, shape: tuple[int, int, int, int]) -> float:
    """Return the median time of a forward pass in float32, ms."""
    operands = _operands(shape, device, torch.float32)
    with torch.inference_mode():
        call = cold(partial(_forward, implementation), operands, device)
        seconds = turns({"": stopwatch(call, device)}, 5)[""]
    return float(seconds.median()) * 1e3


def _compare(device: str, tower: str, shape: tuple[int, int, int, int], direction: str) -> list[Timing]:
    backward = direction != "forward"
    calls: dict[tuple[str, torch.dtype], Call] = {}
    for status in ops.implementations():
        if status.name == "reference" or not status.available:
            continue
        if ops.devices_of(status.name) and device not in ops.devices_of(status.name):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            operands = _operands(shape, device, dtype)
            build = partial(_both if backward else _forward, status.name)
            calls[status.name, dtype] = cold(build, operands, device)
    exact = _operands(shape, device, torch.float32)
    scan_on = partial(_scan, device, backward=backward)
    if scan_on(exact) is not None:
        # Then it can be built on every copy.
        calls[SCAN, torch.float32] = cold(cast("Callable[[Sequence[Tensor]], Call]", scan_on), exact, device)
    low = _operands(shape, device, torch.bfloat16)
    failed: dict[tuple[str, torch.dtype], str] = {}
    for name in LINEAR_ATTENTION if device == "cuda" else ():
        if importlib.util.find_spec("fla") is None:
            failed[name, torch.bfloat16] = "not installed: pip install 'rwkvclip-eval[bench]'"
            continue
        try:
            build = partial(_linear_attention, LINEAR_ATTENTION[name], backward=backward)
            calls[name, torch.bfloat16] = cold(build, low, device)
        except Exception as error:  # another package's kernels: whatever they raise, ours are measured
            failed[name, torch.bfloat16] = f"{type(error).__name__}: {error}"
    with torch.inference_mode(not backward):
        for key in list(calls):
            try:
                calls[key]()
            except Exception as error:  # the report says what does not run; the rest is timed all the same
                failed[key] = f"{type(error).__name__}: {error}"
                del calls[key]
    names = {f"{name} {dtype}": (name, dtype) for name, dtype in calls}
    copies = {
        f"copy {dtype}": cold(partial(_copy, backward=backward), operands, device)
        for dtype, operands in ((torch.float32, exact), (torch.bfloat16, low))
    }
    with torch.inference_mode(not backward):
        timed = {label: calls[key] for label, key in names.items()} | copies
        watches = {label: stopwatch(call, device) for label, call in timed.items()}
        seconds = turns(watches, ROUNDS)
        others = (SCAN, *LINEAR_ATTENTION)
        eager = {
            label: loop_of_calls(calls[key])
            for label, key in names.items()
            if device == "cuda" and key[0] not in others
        }
        eager_seconds = turns(eager, ROUNDS)
    base = seconds.get(f"{SCAN} {torch.float32}")
    rows = [
        _failed(name, device, str(dtype).removeprefix("torch."), _label(tower, shape), direction, problem)
        for (name, dtype), problem in failed.items()
    ]
    for label, (name, dtype) in names.items():
        taken = seconds[label]
        points = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        quartiles = (taken * 1e3).quantile(points).tolist()
        rows.append(
            Timing(
                implementation=name,
                device=device,
                dtype=str(dtype).removeprefix("torch."),
                shape=_label(tower, shape),
                direction=direction,
                median_ms=quartiles[1],
                low_ms=quartiles[0],
                high_ms=quartiles[2],
                repeats=len(taken),
                of_scan=None if base is None else float((taken / base).median()),
                of_copy=float((seconds[f"copy {dtype}"] / taken).median()),
                eager_ms=float(eager_seconds[label].median()) * 1e3 if label in eager else None,
                clock=watches[label].clock,
            )
        )
    return rows


def _label(tower: str, shape: Sequence[int]) -> str:
    return f"{tower}: {' × '.join(map(str, shape))}"


def _failed(name: str, device: str, dtype: str, shape: str, direction: str, problem: str) -> Timing:
    return Timing(
        implementation=name,
        device=device,
        dtype=dtype,
        shape=shape,
        direction=direction,
        median_ms=0.0,
        low_ms=0.0,
        high_ms=0.0,
        repeats=0,
        problem=problem,
    )


def _operands(shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    w = torch.empty(shape).uniform_(-6, 1, generator=generator).to(device)
    u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator).to(device)
    return [r, k, v, w, u]


def cache_bytes(device: str) -> int:
    """Return the size of a GPU's L2 cache; 0 elsewhere, where no claim is made of its traffic."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device == "cuda" else 0


def cold(build: Callable[[Sequence[Tensor]], Call], operands: Sequence[Tensor], device: str) -> Call:
    """Return a call that does not find its operands in a GPU's cache, as within a model it would not.

    It takes turns among copies, so many that the others alone fill the cache; of operands that are four
    times as large as the cache there is one.

    Args:
        build: makes a call on operands.
        operands: of the call.
        device: on which they lie.
    """
    size, cache = sum(x.numel() * x.element_size() for x in operands), cache_bytes(device)
    if size >= 4 * cache:
        return build(operands)
    count = 1 + -(-cache // size)
    calls = itertools.cycle([build([x.clone() for x in operands]) for _ in range(count)])
    return lambda: next(calls)()


def _forward(name: str, operands: Sequence[Tensor]) -> Call:
    r, k, v, w, u = operands
    return lambda: ops.bi_wkv6(r, k, v, w, u, implementation=name)


def _both(name: str, operands: Sequence[Tensor]) -> Call:
    leaves = [x.clone().requires_grad_() for x in operands]
    r, k, v, w, u = leaves
    weight = torch.ones_like(r)

    def call() -> None:
        torch.autograd.grad(ops.bi_wkv6(r, k, v, w, u, implementation=name), leaves, weight)

    return call


def _scan(device: str, operands: Sequence[Tensor], backward: bool) -> Call | None:
    """Return the plain scan on float32 operands; None where it cannot be built or has no backward pass."""
    from rwkvclip_models.ops import scan_baseline

    return scan_baseline.prepare(device, operands, backward=backward)


def _linear_attention(function: str, operands: Sequence[Tensor], backward: bool) -> Call:
    """Return one of flash-linear-attention's causal kernels in both directions, the bonus in one of them."""
    from fla.ops import rwkv6

    kernel = getattr(rwkv6, function)
    turns_itself = function == "fused_recurrent_rwkv6"
    leaves = [x.clone().requires_grad_(backward) for x in operands]
    weight = torch.ones_like(leaves[0])

    def forward() -> Tensor:
        r, k, v, w, u = leaves
        causal = (r, k, v, -w.exp())
        past, _ = kernel(*causal, u, scale=1.0)
        if turns_itself:
            future, _ = kernel(*causal, torch.zeros_like(u), scale=1.0, reverse=True)
        else:
            future, _ = kernel(*(x.flip(1) for x in causal), torch.zeros_like(u), scale=1.0)
            future = future.flip(1)
        y: Tensor = past + future
        return y

    expected = ops.bi_wkv6(*(x.detach() for x in leaves), implementation="torch").float()
    difference = (forward().detach().float() - expected).abs().max() / expected.abs().max()
    if not difference < 0.05:
        raise AssertionError(
            f"flash-linear-attention computes something else: {difference:.2g} relative difference"
        )
    if not backward:
        return forward
    return lambda: torch.autograd.grad(forward(), leaves, weight)


def _copy(operands: Sequence[Tensor], backward: bool) -> Call:
    """Return a copy of as many bytes as an ideal kernel moves: operands read and results written once."""
    r, _, _, w, _ = operands
    per_value, per_decay = r.element_size(), w.element_size()
    moved = 4 * per_value + per_decay  # r, k, v, y and w
    if backward:
        moved += 4 * per_value + per_decay + 3 * per_value + per_decay  # gy, r, k, v, w; gr, gk, gv, gw
    source = torch.empty(r.numel() * moved // 2, dtype=torch.uint8, device=r.device).zero_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
