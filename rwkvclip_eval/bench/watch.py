"""What a device does while it is measured: clock, power, heat, what holds it back, who else uses it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from rwkvclip_eval.errors import shortened

HEAT, POWER_LIMIT = "heat", "power limit"
SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Of processors, as Linux names them."""
PROCESSORS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, kw_only=True)
class Look:
    """A device at one moment; None is what the system does not tell.

    Attributes:
        clock_mhz: of its processors, the mean.
        power_w: that it draws.
        temperature_c: of its hottest part.
    """

    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, kw_only=True)
class Seen(Look):
    """A device in one repeat: mean clock and power, highest temperature.

    Attributes:
        held_back: by heat, power limit; empty where by neither, None where the system counts no such thing.
    """

    held_back: str | None = None


class Source(Protocol):
    """Tells of a device.

    Attributes:
        note: what is read, or why nothing is.
    """

    note: str

    def look(self) -> Look:
        """Return the device now."""

    def held_back(self) -> dict[str, int]:
        """Return reason → a count that rises while it holds the device back; empty where none is kept."""

    def busy_share(self) -> float:
        """Return the share of the last moments, in [0, 1], in which a GPU worked."""

    def bytes_of(self, pid: int) -> int | None:
        """Return the memory of a GPU that a process holds, with its context and kernels."""


@dataclass
class Blind:
    """Sees nothing.

    Attributes:
        note: why.
    """

    note: str

    def look(self) -> Look:
        """Return nothing."""
        return Look()

    def held_back(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def busy_share(self) -> float:
        """Return 0."""
        return 0.0

    def bytes_of(self, pid: int) -> int | None:
        """Return nothing."""
        return None


class Processor(Blind):
    """Reads what the system tells of its processors.

    Args:
        folder: where Linux keeps counts of their throttling.
    """

    def __init__(self, folder: Path = PROCESSORS) -> None:
        self._counts = sorted(folder.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
        told = "counts of throttling" if self._counts else "no counts of throttling, which it does not keep"
        super().__init__(f"the system's clock and sensors of the processors, {told}")

    def look(self) -> Look:
        """Return clock and temperature; virtual machines often have neither sensor nor a true clock."""
        clock, hottest = None, None
        # Each system has its own way of not telling.
        with contextlib.suppress(Exception):
            clock = float(psutil.cpu_freq().current) or None
        with contextlib.suppress(Exception):
            found = psutil.sensors_temperatures()
            hottest = max(x.current for name in SENSORS for x in found.get(name, ()))
        return Look(clock_mhz=clock, temperature_c=hottest)

    def held_back(self) -> dict[str, int]:
        """Return how often processors slowed down for heat since the system started."""
        total = 0
        for path in self._counts:
            with contextlib.suppress(OSError, ValueError):
                total += int(path.read_text(encoding="ascii"))
        return {HEAT: total} if self._counts else {}


class Gpu:
    """Reads NVML's counters of one GPU.

    Args:
        uuid: of the GPU, as torch gives it.

    Raises:
        Exception: NVML's own: no library, no such GPU.
    """

    def __init__(self, uuid: str) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml: Any = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        self.note = "NVML's clock, power, temperature and times of throttling of the GPU"

    def look(self) -> Look:
        """Return the clock of the multiprocessors, power and temperature."""
        nvml = self._nvml
        clock = self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        temperature = self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        return Look(
            clock_mhz=None if clock is None else float(clock),
            power_w=None if milliwatts is None else milliwatts / 1e3,
            temperature_c=None if temperature is None else float(temperature),
        )

    def held_back(self) -> dict[str, int]:
        """Return the time that heat, and the power limit, kept the clock down since the driver was loaded."""
        policies = {HEAT: self._nvml.NVML_PERF_POLICY_THERMAL, POWER_LIMIT: self._nvml.NVML_PERF_POLICY_POWER}
        found = {name: self._ask("nvmlDeviceGetViolationStatus", policy) for name, policy in policies.items()}
        return {name: int(status.violationTime) for name, status in found.items() if status is not None}

    def busy_share(self) -> float:
        """Return what NVML calls utilisation: of the last sixth of a second to second."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return 0.0 if rates is None else rates.gpu / 100

    def bytes_of(self, pid: int) -> int | None:
        """Return it; None in containers whose numbers of processes are not the driver's."""
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        held: int | None = next((one.usedGpuMemory for one in listed if one.pid == pid), None)
        return held

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Return NVML's answer; None where this GPU or driver does not tell."""
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):  # the driver's, or an older package
            return None


def source_of(device: str, gpu_uuid: str = "") -> Source:
    """Return what tells of a device, as torch names it.

    Args:
        device: cpu, cuda, cuda:N or mps.
        gpu_uuid: of a CUDA device, as torch gives it.
    """
    if device.startswith("cpu"):
        return Processor()
    if not device.startswith("cuda"):
        return Blind(f"not watched: {device} has no counters that this program reads")
    try:
        return Gpu(gpu_uuid)
    except ModuleNotFoundError:
        return Blind("not watched: nvidia-ml-py is not installed (pip install 'rwkvclip-eval[energy]')")
    except Exception as error:  # NVML's own: no library, no such GPU, no permission
        return Blind(f"not watched: {type(error).__name__}: {shortened(str(error), 300)}")


@dataclass
class Watch:
    """Looks at a device at the end of every turn of a repeat, when no clock has fallen yet.

    Attributes:
        source: what tells of it.
        looks: since the repeat began.
    """

    source: Source
    looks: list[Look] = field(default_factory=list)

    def begin(self) -> None:
        """Begin a repeat."""
        self.looks, self._counts = [], self.source.held_back()

    def look(self) -> None:
        """Look."""
        self.looks.append(self.source.look())

    def seen(self) -> Seen:
        """Return what was seen since the repeat began."""
        clocks = [look.clock_mhz for look in self.looks if look.clock_mhz is not None]
        powers = [look.power_w for look in self.looks if look.power_w is not None]
        temperatures = [look.temperature_c for look in self.looks if look.temperature_c is not None]
        now = self.source.held_back()
        risen = [name for name, count in now.items() if count > self._counts.get(name, count)]
        return Seen(
            clock_mhz=sum(clocks) / len(clocks) if clocks else None,
            power_w=sum(powers) / len(powers) if powers else None,
            temperature_c=max(temperatures, default=None),
            held_back=", ".join(risen) if now else None,
        )
