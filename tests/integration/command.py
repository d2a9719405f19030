"""Runs the command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(cache: Path, **extra: str) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "models"), str(ROOT / "train"), str(ROOT / "tests")]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RWKVCLIP_EVAL", "HF_"))}
    return (
        kept
        | {"PYTHONPATH": ":".join(paths), "RWKVCLIP_EVAL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        | extra
    )


def run_cli(cwd: Path, cache: Path, *arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `rwkvclip-eval ARGUMENTS…` in `cwd` with the feature store `cache`."""
    return subprocess.run(
        [sys.executable, "-m", "rwkvclip_eval", *map(str, arguments)],
        env=environment(cache, **extra),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
