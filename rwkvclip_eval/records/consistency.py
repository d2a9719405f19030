"""What records cannot say: by themselves, beside their unit's name, and beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.errors import shown
from rwkvclip_eval.printable import code_points, look_alike, shows_nothing, unreadable
from rwkvclip_eval.records.metrics import standard
from rwkvclip_eval.records.schema import MAX_NAME_BYTES, SPEED, folder_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.records.schema import Record

_NAMES = ("unit", "model", "task", "dataset", "variant", "split", "protocol")
_OF_NUMBER = ("model", "task", "dataset", "variant", "split", "protocol")
"""What a number is of: no two units are of the same."""
_OF_UNIT = (
    *_OF_NUMBER,
    "task_version",
    "prompt_hash",
    "dataset_fingerprint",
    "fit_fingerprint",
    "subset",
    "tables",
)
"""What all numbers of a unit share."""


def misfit(record: Record) -> str:
    """Return why a record cannot be right by itself; nothing where it can."""
    for name in _NAMES:
        given = getattr(record, name)
        if shows_nothing(given):
            return f"{name} {unreadable(given)}"
    if record.status == "ok" and record.value is None:
        return "status is 'ok' without a value"
    if record.metric_info is not None and record.metric_info.name != record.metric:
        return f"metric is {shown(record.metric)}, metric_info of {shown(record.metric_info.name)}"
    usual, info = standard(record.metric), record.metric_info
    if usual is not None and info is not None:
        said, known = (
            {name: getattr(one, name) for name in ("unit", "better", "shots", "k", "direction")}
            for one in (info, usual)
        )
        if wrong := [name for name in said if said[name] != known[name]]:
            told = ", ".join(f"{name} {said[name]}" for name in wrong)
            return f"metric_info of {shown(record.metric)} says {told}, which it is not"
    if record.n == 0 and record.value is not None:
        return "n is 0 beside a value"
    metric = record.metric_info or standard(record.metric)
    # Intervals over seeds of before there was schema version 2 do not hold their value.
    strict, numbers = record.schema_version > 1, (record.value, record.ci_low, record.ci_high)
    return (metric.misfit(*numbers, strict=strict) if metric else "") or _unit_misfit(record)


def _unit_misfit(record: Record) -> str:
    """Return which of its fields a record's unit names otherwise: MODEL--TASK--DATASET--PROTOCOL."""
    unit = record.unit
    # Other names are of earlier versions, long ones are cut.
    if unit.count("--") < 3 or len(unit.encode()) >= MAX_NAME_BYTES - 20:
        return ""
    begins, ends = f"{folder_name(record.model, record.task)}--", f"--{folder_name(record.protocol)}"
    wrong = "model or task" if not unit.startswith(begins) else "protocol" if not unit.endswith(ends) else ""
    return f"its {wrong} is not that of its unit {shown(unit)}" if wrong else ""


def contradiction(records: Sequence[Record]) -> str:
    """Return how records of one file contradict each other; nothing where they do not.

    Those of measurements of speed are derived from their cells.
    """
    records = [record for record in records if record.task != SPEED]
    if pair := look_alike(dict.fromkeys(record.model for record in records)):
        return f"two models are called {shown(pair[0])}, spelt {' and '.join(map(code_points, pair))}"
    units: dict[str, Record] = {}
    numbers: dict[tuple[str, ...], str] = {}
    for record in records:
        first = units.setdefault(record.unit, record)
        differing = [name for name in _OF_UNIT if getattr(record, name) != getattr(first, name)]
        if differing and record.status == first.status:
            return f"records of the unit {shown(record.unit)} differ in {', '.join(differing)}"
        unit = numbers.setdefault(tuple(getattr(record, name) for name in _OF_NUMBER), record.unit)
        # A registered dataset may call itself by another name than that of its units.
        if unit != record.unit and any(folder_name(record.dataset) in name for name in (unit, record.unit)):
            return f"the units {shown(unit)} and {shown(record.unit)} are said to be of the same"
    return ""
