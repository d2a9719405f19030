"""What a unit gave, as records: one per number, or a single one that says why there is none."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.verified import known_notes
from rwkvclip_eval.errors import SuiteError, UserError
from rwkvclip_eval.records.schema import Record, Status
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.tasks import OWN_TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.data.types import Dataset, DatasetRef
    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.features.store import ImageFeatureSet
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.run.splits import OpenedUnit
    from rwkvclip_eval.tasks.base import MetricValue, Samples, Task, TaskResult


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

    @property
    def text(self) -> str:
        """The primary number with its interval, or why there is none."""
        for record in self.records:
            if record.status != "ok":
                return f"{record.status}: {record.reason}"
            if record.primary and record.value is not None:
                low, high = record.ci_low, record.ci_high
                told = low is not None and high is not None
                interval = f" [{_shown(record, low)}, {_shown(record, high)}]" if told else ""
                return f"{record.measure.title} {_shown(record, record.value)}{interval}"
        return ""


def _shown(record: Record, value: float | None) -> str:
    return f"{record.measure.text(value)}{'%' * record.measure.in_percent}"


def no_number(unit: Unit, info: EncoderInfo, status: Status, reason: str) -> UnitOutcome:
    """Return the outcome of a unit that has no number, with the reason."""
    return UnitOutcome(records=[_blank_record(unit, info, status, reason)])


def score_records(
    opened: OpenedUnit,
    ran: EncoderInfo,
    stored: Sequence[ImageFeatureSet],
    result: TaskResult,
    seconds: float,
) -> list[Record]:
    """Return one record per number of a unit.

    Args:
        opened: the unit and its splits.
        ran: the encoder, with the device and operator implementation that encoded.
        stored: features of the split that is judged, then of those learned from.
        result: of the unit's task.
        seconds: that the unit took.

    Raises:
        SuiteError: the suite names a metric that the task does not give.
        UserError: a number is none that its metric can have.
    """
    unit, dataset = opened.unit, opened.dataset
    infos = [split.info for split in opened.splits]
    info = dataset.info
    differences = unit.protocol.known_differences(info.name, info.variant, info.class_names)
    given = [metric.metric for metric in result.metrics]
    primary = _primary_metric(unit.ref, given, unit.protocol.primary, info.primary_metric)
    base = replace(
        _blank_record(unit, ran, "ok", ""),
        dataset=dataset.info.name,
        variant=dataset.info.variant,
        split=dataset.info.split,
        prompt_hash=unit.task.prompt_hash(opened.samples, unit.protocol),
        dataset_fingerprint=dataset.info.fingerprint,
        fit_fingerprint=fit_fingerprint(opened.fit),
        feature_key=stored[0].key,
        dataset_source=dataset.info.source,
        verified=all(info.verified for info in infos),
        subset=any(info.subset for info in infos),
        own_copy=any(info.own_copy for info in infos),
        num_missing=sum(len(found.missing) for found in stored),
        seconds=round(seconds, 3),
        notes={
            **result.notes,
            **known_notes(info, [split.info for split in opened.fit.values()]),
            **_reference_notes(unit.task, opened.samples, unit.protocol),
            **({"differences": differences} if differences else {}),
        },
    )
    return [_with_number(base, metric, primary) for metric in result.metrics]


def _reference_notes(task: Task, samples: Samples, protocol: Protocol) -> dict[str, str]:
    """Return the hash of clip-benchmark's own prompts of the dataset, where the protocol keeps it."""
    reference = samples.info.reference_prompts
    if not protocol.keeps_reference_prompts or reference is None:
        return {}
    asked = replace(samples.info, class_names=reference.class_names, templates=reference.templates)
    own = {"reference_class_names": "the data's own"} if reference.own_names else {}
    hashed = task.prompt_hash(replace(samples, info=asked), protocol)
    return {"reference_prompt_hash": hashed, **own}


def _with_number(base: Record, metric: MetricValue, primary: str) -> Record:
    if wrong := metric.metric.misfit(metric.value, metric.ci_low, metric.ci_high, strict=True):
        raise UserError(f"The task {base.task} gave a number that cannot be right: {wrong}.")
    given = {key: value for key, value in base.notes.items() if key != "differences"}
    differences = {key: value for key, value in base.notes.items() if key == "differences"}
    return replace(
        base,
        metric=metric.name,
        metric_info=metric.metric,
        value=float(metric.value),
        n=metric.n,
        ci_low=metric.ci_low,
        ci_high=metric.ci_high,
        ci_method=metric.ci_method,
        ci_conservative=metric.ci_conservative,
        ci_resamples=metric.ci_resamples,
        ci_seed=metric.ci_seed,
        primary=metric.name == primary,
        notes={**given, **metric.notes, **differences},
    )


def _blank_record(unit: Unit, info: EncoderInfo, status: Status, reason: str) -> Record:
    """Return a record without a number: what was tried, and why there is none."""
    return Record(
        unit=unit.name(info.name),
        status=status,
        reason=reason,
        model=info.name,
        model_info=dataclasses.asdict(info),
        task=unit.task.name,
        task_version=unit.task.version,
        task_description="" if unit.task.name in OWN_TASKS else unit.task.description,
        dataset=unit.dataset,
        variant=unit.variant or "default",
        split=unit.ref.split or "test",
        protocol=unit.protocol.name,
        created_utc=utc_now(),
    )


def _primary_metric(ref: DatasetRef, given: Sequence[Metric], *wanted: str) -> str:
    """Return which of the metrics stands for a unit: the suite's choice, else the first wanted that is there.

    Raises:
        SuiteError: the suite names a metric that the task does not give.
    """
    names, asked = [metric.name for metric in given], ref.metric
    if asked is not None and asked not in names:
        # Numbers of few shots are forms of the one that the suite names; the first is of the most.
        forms = [m.name for m in given if m.shots and m.name == replace(m, name=asked).of_shots(m.shots).name]
        if forms:
            return forms[0]
        raise SuiteError(f"{ref.name}: {unknown_name('metric', asked, names)}")
    return next((name for name in (asked, *wanted) if name in names), names[0])


def fit_fingerprint(others: Mapping[str, Dataset]) -> str:
    """Return one fingerprint of the splits a task learned from; empty where it learned from none."""
    said = "".join(f"{split} {other.info.fingerprint}\n" for split, other in sorted(others.items()))
    return hashlib.sha256(said.encode()).hexdigest() if others else ""


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
