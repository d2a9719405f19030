"""The averages a suite names, told in record names and variants. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import canonical_name
from rwkvclip_eval.errors import SuiteError, joined
from rwkvclip_eval.records.schema import Average
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.plan.suite import LoadedSuite, SuiteAverage
    from rwkvclip_eval.plan.units import Unit


class _Mistake(Exception):
    """What is wrong with an average, and the keys of its entry that lead there."""

    def __init__(self, text: str, *keys: str | int) -> None:
        super().__init__(text)
        self.keys = keys


def resolve_averages(loaded: LoadedSuite, units: Sequence[Unit]) -> list[Average]:
    """Return the averages that `loaded` names, one per protocol each is over.

    Args:
        loaded: the suite.
        units: its plan.

    Raises:
        SuiteError: a name is given twice or unknown, or an average would count a dataset twice or none;
            every mistake is listed with its line.
    """
    found: list[Average] = []
    problems: list[str] = []
    names: set[str] = set()
    for i, entry in enumerate(loaded.suite.averages):
        if entry.name in names:
            where = loaded.where("averages", i, "name")
            problems.append(f"{where}: the average {entry.name!r} is there twice; give each its own name.")
        names.add(entry.name)
        try:
            found += _resolve(entry, units)
        except _Mistake as mistake:
            problems.append(f"{loaded.where('averages', i, *mistake.keys)}: {mistake}")
    if problems:
        raise SuiteError(joined(problems))
    return found


def _resolve(entry: SuiteAverage, units: Sequence[Unit]) -> list[Average]:
    own = [unit for unit in units if unit.task.name == entry.task]
    if not own:
        raise _Mistake(
            unknown_name("task of this suite", entry.task, {unit.task.name for unit in units}), "task"
        )
    protocols = list(dict.fromkeys(unit.protocol.name for unit in own))
    if entry.protocol is not None and entry.protocol not in protocols:
        unknown = unknown_name(f"protocol of this suite's {entry.task}", entry.protocol, protocols)
        raise _Mistake(unknown, "protocol")
    key = "datasets" if entry.datasets else "leaves_out"
    given = entry.datasets or entry.leaves_out
    candidates = own if entry.protocol is None else [u for u in own if u.protocol.name == entry.protocol]
    for j, name in enumerate(given):
        if not any(_means(name, unit) for unit in candidates):
            listed = {unit.dataset for unit in candidates}
            raise _Mistake(unknown_name(f"dataset of this suite's {entry.task}", name, listed), key, j)
    averages = []
    for protocol in protocols if entry.protocol is None else [entry.protocol]:
        under = [unit for unit in own if unit.protocol.name == protocol]
        named = [unit for unit in under if any(_means(name, unit) for name in given)]
        if given and not named:
            continue
        for j, name in enumerate(given):
            _check_one(name, [unit for unit in under if _means(name, unit)], protocol, (key, j))
        chosen = named if entry.datasets else [unit for unit in under if unit not in named]
        if len(named) < len(given):
            raise _Mistake("a dataset is there twice; name each once.", key)
        if not chosen:
            raise _Mistake("it leaves out every dataset.", key)
        for name in {unit.dataset for unit in chosen}:
            _check_one(name, [unit for unit in chosen if unit.dataset == name], protocol, ())
        averages.append(
            Average(
                name=entry.name,
                task=entry.task,
                protocol=protocol,
                datasets=[_label(unit) for unit in chosen],
                leaves_out=[_label(unit) for unit in under if unit not in chosen],
                metric=entry.metric,
            )
        )
    return averages


def _means(name: str, unit: Unit) -> bool:
    dataset, _, variant = name.partition("@")
    return canonical_name(dataset) == unit.dataset and variant in ("", unit.variant or "default")


def _check_one(name: str, units: Sequence[Unit], protocol: str, keys: tuple[str | int, ...]) -> None:
    """Check that `name` stands for one unit under `protocol`, so that no average counts a dataset twice."""
    if not units:
        raise _Mistake(
            f"{name!r} does not run under {protocol!r}, where others of this average do; say which "
            "'protocol' is meant.",
            *keys,
        )
    if len(units) > 1:
        labels = ", ".join(f"{_label(u)}{f' ({u.ref.split})' if u.ref.split else ''}" for u in units)
        raise _Mistake(
            f"{name!r} runs more than once under {protocol!r} ({labels}), and an average counts a dataset "
            "once: name one version (NAME@VARIANT), or move the others to another suite.",
            *keys,
        )


def _label(unit: Unit) -> str:
    return f"{unit.dataset}@{unit.variant}" if unit.variant else unit.dataset
