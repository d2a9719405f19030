"""Building the compiled implementations: what can go wrong on users' machines."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkvclip_models import UserError, ops
from rwkvclip_models.ops import build, choice, compilers

FAST = ("-std=c++17", "-O0", "-fPIC", "-march=native", "-fopenmp")


@pytest.fixture(scope="session")
def made():
    """A library that was built before."""
    return Path(build.library("cpu")._name)


@pytest.fixture
def quick(made, fresh, monkeypatch):
    """As `fresh`, and compiling takes no time."""
    monkeypatch.setattr(build, "_compile", lambda scratch, *_: shutil.copy(made, scratch / "library.so"))
    return fresh


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, nothing loaded, and a quick build."""
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "_cpu_rule", lambda: FAST)
    monkeypatch.setattr(choice, "_warned", set())
    # A trial would build by the rule that is replaced here.
    monkeypatch.setattr(choice, "_trusted", {"cpu"})
    for cached in (choice.status, choice._decide):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (choice.status, choice._decide):
        cached.cache_clear()


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_is_built_once_and_quietly(quick, capfd):
    loaded = build.library("cpu")
    assert build.library("cpu") is loaded
    [path] = quick.glob("*.so")
    assert capfd.readouterr() == ("", "")
    before = path.stat().st_mtime_ns
    build._loaded.clear()
    build.library("cpu")
    assert [p.stat().st_mtime_ns for p in quick.glob("*.so")] == [before]
    assert not [p for p in quick.iterdir() if p.is_dir()], "no scratch folder stays"


def test_other_flags_or_another_torch_make_another_library(quick, monkeypatch):
    build.library("cpu")
    monkeypatch.setattr(build, "_cpu_rule", lambda: (*FAST, "-DOTHER"))
    build._loaded.clear()
    build.library("cpu")
    monkeypatch.setattr(torch, "__version__", "99.0")
    build._loaded.clear()
    build.library("cpu")
    assert len(list(quick.glob("*.so"))) == 3


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


def test_what_an_interrupted_build_left_is_swept_away_and_not_loaded(quick):
    build.library("cpu")
    [path] = quick.glob("*.so")
    path.unlink()
    left = quick / f".{path.stem}-killed"
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


@pytest.mark.parametrize("damage", ["cut short", "another file", "no checksum"])
def test_a_damaged_library_in_the_cache_is_built_anew_before_it_can_kill_the_process(quick, damage):
    build.library("cpu")
    [path] = quick.glob("*.so")
    whole = path.read_bytes()
    path.unlink()  # it is loaded here; a file in its place must not be the same one
    if damage == "no checksum":
        path.with_suffix(".sha256").unlink()
    path.write_bytes({"cut short": whole[:60000], "another file": b"no library"}.get(damage, whole))
    build._loaded.clear()
    build.library("cpu").rwkvclip_error()
    assert build._is_whole(path)


def test_a_library_that_the_loader_refuses_is_built_anew(quick, monkeypatch, tmp_path):
    build.library("cpu")
    [sound] = quick.glob("*.so")
    # In another folder: the loader would take one of the same name for the one it has.
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path))
    refused = tmp_path / sound.name
    refused.write_bytes(b"for another processor")
    refused.with_suffix(".sha256").write_text(hashlib.sha256(refused.read_bytes()).hexdigest())
    build._loaded.clear()
    build.library("cpu").rwkvclip_error()
    assert refused.read_bytes() == sound.read_bytes()


def test_a_new_library_that_does_not_load_is_refused(refused, monkeypatch):
    def refuses(path):
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(build, "_open", refuses)
    monkeypatch.setattr(build, "_build", lambda *_: None)
    refused("does not load: failed to map segment", "RWKVCLIP_BUILD_DIR")


def test_the_compiler_may_be_a_command_with_arguments(fresh, monkeypatch, tmp_path):
    launcher = program(tmp_path / "my cache", f'echo "$@" >> {tmp_path}/calls; exec "$@"')
    monkeypatch.setenv("CXX", f"'{launcher}' g++ '-DTEXT=a $b'")
    build.library("cpu").rwkvclip_error()
    assert "g++ -DTEXT=a $b -std=c++17" in (tmp_path / "calls").read_text()
    assert compilers.host_flags() == (f"-ccbin={shutil.which('g++')}", "-Xcompiler=-DTEXT=a $b")
    assert compilers.host_flags()[0] in build._cuda_rule(("nvcc",))


@pytest.mark.parametrize(("value", "reason"), [("g++ '", "is no command"), (" ", "names no compiler")])
def test_a_compiler_that_is_no_command_is_named(refused, monkeypatch, value, reason):
    monkeypatch.setenv("CXX", value)
    refused(reason, "")


def test_a_cache_may_be_named_from_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", "~/built")
    assert build.cache_dir() == tmp_path / "built"


def test_without_a_home_folder_the_cure_is_to_name_one(refused, monkeypatch):
    monkeypatch.delenv("RWKVCLIP_BUILD_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # As older releases of the library leave a path where nobody knows the user's home.
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *given, **options: Path("~/.cache"))
    refused("No folder to build in: Could not determine home", "RWKVCLIP_BUILD_DIR")


@pytest.fixture
def read_only_disk(monkeypatch):
    """From when it is called, no file can be opened for writing."""
    real = Path.open

    def opened(path, mode="r", *rest, **options):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, mode, *rest, **options)

    return lambda: monkeypatch.setattr(Path, "open", opened)


def test_a_cache_on_a_read_only_disk_is_named(refused, fresh, read_only_disk):
    fresh.mkdir()
    read_only_disk()
    refused(r"cache cannot be written \(Read-only file system\)", "RWKVCLIP_BUILD_DIR")


def test_a_read_only_cache_that_holds_the_library_serves_it(quick, read_only_disk):
    built = build.library("cpu")._name
    build._loaded.clear()
    read_only_disk()
    assert build.library("cpu")._name == built


def test_a_file_where_the_cache_should_be_is_named(refused, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path / "file"))
    refused(r"file cannot be written \(it is a file\)", "folder you can write to")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cpu", {"width": 40}, "multiples of 16 up to 128 wide, got 40"),
        ("cpu", {"width": 144}, "multiples of 16 up to 128 wide, got 144"),
        ("cpu", {"device": "meta"}, "works on cpu tensors, got meta.*--device cpu"),
        ("cuda", {}, "works on cuda tensors, got cpu"),
        ("triton", {}, "works on cuda tensors, got cpu"),
        (
            "cuda",
            {"device": "cuda", "dtype": torch.float64},
            r"takes float32, bfloat16, float16, got torch\.float64.*'torch', which takes any",
        ),
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
    assert {"bi_wkv6_forward_cpu.cpp", "lerp_cpu.cpp", "simd.h"} <= {p.name for p in Path(folder).iterdir()}


def test_other_sources_make_another_library_wherever_they_lie(quick, monkeypatch, tmp_path):
    build.library("cpu")
    copy = shutil.copytree(build.resource_dir("cuda"), tmp_path / "cuda")
    monkeypatch.setattr(build, "resource_dir", lambda name: copy)
    build._loaded.clear()
    build.library("cpu")
    assert len(list(quick.glob("*.so"))) == 1
    with (copy / "simd.h").open("a") as header:
        header.write("\n")
    build._loaded.clear()
    build.library("cpu")
    assert len(list(quick.glob("*.so"))) == 2


def test_another_version_of_the_compiler_makes_another_library(quick, monkeypatch, tmp_path):
    text = f'case "$*" in *--version*) cat {tmp_path}/version;; *) exec g++ "$@";; esac'
    monkeypatch.setenv("CXX", program(tmp_path / "compiler", text))
    for version in ("12.2.0", "12.3.0", "12.2.0"):
        (tmp_path / "version").write_text(f"g++ {version}\n")
        build._loaded.clear()
        build.library("cpu")
        assert build.built("cpu").endswith(f"built by g++ {version}")
    assert len(list(quick.glob("*.so"))) == 2


def test_an_unpacked_wheel_builds_its_library_from_the_sources_it_ships(tmp_path):
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, which makes the wheel")
    root, site = Path(__file__).resolve().parents[2], tmp_path.resolve() / "site"
    [wheel] = wheels.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    shutil.unpack_archive(wheel, site, "zip")
    shipped = site / "rwkvclip_models" / "_resources" / "cuda"
    sources = {p.name for p in (root / "cuda").iterdir() if p.suffix in {".cpp", ".cu", ".cuh", ".h"}}
    assert sources <= {p.name for p in shipped.iterdir()}
    code = (
        "import torch\n"
        "from rwkvclip_models.ops import agreement, build, choice\n"
        f"assert str(build.resource_dir('cuda')) == {str(shipped)!r}\n"
        f"build._cpu_rule = lambda: {FAST!r}\n"
        # Of the library built so; a trial would build by the rule itself.
        "choice.trust('cpu')\n"
        "assert agreement.check('cpu', 'cpu', torch.float32) < 5e-5\n"
        "assert agreement.check_fused('cpu', 'cpu', torch.float32) < 1e-5\n"
    )
    env = {**os.environ, "PYTHONPATH": str(site), "RWKVCLIP_BUILD_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    assert len(list((tmp_path / "cache").glob("*.so"))) == 1


def test_the_cpu_library_is_built_for_the_processor_that_is_named(monkeypatch):
    monkeypatch.delenv(build.CPU_TARGET, raising=False)
    assert any(flag.endswith("=native") for flag in build._cpu_rule())
    monkeypatch.setenv(build.CPU_TARGET, "x86-64-v3")
    assert any(flag in ("-march=x86-64-v3", "-mcpu=x86-64-v3") for flag in build._cpu_rule())


@pytest.mark.parametrize("name", ["x; touch y", "-O0", "a b", "é", "x" * 200])
def test_what_is_no_name_of_a_processor_is_refused(monkeypatch, name):
    monkeypatch.setenv(build.CPU_TARGET, name)
    with pytest.raises(build.BuildError, match="no name of a processor") as refused:
        build._cpu_rule()
    assert len(str(refused.value)) < 300
