"""Instructions of the CPU operator, counted by callgrind: the same number however busy the machine is.

The library is built for x86-64-v3, whose instructions valgrind knows, and called by a small C program without
torch. Counts of one compiler and C library are compared with those kept in `instruction_counts.json`; to keep
new ones, run `KEEP_COUNTS=1 pytest tests/benchmarks/test_instruction_count.py --benchmark-only -m ''`.
"""

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

build = importlib.import_module("rwkvclip_models.ops.build")
compilers = importlib.import_module("rwkvclip_models.ops.compilers")

MAIN = Path(__file__).with_name("bi_wkv6_main.c")
KEPT = Path(__file__).with_name("instruction_counts.json")
TARGET = "x86-64-v3"
SHAPES = {"image B/32": (1, 49, 2, 80), "image B/16": (1, 196, 2, 80), "text": (1, 77, 2, 64)}
"""Two heads of the released shapes: the count grows by heads and batch alone."""
THRESHOLD = 0.01
"""Share by which a count may grow."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C program, linked against the operator's library."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed (Debian: apt install valgrind)")
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.is_file() or "avx2" not in cpuinfo.read_text():
        pytest.skip(f"needs Linux on a processor of {TARGET}")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler found")
    folder = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(build.CPU_TARGET, TARGET)
        patch.setenv("RWKVCLIP_BUILD_DIR", str(folder))
        patch.setattr(build, "_loaded", {})
        try:
            library = build.library("cpu")._name
        except compilers.BuildError as error:
            pytest.skip(str(error))
    made = folder / "main"
    subprocess.run([compiler, "-O1", str(MAIN), library, f"-Wl,-rpath,{folder}", "-o", str(made)], check=True)
    return made


def count(program, shape):
    """Return the instructions of one call of the operator, without those around it."""
    out = program.with_suffix(".callgrind")
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no"]
    command += ["--toggle-collect=rwkvclip_bi_wkv6_forward", str(program), *map(str, shape)]
    # As much of the environment as finds libraries: its size moves addresses.
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert found, done.stderr
    return int(found[1])


def tools():
    """Return what decides the count beside our code."""
    return f"{compilers.version(compilers.cxx())}, {' '.join(platform.libc_ver())}, {TARGET}"


@pytest.mark.slow
@pytest.mark.parametrize("tower", SHAPES)
def test_the_operator_takes_no_more_instructions_than_before(tower, program, benchmark, capsys):
    found = benchmark.pedantic(count, args=(program, SHAPES[tower]), rounds=1)
    benchmark.extra_info["instructions"] = found
    with capsys.disabled():
        sys.stdout.write(f"\nBi-WKV forward, {tower}, {SHAPES[tower]}: {found:,} instructions ({tools()})\n")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if os.environ.get("KEEP_COUNTS"):
        kept.setdefault(tools(), {})[tower] = found
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if tools() not in kept:
        pytest.skip(f"no counts are kept of {tools()}")
    assert found <= kept[tools()][tower] * (1 + THRESHOLD)


@pytest.mark.slow
def test_the_count_is_the_same_every_time(program, benchmark):
    shape = SHAPES["image B/32"]
    first = benchmark.pedantic(count, args=(program, shape), rounds=1)
    # Addresses of the heap may differ by a few.
    assert count(program, shape) == pytest.approx(first, rel=1e-4)
