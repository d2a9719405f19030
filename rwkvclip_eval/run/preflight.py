"""Looks at all data of a run before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.run.needs import tell_coverage
from rwkvclip_eval.run.splits import samples_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.errors import UserError
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.splits import Datasets


def check_all(
    pending: Sequence[Unit], wanted: Sequence[Unit], datasets: Datasets, data_root: Path | None
) -> tuple[dict[str, UserError], list[str]]:
    """Open every split once, and let tasks refuse what they cannot work on.

    One dataset's problem is left to its record, so that the others run.

    Args:
        pending: what is to be done.
        wanted: the same and what is finished.
        datasets: opens the splits.
        data_root: for what is said.

    Returns:
        Name of a unit (without a model) → why it cannot be worked on; and lines that say how many datasets
        were found, see `tell_coverage`.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant), or none of the
            units can be worked on.
    """
    units = _once(pending)
    problems = find_problems(units, datasets)
    said = tell_coverage(_once(wanted), problems, data_root)
    if problems and len(problems) == len(units):
        left = "that is left to do " if len(units) < len(_once(wanted)) else ""
        text = "\n".join(said)
        raise type(next(iter(problems.values())))(f"No dataset of the suite {left}can be used: {text}")
    return problems, said


def _once(units: Sequence[Unit]) -> list[Unit]:
    return list({unit.name(""): unit for unit in units}.values())


def find_problems(units: Sequence[Unit], datasets: Datasets) -> dict[str, UserError]:
    """Return what is wrong with the data of each unit that cannot be worked on, by the unit's name.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant).
    """
    problems: dict[str, UserError] = {}
    for unit in units:
        try:
            check_unit(unit, datasets)
        except (DataNotFound, DamagedData) as error:
            problems[unit.name("")] = error
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
