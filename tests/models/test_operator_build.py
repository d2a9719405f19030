"""Building the compiled implementations: what can go wrong on users' machines."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkvclip_models import UserError, ops
from rwkvclip_models.ops import build, choice

FAST = ("-std=c++17", "-O0", "-fPIC", "-march=native", "-fopenmp")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, nothing loaded, and a quick build."""
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "_cpu_rule", lambda: FAST)
    monkeypatch.setattr(choice, "_warned", set())
    for cached in (choice.status, choice._decide):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (choice.status, choice._decide):
        cached.cache_clear()


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_is_built_once_and_quietly(fresh, capfd):
    loaded = build.library("cpu")
    assert build.library("cpu") is loaded
    [path] = fresh.glob("*.so")
    assert capfd.readouterr() == ("", "")
    before = path.stat().st_mtime_ns
    build._loaded.clear()
    build.library("cpu")
    assert [p.stat().st_mtime_ns for p in fresh.glob("*.so")] == [before]
    assert not [p for p in fresh.iterdir() if p.is_dir()], "no scratch folder stays"


def test_other_flags_or_another_torch_make_another_library(fresh, monkeypatch):
    build.library("cpu")
    monkeypatch.setattr(build, "_cpu_rule", lambda: (*FAST, "-DOTHER"))
    build._loaded.clear()
    build.library("cpu")
    monkeypatch.setattr(torch, "__version__", "99.0")
    build._loaded.clear()
    build.library("cpu")
    assert len(list(fresh.glob("*.so"))) == 3


def test_processes_that_start_together_build_once(fresh):
    code = (
        "from rwkvclip_models.ops import build\n"
        f"build._cpu_rule = lambda: {FAST!r}\n"
        "build.library('cpu').rwkvclip_error()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert len(list(fresh.glob("*.so"))) == 1


def test_what_an_interrupted_build_left_is_swept_away_and_not_loaded(fresh):
    build.library("cpu")
    [path] = fresh.glob("*.so")
    path.unlink()
    left = fresh / f".{path.stem}-killed"
    left.mkdir()
    (left / "library.so").write_bytes(b"half a library")
    build._loaded.clear()
    build.library("cpu")
    assert path.exists()
    assert not left.exists()


@pytest.fixture
def refused(fresh):
    """Checks that the library is refused with a reason and a cure, and that auto still runs, warning once."""

    def check(reason, cure):
        with pytest.raises(build.BuildError, match=reason) as caught:
            build.library("cpu")
        assert cure in caught.value.cure
        with pytest.warns(
            choice.ImplementationWarning, match=f"slower implementation 'torch'.*{reason}"
        ) as seen:
            assert ops.resolve("auto") == "torch"
            assert ops.resolve("auto", dtype=torch.bfloat16) == "torch"
        assert len(seen) == 1
        with pytest.raises(UserError, match=reason):
            ops.resolve("cpu")
        [row] = [s for s in ops.implementations() if s.name == "cpu"]
        assert not row.available
        assert cure in row.cure
        assert not list(fresh.glob("*.so"))

    return check


def test_without_a_compiler_the_torch_implementation_runs(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    refused(r"No C\+\+ compiler found", "apt install g")


def test_an_old_compiler_is_named(refused, monkeypatch, tmp_path):
    old = program(tmp_path / "g++-7", "echo 'g++ (GCC) 7.5.0'")
    monkeypatch.setenv("CXX", old)
    refused(r"too old: 'g\+\+ \(GCC\) 7.5.0'", "GCC ≥ 9")


def test_a_failing_compiler_leaves_its_whole_output_in_a_log(refused, monkeypatch, tmp_path, fresh):
    text = (
        'case "$*" in *--version*) echo "g++ 12.0.0";; *-E*) ;; '
        '*) echo "x.cpp:1: error: no such thing"; exit 1;; esac'
    )
    monkeypatch.setenv("CXX", program(tmp_path / "broken", text))
    refused("error: no such thing", ".log")
    [log] = fresh.glob("*.log")
    assert "no such thing" in log.read_text()


def test_a_compiler_that_cannot_even_say_its_version_is_named(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", program(tmp_path / "broken", "echo 'no licence' >&2; exit 1"))
    refused("broken does not run: no licence", "Mend or replace")


def test_what_a_compiler_says_is_told_even_without_the_word_error(refused, monkeypatch, tmp_path):
    text = 'case "$*" in *--version*) echo "g++ 12.0.0";; *-E*) ;; *) echo "no licence"; exit 1;; esac'
    monkeypatch.setenv("CXX", program(tmp_path / "broken", text))
    refused("failed: no licence", ".log")


def test_missing_sources_leave_the_torch_implementation(refused, monkeypatch):
    def missing(name):
        raise FileNotFoundError("The shipped folder 'cuda' is gone: reinstall rwkvclip-eval.")

    monkeypatch.setattr(build, "resource_dir", missing)
    refused("reinstall rwkvclip-eval", "torch")


def test_a_compiler_may_say_what_is_no_utf_8(refused, monkeypatch, tmp_path, fresh):
    text = (
        'case "$*" in *--version*) printf "g++ 12.0.0 (\\377)\\n";; *-E*) ;; '
        '*) printf "\\377x.cpp:1: error: no such thing\\n"; exit 1;; esac'
    )
    monkeypatch.setenv("CXX", program(tmp_path / "broken", text))
    refused("error: no such thing", ".log")


def test_a_cache_that_cannot_be_written_is_named(refused, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path / "file" / "cache"))
    refused("cannot be written", "RWKVCLIP_BUILD_DIR")


def test_a_cache_that_may_not_be_entered_is_named(refused, monkeypatch):
    real = Path.exists

    def exists(path):
        if path.suffix == ".so":
            raise PermissionError(13, "Permission denied")
        return real(path)

    def mkdir(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused("cannot be written", "RWKVCLIP_BUILD_DIR")


def test_without_ninja_the_cure_is_its_package(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ninja", None)
    real = build.shutil.which
    monkeypatch.setattr(build.shutil, "which", lambda name, **k: None if name == "ninja" else real(name, **k))
    refused("ninja is not installed", "pip install ninja")


def test_a_damaged_library_in_the_cache_says_what_to_delete(fresh, monkeypatch, tmp_path):
    build.library("cpu")
    [sound] = fresh.glob("*.so")
    build._loaded.clear()
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path))
    damaged = tmp_path / sound.name
    damaged.write_bytes(b"not a library")
    with pytest.raises(build.BuildError, match="does not load") as caught:
        build.library("cpu")
    assert f"Delete {damaged}" in caught.value.cure


def test_without_nvcc_the_cure_names_the_toolkit_and_triton(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_loaded", {})
    with pytest.raises(build.BuildError, match="nvcc") as caught:
        build.library("cuda")
    assert "triton" in caught.value.cure


def test_gpus_too_old_for_the_cuda_sources_are_named_before_any_compilation(monkeypatch):
    gpus = [(7, 5), (9, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i])
    assert [flag for flag in build._cuda_rule() if "arch" in flag] == [
        "-gencode=arch=compute_90,code=[sm_90,compute_90]"
    ]
    gpus.pop()
    with pytest.raises(build.BuildError, match=r"compute capability is 7.5, below 8.0") as caught:
        build._cuda_rule()
    assert "triton" in caught.value.cure


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cpu", {"width": 40}, "multiples of 16 up to 128 wide, got 40"),
        ("cpu", {"width": 144}, "multiples of 16 up to 128 wide, got 144"),
        ("cpu", {"device": "meta"}, "works on cpu tensors, got meta"),
        ("cuda", {}, "works on cuda tensors, got cpu"),
        ("triton", {}, "works on cuda tensors, got cpu"),
    ],
)
def test_what_an_implementation_cannot_run_is_refused_by_name(name, options, message):
    with pytest.raises(UserError, match=message):
        ops.resolve(name, **options)


def test_auto_takes_the_compiled_kernels_and_says_once_why_not(fresh):
    assert ops.resolve("auto") == "cpu"
    with pytest.warns(choice.ImplementationWarning, match="got 40"):
        assert ops.resolve("auto", width=40) == "torch"
    assert ops.resolve("auto", device="meta") == "torch"


def test_sources_are_found_beside_the_package():
    folder = build.resource_dir("cuda")
    assert {"bi_wkv6_forward_cpu.cpp", "fused_cpu.cpp", "simd.h"} <= {p.name for p in Path(folder).iterdir()}
