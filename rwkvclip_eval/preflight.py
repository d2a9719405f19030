"""Looks at all data of a run before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.datasets import samples_of
from rwkvclip_eval.errors import DamagedData, DataNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.datasets import Datasets
    from rwkvclip_eval.errors import UserError
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


def check_unit(unit: Unit, datasets: Datasets) -> None:
    """Open one unit's splits and check what its task makes of them.

    Raises:
        DataNotFound: a split is not there.
        DamagedData: one is there but wrong.
        UserError: it is asked for in a way that cannot be met.
    """
    dataset = datasets.get(unit)
    fit = datasets.fit_splits(unit)
    if dataset.info.kind not in unit.task.kinds:
        return
    samples = samples_of(dataset)
    if "text" in unit.task.needs:
        unit.task.texts(samples, unit.protocol)
    check = getattr(unit.task, "check", None)
    if check is not None:
        check(samples, {split: samples_of(other) for split, other in fit.items()}, unit.protocol)
