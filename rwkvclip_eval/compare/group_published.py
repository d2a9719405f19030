"""Published numbers beside methods: by name, unpaired, and without a verdict.

A published number is that of a group whose NAME is the method as printed, or of which a run's model has it as
its counterpart (`records.published`), on the same version of a set by the same metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.compare.two_way import vary_from
from rwkvclip_eval.records.published import counterparts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.by_image import SetNumbers
    from rwkvclip_eval.compare.group_runs import Group
    from rwkvclip_eval.compare.two_way import Varied
    from rwkvclip_eval.records.published import PublishedRow

NO_WIN = (
    "Published numbers are not paired with ours: seeds, settings and images behind them are not known, and "
    "intervals are as if they were of as many other images. No win over one is claimed."
)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One published number beside a method.

    Attributes:
        group: the method's name.
        title: of the set.
        metric: its title with the unit.
        values: [S] numbers of the method's runs.
        row: the published number.
        varied: their mean less it, and how that varies.
    """

    group: str
    title: str
    metric: str
    values: NDArray[np.float64]
    row: PublishedRow
    varied: Varied


def beside_published(
    groups: Sequence[Group], sets: Sequence[SetNumbers], rows: Sequence[PublishedRow]
) -> tuple[Printed, ...]:
    """Return the published numbers that there are of `groups` on `sets`, group by group."""
    found = []
    for k, group in enumerate(groups):
        specs = {str(run.side.any_record.model_info.get("spec", "")) for run in group.runs}
        own = [row for row in rows if row.method.casefold() == group.name.casefold()]
        own += [row for spec in sorted(specs) for row in counterparts(spec, rows)]
        for one in sets:
            for row in {id(row): row for row in own if _is_of(one, row)}.values():
                assert row.number is not None
                numbers = one.values[k]
                found.append(
                    Printed(
                        group=group.name,
                        title=one.unit.title,
                        metric=one.metric.label,
                        values=np.array([number.value for number in numbers]),
                        row=row,
                        varied=vary_from(numbers, row.number / 100),
                    )
                )
    return tuple(found)


def _is_of(one: SetNumbers, row: PublishedRow) -> bool:
    """Return whether a published number is of the same set, version and metric; parts of sets have none."""
    unit = one.unit
    dataset = unit.dataset if unit.variant == "default" else f"{unit.dataset}@{unit.variant}"
    wanted = (unit.task, dataset, one.metric.name)
    return (
        row.number is not None
        and not one.subset
        and unit.split == "test"
        and (row.record_task, row.dataset, row.metric) == wanted
    )
