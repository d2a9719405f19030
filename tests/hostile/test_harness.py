"""The real program on hundreds of malformed inputs: one message each, soon, in little memory, and no harm.

A third of all cases runs, the same in every run; RWKVCLIP_HARNESS_PART = 1 or 2 takes another third. The
table of kinds and outcomes is printed, and written to the file that RWKVCLIP_HARNESS_TABLE names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cases_data
import cases_inputs
import cases_models
import cases_options
import cases_published
import cases_state
import pytest
from harness import Case, Harness, Outcome, comparable, environment, table
from small_world import build
from tolerated import judged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

PARTS = 3
PART = int(os.environ.get("RWKVCLIP_HARNESS_PART", "0"))
MODULES = (cases_inputs, cases_models, cases_data, cases_published, cases_state, cases_options)
LEAST = 400
FOR_REAL = 20
"""One case in so many runs as a process of its own as well."""


def cases() -> list[Case]:
    every = [case for module in MODULES for case in module.all_cases()]
    names = Counter((case.kind, case.name) for case in every)
    assert max(names.values()) == 1, names.most_common(3)
    return judged(every)[PART::PARTS]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    base = tmp_path_factory.mktemp("harness")
    world = build(base / "world", environment(base / "build"))
    with Harness(world, base / "place") as made:
        yield made


@pytest.fixture(scope="module")
def results(harness: Harness) -> list[tuple[Case, Outcome]]:
    return [(case, harness.run(case)) for case in cases()]


def test_every_malformed_input_is_one_message_soon_and_harms_nothing(
    results: list[tuple[Case, Outcome]],
) -> None:
    assert len(results) >= LEAST
    text = table(results)
    print(text)  # noqa: T201  # figures for who runs it
    if target := os.environ.get("RWKVCLIP_HARNESS_TABLE"):
        Path(target).write_text(text, encoding="utf-8")
    failed = [
        f"{case.kind} / {case.name}: {'; '.join(outcome.faults)}\n    {said(outcome)}"
        for case, outcome in results
        if outcome.faults
    ]
    assert not failed, f"{len(failed)} of {len(results)}:\n" + "\n".join(failed)


def said(outcome: Outcome) -> str:
    return re.sub(r"\s+", " ", outcome.stderr or outcome.stdout)[:300]


def test_a_process_of_its_own_says_the_same(harness: Harness, results: list[tuple[Case, Outcome]]) -> None:
    for case, forked in results[::FOR_REAL]:
        code, message = harness.run_for_real(case)
        assert code == forked.code, f"{case.kind} / {case.name}: {message[-500:]}"
        assert comparable(message) == comparable(forked.stderr), f"{case.kind} / {case.name}"


def undamaged() -> list[Case]:
    """Return one case without damage for each command that meets a damaged file."""
    every = [case for module in MODULES if module is not cases_options for case in module.all_cases()]
    found = {(case.program, tuple(case.argv), tuple(case.parts)): case for case in every if case.parts}
    return [
        replace(case, change=lambda work: None, tolerated="nothing is damaged") for case in found.values()
    ]


def test_every_command_ends_well_where_nothing_is_damaged(harness: Harness) -> None:
    for case in undamaged():
        outcome = harness.run(case)
        assert not outcome.faults, f"{case.kind}: {outcome.faults} {said(outcome)}"


def test_the_harness_sees_each_fault(harness: Harness) -> None:
    """A program that misbehaves in each way is caught; `--plugin` lets a case bring one."""
    wrong = {
        "a traceback": "print('Traceback (most recent call last):')",
        "expected": "import os; os._exit(1)",
        "executed": "import os; os.system('true')",
        "outside": "import pathlib; pathlib.Path('../outside/new').write_text('x')",
        "control": "import sys; sys.stderr.write('\\x1b[31m')",
        "letters": "import sys; sys.stderr.write('x' * 3000)",
        "GB": "import numpy; numpy.ones(430_000_000)",
        "Python warning": "import warnings; warnings.warn('x')",
        "signal 11": "import os; os.kill(os.getpid(), 11)",
    }
    for fault, code in wrong.items():
        case = Case(
            kind="self",
            name=fault,
            argv=("validate", "gone.yaml", "--plugin", "evil.py"),
            change=lambda work, code=code: (work / "evil.py").write_text(code),
        )
        assert any(fault in found for found in harness.run(case).faults), fault
    fine = Case(kind="self", name="fine", argv=("validate", "gone.yaml"))
    assert harness.run(fine).faults == ()
