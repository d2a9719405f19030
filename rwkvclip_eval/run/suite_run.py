"""Runs a suite into a run directory, alone or with other ranks that help to encode."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.open import check_data_root
from rwkvclip_eval.errors import EncodingFailed, OutputError, UserError
from rwkvclip_eval.features.encoding import Timings, encode_batches
from rwkvclip_eval.features.partial_entry import PartialEntry
from rwkvclip_eval.features.store import image_key
from rwkvclip_eval.plan.suite import LoadedSuite, load_suite
from rwkvclip_eval.plan.units import Unit, in_shard, plan
from rwkvclip_eval.records.schema import Record, load_results
from rwkvclip_eval.run.directory import FINISHED, RunDirectory
from rwkvclip_eval.run.identity import run_info, shard_folder
from rwkvclip_eval.run.preflight import check_all
from rwkvclip_eval.run.splits import Datasets, fit_fingerprint
from rwkvclip_eval.run.unit import RunOptions, UnitOutcome, make_store, run_unit
from rwkvclip_eval.run.workload import Pace, work_load
from rwkvclip_models.checkpoint import checkpoint_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.features.torchrun import TorchrunRanks

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
    shard: tuple[int, int] | None = None,
    command: str = "",
) -> RunSummary:
    """Run `models` on `suite` into the run directory `out`; continue where an earlier command stopped.

    Args:
        suite: name or path, or a loaded suite.
        models: specs, see `rwkvclip_eval.load_encoder`; globs expand to one model per checkpoint.
        out: run directory.
        options: how to run.
        shard: (i, N): member i of a job array of N, from 1; writes to `out/shard-i-of-N`.
        command: the command line, kept in run.json.

    Raises:
        UserError: bad input, found before any encoding, or an output that cannot be written.
    """
    from rwkvclip_eval.encoders import expand_specs

    started = time.perf_counter()
    options = options or RunOptions()
    options.encode.timings = timings = Timings()
    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    check_data_root(options.data_root)
    units = plan(loaded)
    specs = expand_specs(models)
    wanted = in_shard(units, specs, shard or (1, 1))
    directory = shard_folder(Path(out), shard)
    info = run_info(loaded, models, specs, units, options=options, shard=shard, command=command)
    run = RunDirectory(directory, info)
    try:
        work = [
            (
                spec,
                [
                    u
                    for j, u in enumerate(units)
                    if (i, j) in wanted and not run.finished(u.name(spec.name), u.task.version)
                ],
            )
            for i, spec in enumerate(specs)
        ]
        _check_unchanged(run, specs, units)
        _refuse_equal_names([u.name(spec.name) for spec in specs for u in units])
        num_run = sum(len(pending) for _, pending in work)
        datasets = Datasets(options, loaded.base_dir)
        finished = [
            (u.name(specs[i].name), u)
            for i, j in sorted(wanted)
            if run.finished((u := units[j]).name(specs[i].name), u.task.version)
        ]
        with timings.stage("load"):
            _check_same_data(run, finished, datasets)
            encoders, infos = _load_all(run, [spec for spec, pending in work if pending], options)
            problems, said = check_all(
                [u for _, pending in work for u in pending],
                [units[j] for _, j in sorted(wanted)],
                datasets,
                options.data_root,
            )
        if num_run:
            options.encode.on_message("\n".join(said))
        with make_store(options) as store:
            loads = work_load(
                [(infos[spec.name], pending) for spec, pending in work if pending], datasets, store, problems
            )
            pace = Pace(
                num_run,
                sum(load.images for load in loads),
                lambda: timings.images * options.encode.ranks.size,
            )
            number = 0
            for spec, pending in work:
                if not pending:
                    continue
                with timings.stage("load"):
                    encoder = encoders.pop(spec.name, None) or load_model(spec, options)
                for unit in pending:
                    number += 1
                    options.on_standing(pace.standing(number))
                    options.encode.ranks.working_on = (spec.name, unit.name(""))
                    with _told_standing(options, pace, number):
                        outcome = run_unit(encoder, unit, datasets, store, options)
                    name = unit.name(spec.name)
                    run.add(name, outcome)
                    options.on_unit(name, _outcome_text(outcome))
                del encoder
        run.write_results()
    finally:
        seconds = timings.seconds(time.perf_counter() - started)
        run.close(seconds)
    return RunSummary(
        out=directory,
        records=[record for records in run.records.values() for record in records],
        num_run=num_run,
        num_skipped=len(wanted) - num_run,
        seconds=seconds,
    )


def help_suite(
    suite: str | Path | LoadedSuite, models: Sequence[str], *, ranks: TorchrunRanks, options: RunOptions
) -> int:
    """Encode this rank's share of whatever rank 0 announces; return the exit code it dismisses us with.

    Args:
        suite: as given to rank 0.
        models: as given to rank 0.
        ranks: the processes of the run.
        options: as given to rank 0, but for the device.

    Raises:
        UserError: bad input, another rank failed, or this one has other weights, data or files than rank 0.
    """
    import torch  # noqa: F401  # takes seconds; rank 0 reads the models meanwhile

    from rwkvclip_eval.encoders import expand_specs

    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    units = {unit.name(""): unit for unit in plan(loaded)}
    specs = {spec.name: spec for spec in expand_specs(models)}
    datasets, encoder, current = Datasets(options, loaded.base_dir), None, ""
    while job := ranks.next_job():
        if job.model not in specs or job.unit not in units:
            raise UserError(
                f"Rank {ranks.rank} knows no {job.model} × {job.unit}, which rank 0 works on: the suite or "
                "the checkpoint files changed meanwhile. Start the same command again."
            )
        if encoder is None or current != job.model:
            # The one before goes first: two may not fit into memory.
            encoder = None
            encoder, current = load_model(specs[job.model], options), job.model
        dataset = _split(datasets, units[job.unit], job.split)
        if image_key(encoder.info, dataset.info.fingerprint) != job.key:
            raise UserError(
                f"Rank {ranks.rank} finds other weights of {job.model} or other data of {dataset.info.name} "
                "than rank 0; all machines must see the same files."
            )
        if not Path(job.folder).is_dir():
            raise UserError(
                f"Rank {ranks.rank} does not see {job.folder}: give a feature store (--cache DIR) that all "
                "machines share."
            )
        widths = {"embedding": encoder.info.embed_dim, "probe": encoder.info.probe_dim}
        writer = PartialEntry(Path(job.folder), len(dataset), widths, ranks.rank)
        batches = [range(rows.start, min(rows.stop, len(dataset))) for rows in ranks.share(job)]
        failure = ""
        try:
            encode_batches(encoder, dataset, batches, writer, options.encode, ranks.count)
        except EncodingFailed as error:
            failure = str(error)
        ranks.answer(writer.missing, failure)
    return ranks.exit_code


def _split(datasets: Datasets, unit: Unit, split: str) -> Dataset:
    """Return the unit's dataset, or the other split of it that its task learns from."""
    own = datasets.get(unit)
    return own if own.info.split == split else datasets.get(unit, split)


def load_model(spec: EncoderSpec, options: RunOptions) -> Encoder:
    """Return the encoder of `spec` as the options ask for it."""
    from rwkvclip_eval.encoders import load_encoder

    return load_encoder(
        spec,
        device=options.device,
        precision=options.precision,
        implementation=options.implementation,
        offline=options.offline,
    )


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


@contextlib.contextmanager
def _told_standing(options: RunOptions, pace: Pace, number: int) -> Iterator[None]:
    """Say how far the run is with every step of a unit."""
    on_progress = options.encode.on_progress

    def told(done: int, total: int, what: str) -> None:
        on_progress(done, total, what)
        options.on_standing(pace.standing(number))

    options.encode.on_progress = told
    try:
        yield
    finally:
        options.encode.on_progress = on_progress


def _check_unchanged(run: RunDirectory, specs: Sequence[EncoderSpec], units: Sequence[Unit]) -> None:
    """Refuse to continue a run whose checkpoint files have other bytes than those already scored.

    Raises:
        OutputError: a checkpoint changed; the text names it.
    """
    for spec in specs:
        path = Path(spec.checkpoint or "").expanduser()
        scored = {
            record.model_info.get("checkpoint_sha256")
            for unit in units
            for record in run.records.get(unit.name(spec.name), ())
            if record.status in FINISHED
        }
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
            judged, learned = datasets.get(unit), datasets.fit_splits(unit)
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


def _outcome_text(outcome: UnitOutcome) -> str:
    for record in outcome.records:
        if record.status != "ok":
            return f"{record.status}: {record.reason}"
        if record.primary and record.value is not None:
            interval = f" [{record.ci_low:.1%}, {record.ci_high:.1%}]" if record.ci_low is not None else ""
            return f"{record.metric} {record.value:.1%}{interval}"
    return ""
