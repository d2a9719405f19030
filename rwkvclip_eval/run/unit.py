"""The runner: encodes and scores one unit (model × task × dataset × protocol), which gives its records.

Data flows one way: unit → features (store) → task.score → records and predictions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.content import content_ids
from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.errors import DamagedData, DataNotFound, EncodingFailed, SuiteError, UserError
from rwkvclip_eval.features.encoding import EncodeOptions
from rwkvclip_eval.features.store import FeatureStore, ImageFeatureSet
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.records.schema import Record, Status
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.run.preflight import check_unit
from rwkvclip_eval.run.splits import fit_fingerprint, samples_of
from rwkvclip_eval.tasks.base import Compute, Features, Samples, TaskResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.splits import Datasets
    from rwkvclip_eval.run.workload import Standing


@dataclass(kw_only=True)
class RunOptions:
    """How to run; `limit`, `precision`, `allow_missing` change numbers and are part of the identity."""

    data_root: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"
    implementation: str = "auto"
    limit: int | None = None
    allow_missing: int = 0
    offline: bool = False
    cache_dir: Path | None = None
    """Private feature store; `default_cache_dir()` by default."""
    shared_cache: Path | None = None
    """Read-only store for what the private one lacks."""
    use_cache: bool = True
    memory_budget: int = MEMORY_BUDGET
    """Bytes that a probe's scores and gradients may take at once."""
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    on_unit: Callable[[str, str], None] = lambda unit, outcome: None
    """Told each unit's name and outcome."""
    on_standing: Callable[[Standing], None] = lambda standing: None
    """Told how far the run is."""


@dataclass(frozen=True, kw_only=True)
class UnitOutcome:
    """What one unit gave.

    Attributes:
        records: one per metric; a single one without a metric where there is no number.
        result: the task's own result, None where there is no number.
        examples: example retrievals with thumbnails, ready for examples/UNIT.json.
    """

    records: Sequence[Record]
    result: TaskResult | None = None
    examples: Mapping[str, Any] | None = None


def make_store(options: RunOptions) -> FeatureStore:
    """Return the feature store the options ask for.

    Raises:
        UserError: the shared one is not there.
    """
    if options.shared_cache is not None and not options.shared_cache.is_dir():
        raise UserError(f"The shared feature store {options.shared_cache} is not a folder.")
    if not options.use_cache:
        return FeatureStore(None, options.shared_cache)
    return FeatureStore(options.cache_dir or default_cache_dir(), options.shared_cache)


def run_unit(
    encoder: Encoder, unit: Unit, datasets: Datasets, store: FeatureStore, options: RunOptions
) -> UnitOutcome:
    """Encode and score one unit; problems with its data or settings become a record, not an exception.

    So do samples that the model cannot encode, and scoring that runs out of memory.

    Raises:
        UserError: a problem of the model whatever the data, or of the output, or a dataset that is asked for
            in a way that cannot be met.
    """
    started = time.perf_counter()
    info = encoder.info
    if not info.has_text and "text" in unit.task.needs:
        reason = f"{info.name} has no text tower, which {unit.task.name} needs."
        return UnitOutcome(records=[blank_record(unit, info, "not_applicable", reason)])
    try:
        # What is known to fail is not encoded first.
        check_unit(unit, datasets)
        dataset = datasets.get(unit)
        if dataset.info.kind not in unit.task.kinds:
            kinds = " or ".join(sorted(unit.task.kinds))
            raise DamagedData(
                f"{unit.task.name} scores {kinds} sets; {dataset.info.name} is {dataset.info.kind}."
            )
        others = datasets.fit_splits(unit)
        _check_budget(unit, others, info, options)
        stored, kept, samples, images = _encoded(encoder, unit, dataset, store, options)
        needs = unit.task.needs
        texts = unit.task.texts(samples, unit.protocol) if "text" in needs else ()
        learned = {split: _encoded(encoder, unit, other, store, options) for split, other in others.items()}
        features = dataclasses.replace(
            images,
            text_embedding=store.texts(encoder, texts, options.encode) if "text" in needs else None,
            fit={split: found[2:] for split, found in learned.items()},
            compute=_compute(unit, options),
        )
        ran = dataclasses.replace(info, device=stored.device, implementation=stored.implementation)
        device = features.compute.device
        with options.encode.timings.stage("score"), _of_this_unit(), _explained_limits(unit, device):
            result = unit.task.score(samples, features, ran, unit.protocol)
        primary = _primary_metric(unit, dataset.info.primary_metric, [m.name for m in result.metrics])
        result = dataclasses.replace(result, predictions=_with_content(result.predictions, dataset, options))
        examples = _examples(dataset, kept, result)
    except DataNotFound as error:
        return UnitOutcome(records=[blank_record(unit, info, "missing_data", error.brief)])
    except (DamagedData, EncodingFailed, SuiteError, _UnitProblem) as error:
        return UnitOutcome(records=[blank_record(unit, info, "failed", str(error))])
    infos = [dataset.info, *(other.info for other in others.values())]
    differences = unit.protocol.known_differences(dataset.info)
    base = dataclasses.replace(
        blank_record(unit, ran, "ok", ""),
        dataset=samples.info.name,
        variant=samples.info.variant,
        split=samples.info.split,
        prompt_hash=unit.task.prompt_hash(samples, unit.protocol),
        dataset_fingerprint=dataset.info.fingerprint,
        fit_fingerprint=fit_fingerprint(others),
        feature_key=stored.key,
        dataset_source=dataset.info.source,
        verified=all(info.verified for info in infos),
        subset=any(info.subset for info in infos),
        own_copy=any(info.own_copy for info in infos),
        num_missing=len(stored.missing) + sum(len(found[0].missing) for found in learned.values()),
        seconds=round(time.perf_counter() - started, 3),
    )
    records = [
        dataclasses.replace(
            base,
            metric=metric.name,
            value=float(metric.value),
            n=metric.n,
            ci_low=metric.ci_low,
            ci_high=metric.ci_high,
            ci_method=metric.ci_method,
            ci_conservative=metric.ci_conservative,
            ci_resamples=metric.ci_resamples,
            ci_seed=metric.ci_seed,
            primary=metric.name == primary,
            notes={**result.notes, **metric.notes} | ({"differences": differences} if differences else {}),
        )
        for metric in result.metrics
    ]
    return UnitOutcome(records=records, result=result, examples=examples)


def _compute(unit: Unit, options: RunOptions) -> Compute:
    """Return where the unit's task works: where encoding is done, but for Metal, which has no float64."""
    device = options.device
    if device.startswith("mps"):
        device = "cpu"
        if getattr(unit.task, "fit_splits", ()):
            options.encode.on_message(f"{unit.name('')}: solved on the CPU, since Metal has no float64.")
    return Compute(device, options.memory_budget, options.encode.on_progress)


class _UnitProblem(UserError):
    """A problem of one unit's settings: its record tells, and the others run."""


@contextlib.contextmanager
def _of_this_unit() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _UnitProblem(str(error)) from error


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch's errors say, most of which are plain RuntimeErrors: GPU, main memory, GPU libraries."""


@contextlib.contextmanager
def _explained_limits(unit: Unit, device: str) -> Iterator[None]:
    """Say what to do where scoring a unit on `device` ran out of memory or met a matrix it cannot factor.

    Raises:
        UserError: one of these happened.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError, np.linalg.LinAlgError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        unsolved = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # public, unlisted
        if isinstance(error, np.linalg.LinAlgError | unsolved):
            given = unit.protocol.probe
            cure = (
                " Features of extreme size make such: options: {standardize: true} in the suite helps."
                if given is not None and not given.standardize
                else ""
            )
            raise UserError(f"Scoring met a matrix that cannot be solved ({said}).{cure}") from error
        if not isinstance(error, MemoryError) and not any(words in said for words in _OUT_OF_MEMORY):
            raise
        cures = ["let it take less with --memory-budget"] if hasattr(unit.task, "check_budget") else []
        cures += [] if device.startswith("cpu") else ["run on --device cpu"]
        advice = " or ".join([*cures, "free some"])
        raise UserError(
            f"Scoring ran out of memory ({said}): {advice}. The same command tries again, with the features "
            "it has stored."
        ) from error


def _check_budget(unit: Unit, fit: Mapping[str, Dataset], info: EncoderInfo, options: RunOptions) -> None:
    check = getattr(unit.task, "check_budget", None)
    if check is not None:
        with _of_this_unit():
            given = {split: samples_of(other) for split, other in fit.items()}
            check(given, unit.protocol, info.probe_dim, options.memory_budget)


def _encoded(
    encoder: Encoder, unit: Unit, dataset: Dataset, store: FeatureStore, options: RunOptions
) -> tuple[ImageFeatureSet, np.ndarray[Any, Any], Samples, Features]:
    """Return one split's stored features, the rows that could be decoded, and both as a task sees them."""
    stored = store.images(encoder, dataset, options.encode)
    samples, kept = _present_samples(dataset, stored, options.allow_missing)
    needs = unit.task.needs
    # An index array would copy every feature into memory; a slice leaves them on disk until they are read.
    rows = kept if stored.missing else slice(None)
    features = Features(
        image_embedding=stored.embedding[rows] if "embedding" in needs else None,
        image_probe=stored.probe[rows] if "probe" in needs else None,
    )
    return stored, kept, samples, features


def _primary_metric(unit: Unit, of_dataset: str, names: Sequence[str]) -> str:
    """Return which of `names` stands for the unit: the suite's choice, else the protocol's or dataset's.

    Raises:
        SuiteError: the suite names a metric that the task does not give.
    """
    # Few-shot metrics are forms of the one that the suite names: `top1_accuracy_16_shot`, largest first.
    forms = [name for name in names if name.startswith(f"{unit.ref.metric}_") and name.endswith("_shot")]
    if unit.ref.metric is not None and unit.ref.metric not in names:
        if forms:
            return forms[0]
        raise SuiteError(f"{unit.ref.name}: {unknown_name('metric', unit.ref.metric, names)}")
    wanted = (unit.ref.metric or "", unit.protocol.primary, of_dataset)
    return next((name for name in wanted if name in names), names[0])


def blank_record(
    unit: Unit, info: EncoderInfo | None, status: Status, reason: str, *, model: str = ""
) -> Record:
    """Return a record without a number: what was tried, and why there is none."""
    return Record(
        unit=unit.name(info.name if info else model),
        status=status,
        reason=reason,
        model=info.name if info else model,
        model_info=dataclasses.asdict(info) if info else {"name": model},
        task=unit.task.name,
        task_version=unit.task.version,
        dataset=unit.dataset,
        variant=unit.variant or "default",
        split=unit.ref.split or "test",
        protocol=unit.protocol.name,
        created_utc=utc_now(),
    )


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _present_samples(
    dataset: Dataset, stored: ImageFeatureSet, allow_missing: int
) -> tuple[Samples, np.ndarray[Any, Any]]:
    """Return the samples whose images could be decoded, and their row numbers.

    Raises:
        DamagedData: more are damaged than the user allows.
    """
    kept = np.array([i for i in range(len(dataset)) if i not in stored.missing], dtype=np.int64)
    if len(stored.missing) > allow_missing:
        names = "; ".join(reason.rstrip(".") for reason in list(stored.missing.values())[:5])
        raise DamagedData(
            f"{len(stored.missing)} of {len(dataset)} images of {dataset.info.name} are damaged "
            f"({allow_missing} allowed): {names}. Mend the data, or pass "
            f"--allow-missing {len(stored.missing)}."
        )
    if not len(kept):
        raise DamagedData(f"Not one of the {len(dataset)} images of {dataset.info.name} can be decoded.")
    return samples_of(dataset, kept), kept


def _with_content(
    tables: Mapping[str, pa.Table], dataset: Dataset, options: RunOptions
) -> dict[str, pa.Table]:
    """Return the tables, those of samples with a column `content_id` behind their `key`."""
    import pyarrow as pa

    found = dict(tables)
    told = [name for name, table in found.items() if {"key", "content_id"} & {*table.column_names} == {"key"}]
    if not told:
        return found
    encode, what = options.encode, f"{dataset.info.name} · content ids"
    with encode.timings.stage("load"):
        ids = content_ids(dataset, options.cache_dir, lambda d, n: encode.on_progress(d, n, what))
    if unknown := ids.count(None):
        encode.on_message(f"{unknown} images of {dataset.info.name} cannot be read now: no content id.")
    by_key = dict(zip(dataset.keys, ids, strict=True))
    for name in told:
        column = pa.array([by_key.get(key) for key in found[name]["key"].to_pylist()], pa.string())
        place = found[name].column_names.index("key") + 1
        found[name] = found[name].add_column(place, "content_id", column)
    return found


def _examples(dataset: Dataset, kept: np.ndarray[Any, Any], result: TaskResult) -> dict[str, Any] | None:
    """Return the task's example retrievals with thumbnails of the images they show."""
    if not result.examples:
        return None
    import base64
    import io

    thumbnails: dict[str, str] = {}
    for index in sorted({i for e in result.examples for i in (e.target, *e.retrieved)}):
        image = dataset.image(int(kept[index])).convert("RGB")
        image.thumbnail((160, 160))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        thumbnails[str(index)] = base64.b64encode(buffer.getvalue()).decode()
    examples = [
        {
            "query": e.query,
            "target": int(e.target),
            "retrieved": [int(i) for i in e.retrieved],
            "scores": [float(s) for s in e.scores],
        }
        for e in result.examples
    ]
    return {"examples": examples, "thumbnails": thumbnails}
