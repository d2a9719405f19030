"""Looks at all data of a run before anything is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.run.given import check_texts
from rwkvclip_eval.run.needs import needs_of, tell_coverage
from rwkvclip_eval.run.splits import OpenedUnit, samples_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.splits import Datasets


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What was found of a run's data; each unit that can apply is in one of the two.

    Attributes:
        units: name of a unit (without a model) → its splits.
        problems: name of a unit → why it cannot be worked on.
    """

    units: Mapping[str, OpenedUnit]
    problems: Mapping[str, DataNotFound | DamagedData]


def check_all(
    pending: Sequence[Unit], wanted: Sequence[Unit], datasets: Datasets, data_root: Path | None
) -> tuple[Opened, list[str]]:
    """Open every split once, and let tasks refuse what they cannot work on.

    One dataset's problem is left to its record, so that the others run.

    Args:
        pending: what is to be done, each once.
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
    said = tell_coverage(needs_of(wanted), opened.problems, data_root)
    if opened.problems and not opened.units:
        left = "that is left to do " if len(pending) < len(wanted) else ""
        text, kind = "\n".join(said), type(next(iter(opened.problems.values())))
        raise kind(f"No dataset of the suite {left}can be used: {text}")
    return opened, said


def open_units(units: Sequence[Unit], datasets: Datasets) -> Opened:
    """Open the splits of each unit.

    Raises:
        UserError: one is asked for in a way that cannot be met (its prompts, its variant).
    """
    opened: dict[str, OpenedUnit] = {}
    problems: dict[str, DataNotFound | DamagedData] = {}
    for unit in units:
        try:
            opened[unit.name("")] = open_unit(unit, datasets)
        except (DataNotFound, DamagedData) as error:
            problems[unit.name("")] = error
    return Opened(units=opened, problems=problems)


def open_unit(unit: Unit, datasets: Datasets) -> OpenedUnit:
    """Open one unit's splits and check what its task makes of them.

    Raises:
        DataNotFound: a split is not there.
        DamagedData: one is there but wrong.
        UserError: it is asked for in a way that cannot be met.
    """
    opened = OpenedUnit(
        unit=unit,
        dataset=datasets.get(*unit.dataset_key),
        fit=datasets.fit_splits(*unit.dataset_key, unit.task.fit_splits),
    )
    if unit.ref.metric is not None:
        unit.task.check_metric(unit.ref.metric, opened.dataset.info)
    if opened.scorable:
        if "text" in unit.task.needs:
            check_texts(unit.task, unit.task.texts(opened.samples, unit.protocol))
        fit = {split: samples_of(other) for split, other in opened.fit.items()}
        unit.task.check(opened.samples, fit, unit.protocol)
    return opened
