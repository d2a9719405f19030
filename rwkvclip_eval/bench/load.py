"""What others do on this machine while something is measured."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DISTURBED = 0.05
"""Share of the processors, or of a GPU, that others may use beside a measurement…"""
DISTURBED_CORES = 0.5
"""…and of many processors no more than so many: every product waits for its slowest thread."""
GATE_S, LOOK_S = 10.0, 0.5
"""A measurement waits at most this long for a quiet machine, looking this long each time."""


class OtherLoad:
    """Share of the processors that this process may use that other processes use from now on.

    Args:
        own: process numbers that are not others, beside this one.
    """

    def __init__(self, own: Sequence[int] = ()) -> None:
        self._own = [psutil.Process()]
        for pid in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._own.append(psutil.Process(pid))
        self._start = self._now()

    def share(self) -> float:
        """Return it, in [0, 1]; time that a hypervisor took away counts as others'."""
        (elapsed, busy, own), (elapsed_0, busy_0, own_0) = self._now(), self._start
        total = elapsed - elapsed_0
        return max(0.0, min(1.0, (busy - busy_0 - (own - own_0)) / total)) if total > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        """Return seconds of these processors, busy ones, and our own."""
        every = idle = own = 0.0
        for times in _own_processors():
            # Linux counts guests within user time already.
            every += sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            idle += times.idle + getattr(times, "iowait", 0.0)
        for process in self._own:
            with contextlib.suppress(psutil.Error):
                spent = process.cpu_times()
                own += spent.user + spent.system
        return every, every - idle, own


def _own_processors() -> list[Any]:
    """Return psutil's times of each processor that this process may use; of all where no system tells."""
    times = psutil.cpu_times(percpu=True)
    if not hasattr(os, "sched_getaffinity"):
        return times
    allowed = os.sched_getaffinity(0)
    return [one for number, one in enumerate(times) if number in allowed] or times


def most_of_others() -> float:
    """Return the share of the processors that others may use beside a measurement."""
    return min(DISTURBED, DISTURBED_CORES / len(_own_processors()))


def wait_for_quiet(
    own: Sequence[int] = (), seconds: float = GATE_S, gpu_share: Callable[[], float] = lambda: 0.0
) -> bool:
    """Wait until others leave the processors alone; return whether they did within so many seconds.

    Args:
        own: process numbers that are not others, beside this one.
        seconds: to wait.
        gpu_share: of a GPU's time that is used, though none of ours uses it now.
    """
    deadline = time.monotonic() + seconds
    while True:
        load = OtherLoad(own)
        time.sleep(LOOK_S)
        if load.share() <= most_of_others() and gpu_share() <= DISTURBED:
            return True
        if time.monotonic() > deadline:
            return False
