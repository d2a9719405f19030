"""The runner: plans units (model × task × dataset × protocol), encodes, scores, and keeps what is finished.

Data flows one way: suite → units → features (store) → task.score → records and predictions (run directory).
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.averages import resolve_averages
from rwkvclip_eval.data.catalogue import canonical_name, catalogue, record_name
from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.encoding import EncodeOptions
from rwkvclip_eval.errors import DamagedData, DataNotFound, SuiteError, UserError
from rwkvclip_eval.features import FeatureStore, ImageFeatureSet
from rwkvclip_eval.protocols import PROTOCOLS, Protocol
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.results import Record, Status, folder_name
from rwkvclip_eval.suite import LoadedSuite, check_names, protocols_of
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Compute, Features, Samples, TaskResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import Dataset, DatasetRef
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One task over one dataset under one protocol; times a model it is a line of work."""

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

    def name(self, model: str) -> str:
        """Return the unit's name, fit for a folder."""
        split = f"@{self.ref.split}" if self.ref.split else ""
        dataset = f"{self.dataset}@{self.variant}" if self.variant else self.dataset
        return folder_name(model, self.task.name, dataset + split, self.protocol.name)


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
    memory_budget: int = 2 << 30
    """Bytes that a probe's scores and gradients may take at once."""
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    on_unit: Callable[[str, str], None] = lambda unit, outcome: None


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


def plan(loaded: LoadedSuite) -> list[Unit]:
    """Return the units of a suite in its order, duplicates once.

    Raises:
        SuiteError: a name is unknown, two different datasets have one name, so that the results of one
            would replace those of the other, or an average is not one over the suite's datasets.
    """
    check_names(loaded)
    units: dict[str, Unit] = {}
    for i, entry in enumerate(loaded.suite.tasks):
        task = TASKS.get(entry.task)
        for name in entry.protocol or protocols_of(task)[:1]:
            protocol = PROTOCOLS.get(name).with_options(entry.options)
            for j, given in enumerate(entry.datasets):
                ref, variant = _canonical(given, protocol)
                unit = Unit(task=task, ref=ref, variant=variant, protocol=protocol)
                other = units.setdefault(unit.name(""), unit)
                if other.content != unit.content:
                    raise SuiteError(
                        f"{loaded.where('tasks', i, 'datasets', j)}: {ref.name!r} and another dataset of "
                        f"{entry.task} share the name {unit.dataset!r} in results; give each its own name."
                    )
    resolve_averages(loaded, list(units.values()))
    return list(units.values())


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


def in_shard(
    units: Sequence[Unit], models: Sequence[EncoderSpec], shard: tuple[int, int]
) -> set[tuple[int, int]]:
    """Return the (model, unit) index pairs of job-array member `shard` = (i, N), i from 1.

    Units that share a model and a dataset stay together, so that no split is encoded twice.

    Raises:
        UserError: there is no such member.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise UserError(f"Member {index} of {count}: expected I/N with 1 ≤ I ≤ N.")
    groups: dict[tuple[int, Any], list[tuple[int, int]]] = {}
    for m, _ in enumerate(models):
        for u, unit in enumerate(units):
            groups.setdefault((m, unit.dataset_key), []).append((m, u))
    return {
        pair for number, group in enumerate(groups.values()) if number % count == index - 1 for pair in group
    }


class Datasets:
    """Opens each split once and remembers why one could not be opened."""

    def __init__(self, options: RunOptions, base_dir: Path) -> None:
        self._options, self._base_dir = options, base_dir
        self._opened: dict[Any, Dataset | UserError] = {}

    def get(self, unit: Unit, split: str | None = None) -> Dataset:
        """Return the split that the unit is judged on, or another one of the same data.

        Raises:
            DataNotFound: it is not where it was looked for.
            DamagedData: it is there but wrong.
        """
        key = (unit.dataset_key, split)
        if key not in self._opened:
            try:
                self._opened[key] = self._open(unit, split)
            except UserError as error:
                self._opened[key] = error
        found = self._opened[key]
        if isinstance(found, UserError):
            raise found
        return found

    def fit_splits(self, unit: Unit) -> dict[str, Dataset]:
        """Return the splits that the unit's task learns from; of several, the first must be there.

        Raises:
            DataNotFound: the first is not there.
            DamagedData: one is there but wrong.
        """
        found: dict[str, Dataset] = {}
        for split in getattr(unit.task, "fit_splits", ()):
            try:
                found[split] = self.get(unit, split)
            except DataNotFound:
                if not found:
                    raise
        return found

    def _open(self, unit: Unit, split: str | None) -> Dataset:
        from rwkvclip_eval.data.open import limit_dataset, open_dataset

        options = self._options
        dataset = open_dataset(
            unit.ref if split is None else unit.ref.model_copy(update={"split": split}),
            data_root=options.data_root,
            base_dir=self._base_dir,
            variant=unit.variant,
            offline=options.offline,
            cache_dir=options.cache_dir or default_cache_dir(),
        )
        return dataset if options.limit is None else limit_dataset(dataset, options.limit)


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
    """Encode and score one unit; problems with its data become a record instead of an exception.

    Raises:
        UserError: a problem of the model (non-finite embeddings, …) or of the output.
    """
    started = time.perf_counter()
    info = encoder.info
    if not info.has_text and "text" in unit.task.needs:
        reason = f"{info.name} has no text tower, which {unit.task.name} needs."
        return UnitOutcome(records=[blank_record(unit, info, "not_applicable", reason)])
    try:
        dataset = datasets.get(unit)
        if dataset.info.kind not in unit.task.kinds:
            kinds = " or ".join(sorted(unit.task.kinds))
            raise DamagedData(
                f"{unit.task.name} scores {kinds} sets; {dataset.info.name} is {dataset.info.kind}."
            )
        stored, kept, samples, images = _encoded(encoder, unit, dataset, store, options)
        others = datasets.fit_splits(unit)
        needs = unit.task.needs
        texts = unit.task.texts(samples, unit.protocol) if "text" in needs else ()
        features = dataclasses.replace(
            images,
            text_embedding=store.texts(encoder, texts, options.encode) if "text" in needs else None,
            fit={
                split: _encoded(encoder, unit, other, store, options)[2:] for split, other in others.items()
            },
            compute=Compute(options.device, options.memory_budget, options.encode.on_progress),
        )
        ran = dataclasses.replace(info, device=stored.device, implementation=stored.implementation)
        with options.encode.timings.stage("score"):
            result = unit.task.score(samples, features, ran, unit.protocol)
        primary = _primary_metric(unit, dataset.info.primary_metric, [m.name for m in result.metrics])
    except DataNotFound as error:
        return UnitOutcome(records=[blank_record(unit, info, "missing_data", str(error))])
    except (DamagedData, SuiteError) as error:
        return UnitOutcome(records=[blank_record(unit, info, "failed", str(error))])
    base = dataclasses.replace(
        blank_record(unit, ran, "ok", ""),
        dataset=samples.info.name,
        variant=samples.info.variant,
        split=samples.info.split,
        prompt_hash=unit.task.prompt_hash(samples, unit.protocol),
        dataset_fingerprint=dataset.info.fingerprint,
        feature_key=stored.key,
        dataset_source=dataset.info.source,
        verified=dataset.info.verified,
        subset=dataset.info.subset,
        own_copy=dataset.info.own_copy,
        num_missing=len(stored.missing),
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
            primary=metric.name == primary,
            notes={**result.notes, **metric.notes},
        )
        for metric in result.metrics
    ]
    return UnitOutcome(records=records, result=result, examples=_examples(dataset, kept, result))


def _encoded(
    encoder: Encoder, unit: Unit, dataset: Dataset, store: FeatureStore, options: RunOptions
) -> tuple[ImageFeatureSet, np.ndarray[Any, Any], Samples, Features]:
    """Return one split's stored features, the rows that could be decoded, and both as a task sees them."""
    stored = store.images(encoder, dataset, options.encode)
    samples, kept = _present_samples(dataset, stored, options.allow_missing)
    needs = unit.task.needs
    features = Features(
        image_embedding=stored.embedding[kept] if "embedding" in needs else None,
        image_probe=stored.probe[kept] if "probe" in needs else None,
    )
    return stored, kept, samples, features


def _primary_metric(unit: Unit, of_dataset: str, names: Sequence[str]) -> str:
    """Return which of `names` stands for the unit: the suite's choice, else the protocol's or dataset's.

    Raises:
        SuiteError: the suite names a metric that the task does not give.
    """
    if unit.ref.metric is not None and unit.ref.metric not in names:
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


def samples_of(dataset: Dataset, kept: np.ndarray[Any, Any] | None = None) -> Samples:
    """Return what a task sees of a split: its samples without their images, `kept` rows or all."""
    rows = range(len(dataset)) if kept is None else kept
    labels, captions = dataset.labels, dataset.captions
    return Samples(
        info=dataset.info,
        keys=[dataset.keys[i] for i in rows],
        labels=labels if labels is None or kept is None else labels[kept],
        captions=None if captions is None else [captions[i] for i in rows],
    )


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
