"""Runs a suite into a run directory, alone or with other ranks that help to encode."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.open import check_data_root
from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_eval.features.context import Timings
from rwkvclip_eval.features.ranks import Ranks
from rwkvclip_eval.features.torchrun import engine_of
from rwkvclip_eval.plan.averages import resolve_averages
from rwkvclip_eval.plan.suite import LoadedSuite, load_suite
from rwkvclip_eval.plan.units import Unit, in_shard, plan
from rwkvclip_eval.records.reading import load_results
from rwkvclip_eval.run.directory import FINISHED, RunDirectory
from rwkvclip_eval.run.identity import run_info, shard_folder
from rwkvclip_eval.run.loop import Work, outcomes
from rwkvclip_eval.run.options import RunContext, RunOptions, load_model, make_store
from rwkvclip_eval.run.outcome import fit_fingerprint
from rwkvclip_eval.run.preflight import check_all
from rwkvclip_eval.run.splits import Datasets
from rwkvclip_eval.run.workload import work_load
from rwkvclip_models.checkpoint import checkpoint_sha256
from rwkvclip_models.files import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.features.engine import Engine
    from rwkvclip_eval.records.schema import Record

KEPT_LOADED = 3
"""Every model is loaded once before any encoding, to find bad input early; up to this many stay loaded."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What `run_suite` did.

    Attributes:
        out: the run directory.
        records: all records of this run, those of earlier commands included.
        num_run: units worked on now.
        num_skipped: units that were finished before.
        seconds: wall seconds by stage, see `Timings.seconds`.
    """

    out: Path
    records: Sequence[Record]
    num_run: int
    num_skipped: int
    seconds: Mapping[str, float]

    @property
    def exit_code(self) -> int:
        """0 when every unit has its numbers or cannot apply; 3 when some failed or lacked their data."""
        return 0 if all(record.status in FINISHED for record in self.records) else 3

    def to_frame(self) -> pd.DataFrame:
        """Return one row per record."""
        return load_results(self.out)


def run_suite(
    suite: str | Path | LoadedSuite,
    models: Sequence[str],
    out: str | Path,
    *,
    options: RunOptions | None = None,
    context: RunContext | None = None,
    ranks: Ranks | None = None,
    shard: tuple[int, int] | None = None,
    command: str = "",
) -> RunSummary:
    """Run `models` on `suite` into the run directory `out`; continue where an earlier command stopped.

    Args:
        suite: name or path, or a loaded suite.
        models: specs, see `rwkvclip_eval.load_encoder`; globs expand to one model per checkpoint.
        out: run directory.
        options: how to run.
        context: who is told how it goes.
        ranks: the processes that encode together; this one alone by default.
        shard: (i, N): member i of a job array of N, from 1; writes to `out/shard-i-of-N`.
        command: the command line, kept in run.json.

    Raises:
        UserError: bad input, found before any encoding, or an output that cannot be written.
    """
    from rwkvclip_eval.encoders import expand_specs

    started = time.perf_counter()
    options = options or RunOptions()
    context = context or RunContext()
    context.timings = timings = Timings()
    engine = engine_of(ranks or Ranks(), options.encode, context)
    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    check_data_root(options.data_root)
    units, specs = plan(loaded), expand_specs(models)
    directory = shard_folder(Path(out), shard)
    averages = resolve_averages(loaded, units)
    info = run_info(loaded, models, specs, averages, options=options, shard=shard, command=command)
    run = RunDirectory(directory, info)
    try:
        todo = _what_to_do(run, units, specs, shard)
        _work(run, todo, Datasets(options, loaded.base_dir), engine, context, options)
        run.write_results()
    finally:
        seconds = timings.seconds(time.perf_counter() - started)
        run.close(seconds)
    return RunSummary(
        out=directory,
        records=[record for records in run.records.values() for record in records],
        num_run=sum(len(units) for _, units in todo.pending),
        num_skipped=len(todo.finished),
        seconds=seconds,
    )


@dataclass(frozen=True, kw_only=True)
class _ToDo:
    """What a command finds to do.

    Attributes:
        pending: model → its units that have no outcome yet; models without any are left out.
        finished: name and unit of what earlier commands finished.
        left: the units of `pending`, each once.
        wanted: those and the finished ones, each once.
    """

    pending: Sequence[tuple[EncoderSpec, Sequence[Unit]]]
    finished: Sequence[tuple[str, Unit]]
    left: Sequence[Unit]
    wanted: Sequence[Unit]


def _what_to_do(
    run: RunDirectory, units: Sequence[Unit], specs: Sequence[EncoderSpec], shard: tuple[int, int] | None
) -> _ToDo:
    """Return what is to be done, after checking that what is done is of the same files.

    Raises:
        OutputError: a checkpoint changed since it was scored.
        UserError: two units would write to one place, or the job array has no such member.
    """
    pending: dict[int, list[int]] = {}
    finished: list[tuple[str, Unit]] = []
    wanted = sorted(in_shard([unit.dataset_key for unit in units], len(specs), shard or (1, 1)))
    for i, j in wanted:
        name = units[j].name(specs[i].name)
        if run.finished(name, units[j].task.version):
            finished.append((name, units[j]))
        else:
            pending.setdefault(i, []).append(j)
    _check_unchanged(run, specs)
    _refuse_equal_names([u.name(spec.name) for spec in specs for u in units])
    return _ToDo(
        pending=[(specs[i], [units[j] for j in own]) for i, own in pending.items()],
        finished=finished,
        left=[units[j] for j in dict.fromkeys(j for own in pending.values() for j in own)],
        wanted=[units[j] for j in dict.fromkeys(j for _, j in wanted)],
    )


def _work(
    run: RunDirectory,
    todo: _ToDo,
    datasets: Datasets,
    engine: Engine,
    context: RunContext,
    options: RunOptions,
) -> None:
    """Look at everything, then encode and score what is to be done, and keep each outcome as it comes."""
    with context.timings.stage("load"):
        _check_same_data(run, todo.finished, datasets)
        kept, infos = _load_all(run, [spec for spec, _ in todo.pending], options)
        opened, said = check_all(todo.left, todo.wanted, datasets, options.data_root)
    if todo.pending:
        context.on_message("\n".join(said))
    with make_store(options) as store:
        loads = work_load([(infos[spec.name], units) for spec, units in todo.pending], opened, store)
        work = [
            Work(
                model=spec.name,
                # Not kept here too: two may not fit into memory. mypy infers no lambda with a default.
                load=lambda spec=spec: kept.pop(spec.name, None) or load_model(spec, options),  # type: ignore[misc]
                units=units,
            )
            for spec, units in todo.pending
        ]
        for name, outcome in outcomes(
            work,
            opened,
            store,
            engine,
            options,
            num_images=sum(load.images for load in loads),
            on_standing=context.on_standing,
        ):
            run.add(name, outcome)
            context.on_unit(name, outcome.text)


def _load_all(
    run: RunDirectory, specs: Sequence[EncoderSpec], options: RunOptions
) -> tuple[dict[str, Encoder], dict[str, EncoderInfo]]:
    """Load every model once, so that a bad checkpoint is found before any encoding.

    Returns:
        Those kept, and what each says of itself.

    Raises:
        OutputError: the run already scored another model under one of the names.
    """
    kept: dict[str, Encoder] = {}
    infos: dict[str, EncoderInfo] = {}
    for spec in specs:
        encoder = load_model(spec, options)
        infos[spec.name] = encoder.info
        run.refuse_other_model(spec.name, encoder.info.fingerprint)
        if len(kept) < KEPT_LOADED:
            kept[spec.name] = encoder
    return kept, infos


def _check_unchanged(run: RunDirectory, specs: Sequence[EncoderSpec]) -> None:
    """Refuse to continue a run whose checkpoint files have other bytes than those already scored.

    Raises:
        OutputError: a checkpoint changed; the text names it.
    """
    for spec in specs:
        path = expanded(spec.checkpoint or "")
        scored = run.scored(spec.name, "checkpoint_sha256")
        if not scored or not path.is_file():
            continue
        if checkpoint_sha256(path) not in scored:
            raise OutputError(
                f"{path.name} has changed since {run.out} scored {spec.name}; choose another --out."
            )


def _check_same_data(run: RunDirectory, finished: Sequence[tuple[str, Unit]], datasets: Datasets) -> None:
    """Refuse to continue a run whose data have other content than those already scored.

    Data that cannot be opened now are left alone: their numbers stand.

    Raises:
        OutputError: a split changed that a finished unit, given with its name, was judged on or learned from.
    """
    for name, unit in finished:
        records = [record for record in run.records[name] if record.status == "ok"]
        if not records:
            continue
        try:
            judged = datasets.get(*unit.dataset_key)
            learned = datasets.fit_splits(*unit.dataset_key, unit.task.fit_splits)
        except UserError:
            continue
        now = judged.info.fingerprint, fit_fingerprint(learned)
        if any((record.dataset_fingerprint, record.fit_fingerprint) != now for record in records):
            raise OutputError(
                f"The data of {unit.dataset} changed since {run.out} scored {name}; choose another --out."
            )


def _refuse_equal_names(names: Sequence[str]) -> None:
    """Raise UserError where two units would write to one place."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(
            f"Two models or datasets share the name {twice[0]!r} on disk, where only letters, digits and "
            "@.=_- are kept; rename one of the files."
        )
