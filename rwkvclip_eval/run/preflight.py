"""Looks at all data of a run before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.run.needs import tell_coverage
from rwkvclip_eval.run.splits import OpenedUnit, samples_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.splits import Datasets

    Opened = Mapping[str, OpenedUnit | DataNotFound | DamagedData]
    """Name of a unit (without a model) → its splits, or why it cannot be worked on."""


def check_all(
    pending: Sequence[Unit], wanted: Sequence[Unit], datasets: Datasets, data_root: Path | None
) -> tuple[Opened, list[str]]:
    """Open every split once, and let tasks refuse what they cannot work on.

    One dataset's problem is left to its record, so that the others run.

    Args:
        pending: what is to be done.
        wanted: the same and what is finished.
        datasets: opens the splits.
        data_root: for what is said.

    Returns:
        What was opened; and lines that say how many datasets were found, see `tell_coverage`.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant), or none of the
            units can be worked on.
    """
    opened = open_units(pending, datasets)
    problems = problems_of(opened)
    said = tell_coverage(_once(wanted), problems, data_root)
    if problems and len(problems) == len(opened):
        left = "that is left to do " if len(opened) < len(_once(wanted)) else ""
        text = "\n".join(said)
        raise type(next(iter(problems.values())))(f"No dataset of the suite {left}can be used: {text}")
    return opened, said


def _once(units: Sequence[Unit]) -> list[Unit]:
    return list({unit.name(""): unit for unit in units}.values())


def problems_of(opened: Opened) -> dict[str, DataNotFound | DamagedData]:
    """Return why units cannot be worked on, by the names of those that cannot."""
    return {name: found for name, found in opened.items() if not isinstance(found, OpenedUnit)}


def open_units(units: Sequence[Unit], datasets: Datasets) -> Opened:
    """Open the splits of each unit, once.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant).
    """
    opened: dict[str, OpenedUnit | DataNotFound | DamagedData] = {}
    for unit in _once(units):
        try:
            opened[unit.name("")] = open_unit(unit, datasets)
        except (DataNotFound, DamagedData) as error:
            opened[unit.name("")] = error
    return opened


def open_unit(unit: Unit, datasets: Datasets) -> OpenedUnit:
    """Open one unit's splits and check what its task makes of them.

    Raises:
        DataNotFound: a split is not there.
        DamagedData: one is there but wrong.
        UserError: it is asked for in a way that cannot be met.
    """
    opened = OpenedUnit(unit=unit, dataset=datasets.get(unit), fit=datasets.fit_splits(unit))
    if unit.ref.metric is not None:
        unit.task.check_metric(unit.ref.metric, opened.dataset.info)
    if opened.scorable:
        if "text" in unit.task.needs:
            unit.task.texts(opened.samples, unit.protocol)
        fit = {split: samples_of(other) for split, other in opened.fit.items()}
        unit.task.check(opened.samples, fit, unit.protocol)
    return opened
