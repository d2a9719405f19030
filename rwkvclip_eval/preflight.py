"""Looks at all data of a run before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.runner import check_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.errors import UserError
    from rwkvclip_eval.runner import Datasets
    from rwkvclip_eval.units import Unit


def check_all(pending: Sequence[Unit], datasets: Datasets) -> None:
    """Open every split once, and let tasks refuse what they cannot work on.

    One dataset's problem is left to its record, so that the others run.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant), or none of the
            units can be worked on.
    """
    problems = find_problems(pending, datasets)
    if problems and len(problems) == len(pending):
        text = "\n".join(dict.fromkeys(str(problem) for problem in problems))
        raise type(problems[0])(f"No dataset of the suite can be used:\n{text}")


def find_problems(pending: Sequence[Unit], datasets: Datasets) -> list[UserError]:
    """Return what is wrong with the data of each unit that cannot be worked on.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant).
    """
    problems: list[UserError] = []
    for unit in pending:
        try:
            check_unit(unit, datasets)
        except (DataNotFound, DamagedData) as error:
            problems.append(error)
    return problems
