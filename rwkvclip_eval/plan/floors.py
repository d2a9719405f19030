"""Absolute floors of a suite's numbers, `run --fail-below FILE`: YAML that says below what a run has failed.

    floors:
      - task: zero_shot_classification
        dataset: cifar10 # or NAME@VARIANT
        floor: 60 # in the unit of tables: per cent

A number fails if its value is below its floor, whatever its interval. Where less is better, the floor is the
most that it may be.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from rwkvclip_eval.data.catalogue import canonical_name, catalogue, record_name
from rwkvclip_eval.data.types import Name, VersionName
from rwkvclip_eval.errors import UserError, joined, shortened
from rwkvclip_eval.records.metrics import PRIMARY_WORD, known
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, line_of, mistakes, parse_yaml
from rwkvclip_models.files import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import yaml

    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.records.schema import Record

State = Literal["fine", "fails", "no number"]


class Floor(Strict):
    """What one number must reach."""

    task: Name
    dataset: VersionName = Field(description="NAME or NAME@VARIANT, as suites write it")
    metric: Name = Field(PRIMARY_WORD, description="'primary': the dataset's own; or the name of one")
    protocol: Name | None = Field(None, description="every one that the dataset runs under by default")
    floor: float = Field(ge=0, le=1e9, allow_inf_nan=False, description="per cent, or what the metric is in")

    @property
    def where(self) -> tuple[str, str, str]:
        """Task, record name and variant, which is empty where the file does not say it."""
        name, _, variant = self.dataset.partition("@")
        return self.task, canonical_name(name), variant

    def is_of(self, task: str, dataset: str, variant: str, protocol: str | None) -> bool:
        """Return whether the floor is of such numbers, under any protocol where `protocol` is None."""
        own_task, own_dataset, own_variant = self.where
        rules = (None, protocol, (protocol or "").partition(" (")[0])
        return (
            (own_task, own_dataset) == (task, dataset)
            and own_variant in ("", variant)
            and (protocol is None or self.protocol in rules)
        )


class Floors(Strict):
    """What a file of floors says."""

    floors: tuple[Floor, ...] = Field(min_length=1, max_length=2000)


@dataclass(frozen=True, kw_only=True)
class Held:
    """One number beside its floor.

    Attributes:
        floor: what it must reach.
        record: the number.
        state: whether it does; `no number`: the unit failed, lacked its data or does not apply.
        within: the floor lies in the number's interval.
    """

    floor: Floor
    record: Record
    state: State
    within: bool

    @property
    def verdict(self) -> str:
        """As a table shows it."""
        if self.state == "no number":
            return f"no number: {self.record.reason or self.record.status}"
        said = "FAILS" if self.state == "fails" else "fine"
        return f"{said}, the floor is in the interval" if self.within else said


def load_floors(path: Path, units: Sequence[Unit]) -> tuple[Floor, ...]:
    """Return the floors in a file, after checking that a suite's `units` have such numbers.

    Raises:
        UserError: it is no such file, or names what the suite does not run; every mistake is listed with its
            line.
    """
    text = read_text(path, what="file of floors", limit=YAML_LIMIT_BYTES)
    node, content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: expected a mapping with 'floors', got {type(content).__name__}.")
    try:
        found = Floors.model_validate(content).floors
    except ValidationError as error:
        raise UserError(joined(mistakes(error, node, str(path)))) from error
    problems = [
        f"{path}:{line_of(node, ('floors', i, key))}: {said}"
        for i, floor in enumerate(found)
        for key, said in _problems(floor, units)
    ]
    problems += _twice(found, units, node, path)
    if problems:
        raise UserError(joined(problems))
    return found


def _problems(floor: Floor, units: Sequence[Unit]) -> Iterator[tuple[str, str]]:
    """Yield key and text of each mistake of a floor."""
    tasks = {unit.task.name: unit.task for unit in units}
    if floor.task not in tasks:
        yield "task", unknown_name("task of this suite", floor.task, tasks)
        return
    own = [unit for unit in units if unit.task.name == floor.task]
    there = [unit for unit in own if floor.is_of(floor.task, unit.dataset, unit.variant or "default", None)]
    if not there:
        names = {unit.dataset if unit.variant is None else f"{unit.dataset}@{unit.variant}" for unit in own}
        yield "dataset", unknown_name(f"dataset of {floor.task} in this suite", floor.dataset, names)
        return
    rules = {unit.protocol.name.partition(" (")[0] for unit in there}
    if floor.protocol is not None and floor.protocol not in rules | {unit.protocol.name for unit in there}:
        yield "protocol", unknown_name(f"protocol of {floor.dataset} in this suite", floor.protocol, rules)
    if floor.metric != PRIMARY_WORD:
        try:
            tasks[floor.task].check_metric(floor.metric)
        except UserError as error:
            yield "metric", str(error)
    in_percent = floor.metric == PRIMARY_WORD or known(floor.metric).in_percent
    if in_percent and (0 < floor.floor < 1 or floor.floor > 100):
        yield "floor", f"expected per cent, 0 or from 1 to 100, as tables show it (got {floor.floor:g})."


def _twice(
    floors: Sequence[Floor], units: Sequence[Unit], node: yaml.Node | None, path: Path
) -> Iterator[str]:
    """Yield which floors are of the numbers of another, whatever names they call them by."""
    seen: dict[frozenset[tuple[str, str]], int] = {}
    for i, floor in enumerate(floors):
        own = [unit for unit in units if floor.is_of(*_numbers_of(unit))]
        named = None if floor.metric == PRIMARY_WORD else floor.metric
        of = frozenset((unit.name(""), named or _primary_of(unit)) for unit in own)
        first = seen.setdefault(of, i)
        if of and first != i:
            line, other = (line_of(node, ("floors", one)) for one in (i, first))
            yield f"{path}:{line}: floors.{i}: line {other} has a floor of the same number already."


def _primary_of(unit: Unit) -> str:
    """Return the name of the metric that stands for a unit, as far as it is known before a run."""
    record = record_name(unit.dataset)
    of_dataset = catalogue()[record].metric_of(unit.variant or "default") if record else None
    wanted = (unit.ref.metric, unit.protocol.primary, of_dataset)
    return next((name for name in wanted if name and name in unit.task.gives), PRIMARY_WORD)


def _numbers_of(unit: Unit) -> tuple[str, str, str, str]:
    return unit.task.name, unit.dataset, unit.variant or "default", unit.protocol.name


def held(floors: Sequence[Floor], records: Iterable[Record]) -> list[Held]:
    """Return every number of `records` that has a floor beside it, of each model; units that lack it too."""
    units: dict[tuple[str, ...], list[Record]] = {}
    for r in records:
        units.setdefault((r.unit, r.model, r.task, r.dataset, r.variant, r.protocol), []).append(r)
    return [
        one
        for floor in floors
        for own in units.values()
        if floor.is_of(own[0].task, own[0].dataset, own[0].variant, own[0].protocol)
        for one in _of_unit(floor, own)
    ]


def _of_unit(floor: Floor, records: Sequence[Record]) -> Iterator[Held]:
    """Yield what a floor says of one unit: of its numbers of that metric, or that there is none."""
    there = [r for r in records if r.status == "ok" and r.value is not None]
    of = [r for r in there if (r.primary if floor.metric == PRIMARY_WORD else r.metric == floor.metric)]
    for record in of:
        assert record.value is not None
        yield _beside(floor, record, record.value)
    if not of:
        lacking = records[0]
        if there:
            names = ", ".join(dict.fromkeys(r.metric for r in there))
            said = f"this dataset has no {floor.metric}; it has {names}"
            lacking = dataclasses.replace(lacking, reason=shortened(said, 300))
        yield Held(floor=floor, record=lacking, state="no number", within=False)


def _beside(floor: Floor, record: Record, value: float) -> Held:
    metric = record.measure
    least = floor.floor / 100 if metric.in_percent else floor.floor
    below = value < least if metric.better == "higher" else value > least
    low, high = record.ci_low, record.ci_high
    within = low is not None and high is not None and low <= least <= high
    return Held(floor=floor, record=record, state="fails" if below else "fine", within=within)


def exit_code(found: Sequence[Held], code: int) -> int:
    """Return the exit code of a run that ended with `code`: 1 where a number fails."""
    states = {one.state for one in found}
    return 1 if "fails" in states else code or (3 if "no number" in states else 0)
