"""Code of a user's own that ends badly: one message that names it, exit code 2."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rwkvclip_eval.errors import DataNotFound, UserError, users_code

if TYPE_CHECKING:
    from pathlib import Path

BAD = {
    "raise GeneratorExit": "raised what is no Exception, GeneratorExit.",
    "class Own(BaseException): ...\nraise Own('a word')": "raised what is no Exception, Own: a word.",
    "raise BaseExceptionGroup('two', [GeneratorExit()])": "BaseExceptionGroup: two (1 sub",
    "import asyncio\nraise asyncio.CancelledError": "raised what is no Exception, CancelledError.",
    "raise ExceptionGroup('two', [ValueError()])": "failed: ExceptionGroup: two (1 sub-exception).",
    "from rwkvclip_eval.errors import UserError\nraise UserError('')": "raised UserError without a text",
    "from rwkvclip_eval.errors import DataNotFound\nraise DataNotFound(' ')": "raised DataNotFound without",
    "class Own(Exception):\n    def __str__(self): return 1 / 0\nraise Own": "failed: Own.",
    "raise SystemExit(0)": "called sys.exit(0)",
}


@pytest.mark.parametrize("code", BAD)
def test_a_plugin_that_ends_in_an_odd_way_is_named(run: Any, tmp_path: Path, code: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    ended, out, err = run("validate", "smoke", "--plugin", path)
    assert (ended, out) == (2, "")
    assert err.startswith(f"Error: The plugin {path} ")
    assert BAD[code] in err
    assert "Traceback" not in err and len(err) < 2000


def test_a_plugin_without_end_is_not_read(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.touch()
    os.truncate(path, 5 << 30)
    ended, _, err = run("validate", "smoke", "--plugin", path)
    assert (ended, "has 5368709120 bytes; a Python file has at most" in err) == (2, True)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_a_plugin_closed_is_opened_again_and_said(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(os, "fdopen", lambda number, *_, **__: io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file))
        called = {"stdout": "standard output", "stderr": "standard error"}[name]
        with (
            pytest.raises(UserError, match=f"The plugin closed {called}, where messages go"),
            users_code("The plugin"),
        ):
            getattr(sys, name).close()
        assert not getattr(sys, name).closed


def test_other_exceptions_and_ctrl_c_pass_but_where_they_are_said_to_be_failures() -> None:
    for error in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), users_code("It"):
            raise error
    with pytest.raises(UserError, match="It failed with ValueError: x"), users_code("It", failing=True):
        raise ValueError("x")
    with pytest.raises(DataNotFound, match="not there"), users_code("It", failing=True):
        raise DataNotFound("not there")
