"""What a solver allocates, measured from outside: torch's memory is not Python's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from rwkvclip_eval.logistic import fit_logistic
from rwkvclip_eval.logistic.objective import plan
from rwkvclip_eval.logistic.problem import make_problem

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

dtype = getattr(torch, sys.argv[2])

def solve(x, y, budget):
    # Past the iteration at which directions are coupled for the first time.
    l2 = [1e-4, 1e-2, 1.0, 1e2]
    fit_logistic(x, y, l2, num_classes=100, memory_budget=budget, max_iterations=12, dtype=dtype)

rng = np.random.default_rng(0)
x, y = rng.standard_normal((30_000, 256), dtype=np.float32), np.arange(30_000) % 100
solve(x[:500], y[:500], 64 << 20)  # the libraries' own memory
Path("/proc/self/clear_refs").write_text("5")
problem = make_problem(
    x, y, num_classes=100, multilabel=False, memory_budget=int(sys.argv[1]), device="cpu"
)
assert plan(problem, 4, dtype).lead > 8
del problem
before = status("VmRSS")
solve(x, y, int(sys.argv[1]))
print(status("VmHWM") - before)
"""


def peak_bytes(budget, dtype):
    # Libraries hold memory per thread, and threads that wait for a busy core take minutes.
    few = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", SCRIPT, str(budget), dtype]
    run = subprocess.run(command, env=os.environ | few, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("dtype", "budget"), [("float32", 40 << 20), ("float64", 64 << 20)])
def test_a_solver_stays_within_its_memory_budget(dtype, budget):
    libraries = 12 << 20
    assert peak_bytes(budget, dtype) <= budget + libraries
    # Without the bound it would have taken more.
    assert peak_bytes(1 << 30, dtype) > 1.5 * budget
