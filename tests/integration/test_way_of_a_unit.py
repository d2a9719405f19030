"""How a unit goes from the command line to its record: through how many functions, and how often back up.

A function counts where an argument or a variable of it is a `Unit` or the `OpenedUnit` around it, alone or in
a container or record; methods of these are the unit itself. ARCHITECTURE.md lists the way.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas  # noqa: F401  # imported here, libraries are not watched while they are imported
import pytest
import torch  # noqa: F401

from rwkvclip_eval.cli.main import main
from rwkvclip_eval.plan.units import Unit
from rwkvclip_eval.run.splits import OpenedUnit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "rwkvclip_eval")
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


class Watch:
    """Notes every function that holds a unit while it works, and who called it."""

    def __init__(self) -> None:
        self.functions: dict[CodeType, str] = {}
        self.calls: set[tuple[str, str, str]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not is_ours(code):
            return
        if code.co_qualname.split(".")[0] in (Unit.__name__, OpenedUnit.__name__):
            return
        if any(map(holds_unit, frame.f_locals.values())):
            self.functions[code] = place(code)
            back = frame.f_back
            while back is not None and back.f_code.co_name.startswith("<"):
                back = back.f_back
            if back is not None and is_ours(back.f_code):
                self.calls.add((place(back.f_code), code.co_name, place(code)))

    @property
    def climbs(self) -> list[str]:
        """Calls into a file that comes earlier on the way."""
        return [
            f"{caller} → {called}::{name}"
            for caller, name, called in sorted(self.calls)
            if caller in WAY and called in WAY and WAY.index(called) < WAY.index(caller)
        ]


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<")


def holds_unit(value: object, depth: int = 3) -> bool:
    """Whether a value is a unit, or a container or record of some."""
    if isinstance(value, Unit | OpenedUnit):
        return True
    if isinstance(value, dict):
        inside: Iterable[object] = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inside = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        return False
    return depth > 0 and any(holds_unit(one, depth - 1) for one in inside)


def place(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(ROOT / "rwkvclip_eval").as_posix()


def num_lines(code: CodeType) -> int:
    """Return a function's lines without its docstring."""
    source = inspect.getsource(code)
    tree = ast.parse(inspect.cleandoc("\n" + source) if source.startswith(" ") else source).body[0]
    text = ast.get_docstring(tree, clean=False)
    return len(source.splitlines()) - (len(text.splitlines()) if text else 0)


@pytest.fixture(scope="module")
def watched(colour_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    suite, folder = colour_suite.with_name("with_averages.yaml"), tmp_path_factory.mktemp("way")
    average = "averages:\n  - {name: mean, task: zero_shot_classification, protocol: standard}\n"
    suite.write_text(colour_suite.read_text() + average)
    command = ["run", suite, "-m", "python:toy_factory:make", "-o", folder / "run", "--no-report"]
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("RWKVCLIP_EVAL_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["rwkvclip-eval", *map(str, command)])
        sys.setprofile(watch)
        try:
            main()
        finally:
            sys.setprofile(None)
    assert ended.value.code == 0
    return watch


def test_few_functions_hold_a_unit_all_of_them_short(watched: Watch) -> None:
    found = sorted(f"{file}::{code.co_qualname}" for code, file in watched.functions.items())
    assert len(found) <= MOST_FUNCTIONS, "\n".join(found)
    assert {*watched.functions.values()} <= {*WAY}
    long = {code.co_qualname: n for code in watched.functions if (n := num_lines(code)) > MOST_LINES}
    assert not long


def test_a_unit_seldom_goes_back_up(watched: Watch) -> None:
    assert len(watched.climbs) <= MOST_CLIMBS, "\n".join(watched.climbs)


def test_architecture_lists_the_way_as_it_is(watched: Watch) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| [^|]+ \|([^|]*)\|$", text, re.MULTILINE)
    assert tuple(file for file, _ in rows) == WAY
    for file, functions in rows:
        holding = {code.co_name for code, where in watched.functions.items() if where == file}
        assert set(re.findall(r"`(\w+)`", functions)) == holding, file
