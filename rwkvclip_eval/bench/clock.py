"""Times alternatives in turns, each by the clock that suits its device and length."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    Call = Callable[[], object]

CALLS = 10
"""Calls between two looks at a GPU's clock: one short kernel is about as long as the clock's resolution."""
WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Stopwatch:
    """Times one alternative.

    Attributes:
        clock: what is timed, in words; with the reason where it is not the first choice.
        seconds: runs the alternative and returns the time of one call.
    """

    clock: str
    seconds: Callable[[], float]


def stopwatch(call: Call, device: str) -> Stopwatch:
    """Return what times a call of a few kernels: on a GPU a graph, for launching them may take longer."""
    kinds = (graph_of_calls, loop_of_calls) if device == "cuda" else (partial(single_call, device=device),)
    return first_that_works(call, kinds)


def first_that_works(call: Call, kinds: Sequence[Callable[[Call], Stopwatch]]) -> Stopwatch:
    """Return the first kind that can time `call`; its clock says why those before it could not.

    Raises:
        Exception: that of the last kind, if none can.
    """
    reasons = []
    for kind in kinds[:-1]:
        try:
            found = kind(call)
        except Exception as error:  # a capture refuses in many ways: what was captured, the driver, memory
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
        else:
            return Stopwatch("; ".join((found.clock, *reasons)), found.seconds)
    found = kinds[-1](call)
    return Stopwatch("; ".join((found.clock, *reasons)), found.seconds)


def graph_of_calls(call: Call) -> Stopwatch:
    """Return what times the replay of one captured CUDA graph of `CALLS` calls: no dispatch, no launches.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture.

    Raises:
        Exception: `call` cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch declares no types for it
    side.wait_stream(torch.cuda.current_stream())
    # The outer context puts the stream back even where a failed capture does not. Libraries make their
    # handles per stream, so it is warmed up on the one that captures.
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            call()
        with torch.cuda.graph(graph, stream=side):
            for _ in range(CALLS):
                call()
    torch.cuda.current_stream().wait_stream(side)
    replay = partial(_between_events, graph.replay, 1)
    return Stopwatch(f"CUDA graph of {CALLS} calls", lambda: replay() / CALLS)


def loop_of_calls(call: Call) -> Stopwatch:
    """Return what times `CALLS` eager calls in a row with CUDA events: dispatch counts where it is longer."""
    for _ in range(WARM_UP_CALLS):
        call()
    return Stopwatch(f"CUDA events around {CALLS} calls", partial(_between_events, call, CALLS))


def single_call(call: Call, *, device: str) -> Stopwatch:
    """Return what times one call: on a GPU with CUDA events, elsewhere with the wall clock."""
    if device == "cuda":
        return Stopwatch("CUDA events around a call", partial(_between_events, call, 1))
    return Stopwatch("wall clock of a call", partial(_wall, call, device))


def in_turns(calls: Mapping[str, Call], rounds: int, device: str = "cpu") -> dict[str, Tensor]:
    """Return name → seconds of each round, float64, of calls long enough to be timed one by one."""
    return turns({name: single_call(call, device=device) for name, call in calls.items()}, rounds)


def turns(watches: Mapping[str, Stopwatch], rounds: int) -> dict[str, Tensor]:
    """Return name → seconds per call of each round, float64; drift and other load hit all alike.

    Two rounds warm up and are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in watches}
    for i in range(rounds + 2):
        for name in list(watches) if i % 2 else list(watches)[::-1]:
            seconds[name].append(watches[name].seconds())
    return {name: torch.tensor(taken[2:], dtype=torch.float64) for name, taken in seconds.items()}


def _between_events(call: Call, calls: int) -> float:
    # torch declares no types for events.
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # as above
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # as above
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3 / calls


def _wall(call: Call, device: str) -> float:
    def wait() -> None:
        if device == "mps":
            torch.mps.synchronize()

    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start
