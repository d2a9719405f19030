"""Energy that something took, read by zeus (NVML, AMD's, RAPL, Apple's counters) where there is a counter."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_MEASURED = "not measured: "
_WINDOW = "turn"

Answer = TypeVar("Answer")


@dataclass
class Meter:
    """Reads counters around a call; what they count of others' work meanwhile is in it.

    Attributes:
        note: what is read, or why nothing is.
        monitor: zeus' own; None where nothing is read.
        failure: why nothing is read any more; empty while it is, and where it never was.
    """

    note: str
    monitor: Any = field(default=None, repr=False)
    failure: str = ""

    def around(self, call: Callable[[], Answer]) -> tuple[Answer, float | None]:
        """Return what `call` returns and the joules meanwhile; None where no counter moved, never 0."""
        # The call waits for its device itself; this process has not even a context there.
        begun = self._told(
            lambda zeus: zeus.begin_window(_WINDOW, sync_execution=False, restart=True) or True
        )
        answer = call()
        counted = begun and self._told(lambda zeus: zeus.end_window(_WINDOW, sync_execution=False))
        joules = _joules(counted) if counted else 0.0
        return answer, joules if joules > 0 else None

    def _told(self, ask: Callable[[Any], Any]) -> Any:
        """Return zeus' answer; None where a counter has gone, and from then on."""
        if self.monitor is None:
            return None
        try:
            return ask(self.monitor)
        except Exception as error:  # the driver's, the system's, zeus' own
            self.monitor, self.failure = None, _said(error)
            return None


def meter_of(device: str) -> Meter:
    """Return what reads the energy of a device, as torch names it."""
    if importlib.util.find_spec("zeus") is None:
        return Meter(f"{NOT_MEASURED}zeus is not installed (pip install 'rwkvclip-eval[energy]')")
    kind, _, index = device.partition(":")
    try:
        from zeus.monitor import ZeusMonitor

        gpus = [int(index or 0)] if kind == "cuda" else []
        monitor = ZeusMonitor(gpu_indices=gpus, cpu_indices=[] if gpus else None)
    except Exception as error:  # drivers, permissions, zeus' own: each says why
        return Meter(NOT_MEASURED + _said(error))
    if gpus:
        return Meter("the GPU's own counter, by zeus", monitor)
    if monitor.cpu_indices:
        return Meter("the processor packages' counters (RAPL) and memory's where there are, by zeus", monitor)
    if monitor.soc_is_present:
        return Meter("the chip's counters of processor, GPU and memory, by zeus", monitor)
    return Meter(f"{NOT_MEASURED}this system lets no counter of the processor (RAPL) be read")


def _said(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return type(error).__name__ + (f": {said[0][:300]}" if said else "")


def _joules(measurement: Any) -> float:
    """Return the sum of what a window of zeus counted."""
    found = [
        joules
        for part in (measurement.gpu_energy, measurement.cpu_energy, measurement.dram_energy)
        for joules in (part or {}).values()
    ]
    chip = measurement.soc_energy
    if chip is not None:
        names = ("cpu_total_mj", "gpu_mj", "dram_mj", "ane_mj")
        found += [(getattr(chip, name, None) or 0) / 1e3 for name in names]
    return float(sum(found))
