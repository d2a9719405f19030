"""The runs of methods as the user names them, the seed of each, and which belong together."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.compare.pairing import read_side
from rwkvclip_eval.errors import OutputError, UserError, name_some, shown
from rwkvclip_eval.printable import printable, unreadable
from rwkvclip_eval.records.reading import training_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.compare.pairing import Side

Pairing = Literal["seed", "order", "none"]
MAX_GROUPS, MAX_RUNS = 20, 200
_NAME = 100
"""Characters of a method's name at most."""


@dataclass(frozen=True, kw_only=True)
class SeededRun:
    """One run of a method.

    Attributes:
        side: its numbers.
        seed: of its training; None where neither the user nor a training log says it.
        told_by: who says it: `user` or `training log`; empty where nobody does.
    """

    side: Side
    seed: int | None
    told_by: str

    @property
    def label(self) -> str:
        """The run's folder and its seed."""
        # As given, but no folder of this machine.
        path = self.side.path.name if self.side.path.is_absolute() else str(self.side.path)
        seed = "unknown" if self.seed is None else self.seed
        return f"{printable(path)} (seed {seed})"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One method.

    Attributes:
        name: as the user calls it.
        runs: of it, each with a seed of its own.
    """

    name: str
    runs: tuple[SeededRun, ...]

    def paired_with(self, baseline: Group, pairing: Pairing) -> tuple[list[int] | None, str]:
        """Return for each run of `baseline` which of ours belongs to it, None where they are not paired.

        And what was taken, in words.

        Raises:
            OutputError: they are to be paired by order, and are not as many.
        """
        both = f"{self.name} with {baseline.name}"
        if pairing == "none":
            return None, f"{both}: not paired, as asked for."
        if pairing == "order":
            if len(self.runs) != len(baseline.runs):
                raise OutputError(
                    f"--pair order: {baseline.name} has {len(baseline.runs)} runs, {self.name} "
                    f"{len(self.runs)}; give as many of each, or leave --pair out."
                )
            pairs = ", ".join(
                f"{a.label} with {b.label}" for a, b in zip(baseline.runs, self.runs, strict=True)
            )
            return list(range(len(self.runs))), f"{both}: paired in the order given: {pairs}."
        known = [[run.seed for run in group.runs] for group in (baseline, self)]
        if None not in known[0] + known[1] and set(known[0]) == set(known[1]):
            seeds = ", ".join(map(str, known[0]))
            return [known[1].index(seed) for seed in known[0]], f"{both}: paired by seed: {seeds}."
        lists = " and ".join(
            f"{group.name} {', '.join('unknown' if seed is None else str(seed) for seed in seeds)}"
            for group, seeds in zip((baseline, self), known, strict=True)
        )
        return None, f"{both}: not paired, since they have not the same seeds: {lists}."


def read_groups(texts: Sequence[str]) -> list[Group]:
    """Return the methods that `--group NAME=RUN[@SEED],…` names, one text each.

    Raises:
        UserError: a text is no group, there is one group only, or a run stands twice.
        OutputError: a run holds no results, or several models.
    """
    if len(texts) < 2:
        raise UserError(
            "One --group is no comparison: give --group NAME=RUN,RUN,… twice at least, the baseline first."
        )
    if len(texts) > MAX_GROUPS:
        raise UserError(f"{len(texts)} groups; at most {MAX_GROUPS} are compared.")
    named = [_parse(text) for text in texts]
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise UserError(f"Two groups are called {shown(twice[0])}; give each method its own name.")
    places = Counter(path.resolve() for _, runs in named for path, _ in runs)
    again = [str(path) for path, count in places.items() if count > 1]
    if again:
        raise UserError(f"{name_some(again)}: one run stands twice; each is one seed of one method.")
    return [_read(name, runs) for name, runs in named]


def _parse(text: str) -> tuple[str, list[tuple[Path, int | None]]]:
    name, equals, listed = text.partition("=")
    parts = listed.split(",")
    if not (name.strip() and equals) or not all(part.strip() for part in parts) or len(name) > _NAME:
        raise UserError(
            f"--group {shown(text)}: expected NAME=RUN,RUN,…, such as rwkv-clip=runs/a,runs/b; a run's seed, "
            "where no training log says it, as RUN@SEED."
        )
    if why := unreadable(name.strip()):
        raise UserError(f"--group: the name of a method {why}; give one that can be read.")
    if len(parts) < 2:
        raise UserError(
            f"--group {shown(text)}: one run is one seed, which says nothing of how seeds vary. Give two at "
            "least, or compare two checkpoints: rwkvclip-eval compare BASELINE CANDIDATE."
        )
    if len(parts) > MAX_RUNS:
        raise UserError(f"--group {shown(name)}: {len(parts)} runs; at most {MAX_RUNS} are compared.")
    return printable(name.strip()), [_run(part.strip()) for part in parts]


def _run(text: str) -> tuple[Path, int | None]:
    """Return path and seed of RUN[@SEED]; a folder of the whole name is that folder."""
    found = re.fullmatch(r"(.+)@([0-9]{1,10})", text)
    if found is None or Path(text).exists():
        return Path(text), None
    return Path(found[1]), int(found[2])


def _require_run(path: Path) -> None:
    """Say what is wrong with a seed that is no number, where there is no run of the whole name."""
    run, at, seed = str(path).rpartition("@")
    if at and not path.exists():
        raise UserError(
            f"--group: {path} is no run directory, and {shown(seed)} no seed; expected RUN@SEED with a whole "
            f"number of at most 10 digits, such as {run or 'runs/a'}@0, or RUN alone."
        )


def _read(name: str, listed: Sequence[tuple[Path, int | None]]) -> Group:
    runs = []
    for path, said in listed:
        _require_run(path)
        side = read_side(path)
        trained = training_seeds(path)
        if said is not None:
            seed, told_by = said, "user"
        elif len(trained) == 1:
            seed, told_by = trained.pop(), "training log"
        else:
            seed, told_by = None, ""
        runs.append(SeededRun(side=side, seed=seed, told_by=told_by))
    seeds = Counter(run.seed for run in runs if run.seed is not None)
    again = [seed for seed, count in seeds.items() if count > 1]
    if again:
        raise OutputError(
            f"{name}: two runs are of seed {again[0]} and so no two draws of the method: leave one out, "
            "or say their seeds (RUN@SEED)."
        )
    models: dict[str, SeededRun] = {}
    for run in runs:
        fingerprint = str(run.side.any_record.model_info.get("fingerprint") or run.side.path)
        other = models.setdefault(fingerprint, run)
        if other is not run:
            raise OutputError(
                f"{name}: {other.side.path} and {run.side.path} are of one checkpoint, and so no two draws "
                "of the method; leave one out."
            )
    return Group(name=name, runs=tuple(runs))
