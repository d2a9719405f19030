"""What only a GPU can show of its kernels: memory they may touch, 64-bit indices, graphs, autocast."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import every_kernel
import pytest
import torch

from rwkvclip_models.ops import compilers

pytestmark = pytest.mark.gpu

EVERY = pytest.mark.parametrize("kernels", ["cuda", "triton"], indirect=True)


@pytest.fixture
def sanitizer():
    """NVIDIA's compute-sanitizer, on PATH or beside the compiler."""
    folders = [os.environ.get("PATH", "")]
    with contextlib.suppress(compilers.BuildError):
        folders.append(str(Path(compilers.nvcc()[0]).parent))
    found = shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    if found is None:
        pytest.skip("needs compute-sanitizer of a CUDA toolkit; none here")
    return found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kernels", "tool"),
    # The barriers of Triton's kernels are its compiler's.
    [("cuda", "memcheck"), ("cuda", "racecheck"), ("cuda", "synccheck"), ("triton", "memcheck")],
    indirect=["kernels"],
)
def test_the_sanitizer_finds_nothing_in_one_run_of_every_kernel(kernels, tool, sanitizer):
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1"]
    # The calls of torch itself that fail on purpose are not the kernels'.
    command += ["--report-api-errors", "no"] if tool == "memcheck" else []
    # Without torch's cache every tensor is an allocation of its own, whose end the tool knows.
    env = {
        **os.environ,
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command += [sys.executable, every_kernel.__file__, kernels]
    done = subprocess.run(
        command, env=env, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@EVERY
@pytest.mark.parametrize("grid", [(14, 14, 4), (32, 32, 4)], ids=str)
def test_samples_beyond_2_31_elements_are_as_they_are_alone(kernels, grid):
    if torch.cuda.mem_get_info()[0] < 64 << 30:
        pytest.skip("needs 64 GiB of free GPU memory")
    num_tokens = grid[0] * grid[1]
    batch = 2**31 // (num_tokens * 640) + 2
    x = torch.randn(batch, num_tokens, 8, 80, device="cuda", dtype=torch.bfloat16)
    assert x[:-1].numel() > 2**31
    whole, alone = (every_kernel.run(kernels, z, grid) for z in (x, x[-1:]))
    for (name, value), (_, expected) in zip(whole, alone, strict=True):
        assert value.isfinite().all(), name
        if value.dim() > 2:
            torch.testing.assert_close(value[-1:], expected, msg=name)


@EVERY
@pytest.mark.parametrize("num_tokens", [49, 300])
def test_every_kernel_runs_in_a_cuda_graph(kernels, num_tokens):
    x = torch.randn(2, num_tokens, 2, 80, device="cuda", dtype=torch.bfloat16)
    grid = every_kernel.GRIDS[num_tokens]
    # Before the capture: this compiles what is compiled when it is first used.
    expected = list(every_kernel.run(kernels, x, grid))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = list(every_kernel.run(kernels, x, grid))
    for _, value in captured:
        value.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for (name, value), (_, other) in zip(captured, expected, strict=True):
        assert torch.equal(value, other), name


@EVERY
def test_the_autocast_rule_casts_r_k_v_and_leaves_the_decay(kernels):
    r, k, v, w = torch.randn(4, 2, 5, 2, 16, device="cuda")
    u = torch.rand(2, 16, device="cuda")
    bi_wkv6 = torch.ops.rwkvclip.bi_wkv6
    with torch.autocast("cuda", torch.bfloat16):
        y = bi_wkv6(r, k, v, w, u, kernels)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, bi_wkv6(r.bfloat16(), k.bfloat16(), v.bfloat16(), w, u, kernels))
