"""What looks like Ctrl-C to the command-line library, and is none."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from rwkvclip_eval.features import upkeep as store_upkeep


@pytest.mark.parametrize("raised", [EOFError("No data left in file"), EOFError()])
def test_a_file_that_ends_too_early_is_not_called_an_interruption(
    monkeypatch: pytest.MonkeyPatch, run: Any, raised: EOFError
) -> None:
    def ends(root: object) -> None:
        raise raised

    monkeypatch.setattr(store_upkeep, "entries", ends)
    code, _, said = run("cache", "show")
    assert code == 1
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
