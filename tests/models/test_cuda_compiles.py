"""The CUDA sources under the compiler they are written for; needs no GPU."""

import re
import subprocess
from pathlib import Path

import pytest

from rwkvclip_models.ops import compilers

SOURCES = sorted((Path(__file__).resolve().parents[2] / "cuda").glob("*.cu"))


@pytest.fixture(scope="module")
def nvcc():
    try:
        return compilers.nvcc()
    except compilers.BuildError as error:
        pytest.skip(f"needs the compiler of a CUDA toolkit. {error.reason}")


@pytest.fixture(scope="module")
def known(nvcc):
    """Every architecture the compiler makes code for, in order: 80 for sm_80."""
    listed = compilers.output([*nvcc, "--list-gpu-code"])
    return sorted(int(x) for x in re.findall(r"^sm_(\d+)$", listed, re.MULTILINE))


def assert_compiles(nvcc, source, architectures, folder):
    targets = [f"-gencode=arch=compute_{x},code=sm_{x}" for x in sorted(architectures)]
    # Targets at once; optimisation of host code is not what is tested.
    flags = ["-std=c++17", "-Werror=all-warnings", "--threads=2", "-c", "-o", folder / "object.o"]
    subprocess.run([*nvcc, *targets, *flags, source], check=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_source_compiles_for_ampere_without_a_warning(nvcc, source, tmp_path):
    """Ampere, the oldest, has the fewest instructions; no source tells architectures apart (see below)."""
    assert_compiles(nvcc, source, {80}, tmp_path)


def test_no_source_has_code_of_its_own_for_an_architecture():
    """So that what compiles for one is what compiles for all."""
    for path in SOURCES[0].parent.iterdir():
        assert "__CUDA_ARCH" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_source_compiles_for_all_that_is_newer_than_ampere_without_a_warning(
    nvcc, known, source, tmp_path
):
    assert_compiles(nvcc, source, {x for x in known if x >= 90}, tmp_path)
