"""What looks like Ctrl-C to the command-line library, or like the outcome of a check, and is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkvclip_eval.features import upkeep as store_upkeep

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("raised", [EOFError("No data left in file"), EOFError()])
def test_a_file_that_ends_too_early_is_not_called_an_interruption(
    monkeypatch: pytest.MonkeyPatch, run: Any, raised: EOFError
) -> None:
    def ends(root: object) -> None:
        raise raised

    monkeypatch.setattr(store_upkeep, "entries", ends)
    code, _, said = run("cache", "show")
    assert code == 70
    assert "Internal error (EOFError)" in said
    assert "Interrupted" not in said


def test_ctrl_c_is_still_called_one(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    def interrupted(root: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(store_upkeep, "entries", interrupted)
    # Of a test run in the background it may be switched off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, said = run("cache", "show")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "Interrupted" in said


def test_a_keyboard_interrupt_of_a_plugin_is_told_from_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    def raises(root: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_upkeep, "entries", raises)
    code, _, said = run("cache", "show")
    assert code == 2
    assert "raised KeyboardInterrupt, though nobody pressed Ctrl-C" in said


BROKEN = """
import sys

class Broken:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise {error}("broken")

sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize("error", ["RuntimeError", "ImportError", "KeyError", "ValueError"])
@pytest.mark.parametrize("module", ["rwkvclip_eval.compare.gate", "rwkvclip_eval.cli.main"])
def test_a_defect_is_never_taken_for_a_regression(tmp_path: Path, module: str, error: str) -> None:
    """The command is broken from outside, before and after its command line is there."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(module=module, error=error))
    paths = os.pathsep.join([str(tmp_path), *(str(ROOT / folder) for folder in (".", "models", "train"))])
    for more in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-m", "rwkvclip_eval", "compare", "main", "new", *more],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 70, done.stderr
        assert "broken" in done.stderr
        assert ("Traceback" in done.stderr) is (bool(more) or module.endswith("main"))
