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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_source_compiles_for_ampere_hopper_and_all_that_is_newer_without_a_warning(
    nvcc, source, tmp_path
):
    listed = {int(x) for x in re.findall(r"^sm_(\d+)$", compilers.output([*nvcc, "--list-gpu-code"]), re.M)}
    assert listed >= {80, 90}
    newer = sorted(x for x in listed if x in (80, 90) or x >= 100)
    targets = [f"-gencode=arch=compute_{x},code=sm_{x}" for x in newer]
    # Targets at once; optimisation of host code is not what is tested.
    flags = ["-std=c++17", "-Werror=all-warnings", "--threads=2", "-c", "-o", tmp_path / "object.o"]
    subprocess.run([*nvcc, *targets, *flags, source], check=True)
