"""`evaluate`: one model on a suite in memory, for notebooks and training loops."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.open import check_data_root
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.engine import LocalEngine
from rwkvclip_eval.features.options import EncodeOptions
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.plan.averages import resolve_averages
from rwkvclip_eval.plan.suite import LoadedSuite, load_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.printable import html_table
from rwkvclip_eval.records.metrics import known
from rwkvclip_eval.records.reading import records_to_frame
from rwkvclip_eval.run.directory import RunDirectory
from rwkvclip_eval.run.identity import run_info
from rwkvclip_eval.run.loop import Work, outcomes
from rwkvclip_eval.run.options import RunOptions, make_store
from rwkvclip_eval.run.preflight import open_units
from rwkvclip_eval.run.splits import Datasets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.records.metrics import Better
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.run.outcome import UnitOutcome


@dataclass(frozen=True, kw_only=True)
class Results:
    """What `evaluate` returns: records and predictions in memory.

    Attributes:
        records: one a number, or the reason for its absence.
        predictions: unit → table name → pyarrow Table.
    """

    records: Sequence[Record]
    predictions: Mapping[str, Mapping[str, Any]]

    def __repr__(self) -> str:
        """Return the primary metrics, one line each; the fields would fill pages."""
        lines = [
            f"  {dataset} {metric} {value} ({'; '.join(filter(None, (n, interval, task)))})"
            if metric
            else f"  {dataset} {value} ({task})"
            for dataset, task, metric, value, interval, n in self._rows()
        ]
        return "\n".join(["Results:", *lines])

    def _repr_html_(self) -> str:
        """Return the primary metrics as a table, for notebooks."""
        return html_table(
            ["dataset", "task, protocol", "metric", "value", "95 % interval", "n"], self._rows()
        )

    def _rows(self) -> list[list[str]]:
        rows = []
        for r in self.records:
            dataset = r.dataset if r.variant in ("", "default") else f"{r.dataset}@{r.variant}"
            task = f"{r.task}, {r.protocol}"
            if r.status != "ok" or r.value is None:
                rows.append([dataset, task, "", f"{r.status}: {r.reason}", "", ""])
            elif r.primary:
                interval = f"[{r.ci_low:.4f}, {r.ci_high:.4f}]" if None not in (r.ci_low, r.ci_high) else ""
                n = f"n={r.n}" + (", subset" if r.subset else "")
                rows.append([dataset, task, r.metric, f"{r.value:.4f}", interval, n])
        return rows

    def to_frame(self) -> pd.DataFrame:
        """Return one row per record, as `load_results` does."""
        return records_to_frame(self.records)

    def value(self, dataset: str, metric: str | None = None) -> float:
        """Return one number: the primary metric of `dataset`, or the one named.

        Raises:
            UserError: there is no such number; the text says what there is and why others are missing.
        """
        for record in self.records:
            wanted = record.primary if metric is None else record.metric == metric
            if record.status == "ok" and record.dataset == dataset and wanted and record.value is not None:
                return record.value
        there = ", ".join(f"{r.dataset}/{r.metric or r.status}: {r.reason or r.value}" for r in self.records)
        raise UserError(f"No {metric or 'primary metric'} of {dataset}. There is: {there}.")

    def numbers(self) -> dict[str, float]:
        """Return every number by its name, see `expected_numbers`."""
        return {
            number_name(r.task, r.protocol, r.dataset, r.variant, r.split, r.metric): r.value
            for r in self.records
            if r.status == "ok" and r.value is not None
        }

    def mean_primary(self) -> float | None:
        """Return the mean of the primary metrics that are fractions, the higher the better; None of none."""
        values = [
            r.value
            for r in self.records
            if r.primary and r.value is not None and r.measure.in_percent and r.measure.better == "higher"
        ]
        return sum(values) / len(values) if values else None


def number_name(task: str, protocol: str, dataset: str, variant: str, split: str, metric: str) -> str:
    """Return `TASK/PROTOCOL/DATASET/METRIC`, with the dataset a variant or split that is not the usual."""
    version = dataset if variant in ("", "default") else f"{dataset}@{variant}"
    return f"{task}/{protocol}/{version}{'' if split in ('', 'test') else f' ({split})'}/{metric}"


def expected_numbers(
    suite: str | Path | LoadedSuite,
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    offline: bool = False,
) -> dict[str, Better]:
    """Return the names of the numbers that `evaluate` can give, each with which way is better.

    All data are opened as for an evaluation, and nothing is encoded: what passes is there.

    Args:
        suite: as for `evaluate`.
        data_root: as for `evaluate`.
        limit: as for `evaluate`.
        offline: as for `evaluate`.

    Raises:
        UserError: the suite says something wrong, or data are missing, damaged or not what a task can score.
    """
    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    options = RunOptions(
        data_root=Path(data_root) if data_root is not None else None, limit=limit, offline=offline
    )
    check_data_root(options.data_root)
    opened = open_units(plan(loaded), Datasets(options, loaded.base_dir))
    problems = [str(problem) for problem in opened.problems.values()]
    found: dict[str, Better] = {}
    for one in opened.units.values():
        unit, info = one.unit, one.dataset.info
        if not one.scorable:
            problems.append(f"{unit.task.name} cannot score {info.name}, which is a {info.kind} set.")
            continue
        for metric in sorted(unit.task.numbers(info, unit.protocol)):
            name = number_name(
                unit.task.name, unit.protocol.name, info.name, info.variant, info.split, metric
            )
            found[name] = known(metric).better
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found


def evaluate(
    model: Any,
    suite: str | Path | LoadedSuite,
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    implementation: str = "auto",
    batch_size: int = 64,
    num_workers: int = 0,
    allow_missing: int = 0,
    cache: bool = False,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    name: str = "model",
    preprocess: Callable[[Any], Any] | None = None,
    tokenize: Callable[[Any], Any] | None = None,
    out: str | Path | None = None,
) -> Results:
    """Return the results of one model on a suite, in memory; safe inside a training loop.

    Training mode, gradients and random-number state of `model` are left as they were.

    Args:
        model: an `Encoder`, a spec such as `rwkv-clip-b32=model_31.pt`, parsed or not, or a module with
            `encode_image` and `encode_text` (give `preprocess` and `tokenize` where it is not one of ours).
        suite: name or path of a suite, or a loaded one.
        data_root: folder that holds the datasets.
        limit: take a deterministic stratified subset of that many samples; the records say so.
        device: for a spec; probes are solved where the encoder is.
        precision: `fp32`, `bf16` or `fp16`, for a spec or module.
        implementation: of RWKV-CLIP's operators, for a spec; see `rwkvclip-eval doctor`.
        batch_size: samples per forward pass.
        num_workers: decoding processes.
        allow_missing: damaged images that may be left out.
        cache: keep features in the feature store, for weights that do not change.
        cache_dir: that store's folder, which asks for it too; without it, the user's cache.
        offline: open no socket.
        memory_budget: bytes that a probe's scores and gradients may take.
        name: what records call an in-memory module.
        preprocess: image → [3, H, W], for a module.
        tokenize: texts → [B, L] int64, for a module.
        out: keep records and predictions in this run directory too, for `rwkvclip-eval report`.

    Raises:
        UserError: the suite, model or data are not what they should be, or `out` holds another run.
    """
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec

    encoder: Encoder
    if isinstance(model, Encoder):
        encoder = model
    elif isinstance(model, str | EncoderSpec):
        from rwkvclip_eval.encoders import load_encoder

        encoder = load_encoder(
            model, device=device, precision=precision, implementation=implementation, offline=offline
        )
    else:
        from rwkvclip_eval.encoders import as_encoder

        encoder = as_encoder(model, name=name, preprocess=preprocess, tokenize=tokenize, precision=precision)
    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    options = RunOptions(
        data_root=Path(data_root) if data_root is not None else None,
        limit=limit,
        allow_missing=allow_missing,
        offline=offline,
        use_cache=cache or cache_dir is not None,
        cache_dir=Path(cache_dir) if cache_dir is not None else None,
        device=encoder.info.device,
        precision=encoder.info.precision,
        memory_budget=memory_budget,
        encode=EncodeOptions(batch_size=batch_size, num_workers=num_workers),
    )
    check_data_root(options.data_root)
    units = plan(loaded)
    lacks = {"text"} - ({"text"} if encoder.info.has_text else set())
    able = [unit for unit in units if not lacks & unit.task.needs]
    opened = open_units(able, Datasets(options, loaded.base_dir))
    work = [Work(model=encoder.info.name, load=lambda: encoder, units=units)]
    engine = LocalEngine(options.encode)
    found: dict[str, UnitOutcome] = {}
    specs = [model] if isinstance(model, EncoderSpec) else []
    with make_store(options) as store, _kept(out, loaded, units, encoder, specs, options, engine) as keep:
        for unit, outcome in outcomes(work, opened, store, engine, options):
            keep(unit, outcome)
            found[unit] = outcome
    return Results(
        records=[record for outcome in found.values() for record in outcome.records],
        predictions={name: outcome.result.predictions for name, outcome in found.items() if outcome.result},
    )


@contextlib.contextmanager
def _kept(
    out: str | Path | None,
    loaded: LoadedSuite,
    units: Sequence[Unit],
    encoder: Encoder,
    specs: Sequence[EncoderSpec],
    options: RunOptions,
    engine: LocalEngine,
) -> Iterator[Callable[[str, UnitOutcome], None]]:
    """Yield what puts an outcome into the run directory `out`; it does nothing where there is none.

    Raises:
        OutputError: `out` holds another run, or cannot be written.
    """
    if out is None:
        yield lambda unit, outcome: None
        return
    started = time.perf_counter()
    averages = resolve_averages(loaded, units)
    info = run_info(
        loaded, [encoder.info.spec], specs, averages, options=options, shard=None, command="evaluate"
    )
    run = RunDirectory(Path(out), info)
    try:
        run.refuse_other_model(encoder.info.name, encoder.info.fingerprint)
        yield run.add
    finally:
        run.close(engine.context.timings.seconds(time.perf_counter() - started))
