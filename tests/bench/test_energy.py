"""Energy: summed over what counters there are; absent is said with its reason, and never a zero."""

import importlib.util
import sys
import types

import pytest

from rwkvclip_eval.bench import energy
from rwkvclip_eval.bench.energy import Meter, meter_of


def window(gpu=(), cpu=None, dram=None, chip=None):
    return types.SimpleNamespace(
        gpu_energy=dict(enumerate(gpu)), cpu_energy=cpu, dram_energy=dram, soc_energy=chip
    )


class Zeus:
    """Stands in for zeus' monitor: what it was asked for, and a window it gives."""

    def __init__(self, monkeypatch, given, cpus=(), chip=False, fails=None):
        self.asked, self.given, zeus = None, given, self

        class ZeusMonitor:
            def __init__(self, gpu_indices, cpu_indices):
                if fails is not None:
                    raise fails
                zeus.asked = gpu_indices, cpu_indices
                self.cpu_indices, self.soc_is_present = list(cpus) if cpu_indices is None else [], chip

            def begin_window(self, key, *, sync_execution, restart):
                assert not sync_execution

            def end_window(self, key, *, sync_execution):
                return zeus.given

        module = types.ModuleType("zeus.monitor")
        module.ZeusMonitor = ZeusMonitor
        monkeypatch.setitem(sys.modules, "zeus", types.ModuleType("zeus"))
        monkeypatch.setitem(sys.modules, "zeus.monitor", module)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_without_zeus_the_reason_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    meter = meter_of("cpu")
    assert meter.note == "not measured: zeus is not installed (pip install 'rwkvclip-eval[energy]')"
    assert meter.around(lambda: 7) == (7, None)


def test_without_nvml_the_reason_is_its_own(monkeypatch):
    Zeus(monkeypatch, window(), fails=RuntimeError("NVML Shared Library Not Found\nmore"))
    meter = meter_of("cuda:1")
    assert meter.note == "not measured: RuntimeError: NVML Shared Library Not Found"
    assert meter.monitor is None


def test_a_processor_whose_counters_cannot_be_read_has_no_energy_and_not_zero(monkeypatch):
    Zeus(monkeypatch, window())
    assert meter_of("cpu").note == (
        "not measured: this system lets no counter of the processor (RAPL) be read"
    )


@pytest.mark.parametrize(
    ("device", "asked", "given", "joules"),
    [
        ("cuda:2", ([2], []), window(gpu=[3.5]), 3.5),
        ("cpu", ([], None), window(cpu={0: 2.0, 1: 1.0}, dram={0: 0.5}), 3.5),
        ("mps", ([], None), window(chip=types.SimpleNamespace(cpu_total_mj=500, gpu_mj=1500)), 2.0),
    ],
)
def test_the_counters_of_the_device_are_summed(monkeypatch, device, asked, given, joules):
    zeus = Zeus(monkeypatch, given, cpus=(0, 1) if device == "cpu" else (), chip=device == "mps")
    meter = meter_of(device)
    assert meter.around(lambda: "done") == ("done", pytest.approx(joules))
    assert zeus.asked == asked
    assert "by zeus" in meter.note


def test_a_counter_that_did_not_move_is_no_zero():
    class Still:
        def begin_window(self, *_, **__): ...
        def end_window(self, *_, **__):
            return window(gpu=[0.0])

    assert Meter("x", Still()).around(lambda: 1) == (1, None)


@pytest.mark.parametrize("gone", ["begin_window", "end_window"])
def test_a_counter_that_goes_ends_no_measurement(gone):
    class Failing:
        def begin_window(self, *_, **__): ...
        def end_window(self, *_, **__):
            return window(gpu=[2.0])

    meter = Meter("x", Failing())
    assert meter.around(lambda: 1) == (1, 2.0)

    def fails(*_, **__):
        raise OSError("the driver was unloaded")

    setattr(Failing, gone, fails)
    assert meter.around(lambda: 1) == (1, None)
    assert (meter.monitor, meter.failure) == (None, "OSError: the driver was unloaded")
    assert meter.around(lambda: 1) == (1, None)


def test_an_error_without_words_goes_by_its_name():
    assert energy._said(OSError()) == "OSError"
    assert energy._said(OSError("gone\nfar")) == "OSError: gone"
