"""The averages a suite names, told in record names and variants. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import canonical_name
from rwkvclip_eval.errors import SuiteError, joined
from rwkvclip_eval.records.schema import Average
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.plan.suite import LoadedSuite, SuiteAverage
    from rwkvclip_eval.plan.units import Unit


class _Mistake(Exception):
    """What is wrong with an average, and the keys of its entry that lead there."""

    def __init__(self, text: str, *keys: str | int) -> None:
        super().__init__(text)
        self.keys = keys


@dataclass(frozen=True)
class _Run:
    """A dataset that a task runs on under a protocol.

    Attributes:
        label: how averages name it.
        dataset: its record name.
        variant: None for the only version.
        split: where the suite names one.
    """

    label: str
    dataset: str
    variant: str | None
    split: str | None

    def is_meant_by(self, name: str) -> bool:
        """Whether it is what a suite calls `name`."""
        dataset, _, variant = name.partition("@")
        return canonical_name(dataset) == self.dataset and variant in ("", self.variant or "default")


def resolve_averages(loaded: LoadedSuite, units: Sequence[Unit]) -> list[Average]:
    """Return the averages that `loaded` names, one per protocol each is over.

    Args:
        loaded: the suite.
        units: its plan.

    Raises:
        SuiteError: a name is given twice or unknown, or an average would count a dataset twice or none;
            every mistake is listed with its line.
    """
    runs: dict[str, dict[str, list[_Run]]] = {}
    for unit in units:
        under = runs.setdefault(unit.task.name, {}).setdefault(unit.protocol.name, [])
        under.append(_Run(unit.label, unit.dataset, unit.variant, unit.ref.split))
    found: list[Average] = []
    problems: list[str] = []
    names: set[str] = set()
    for i, entry in enumerate(loaded.suite.averages):
        if entry.name in names:
            where = loaded.where("averages", i, "name")
            problems.append(f"{where}: the average {entry.name!r} is there twice; give each its own name.")
        names.add(entry.name)
        try:
            found += _resolve(entry, runs)
        except _Mistake as mistake:
            problems.append(f"{loaded.where('averages', i, *mistake.keys)}: {mistake}")
    if problems:
        raise SuiteError(joined(problems))
    return found


def _resolve(entry: SuiteAverage, runs: Mapping[str, Mapping[str, Sequence[_Run]]]) -> list[Average]:
    """Return the averages that an entry stands for; `runs`: task → protocol → datasets."""
    if entry.task not in runs:
        raise _Mistake(unknown_name("task of this suite", entry.task, runs), "task")
    own = runs[entry.task]
    if entry.protocol is not None and entry.protocol not in own:
        unknown = unknown_name(f"protocol of this suite's {entry.task}", entry.protocol, own)
        raise _Mistake(unknown, "protocol")
    asked = own if entry.protocol is None else {entry.protocol: own[entry.protocol]}
    key, given = _named(entry)
    candidates = [run for under in asked.values() for run in under]
    for j, name in enumerate(given):
        if not any(run.is_meant_by(name) for run in candidates):
            listed = {run.dataset for run in candidates}
            raise _Mistake(unknown_name(f"dataset of this suite's {entry.task}", name, listed), key, j)
    return [
        _average(entry, protocol, under)
        for protocol, under in asked.items()
        if not given or any(run.is_meant_by(name) for run in under for name in given)
    ]


def _average(entry: SuiteAverage, protocol: str, under: Sequence[_Run]) -> Average:
    """Return an entry's average over what runs under one protocol."""
    key, given = _named(entry)
    named = [
        _only([run for run in under if run.is_meant_by(name)], name, protocol, key, j)
        for j, name in enumerate(given)
    ]
    if len({*named}) < len(named):
        raise _Mistake("a dataset is there twice; name each once.", key)
    chosen = [run for run in under if (run in named) is bool(entry.datasets)]
    if not chosen:
        raise _Mistake("it leaves out every dataset.", key)
    for dataset in dict.fromkeys(run.dataset for run in chosen):
        _only([run for run in chosen if run.dataset == dataset], dataset, protocol)
    return Average(
        name=entry.name,
        task=entry.task,
        protocol=protocol,
        datasets=[run.label for run in chosen],
        leaves_out=[run.label for run in under if run not in chosen],
        metric=entry.metric,
    )


def _named(entry: SuiteAverage) -> tuple[str, Sequence[str]]:
    """Return the key under which an entry names datasets, and their names."""
    return ("datasets", entry.datasets) if entry.datasets else ("leaves_out", entry.leaves_out)


def _only(runs: Sequence[_Run], name: str, protocol: str, *keys: str | int) -> _Run:
    """Return the one that `name` stands for under `protocol`, so that no average counts a dataset twice."""
    if not runs:
        raise _Mistake(
            f"{name!r} does not run under {protocol!r}, where others of this average do; say which "
            "'protocol' is meant.",
            *keys,
        )
    if len(runs) > 1:
        labels = ", ".join(f"{run.label}{f' ({run.split})' if run.split else ''}" for run in runs)
        raise _Mistake(
            f"{name!r} runs more than once under {protocol!r} ({labels}), and an average counts a dataset "
            "once: name one version (NAME@VARIANT), or move the others to another suite.",
            *keys,
        )
    return runs[0]
