"""CLIP_benchmark's result files, written from records and read as records. Needs no torch.

Its `eval` command writes one JSON file per dataset × model × task:
`{"dataset", "model", "pretrained", "task", "metrics": {name: number}, "language"}`, with `classnames` and
`templates` where asked for; its `build` command makes one CSV of many, with a column per key and per metric.
Neither says how many images a number is over, in which precision it was made or of which split it is, so
that numbers read from them have no interval, and no lead is claimed from them.

The files written here say in further keys what those leave out; CLIP_benchmark's tools pass over them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping  # pydantic reads annotations at run time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from rwkvclip_eval.data.catalogue import catalogue, record_name
from rwkvclip_eval.errors import OutputError, shortened, shown
from rwkvclip_eval.printable import csv_cell, one_line
from rwkvclip_eval.protocols import CLIP_BENCHMARK
from rwkvclip_eval.records.metrics import MAP_AREA, MEAN_PER_CLASS, TOP1, TOP5, Metric, standard
from rwkvclip_eval.records.reading import MAX_RECORDS, parsed
from rwkvclip_eval.records.schema import Record, Short, folder_name
from rwkvclip_eval.schema import empty_or_readable, plain_number, readable
from rwkvclip_eval.version import __version__
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FILE_LIMIT_BYTES = 64 << 20
MAX_FILES = 10_000
TOOL = "CLIP_benchmark"

_TASKS = {
    "zeroshot_classification": "zero_shot_classification",
    "zeroshot_retrieval": "zero_shot_retrieval",
    "linear_probe": "linear_probe",
}
"""Its task → ours."""
_CLASSIFICATION = {
    "acc1": TOP1,
    "acc5": TOP5,
    "mean_per_class_recall": MEAN_PER_CLASS,
    "mean_average_precision": MAP_AREA,
}
"""Its name → metric; its linear probe puts `lp_` before it. Recalls have one name on both sides."""
_SETTINGS = frozenset(("weight_decay", "epochs", "seed", "fewshot_k", "normalized"))
"""What stands among the metrics of its linear probe and is none."""
_MARK = "imported"
"""Key of a record's notes that says which file it was read from."""


_Named = Annotated[Short, AfterValidator(readable)]
_MaybeNamed = Annotated[Short, AfterValidator(empty_or_readable)]


class _Result(BaseModel):
    """One result file; keys that it does not name are left out."""

    dataset: _Named
    model: _Named
    pretrained: _MaybeNamed = ""
    task: Short
    language: _Named = "en"
    # Not a number: top-5 of fewer than five classes. Others than numbers: settings of its linear probe.
    metrics: Annotated[Mapping[Short, float | bool | Short | None], Field(max_length=1000)]
    protocol: _Named = CLIP_BENCHMARK.name
    variant: _MaybeNamed = ""
    split: _Named = "test"
    evaluated_by: _Named = TOOL


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What result files say.

    Attributes:
        records: one a number.
        passed_over: task of no counterpart here → how many results are of it.
    """

    records: tuple[Record, ...]
    passed_over: Mapping[str, int]


def is_imported(record: Record) -> bool:
    """Return whether a record was read from another tool's file."""
    return _MARK in record.notes


def read_results(files: Sequence[Path]) -> Imported:
    """Return the numbers of CLIP_benchmark's JSON and CSV files, marked with where they came from.

    A file that ends in `.csv` is one of its `build` command; a folder stands for its `.json` files. Datasets
    get their record names and the variant that the protocol `clip-benchmark` means; models the name
    `MODEL PRETRAINED (TOOL)`, TOOL being CLIP_benchmark or what the file says.

    Raises:
        OutputError: a file is none of these, holds a number that its metric cannot have, or gives another
            value for a number than an earlier one.
    """
    records: dict[tuple[str, str], Record] = {}
    passed_over: dict[str, int] = {}
    for path in _expanded(files):
        content = read_bytes(path, limit=FILE_LIMIT_BYTES, what="result file", error=OutputError)
        source = f"{one_line(path.name)}, SHA-256 {hashlib.sha256(content).hexdigest()}"
        for what, result in _results(path, content):
            if result.task not in _TASKS:
                task = one_line(shortened(result.task))
                passed_over[task] = passed_over.get(task, 0) + 1
                continue
            for record in _records(result, source, what):
                key = record.unit, record.metric
                before = records.setdefault(key, record)
                if before.value != record.value:
                    raise OutputError(
                        f"{what}: {record.metric} of {record.model} on {record.dataset} is {record.value:g}, "
                        f"and {before.value:g} in {before.notes[_MARK]}. Leave one of them out."
                    )
        if len(records) > MAX_RECORDS:
            raise OutputError(f"The files hold more than {MAX_RECORDS} numbers; import them in parts.")
    if not records:
        told = f" of tasks known here ({', '.join(_TASKS)})" if passed_over else ""
        raise OutputError(f"The {len(files)} files given hold no results{told}.")
    return Imported(records=tuple(records.values()), passed_over=passed_over)


def _expanded(files: Sequence[Path]) -> list[Path]:
    found = [inner for path in files for inner in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if len(found) > MAX_FILES:
        raise OutputError(f"{len(found)} result files; at most {MAX_FILES} are read at once.")
    return found


def _results(path: Path, content: bytes) -> Iterable[tuple[str, _Result]]:
    """Yield what each result of a file is called in messages, and the result."""
    if path.suffix.lower() != ".csv":
        yield str(path), parsed(_Result, content, f"{path} is not a result file of {TOOL}")
        return
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        if twice := [name for name, times in Counter(rows.fieldnames or ()).items() if times > 1]:
            raise OutputError(f"{path}:1: the column {shown(twice[0])} occurs twice; leave one of them out.")
        for number, row in enumerate(rows, start=2):
            what = f"{path}:{number}"
            yield what, _of_row(row, f"{what}: not a row of {TOOL}'s table")
    except (UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{path} is not a CSV file of {TOOL}: {error}.") from error


def _of_row(row: Mapping[Any, Any], what: str) -> _Result:
    """Return a row of its table: empty cells are metrics of other rows."""
    if None in row or None in row.values():
        raise OutputError(f"{what}: it has another number of cells than the header.")
    fields: dict[str, Any] = {k: v for k, v in row.items() if k in _Result.model_fields and v}
    numbers = {k: v for k, v in row.items() if v and k not in _Result.model_fields and _metric(row, k)}
    try:
        fields["metrics"] = {name: plain_number(cell) for name, cell in numbers.items()}
    except ValueError as error:
        raise OutputError(f"{what}: {error}.") from error
    return parsed(_Result, json.dumps(fields).encode(), what)


def _metric(row: Mapping[str, str], name: str) -> Metric | None:
    return _metric_of(row.get("task") or "", name)


def _metric_of(task: str, name: str) -> Metric | None:
    """Return which of our metrics one of its is; None for settings and what has no counterpart."""
    if task == "zeroshot_retrieval":
        found = standard(name)
        return found if found is not None and found.k is not None else None
    return _CLASSIFICATION.get(name.removeprefix("lp_") if task == "linear_probe" else name)


def _records(result: _Result, source: str, what: str) -> Iterable[Record]:
    """Yield a record per number of a result.

    Raises:
        OutputError: a number cannot be one of its metric.
    """
    task = _TASKS[result.task]
    dataset, variant = _dataset(result)
    pretrained = PurePosixPath(result.pretrained).name
    tool = one_line(result.evaluated_by)
    name = one_line(" ".join(filter(None, (result.model, pretrained, f"({tool})"))))
    found = {metric: value for metric, value in _numbers(result, what) if metric is not None}
    smallest = min((metric.k for metric in found if metric.k), default=None)
    for metric, value in found.items():
        if wrong := metric.misfit(value, None, None):
            raise OutputError(f"{what}: {wrong}.")
        main = metric.k == smallest if smallest else metric in (TOP1, MAP_AREA)
        version = dataset if variant == "default" else f"{dataset}@{variant}"
        yield Record(
            unit=folder_name(name, task, version, result.protocol),
            status="ok",
            model=name,
            model_info={
                "name": name,
                "spec": one_line(f"{result.model}={pretrained}" if pretrained else result.model),
                "family": tool,
                "trained": not pretrained.startswith("random:"),
            },
            task=task,
            # Of no version of ours, so that a table compares it with none.
            task_version=0,
            dataset=dataset,
            variant=variant,
            split=result.split,
            protocol=result.protocol,
            metric=metric.name,
            metric_info=metric,
            value=value,
            primary=main,
            dataset_source=f"imported from a result file of {tool}",
            notes={
                _MARK: f"result file of {tool}: {source}",
                **({"validation": "none stated"} if task == "linear_probe" else {}),
                **{k: v for k, v in result.metrics.items() if k in _SETTINGS and _is_number(v)},
            },
        )


def _numbers(result: _Result, what: str) -> Iterable[tuple[Metric | None, float]]:
    """Yield the numbers of a result; None and NaN are top-5 of fewer than five classes.

    Raises:
        OutputError: a metric is no number.
    """
    for name, value in result.metrics.items():
        metric = _metric_of(result.task, name)
        if isinstance(value, float) and not math.isnan(value):
            yield metric, value
        elif metric is not None and isinstance(value, bool | str):
            raise OutputError(f"{what}: {one_line(name)} is {shown(value)}, expected a number.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _dataset(result: _Result) -> tuple[str, str]:
    """Return record name and variant; texts in another language than English make another variant."""
    given = one_line(result.dataset).removeprefix("wds/")
    known = record_name(given)
    name = known or re.sub(r"^wds_", "", given)
    variant = result.variant
    if not variant and known is not None:
        first = next(iter(catalogue()[known].variants))
        variant = CLIP_BENCHMARK.variants.get(known) or first
    language = "" if result.language == "en" else one_line(result.language)
    return name, "-".join(filter(None, (variant, language))) or "default"


def result_files(records: Iterable[Record]) -> tuple[dict[str, str], str]:
    """Return file name → JSON text of each result that CLIP_benchmark has a task for, and their CSV text.

    Subsets and numbers that were imported are left out: what reads such files takes a number for that of a
    whole set, measured here.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok" and not record.subset and not is_imported(record) and _their_name(record):
            name = folder_name(record.model, record.task, _version(record), record.split, record.protocol)
            groups.setdefault(name, []).append(record)
    dumps = {f"{name}.json": _dump(group) for name, group in groups.items()}
    files = {name: json.dumps(dump, ensure_ascii=False) for name, dump in dumps.items()}
    return files, _table(list(dumps.values()))


def _version(record: Record) -> str:
    return record.dataset if record.variant == "default" else f"{record.dataset}@{record.variant}"


def _their_name(record: Record) -> str:
    """Return what CLIP_benchmark calls a record's metric; empty where it has none for it."""
    if record.task == "zero_shot_retrieval":
        return record.metric if record.measure.k else ""
    prefix = {"zero_shot_classification": "", "linear_probe": "lp_"}.get(record.task)
    name = next((name for name, metric in _CLASSIFICATION.items() if metric.name == record.metric), "")
    return "" if prefix is None or not name else prefix + name


def _dump(group: Sequence[Record]) -> dict[str, Any]:
    """Return the result file of one unit's records."""
    first = group[0]
    spec = str(first.model_info.get("spec") or first.model)
    model, _, pretrained = spec.partition("=")
    tasks = {ours: theirs for theirs, ours in _TASKS.items()}
    return {
        "dataset": _their_dataset(first),
        "model": model.removeprefix("open_clip:"),
        "pretrained": pretrained,
        "task": tasks[first.task],
        "metrics": {_their_name(record): record.value for record in group},
        "language": "en",
        "protocol": first.protocol,
        "variant": first.variant,
        "split": first.split,
        "precision": first.model_info.get("precision", ""),
        "prompt_hash": first.prompt_hash,
        "dataset_fingerprint": first.dataset_fingerprint,
        "task_version": first.task_version,
        "evaluated_by": f"rwkvclip-eval {__version__}",
        "intervals_95": {
            _their_name(record): [record.ci_low, record.ci_high]
            for record in group
            if record.ci_low is not None and record.ci_high is not None
        },
        "num_samples": {_their_name(record): record.n for record in group if record.n},
    }


def _their_dataset(record: Record) -> str:
    entry = catalogue().get(record.dataset)
    if entry is None or not entry.has_variant(record.variant):
        return record.dataset
    return entry.variant(record.variant).clip_benchmark or record.dataset


def _table(dumps: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all results with the columns of its `build` command, and our own behind them."""
    rows = [
        {
            **dump["metrics"],
            **{key: value for key, value in dump.items() if not isinstance(value, dict)},
            "model_fullname": f"{dump['model']} {dump['pretrained']}",
        }
        for dump in dumps
    ]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()
