"""Finding the CUDA compiler, and what it must know."""

import re
from pathlib import Path

import pytest
import torch

from rwkvclip_models.ops import build, compilers


def toolkit(folder, text='echo "Cuda compilation tools, release 13.0, V13.0.1"'):
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n{text}\n")
    nvcc.chmod(0o755)
    return str(nvcc)


def test_the_toolkit_that_is_named_wins_over_the_one_on_the_path(monkeypatch, tmp_path):
    named, other = toolkit(tmp_path / "named"), toolkit(tmp_path / "other")
    monkeypatch.setenv("PATH", str(Path(other).parent))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "named"))
    assert compilers.nvcc() == (named,)
    monkeypatch.delenv("CUDA_HOME")
    assert compilers.nvcc() == (other,)


def test_a_script_on_the_path_leads_to_the_compiler_it_starts(monkeypatch, tmp_path):
    real = toolkit(tmp_path / "real")
    says = f'case "$*" in *--dryrun*) echo "#$ _HERE_={Path(real).parent}" >&2;; *) {real} "$@";; esac'
    monkeypatch.setenv("PATH", str(Path(toolkit(tmp_path / "script", says)).parent))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert compilers.nvcc() == (real,)


def test_a_broken_script_on_the_path_is_passed_over_and_its_reason_kept(monkeypatch, tmp_path):
    broken = toolkit(tmp_path / "broken", "echo 'toolkit moved' >&2; exit 3")
    old = toolkit(tmp_path / "old", 'echo "Cuda compilation tools, release 11.8, V11.8.89"')
    sound = toolkit(tmp_path / "sound")
    monkeypatch.setenv("PATH", str(Path(broken).parent))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(compilers, "CUDA_FOLDER", str(tmp_path / "sound"))
    assert compilers.nvcc() == (sound,)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "old"))
    with pytest.raises(build.BuildError, match=f"{old} is CUDA 11.*nvcc does not run: toolkit moved"):
        compilers.nvcc()


def test_without_nvcc_the_cure_names_the_toolkit_and_triton(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_loaded", {})
    with pytest.raises(build.BuildError, match="nvcc") as caught:
        build.library("cuda")
    assert "triton" in caught.value.cure


@pytest.fixture
def cuda_rule(monkeypatch, tmp_path):
    """The flags for these GPUs of the CUDA compiler of version 12.4."""
    says = "echo compute_80; echo compute_90"
    compiler = toolkit(
        tmp_path, f'case "$*" in *--list-gpu-arch*) {says};; *) echo "tools, release 12.4, V12.4.1";; esac'
    )

    def rule(*gpus):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i])
        return build._cuda_rule((compiler,))

    return rule


def test_gpus_too_old_for_the_cuda_sources_are_named_before_any_compilation(cuda_rule):
    assert [flag for flag in cuda_rule((7, 5), (9, 0)) if "arch" in flag] == [
        "-gencode=arch=compute_90,code=[sm_90,compute_90]"
    ]
    with pytest.raises(build.BuildError, match=r"compute capability is 7.5, below 8.0") as caught:
        cuda_rule((7, 5))
    assert "triton" in caught.value.cure


def test_a_gpu_that_the_compiler_does_not_know_is_named_before_any_compilation(cuda_rule):
    with pytest.raises(
        build.BuildError, match=r"nvcc \(.*release 12.4.*\) knows no GPU .* 10.0, which"
    ) as caught:
        cuda_rule((9, 0), (10, 0))
    assert "newer CUDA toolkit" in caught.value.cure


def test_the_toolkit_need_not_be_of_torchs_cuda_version(monkeypatch, tmp_path):
    found = toolkit(tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "11.8")
    assert compilers.nvcc() == (found,)
    sources = [p.read_text() for p in Path(build.resource_dir("cuda")).iterdir() if p.suffix != ".md"]
    included = {name for text in sources for name in re.findall(r'#include\s*["<]([^">]+)', text)}
    assert "cuda_runtime.h" in included
    assert not [name for name in included if name.startswith(("torch/", "ATen/", "c10/"))]
