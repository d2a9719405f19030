"""The CPU sources for other processors than this one: every vector length, without bfloat16 instructions."""

import importlib
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rwkvclip_eval.doctor import comparison as operator_check
from rwkvclip_models.ops import build, compilers
from rwkvclip_models.ops.agreement import Recurrence

choice = importlib.import_module("rwkvclip_models.ops.choice")
SOURCES = Path(__file__).resolve().parents[2] / "cuda"

TARGETS = {
    64: ("-march=native", "-mno-avx512bf16"),
    32: ("-march=x86-64-v3",),
    16: ("-march=x86-64",),
}
"""Bytes of a vector → flags of a target; the sources for NEON are those of 16."""
NEEDED = {64: {"avx512f"}, 32: {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}, 16: set()}
"""What the processor must have to run it, in Linux's names."""


def processor_flags():
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in {"x86_64", "AMD64"} or not cpuinfo.is_file():
        pytest.skip("needs Linux on an x86-64 processor, whose targets these are")
    return set(next(x for x in cpuinfo.read_text().splitlines() if x.startswith("flags")).split())


@pytest.mark.parametrize("vector_bytes", TARGETS)
def test_every_vector_length_agrees_with_the_reference(vector_bytes, monkeypatch, tmp_path):
    if missing := NEEDED[vector_bytes] - processor_flags():
        pytest.skip(f"needs a processor with {', '.join(sorted(missing))}")
    target = TARGETS[vector_bytes]
    try:
        compiler, probe = compilers.cxx(), tmp_path / "probe.cpp"
        probe.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 0; }\n")
        compilers.output([*compiler, *target, "-fopenmp", str(probe), "-o", str(tmp_path / "probe")])
    except compilers.BuildError as error:
        pytest.skip(f"no compiler with OpenMP for {' '.join(target)}: {error}")
    macros = compilers.output([*compiler, *target, "-dM", "-E", "-x", "c++", str(SOURCES / "simd.h")])
    assert f"#define RWKVCLIP_VECTOR_BYTES {vector_bytes}\n" in macros
    assert "#define __AVX512BF16__" not in macros

    quick = [flag for flag in build.CXX_FLAGS if flag != "-O3"]
    monkeypatch.setattr(build, "_cpu_rule", lambda: (*quick, "-O1", "-fopenmp", *target))
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(build, "_loaded", {})
    # A trial would build by the rule that is replaced here.
    monkeypatch.setattr(choice, "_trusted", {"cpu"})
    sound = choice.ImplementationStatus(name="cpu", available=True)
    monkeypatch.setattr(operator_check.ops, "implementations", lambda: [sound])
    monkeypatch.setattr(operator_check, "GRIDS", ((1, 1, 4), (5, 3, 4), (7, 1, 2)))
    few = [
        Recurrence(num_tokens=49, head_width=80, batch=1),
        Recurrence(num_tokens=17, head_width=16, decays="extreme"),
        Recurrence(num_tokens=300, head_width=16, batch=1, heads=1),
    ]
    monkeypatch.setattr(operator_check, "problems", lambda: few)
    rows = operator_check.summarise(operator_check.compare_all())
    assert len(rows) == 8, "the recurrence and the elementwise operators in four dtypes"
    assert [row.detail for row in rows if row.status != "ok"] == []
    # Half a unit in the last place more than every number: exact in float32 and a tie in bfloat16.
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    every, power = (x.view(torch.bfloat16) for x in (bits, bits & ~0x7F))
    half, open_gate = (power.float() / 256).bfloat16(), torch.full_like(every, 100)
    ran = operator_check.ops.gated_add(every, open_gate, half, implementation="cpu")
    rounded = (every.float() + half.float()).bfloat16()
    torch.testing.assert_close(ran, rounded, rtol=0, atol=0, equal_nan=True)
    assert len(list(tmp_path.glob("*.so"))) == 1


@pytest.mark.parametrize("name", ["clang++", "aarch64-linux-gnu-g++"])
@pytest.mark.parametrize("source", sorted(SOURCES.glob("*_cpu.cpp")), ids=lambda path: path.name)
def test_other_compilers_take_the_sources(name, source):
    if (found := shutil.which(name)) is None:
        pytest.skip(f"needs {name}; none here")
    subprocess.run([found, "-std=c++17", "-fsyntax-only", source], check=True)
