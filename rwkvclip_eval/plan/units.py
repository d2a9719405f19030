"""What a suite asks for: units of work, and which of them a member of a job array takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import canonical_name, catalogue, record_name
from rwkvclip_eval.errors import SuiteError, UserError, joined
from rwkvclip_eval.plan.suite import LoadedSuite, check_names
from rwkvclip_eval.protocols import PROTOCOLS, Protocol
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_eval.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from rwkvclip_eval.data.types import DatasetRef
    from rwkvclip_eval.tasks.base import Task

MAX_UNITS = 2000
"""Of one suite, for each model."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One task over one dataset under one protocol; times a model it is a line of work.

    Attributes:
        task: what is measured.
        ref: the dataset, as the suite says it.
        variant: which of its versions in circulation `ref` or `protocol` means; None for `default`.
        protocol: the rules.
    """

    task: Task
    ref: DatasetRef
    variant: str | None
    protocol: Protocol

    @property
    def dataset_key(self) -> tuple[DatasetRef, str | None]:
        """What identifies the split to open: protocols that mean the same variant share it."""
        return self.ref, self.variant

    @property
    def content(self) -> DatasetRef:
        """What the suite says of the dataset, told the same way whichever of its names it uses."""
        return self.ref.model_copy(update={"name": self.dataset, "variant": self.variant})

    @property
    def dataset(self) -> str:
        """The name records give the dataset: the catalogue's, whatever alias the suite uses."""
        return canonical_name(self.ref.name)

    @property
    def label(self) -> str:
        """The name that commands and averages use: `cifar10`, `sun397@partition1`."""
        return f"{self.dataset}@{self.variant}" if self.variant else self.dataset

    @property
    def splits(self) -> list[str]:
        """The split that it is judged on, then those its task learns from.

        Of these the first must be there, the others only where the catalogue knows them.
        """
        from rwkvclip_eval.data.open import DATASETS, known_splits

        record = None if self.ref.name in DATASETS else record_name(self.ref.name)
        judged = self.ref.split or (catalogue()[record].evaluation_split if record else "test")
        learned = self.task.fit_splits
        known = known_splits(*self.dataset_key) if learned else frozenset()
        return [judged, *learned[:1], *(split for split in learned[1:] if split in known)]

    def name(self, model: str) -> str:
        """Return the unit's name, fit for a folder."""
        split = f"@{self.ref.split}" if self.ref.split else ""
        return folder_name(model, self.task.name, self.label + split, self.protocol.name)


def plan(loaded: LoadedSuite) -> list[Unit]:
    """Return the units of a suite in its order, duplicates once.

    Raises:
        SuiteError: it measures speed, there are too many, a name is unknown, a dataset is one of which its
            task does not give the metric asked for, or two different datasets have one name, so that the
            results of one would replace those of the other.
    """
    if loaded.suite.grids:
        raise SuiteError(
            f"The suite {loaded.suite.name} measures speed on random data: it has no datasets and no units. "
            f"Run it with `rwkvclip-eval bench --suite {loaded.suite.name}` or `rwkvclip-eval run`."
        )
    check_names(loaded)
    asked = sum(len(entry.datasets) * len(entry.protocol or "1") for entry in loaded.suite.tasks)
    if asked > MAX_UNITS:
        raise SuiteError(f"{loaded.source} asks for {asked} units of work; at most {MAX_UNITS} are run.")
    units: dict[str, Unit] = {}
    problems: dict[str, None] = {}
    for i, entry in enumerate(loaded.suite.tasks):
        task = TASKS.get(entry.task)
        for name in entry.protocol or task.protocols[:1]:
            protocol = task.under(PROTOCOLS.get(name), entry.options)
            for j, given in enumerate(entry.datasets):
                ref, variant = _canonical(given, protocol)
                unit = Unit(task=task, ref=ref, variant=variant, protocol=protocol)
                if wrong := _metric_problem(task, ref, variant):
                    problems[f"{loaded.where('tasks', i, 'datasets', j)}: {wrong}"] = None
                other = units.setdefault(unit.name(""), unit)
                if other.content != unit.content:
                    raise SuiteError(
                        f"{loaded.where('tasks', i, 'datasets', j)}: {ref.name!r} and another dataset of "
                        f"{entry.task} share the name {unit.dataset!r} in results; give each its own name."
                    )
    if problems:
        raise SuiteError(joined(list(problems)))
    return list(units.values())


def _metric_problem(task: Task, ref: DatasetRef, variant: str | None) -> str:
    """Return why `task` cannot give the metric that a suite asks of a dataset, by what the catalogue says."""
    from rwkvclip_eval.data.open import DATASETS

    record = record_name(ref.name)
    if ref.metric is None or record is None or ref.name in DATASETS:
        return ""
    try:
        task.check_metric(ref.metric, catalogue()[record].facts_of(variant or "default", ref.metric))
    except SuiteError as error:
        return str(error)
    return ""


def _canonical(ref: DatasetRef, protocol: Protocol) -> tuple[DatasetRef, str | None]:
    """Return `ref` under its record name, and the variant it means under `protocol`.

    However a suite spells a dataset, its records and units then have one name. None stands for the only
    version, `default`.
    """
    from rwkvclip_eval.data.open import DATASETS

    record = record_name(ref.name)
    if record is None or ref.name in DATASETS:
        return ref, ref.variant
    first = next(iter(catalogue()[record].variants))
    variant = ref.variant or protocol.variants.get(record) or first
    return ref.model_copy(update={"name": record}), None if variant == "default" else variant


def in_shard(keys: Sequence[Hashable], num_models: int, shard: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the (model, unit) index pairs of job-array member `shard` = (i, N), i from 1.

    Units that share a model and a dataset stay together, so that no split is encoded twice.

    Args:
        keys: `Unit.dataset_key` of each unit.
        num_models: models that the units are run with.
        shard: (i, N).

    Raises:
        UserError: there is no such member.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise UserError(f"Member {index} of {count}: expected I/N with 1 ≤ I ≤ N.")
    groups: dict[tuple[int, Hashable], list[tuple[int, int]]] = {}
    for m in range(num_models):
        for u, key in enumerate(keys):
            groups.setdefault((m, key), []).append((m, u))
    return {
        pair for number, group in enumerate(groups.values()) if number % count == index - 1 for pair in group
    }
