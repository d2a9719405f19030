"""The result record and the run directory: what is written, and how it is read back. Needs no torch.

A run directory holds
    run.json                      what was run, with what, on what (see `RunInfo`)
    results.jsonl                 one `Record` per line
    predictions/UNIT/TABLE.parquet  per-sample outputs, by the dataset's `key` and by the image's `content_id`
    examples/UNIT.json            example retrievals or errors with JPEG thumbnails (base64)
    training/NAME.jsonl           training curves, where the run trained its models
    shard-I-of-N/                 the same again for each member of a job array
    report/                       remade any time from the above
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence  # pydantic reads annotations at run time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from rwkvclip_eval.records.metrics import PRIMARY_WORD, Metric, known
from rwkvclip_eval.schema import facts

SCHEMA_VERSION = 2
MAX_LISTED = 10_000
SPEED = "efficiency"
"""The task of records that `bench` makes."""

# What is read back was perhaps written by others.
Short = Annotated[str, Field(max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Version = Annotated[int, Field(ge=1, le=10**15)]
Facts = Annotated[Mapping[str, Any], facts()]
_ENCODER_FACTS = facts(
    name=str, spec=str, fingerprint=str, checkpoint_sha256=str, precision=str, step=int, step_unit=str,
    num_parameters=int, trained=bool,
)  # fmt: skip
_NOTES = facts(
    chance=float, chance_level=float, l2=float, l2_at_edge=int, num_train=int, num_val=int, validation=str,
    seeds=int, shots=int, std=float, differences=str, num_images=int, reference_prompt_hash=str,
    modality_gap=float, matched_cosine=float, unmatched_cosine=float, duplicates=str, overlap=str,
    num_classes=int, num_candidates=int, num_captions=int, padding_rows=int, rows=int, majority=float,
)  # fmt: skip

Status = Literal["ok", "not_applicable", "missing_data", "failed"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of one model on one dataset under one protocol; `metric` is empty where there is none.

    Attributes:
        unit: identifies model × task × dataset variant × protocol; names the folder under predictions/.
        status: `ok`; `not_applicable`: the encoder lacks what the task needs; `missing_data`; `failed`.
        reason: why there is no number; empty when status is ok.
        model: display name, `EncoderInfo.name`.
        model_info: `EncoderInfo` as a mapping; only `name` and `spec` where the model did not load.
        task: `zero_shot_classification`, `zero_shot_retrieval`, …
        task_version: raised whenever the same features could give other numbers.
        task_description: what the task does, in words of the plugin that brings it; empty for our own.
        dataset: record name of the dataset.
        variant: version in circulation.
        split: split scored.
        protocol: name of the protocol, and in brackets the options that a suite set:
            `clip-certified (C=0.316)`.
        metric: metric name; empty where status is not ok.
        metric_info: what it means: title, unit, which way is better; None in records of schema version 1.
        value: fraction in [0, 1] for accuracies and recalls; rank (from 1) for median ranks.
        n: units the value is a mean over.
        ci_low: lower end of the 95 % interval.
        ci_high: upper end of the 95 % interval.
        ci_method: how it was computed, named as in `metrics.intervals`; empty where there is no interval.
        ci_conservative: few images decide the number, so that the interval covers more than 95 %; unknown
            (False) in records of before there was this field.
        ci_resamples: resamples of the interval's bootstrap; None where it has none.
        ci_seed: seed of the interval's bootstrap; None where it has none.
        primary: whether this is the metric the field (or the protocol) reports for this dataset.
        prompt_hash: SHA-256 of ordered class names + templates + caption prefix.
        dataset_fingerprint: SHA-256 of the samples as opened, of the split scored.
        fit_fingerprint: SHA-256 of the fingerprints of the splits a probe learned from; empty for other
            tasks, and unknown in records of before there was this field.
        feature_key: key of the image features in the feature store, for `load_features`.
        dataset_source: where the samples came from, without folders of this machine.
        verified: every split used, to judge or to learn, is in the catalogue and has its counts.
        subset: a partial copy of a split used, or `--limit`: never compared with full runs.
        own_copy: what could be fetched of a set that the web loses: whole, but compared by fingerprint only.
        num_missing: damaged images left out with the user's leave (`--allow-missing`), of all splits used.
        seconds: wall time of the unit: encoding (or reading the cache) and scoring.
        notes: extra figures: tied rows, attainable best and worst, chance level, the protocol's known
            differences, the hash of the prompts that published figures were made with; what `data verify`
            had found of the data: `duplicates` and `overlap` of the split with those learned from.
        created_utc: ISO 8601, when the unit ended.
        tables: name of each table of predictions → SHA-256 (hex) of its file; empty where nothing was kept,
            and in records of before there was this field.
        schema_version: of this record.
    """

    unit: Short
    status: Status
    reason: str = ""
    model: Short
    model_info: Annotated[Mapping[str, Any], _ENCODER_FACTS]
    task: Short
    task_version: Count
    task_description: str = ""
    dataset: Short
    variant: Short = "default"
    split: Short = "test"
    protocol: Short
    metric: Annotated[Short, Field(max_length=200)] = ""
    metric_info: Metric | None = None
    value: Number | None = None
    n: Count | None = None
    ci_low: Number | None = None
    ci_high: Number | None = None
    ci_method: Short = ""
    ci_conservative: bool = False
    ci_resamples: int | None = None
    ci_seed: int | None = None
    primary: bool = False
    prompt_hash: Short = ""
    dataset_fingerprint: Short = ""
    fit_fingerprint: Short = ""
    feature_key: Short = ""
    dataset_source: str = ""
    verified: bool = False
    subset: bool = False
    own_copy: bool = False
    num_missing: Count = 0
    seconds: Seconds | None = None
    notes: Annotated[Mapping[str, Any], _NOTES] = field(default_factory=dict)
    created_utc: Short = ""
    tables: Annotated[Mapping[str, Short], Field(max_length=100)] = field(default_factory=dict)
    schema_version: Version = SCHEMA_VERSION

    @property
    def measure(self) -> Metric:
        """What the number means."""
        return self.metric_info or known(self.metric)


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over datasets that a suite names, under one protocol.

    Attributes:
        name: as reports call it.
        task: whose numbers it averages.
        protocol: under which they were made.
        datasets: record names with the variant where it is not the default: `cifar10`, `sun397@partition1`.
        leaves_out: the other datasets on which the suite runs that task under that protocol.
        metric: metric name, or `primary`: every dataset's own.
    """

    name: Short
    task: Short
    protocol: Short
    datasets: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)]
    leaves_out: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)] = ()
    metric: Short = PRIMARY_WORD


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of run.json.

    Attributes:
        command: command line as typed (program name without its folder).
        suite_name: `name:` of the suite.
        suite_text: the suite file, word for word.
        suite_sha256: of that text, and of what the command line put in its place (`--shots`).
        models: model specs as given, file names only.
        identity: what must agree for a later command to continue this run: suite (its text's hash), models,
            precision, limit, allow_missing, shard.
        environment: versions, hardware, commit, clean tree or not.
        started_utc: ISO 8601.
        averages: the averages the suite names, each an `Average` as a mapping.
        duration_s: wall seconds spent, all continuations together; None until the first ends.
        stage_seconds: wall seconds by stage of each command that ended (a killed one leaves none): load,
            decode, encode, score and other add up to total; see `features.context.Timings`.
        num_commands: how many commands worked on this directory (1 + continuations).
        shard: `I/N` for a member of a job array.
        results_sha256: of results.jsonl (hex) as the last command left it; empty while one works, where one
            was killed, and in runs of before there was this field.
        schema_version: of this file.
    """

    command: str
    suite_name: Short
    suite_text: str
    suite_sha256: Short
    models: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)]
    identity: Facts
    environment: Facts
    started_utc: Short
    averages: Annotated[Sequence[Facts], Field(max_length=MAX_LISTED)] = ()
    duration_s: Seconds | None = None
    stage_seconds: Annotated[Sequence[Mapping[str, Seconds]], Field(max_length=MAX_LISTED)] = ()
    num_commands: Count = 1
    shard: Short = ""
    results_sha256: Short = ""
    schema_version: Version = SCHEMA_VERSION


# File systems hold names of 255 bytes; temporary files and endings need some of them.
MAX_NAME_BYTES = 200


def folder_name(*parts: str) -> str:
    """Return `parts` joined to one name fit for a folder, cut (with a hash of the whole) where it is long."""
    name = "--".join(re.sub(r"[^\w@.=-]+", "_", part) for part in parts)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: MAX_NAME_BYTES - 13].decode(errors='ignore')}-{digest}"
