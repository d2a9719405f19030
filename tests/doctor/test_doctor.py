import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from rwkvclip_eval.bench import operators as operator_speed
from rwkvclip_eval.bench import towers as tower_speed
from rwkvclip_eval.bench.towers import TowerTiming
from rwkvclip_eval.doctor import comparison as operator_check
from rwkvclip_eval.doctor import diagnosis as doctor
from rwkvclip_eval.doctor import report as doctor_report
from rwkvclip_eval.doctor.checks import DoctorReport, judge
from rwkvclip_eval.doctor.full import full_check
from rwkvclip_eval.errors import OutputError
from rwkvclip_models.ops.agreement import NAMES, Recurrence

choice = importlib.import_module("rwkvclip_models.ops.choice")


@pytest.fixture
def one_core_grid(monkeypatch):
    """A few small problems and one small timing instead of the whole examination."""
    few = [
        Recurrence(num_tokens=1, head_width=16),
        Recurrence(num_tokens=17, head_width=16, decays="extreme"),
        Recurrence(num_tokens=17, head_width=16, strided=True),
        Recurrence(num_tokens=17, head_width=16, batch=0, heads=1),
        Recurrence(num_tokens=300, head_width=16, batch=1, heads=1),
    ]
    monkeypatch.setattr(operator_check, "problems", lambda: few)
    monkeypatch.setattr(operator_check, "GRIDS", ((1, 1, 4), (5, 3, 4), (7, 1, 2)))
    monkeypatch.setattr(operator_check, "GRID_WIDTHS", (16,))
    shapes = {device: {"nano": (1, 17, 2, 16)} for device in operator_speed.TIMED_SHAPES}
    monkeypatch.setattr(operator_speed, "TIMED_SHAPES", shapes)
    monkeypatch.setattr(operator_speed, "ROUNDS", 2)
    monkeypatch.setattr(tower_speed, "IMAGE_SIZES_PX", {})


@pytest.fixture
def forgetful_operator(monkeypatch):
    """An implementation that leaves out the bonus of the current token."""

    def forgetful(r, k, v, w, u):
        return choice.bi_wkv6_reference(r, k, v, w, 0 * u)

    monkeypatch.setitem(choice.PLAIN, "forgetful", forgetful)


def statuses(report):
    return {check.name: check.status for check in report.checks}


def test_a_sound_installation_passes_with_every_operator_in_agreement():
    report = doctor.diagnose()
    assert report.ok
    assert report.exit_code == 0
    found = statuses(report)
    assert found["torch"] == found["cpu"] == "ok"
    assert found["bi_wkv6 reference on cpu"] == found["bi_wkv6 torch on cpu"] == "ok"
    assert found["bi_wkv6 auto"] == found["bi_wkv6 cpu on cpu"] == "ok"
    details = {check.name: check.detail for check in report.checks}
    assert found["C++ compiler"] == "ok"
    built = r" in [\d.]+ ms; rwkvclip_cpu-\w+\.so, built by "
    assert re.search(built + re.escape(details["C++ compiler"]), details["bi_wkv6 cpu on cpu"])
    if not torch.cuda.is_available():
        assert found["cuda"] == "absent"
        expected = f"torch sees no NVIDIA GPU. Its compiler: {details['nvcc']}"
        assert details["bi_wkv6 cuda"] == expected
    for row in report.rows():
        assert len(row) == len(report.HEADERS)
        assert row[2] == "ok" or row[4], "what is not in order has a cure"


def test_a_wrong_operator_fails_the_diagnosis(forgetful_operator):
    report = doctor.diagnose()
    row = next(c for c in report.checks if c.name == "bi_wkv6 forgetful on cpu")
    assert row.status == "failed"
    assert "differs from the reference" in row.detail
    assert report.exit_code == 1


def test_an_operator_that_raises_is_a_row_and_no_crash(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setitem(choice.PLAIN, "broken", broken)
    row = next(c for c in doctor.diagnose().checks if c.name == "bi_wkv6 broken on cpu")
    assert row.status == "failed"
    assert "no kernel image" in row.detail


def test_auto_is_a_warning_where_a_compiler_would_make_it_faster(monkeypatch):
    broken = choice.ImplementationStatus(
        name="cpu", available=False, reason="The compiler failed.", cure="Install g++."
    )
    real = choice.status
    monkeypatch.setattr(choice, "status", lambda name: broken if name == "cpu" else real(name))
    choice._decide.cache_clear()
    try:
        with pytest.warns(choice.ImplementationWarning, match="The compiler failed"):
            report = doctor.diagnose()
    finally:
        choice._decide.cache_clear()
        choice._warned.clear()
    row = next(c for c in report.checks if c.name == "bi_wkv6 auto")
    assert row.status == "warning"
    assert row.detail.startswith("torch on cpu")
    assert "slower than it could be: see cpu" in row.detail
    assert row.cure == "cpu: Install g++."
    assert report.exit_code == 0


def test_nan_is_not_agreement():
    assert judge("op", float("nan"), "float32").status == "failed"
    assert judge("op", 1e-6, "float32").status == "ok"


@pytest.mark.parametrize(
    ("errors", "status", "worst"),
    [
        ({"y": 9e-6, "grad w": 4e-5}, "ok", "y of B 1"),
        ({"y": 1.1e-5, "grad w": 4e-5}, "failed", "y of B 1"),
        ({"y": 1e-7, "grad w": 6e-5}, "failed", "grad w of B 1"),
        ({"y": 1.0, "grad w": float("nan")}, "failed", "grad w of B 1"),
    ],
)
def test_in_float32_only_the_gradient_of_the_decay_may_differ_by_more(errors, status, worst):
    sizes = dataclasses.asdict(Recurrence(num_tokens=2, head_width=16, batch=1))
    case = operator_check.Case(
        implementation="torch", device="cpu", dtype="float32", errors=errors, problem="", **sizes
    )
    [row] = operator_check.summarise([case])
    assert row.status == status
    assert worst in row.detail


def test_a_missing_package_is_absent_with_its_cure_and_does_not_fail(monkeypatch):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "transformers" else real(name))
    report = doctor.diagnose()
    row = next(c for c in report.checks if c.name == "transformers")
    assert (row.status, row.detail) == ("absent", "not installed")
    assert row.cure.startswith("pip install 'transformers")
    assert report.ok


def test_a_version_outside_the_declared_range_fails(monkeypatch):
    monkeypatch.setattr(doctor, "_declared_ranges", lambda: {"open-clip-torch": ">=900"})
    row = next(c for c in doctor.diagnose().checks if c.name == "open_clip_torch")
    assert row.status == "failed"
    assert ">=900 is needed" in row.detail
    assert row.cure == "pip install 'open_clip_torch>=900'"


def test_the_doctor_needs_only_torch_and_numpy():
    blocked = (
        "torchvision open_clip transformers huggingface_hub safetensors clip_benchmark datasets webdataset "
        "sklearn scipy pandas pyarrow matplotlib PIL pydantic yaml rich typer packaging"
    )
    code = (
        "import sys\n"
        f"for name in {blocked!r}.split(): sys.modules[name] = None\n"
        "from rwkvclip_eval.doctor.diagnosis import diagnose\n"
        "found = {c.name: c for c in diagnose().checks}\n"
        "vision = found['torchvision']\n"
        "assert vision.status == 'failed' and 'cannot be imported' in vision.detail\n"
        "assert found['bi_wkv6 torch on cpu'].status == 'ok'\n"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})


@pytest.mark.usefixtures("one_core_grid")
def test_the_full_check_writes_cases_times_and_hardware(tmp_path):
    report = full_check(tmp_path / "out")
    assert report.ok
    written = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert written["ok"]
    assert written["environment"]["packages"]["torch"]
    dtypes = {c["dtype"] for c in written["cases"] if c["implementation"] == "torch" and c["device"] == "cpu"}
    assert dtypes == {"float32", "bfloat16", "float16", "float64"}
    assert {c["decays"] for c in written["cases"]} == {"trained", "extreme", ""}
    recurrence = [c for c in written["cases"] if c["operator"] == "bi_wkv6"]
    assert all(set(c["errors"]) == set(NAMES) for c in recurrence)
    assert {c["dtype"] for c in written["cases"] if c["operator"] == "elementwise"} == dtypes
    assert {c["num_tokens"] for c in recurrence if c["implementation"] == "reference"} == {1, 17}
    assert {t["direction"] for t in written["times"]} == {"forward", "forward + backward"}
    assert all(t["low_ms"] <= t["median_ms"] <= t["high_ms"] for t in written["times"])
    scan = [t for t in written["times"] if t["implementation"] == "plain scan"]
    assert {t["of_scan"] for t in scan} == {1.0}
    assert all(t["of_copy"] > 0 for t in written["times"])
    page = (tmp_path / "out" / "doctor.md").read_text()
    assert "everything passed" in page
    assert "nano: 1 × 17 × 2 × 16" in page


@pytest.mark.usefixtures("one_core_grid")
def test_an_operator_that_does_not_run_fails_its_row_and_the_others_are_timed(monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("too many resources requested for launch")

    monkeypatch.setitem(choice.PLAIN, "broken", broken)
    report = full_check(tmp_path)
    assert not report.ok
    times = json.loads((tmp_path / "doctor.json").read_text())["times"]
    assert {"torch", "cpu"} <= {t["implementation"] for t in times if not t["problem"]}
    assert {t["problem"] for t in times if t["implementation"] == "broken"} == {
        "RuntimeError: too many resources requested for launch"
    }
    assert "too many resources" in (tmp_path / "doctor.md").read_text()


@pytest.mark.usefixtures("one_core_grid", "forgetful_operator")
def test_the_full_check_fails_a_wrong_operator_naming_its_worst_case(tmp_path):
    report = full_check(tmp_path)
    row = next(c for c in report.checks if c.name.startswith("bi_wkv6 forgetful on cpu in float32, "))
    assert row.status == "failed"
    assert "T 1, H 2, N 16" in row.detail
    assert report.exit_code == 1
    assert "**something failed.**" in (tmp_path / "doctor.md").read_text()


@pytest.mark.usefixtures("one_core_grid")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        full_check(tmp_path / "file")


@pytest.mark.gpu
def test_the_gpu_is_found_and_its_operators_agree():
    found = statuses(doctor.diagnose())
    assert found["cuda:0"] == "ok"
    assert found["bi_wkv6 torch on cuda"] == "ok"


def test_times_of_towers_are_a_table_of_the_full_check(tmp_path):
    sound = TowerTiming(
        image_px=896,
        batch=32,
        rwkv_ms=50.0,
        clip_ms=100.0,
        speedup=2.0,
        rwkv_peak_bytes=1 << 30,
        clip_peak_bytes=3 << 30,
    )
    broken = dataclasses.replace(sound, image_px=1792, problem="OutOfMemoryError: tried to allocate")
    doctor_report.write(tmp_path, DoctorReport(()), [], [], [sound, broken])
    page = re.sub(" +", " ", (tmp_path / "doctor.md").read_text())
    assert "| 896 px | 32 | 50.00 ms | 100.00 ms | 2.00 | 1.00 GiB | 3.00 GiB |" in page
    assert "| image tower B/16, 896 px: times as fast as ViT-B/16 | 2.00 | 1.30 | met |" in page
    assert "| image tower B/16, 896 px: ViT-B/16's peak memory by ours | 3.00 | 1.00 | met |" in page
    assert "1792 px: times as fast" not in page, "what did not run has no verdict"
    assert "| 1792 px | 32 | OutOfMemoryError: tried to allocate |" in page
    assert json.loads((tmp_path / "doctor.json").read_text())["towers"][0]["speedup"] == 2.0


@pytest.mark.usefixtures("one_core_grid")
@pytest.mark.parametrize(
    ("module", "part"),
    [(operator_check, "compare_all"), (operator_speed, "time_all"), (tower_speed, "time_towers")],
)
def test_a_part_that_breaks_off_fails_its_row_and_keeps_its_rows_and_the_other_parts(
    module, part, monkeypatch, tmp_path
):
    real = getattr(module, part)

    def breaks_off():
        yield from real()
        raise MemoryError("no room")

    monkeypatch.setattr(module, part, breaks_off)
    report = full_check(tmp_path)
    assert [c.name for c in report.checks if "MemoryError: no room" in c.detail] == [
        {
            "compare_all": "comparison of the operators",
            "time_all": "times of the operators",
            "time_towers": "times of the towers",
        }[part]
    ]
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert written["cases"]
    assert written["times"]
    assert not written["ok"]


def test_an_image_size_that_fails_is_a_row_with_its_reason_and_the_next_is_tried(monkeypatch):
    def no_open_clip(side, batch):
        raise ModuleNotFoundError("No module named 'open_clip'")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(tower_speed, "_time_size", no_open_clip)
    rows = list(tower_speed.time_towers())
    assert [row.image_px for row in rows] == list(tower_speed.IMAGE_SIZES_PX)
    assert {row.problem for row in rows} == {"ModuleNotFoundError: No module named 'open_clip'"}


@pytest.mark.usefixtures("one_core_grid")
def test_what_was_found_is_on_disk_before_the_towers_are_timed(monkeypatch, tmp_path):
    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(tower_speed, "time_towers", killed)
    with pytest.raises(KeyboardInterrupt):
        full_check(tmp_path)
    assert json.loads((tmp_path / "doctor.json").read_text())["times"]


def test_the_grid_has_every_length_and_width_that_must_hold_and_what_is_unusual():
    grid = list(operator_check.problems())
    lengths = {1, 2, 3, 15, 16, 17, 49, 50, 77, 196, 197, 1024, 4097, 16384}
    assert lengths <= {p.num_tokens for p in grid}
    for num_tokens in (77, 196):
        assert {16, 32, 64, 80, 96, 128} <= {p.head_width for p in grid if p.num_tokens == num_tokens}
    assert {0, 1} <= {p.batch for p in grid}
    assert 1 in {p.heads for p in grid}
    assert any(p.strided for p in grid)
    assert any(p.decays == "extreme" and p.num_tokens >= 209 for p in grid), "CUDA's chunked form too"


def test_a_kernel_that_leaves_part_of_its_output_unwritten_is_found(monkeypatch):
    def lazy(r, k, v, w, u):
        y = choice.bi_wkv6_reference(r, k, v, w, u)
        half = torch.empty_like(y)
        half[:, : y.shape[1] // 2] = y[:, : y.shape[1] // 2]
        return half

    monkeypatch.setitem(choice.PLAIN, "lazy", lazy)
    monkeypatch.setattr(operator_check, "problems", lambda: [Recurrence(num_tokens=4, head_width=16)])
    monkeypatch.setattr(operator_check, "elementwise_problems", lambda: iter(()))
    rows = operator_check.summarise(operator_check.compare_all())
    assert {row.status for row in rows if " lazy " in row.name} == {"failed"}


def test_16384_tokens_agree_with_the_reference(monkeypatch):
    longest = Recurrence(num_tokens=16384, head_width=16, batch=1, heads=1)
    monkeypatch.setattr(operator_check, "problems", lambda: [longest])
    monkeypatch.setattr(operator_check, "elementwise_problems", lambda: iter(()))
    rows = operator_check.summarise(operator_check.compare_all())
    assert {row.name.split(",")[0] for row in rows} >= {"bi_wkv6 cpu on cpu in float32"}
    assert [row.detail for row in rows if row.status != "ok"] == []


def test_compilers_are_named_with_their_versions_or_why_there_is_none(monkeypatch, tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        "#!/bin/sh\necho 'nvcc: NVIDIA (R) Cuda compiler driver'\necho 'Cuda tools, release 13.0'\n"
    )
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    none, nvidia = doctor._compilers()
    assert (none.name, none.status) == ("C++ compiler", "absent")
    assert "No C++ compiler found" in none.detail
    assert "set CXX" in none.cure
    assert (nvidia.name, nvidia.status, nvidia.detail) == ("nvcc", "ok", "Cuda tools, release 13.0")
