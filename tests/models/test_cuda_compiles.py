"""The CUDA sources under the compiler they are written for; needs no GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "cuda").glob("*.cu"))


@pytest.fixture(scope="module")
def nvcc():
    """The compiler itself; what PATH finds may be a script that only starts it."""
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("needs nvcc of a CUDA toolkit; none on PATH")
    told = subprocess.run([found, "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True)
    folder = re.search(r"_HERE_=(\S+)", told.stderr)
    return str(Path(folder[1]) / "nvcc") if folder else found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_source_compiles_for_ampere_hopper_and_the_newest_without_a_warning(nvcc, source, tmp_path):
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    newest = max(int(x) for x in re.findall(r"compute_(\d+)$", listed, re.MULTILINE))
    targets = [f"-gencode=arch=compute_{x},code=sm_{x}" for x in sorted({80, 90, newest})]
    # Targets at once; optimisation of host code is not what is tested.
    flags = ["-std=c++17", "-Werror=all-warnings", "--threads=2", "-c", "-o", tmp_path / "object.o"]
    subprocess.run([nvcc, *targets, *flags, source], check=True)
