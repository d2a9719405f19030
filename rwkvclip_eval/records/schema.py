"""The result record and the run directory: what is written, and how it is read back. Needs no torch.

A run directory holds
    run.json                      what was run, with what, on what (see `RunInfo`)
    results.jsonl                 one `Record` per line
    predictions/UNIT/TABLE.parquet  per-sample outputs, by the dataset's `key` and by the image's `content_id`
    examples/UNIT.json            example retrievals with JPEG thumbnails (base64)
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

# What is read back was perhaps written by others.
Short = Annotated[str, Field(max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Facts = Annotated[Mapping[str, Any], facts()]
_ENCODER_FACTS = facts(
    name=str, spec=str, fingerprint=str, checkpoint_sha256=str, precision=str, step=int, step_unit=str,
    num_parameters=int, trained=bool,
)  # fmt: skip
_NOTES = facts(
    chance=float, chance_level=float, l2=float, l2_at_edge=int, num_train=int, num_val=int, validation=str,
    seeds=int, shots=int, std=float, differences=str, num_images=int, reference_prompt_hash=str,
)  # fmt: skip

Status = Literal["ok", "not_applicable", "missing_data", "failed"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of one model on one dataset under one protocol; `metric` is empty where there is none."""

    unit: Short
    """Identifies model × task × dataset variant × protocol; names the folder under predictions/."""
    status: Status
    """`ok`; `not_applicable`: the encoder lacks what the task needs; `missing_data`; `failed`."""
    reason: str = ""
    """Why there is no number; empty when status is ok."""
    model: Short
    """Display name, `EncoderInfo.name`."""
    model_info: Annotated[Mapping[str, Any], _ENCODER_FACTS]
    """`EncoderInfo` as a mapping; only `name` and `spec` where the model did not load."""
    task: Short
    """`zero_shot_classification`, `zero_shot_retrieval`, …"""
    task_version: Count
    """Raised whenever the same features could give other numbers."""
    task_description: str = ""
    """What the task does, in the words of a plugin that brings it; empty for the suite's own tasks."""
    dataset: Short
    """Record name of the dataset."""
    variant: Short = "default"
    """Version in circulation."""
    split: Short = "test"
    """Split scored."""
    protocol: Short
    """Name of the protocol, with the options that a suite set in brackets: `clip-certified (C=0.316)`."""
    metric: Annotated[Short, Field(max_length=200)] = ""
    """Metric name; empty where status is not ok."""
    metric_info: Metric | None = None
    """What the metric means: title, unit, which way is better. None in records of schema version 1."""
    value: Number | None = None
    """Fraction in [0, 1] for accuracies and recalls; rank (from 1) for median ranks."""
    n: Count | None = None
    """Units the value is a mean over."""
    ci_low: Number | None = None
    """Lower end of the 95 % interval."""
    ci_high: Number | None = None
    """Upper end of the 95 % interval."""
    ci_method: Short = ""
    """How it was computed, named as in `statistics`; empty where there is no interval."""
    ci_conservative: bool = False
    """Few images decide the number, so that the interval covers more than 95 %; unknown (False) in records of
    before there was this field."""
    ci_resamples: int | None = None
    """Resamples of the interval's bootstrap; None where it has none."""
    ci_seed: int | None = None
    """Seed of the interval's bootstrap; None where it has none."""
    primary: bool = False
    """Whether this is the metric the field (or the protocol) reports for this dataset."""
    prompt_hash: Short = ""
    """SHA-256 of ordered class names + templates + caption prefix."""
    dataset_fingerprint: Short = ""
    """SHA-256 of the samples as opened, of the split scored."""
    fit_fingerprint: Short = ""
    """SHA-256 of the fingerprints of the splits a probe learned from; empty for other tasks, and unknown in
    records of before there was this field."""
    feature_key: Short = ""
    """Key of the image features in the feature store, for `load_features`."""
    dataset_source: str = ""
    """Where the samples came from, without folders of this machine."""
    verified: bool = False
    """Every split used, to judge or to learn, is known to the catalogue and has the expected counts."""
    subset: bool = False
    """A partial copy of a split used, or `--limit`: never compared with full runs."""
    own_copy: bool = False
    """What could be fetched of a set that the web loses: whole, but compared by fingerprint only."""
    num_missing: Count = 0
    """Damaged images left out with the user's leave (`--allow-missing`), of all splits used."""
    seconds: Seconds | None = None
    """Wall time of the unit: encoding (or reading the cache) and scoring."""
    notes: Annotated[Mapping[str, Any], _NOTES] = field(default_factory=dict)
    """Extra figures: tied rows, attainable best and worst, chance level, the protocol's known differences,
    the hash of the prompts that published figures were made with."""
    created_utc: Short = ""
    """ISO 8601, when the unit ended."""
    schema_version: Count = SCHEMA_VERSION
    """Of this record."""

    @property
    def measure(self) -> Metric:
        """What the number means."""
        return self.metric_info or known(self.metric)


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over datasets that a suite names, under one protocol."""

    name: Short
    """As reports call it."""
    task: Short
    """Whose numbers it averages."""
    protocol: Short
    """Under which they were made."""
    datasets: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)]
    """Record names with the variant where it is not the default: `cifar10`, `sun397@partition1`."""
    leaves_out: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)] = ()
    """The other datasets on which the suite runs that task under that protocol."""
    metric: Short = PRIMARY_WORD
    """Metric name, or `primary`: every dataset's own."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of run.json."""

    command: str
    """Command line as typed (program name without its folder)."""
    suite_name: Short
    """`name:` of the suite."""
    suite_text: str
    """The suite file, word for word."""
    suite_sha256: Short
    """Of that text, and of what the command line put in its place (`--shots`)."""
    models: Annotated[Sequence[Short], Field(max_length=MAX_LISTED)]
    """Model specs as given, file names only."""
    identity: Facts
    """What must agree for a later command to continue this run: suite (its text's hash), models, precision,
    limit, allow_missing, shard."""
    environment: Facts
    """Versions, hardware, commit, clean tree or not."""
    started_utc: Short
    """ISO 8601."""
    averages: Annotated[Sequence[Facts], Field(max_length=MAX_LISTED)] = ()
    """The averages the suite names, each an `Average` as a mapping."""
    duration_s: Seconds | None = None
    """Wall seconds spent, all continuations together; None until the first ends."""
    stage_seconds: Annotated[Sequence[Mapping[str, Seconds]], Field(max_length=MAX_LISTED)] = ()
    """Wall seconds by stage of each command that ended (a killed one leaves none): load, decode, encode,
    score and other add up to total; see `encoding.Timings`."""
    num_commands: Count = 1
    """How many commands worked on this directory (1 + continuations)."""
    shard: Short = ""
    """`I/N` for a member of a job array."""
    schema_version: Count = SCHEMA_VERSION
    """Of this file."""


# File systems hold names of 255 bytes; temporary files and endings need some of them.
_MAX_NAME_BYTES = 200


def folder_name(*parts: str) -> str:
    """Return `parts` joined to one name fit for a folder, cut (with a hash of the whole) where it is long."""
    name = "--".join(re.sub(r"[^\w@.=-]+", "_", part) for part in parts)
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: _MAX_NAME_BYTES - 13].decode(errors='ignore')}-{digest}"
