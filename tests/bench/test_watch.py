"""What is seen of a device while it is measured, and that nothing is seen where nothing tells."""

import itertools
import sys
import types

import pytest

from rwkvclip_eval.bench import watch
from rwkvclip_eval.bench.load import wait_for_quiet
from rwkvclip_eval.bench.watch import Blind, Gpu, Look, Processor, Seen, Watch, source_of


class NVMLError(Exception):
    pass


class Nvml(types.ModuleType):
    """Stands in for NVML's Python package: a GPU with scripted readings, some of which it may refuse."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    NVMLError = NVMLError

    def __init__(self, monkeypatch, refuses=(), heat=0, power=0):
        super().__init__("pynvml")
        self.refuses, self.held = refuses, {0: power, 1: heat}
        monkeypatch.setitem(sys.modules, "pynvml", self)

    def nvmlInit(self):
        if "nvmlInit" in self.refuses:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1234"
        return "handle"

    def __getattr__(self, name):
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def ask(handle, *arguments):
            assert handle == "handle"
            if name in self.refuses:
                raise NVMLError("Not Supported")
            return {
                "nvmlDeviceGetClockInfo": lambda kind: 1980,
                "nvmlDeviceGetPowerUsage": lambda: 650_000,
                "nvmlDeviceGetTemperature": lambda sensor: 61,
                "nvmlDeviceGetViolationStatus": lambda p: types.SimpleNamespace(violationTime=self.held[p]),
                "nvmlDeviceGetUtilizationRates": lambda: types.SimpleNamespace(gpu=30, memory=2),
                "nvmlDeviceGetComputeRunningProcesses": lambda: [
                    types.SimpleNamespace(pid=7, usedGpuMemory=5),
                    types.SimpleNamespace(pid=8, usedGpuMemory=None),
                ],
            }[name](*arguments)

        return ask


def test_a_gpu_tells_clock_power_heat_use_and_memory(monkeypatch):
    Nvml(monkeypatch)
    gpu = source_of("cuda:1", "1234")
    assert gpu.look() == Look(clock_mhz=1980.0, power_w=650.0, temperature_c=61.0)
    assert gpu.busy_share() == 0.3
    assert [gpu.bytes_of(pid) for pid in (7, 8, 9)] == [5, None, None]


def test_what_rose_while_a_repeat_ran_held_the_gpu_back(monkeypatch):
    nvml = Nvml(monkeypatch, heat=5, power=9)
    seen = Watch(Gpu("1234"))
    seen.begin()
    assert seen.seen().held_back == ""
    nvml.held[0] += 1
    assert seen.seen().held_back == "power limit"
    nvml.held[1] += 1
    assert seen.seen().held_back == "heat, power limit"
    seen.begin()
    assert seen.seen().held_back == ""


def test_what_a_driver_refuses_is_not_told(monkeypatch):
    refused = ("ClockInfo", "PowerUsage", "ViolationStatus", "UtilizationRates", "ComputeRunningProcesses")
    Nvml(monkeypatch, refuses={f"nvmlDeviceGet{name}" for name in refused})
    gpu = source_of("cuda", "1234")
    looked = Watch(gpu)
    looked.begin()
    looked.look()
    assert looked.seen() == Seen(temperature_c=61.0)
    assert (gpu.busy_share(), gpu.bytes_of(7)) == (0.0, None)


def test_without_nvml_nothing_is_told_but_why(monkeypatch):
    Nvml(monkeypatch, refuses={"nvmlInit"})
    blind = source_of("cuda", "1234")
    assert blind.note == "not watched: NVMLError: NVML Shared Library Not Found"
    assert (blind.look(), blind.held_back(), blind.busy_share(), blind.bytes_of(7)) == (Look(), {}, 0.0, None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert source_of("cuda", "1234").note == (
        "not watched: nvidia-ml-py is not installed (pip install 'rwkvclip-eval[energy]')"
    )
    assert source_of("mps").note == "not watched: mps has no counters that this program reads"


def test_a_processor_that_throttles_is_held_back_by_heat(tmp_path):
    for name, count in (("core", 3), ("package", 4)):
        folder = tmp_path / "cpu0" / "thermal_throttle"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_throttle_count").write_text(f"{count}\n")
    looked = Watch(Processor(tmp_path))
    looked.begin()
    assert looked.seen().held_back == ""
    (folder / "core_throttle_count").write_text("5\n")
    assert looked.seen().held_back == "heat"


def test_a_processor_without_counts_is_not_said_to_have_kept_its_pace(tmp_path):
    looked = Watch(Processor(tmp_path))
    looked.begin()
    assert looked.seen().held_back is None
    assert "no counts of throttling" in looked.source.note


@pytest.mark.parametrize(
    ("clock", "sensors", "expected"),
    [
        (2400.0, {"coretemp": [55.0, 63.0], "nvme": [80.0]}, (2400.0, 63.0)),
        (0.0, {"nvme": [80.0]}, (None, None)),
        (None, None, (None, None)),
    ],
)
def test_a_processors_clock_and_hottest_sensor(monkeypatch, tmp_path, clock, sensors, expected):
    given = None if clock is None else types.SimpleNamespace(current=clock)
    monkeypatch.setattr(watch.psutil, "cpu_freq", lambda: given)
    if sensors is None:
        monkeypatch.delattr(watch.psutil, "sensors_temperatures", raising=False)
    else:
        found = {name: [types.SimpleNamespace(current=x) for x in all_] for name, all_ in sensors.items()}
        monkeypatch.setattr(watch.psutil, "sensors_temperatures", lambda: found, raising=False)
    look = Processor(tmp_path).look()
    assert (look.clock_mhz, look.temperature_c) == expected


def test_means_are_over_looks_and_the_temperature_is_the_highest():
    class Source(Blind):
        looks = itertools.cycle(
            [Look(clock_mhz=1000, power_w=100, temperature_c=50), Look(clock_mhz=2000, temperature_c=70)]
        )

        def look(self):
            return next(self.looks)

    looked = Watch(Source(""))
    looked.begin()
    looked.look()
    looked.look()
    assert looked.seen() == Seen(clock_mhz=1500, power_w=100, temperature_c=70)


def test_a_gpu_in_use_is_not_quiet(monkeypatch):
    monkeypatch.setattr("rwkvclip_eval.bench.load.OtherLoad.share", lambda self: 0.0)
    assert not wait_for_quiet([], 0.0, lambda: 0.3)
    uses = iter((0.3, 0.0))
    assert wait_for_quiet([], 5.0, lambda: next(uses))
