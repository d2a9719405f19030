"""`--shots`: numbers of training images a class in the place of a suite's own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import SuiteError, UserError, shortened
from rwkvclip_eval.protocols import MAX_SHOTS, ProbeOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.plan.suite import LoadedSuite


def parse_shots(text: str) -> list[int]:
    """Return the numbers in a text such as `1,2,4,8,16`.

    Raises:
        UserError: it is another text.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 20 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise UserError(
            f"--shots {shortened(text)!r}: expected numbers divided by commas, such as 1,2,4,8,16 (at most "
            "20)."
        )
    return [int(part) for part in parts]


def with_shots(loaded: LoadedSuite, shots: Sequence[int]) -> LoadedSuite:
    """Return the suite with other numbers of training images a class in its few-shot tasks.

    Raises:
        SuiteError: it has no task that reads `shots`, or they are not numbers from 1.
    """
    from rwkvclip_eval.tasks import TASKS

    def reads(name: str) -> bool:
        return name in TASKS and "shots" in getattr(TASKS.get(name), "options", ())

    given = dict.fromkeys(shots)
    if not given or min(given) < 1 or max(given) > MAX_SHOTS:
        raise SuiteError(
            f"Shots are training images a class, from 1 up, not {', '.join(map(str, shots))}, and at most "
            f"{MAX_SHOTS}."
        )
    if not any(reads(entry.task) for entry in loaded.suite.tasks):
        able = " or ".join(sorted(name for name in TASKS if reads(name)))
        raise SuiteError(
            f"{loaded.source} has no task that draws shots: --shots is for suites with {able}, such as "
            "few-shot-10."
        )
    options = {"shots": tuple(given)}
    tasks = tuple(
        entry.model_copy(update={"options": (entry.options or ProbeOptions()).model_copy(update=options)})
        if reads(entry.task)
        else entry
        for entry in loaded.suite.tasks
    )
    said = f"{loaded.text}\n--shots {','.join(map(str, given))}"
    return replace(
        loaded,
        suite=loaded.suite.model_copy(update={"tasks": tasks}),
        sha256=hashlib.sha256(said.encode()).hexdigest(),
    )
