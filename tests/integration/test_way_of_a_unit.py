"""How a unit goes from the command line to its record: through how many functions, and how often back up.

A function receives a unit where one of its arguments is a `Unit` or the `OpenedUnit` around it; methods of
these are the unit itself. ARCHITECTURE.md lists the way.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rwkvclip_eval.plan.units import Unit
from rwkvclip_eval.run.splits import OpenedUnit

if TYPE_CHECKING:
    from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[2]
MOST_FUNCTIONS = 16
MOST_LINES = 40
MOST_CLIMBS = 2

WAY = (
    "cli/main.py",
    "run/suite_run.py",
    "plan/units.py",
    "plan/averages.py",
    "run/preflight.py",
    "run/needs.py",
    "run/splits.py",
    "run/workload.py",
    "run/loop.py",
    "run/unit.py",
    "run/outcome.py",
    "run/directory.py",
)
"""The files a unit passes, in this order."""

Run = Callable[..., tuple[int, str, str]]


class Watch:
    """Notes every function that receives a unit, and who called it."""

    def __init__(self) -> None:
        self.functions: dict[CodeType, str] = {}
        self.calls: set[tuple[str, str, str]] = set()
        self.holders: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if not code.co_filename.startswith(str(ROOT / "rwkvclip_eval")) or code.co_name.startswith("<"):
            return
        if code.co_qualname.split(".")[0] in (Unit.__name__, OpenedUnit.__name__):
            return
        if event == "return":
            if any(map(holds_unit, frame.f_locals.values())):
                self.holders.add(f"{place(code)}::{code.co_qualname}")
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(isinstance(frame.f_locals.get(name), Unit | OpenedUnit) for name in given):
            self.functions[code] = place(code)
            back = frame.f_back
            while back is not None and back.f_code.co_name.startswith("<"):
                back = back.f_back
            if back is not None and back.f_code.co_filename.startswith(str(ROOT / "rwkvclip_eval")):
                self.calls.add((place(back.f_code), code.co_name, place(code)))

    @property
    def climbs(self) -> list[str]:
        """Calls into a file that comes earlier on the way."""
        return [
            f"{caller} → {called}::{name}"
            for caller, name, called in sorted(self.calls)
            if caller in WAY and called in WAY and WAY.index(called) < WAY.index(caller)
        ]


def holds_unit(value: object) -> bool:
    """Whether a value is a unit, or a plain container of some."""
    inside = value.values() if isinstance(value, dict) else value
    each = inside if isinstance(inside, list | tuple | set | type({}.values())) else [value]
    return any(isinstance(one, Unit | OpenedUnit) for one in each)


def place(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(ROOT / "rwkvclip_eval").as_posix()


def num_lines(code: CodeType) -> int:
    """Return a function's lines without its docstring."""
    source = inspect.getsource(code)
    tree = ast.parse(inspect.cleandoc("\n" + source) if source.startswith(" ") else source).body[0]
    text = ast.get_docstring(tree, clean=False)  # type: ignore[arg-type]
    return len(source.splitlines()) - (len(text.splitlines()) if text else 0)


@pytest.fixture
def watched(run: Run, colour_suite: Path, tmp_path: Path) -> Watch:
    suite = colour_suite.with_name("with_averages.yaml")
    average = "averages:\n  - {name: mean, task: zero_shot_classification, protocol: standard}\n"
    suite.write_text(colour_suite.read_text() + average)
    watch = Watch()
    sys.setprofile(watch)
    try:
        code, _, said = run(
            "run", suite, "-m", "python:toy_factory:make", "-o", tmp_path / "run", "--no-report"
        )
    finally:
        sys.setprofile(None)
    assert code == 0, said
    return watch


def test_a_unit_passes_few_functions_that_are_short_and_seldom_goes_back_up(watched: Watch) -> None:
    found = sorted(f"{file}::{code.co_qualname}" for code, file in watched.functions.items())
    assert len(found) <= MOST_FUNCTIONS, "\n".join(found)
    assert {file for file in watched.functions.values()} <= set(WAY)
    long = {place(code): n for code in watched.functions if (n := num_lines(code)) > MOST_LINES}
    assert not long
    assert len(watched.climbs) <= MOST_CLIMBS, "\n".join(watched.climbs)


def test_architecture_says_how_many_functions_hold_a_unit(watched: Watch) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) functions hold a\s+unit at some time", text)
    assert found and int(found[1]) == len(watched.holders), "\n".join(sorted(watched.holders))


def test_architecture_lists_the_way_as_it_is(watched: Watch) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| [^|]+ \|([^|]*)\|$", text, re.MULTILINE)
    assert tuple(file for file, _ in rows) == WAY
    for file, functions in rows:
        handed = {code.co_name for code, where in watched.functions.items() if where == file}
        assert set(re.findall(r"`(\w+)`", functions)) == handed, file
