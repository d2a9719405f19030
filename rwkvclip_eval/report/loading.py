"""Reads run directories and merges them: what a report is made from. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.printable import code_points, look_alike, printable, printable_json
from rwkvclip_eval.records.efficiency import TASK
from rwkvclip_eval.records.reading import nothing_yet, parsed, read_results, read_run_info, run_dirs
from rwkvclip_eval.records.schema import Average, Count, Number, Record, RunInfo, Short
from rwkvclip_eval.report.columns import column_of, column_titles
from rwkvclip_eval.report.curves import read_curves
from rwkvclip_eval.report.entries import Entry, Run
from rwkvclip_models.files import read_bytes, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rwkvclip_eval.report.curves import RegularisationCurve

__all__ = ["Entry", "Example", "Loaded", "Run", "TrainingCurve", "load_runs", "merge"]

EXAMPLES_LIMIT_BYTES = 64 << 20
LOG_LIMIT_BYTES = 256 << 20
_Content = TypeVar("_Content", Record, RunInfo)


class _ExampleItem(BaseModel):
    query: str = Field(max_length=20_000)
    target: Count
    retrieved: list[Count] = Field(max_length=1000)
    scores: list[Number] = Field(max_length=1000)


class _ErrorItem(BaseModel):
    image: Count
    label: str = Field(max_length=20_000)
    prediction: str = Field(max_length=20_000)
    confidence: float = Field(ge=0, le=1)


class _ExampleFile(BaseModel):
    thumbnails: dict[str, Annotated[str, Field(max_length=4 << 20)]]
    examples: list[_ExampleItem] = Field(max_length=10_000)
    errors: list[_ErrorItem] = Field(default_factory=list, max_length=10_000)


class _LogLine(BaseModel):
    step: Count
    model: Short | None = None
    loss: Number | None = None
    lr: Number | None = None
    val_loss: Number | None = None
    val_metric: Number | None = None


# Two records of one number may differ in these: when and where it was made, not what it is.
_INCIDENTAL = {
    *("seconds", "created_utc", "schema_version", "dataset_source", "model_info", "notes", "reason", "tables")
}
# Empty in older records, which contradicts nothing.
_LATER = {"fit_fingerprint"}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One query of the gallery with the pictures it found.

    Attributes:
        unit: name of the unit.
        model: column title of its model.
        query: the caption.
        target: index of the image it belongs to.
        retrieved: indices of the best images, best first.
        scores: of these images.
        thumbnails: image index → base64 JPEG, those this example shows.
    """

    unit: str
    model: str
    query: str
    target: int
    retrieved: tuple[int, ...]
    scores: tuple[float, ...]
    thumbnails: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class ShownError:
    """One image that a model got wrong.

    Attributes:
        unit: name of the unit.
        model: column title of its model.
        image: its index.
        label: name of its class.
        prediction: name of the class that was predicted.
        confidence: probability of that class.
        thumbnail: base64 JPEG; empty where there is none.
    """

    unit: str
    model: str
    image: int
    label: str
    prediction: str
    confidence: float
    thumbnail: str


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """The logged steps of one training run.

    Attributes:
        model: name of the model.
        rows: one a logged step: column → value.
    """

    model: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All that a report shows.

    Attributes:
        runs: the run directories.
        entries: one a number, in the runs' order.
        examples: queries of the gallery.
        curves: of training runs.
        averages: those the runs' suites name.
        regularisation: what the probes' searches for λ saw.
        errors: images that were got wrong, of each unit those with the largest confidence first.
    """

    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]
    examples: tuple[Example, ...]
    curves: tuple[TrainingCurve, ...]
    averages: tuple[Average, ...] = ()
    regularisation: tuple[RegularisationCurve, ...] = ()
    errors: tuple[ShownError, ...] = ()

    @property
    def models(self) -> list[str]:
        """Return the column titles in order of appearance."""
        return list(dict.fromkeys(e.model for e in self.entries))


def load_runs(paths: Sequence[Path]) -> Loaded:
    """Return the merged content of the run directories `paths`, job-array members included.

    Raises:
        OutputError: a path holds no results file, none a record, a file is damaged, or two runs contradict
            each other.
    """
    if not paths:
        raise OutputError("No run directory given: name at least one folder that holds results.jsonl.")
    folders = {d.resolve(): d for path in paths for d in run_dirs(path)}
    runs = tuple(Run(path=d, info=_read_info(d / "run.json")) for d in folders.values())
    pairs = [(_printable(record), run) for run in runs for record in read_results(run.path)]
    entries = merge(pairs)
    if not entries:
        raise OutputError(" ".join(map(nothing_yet, paths)))
    columns = {(e.run.path, e.record.unit): e.model for e in entries}
    pictures = [pictured for run in runs for pictured in _read_examples(run, columns)]
    return Loaded(
        runs=runs,
        entries=tuple(entries),
        examples=tuple(one for one in pictures if isinstance(one, Example)),
        curves=tuple(curve for run in runs for curve in _read_curves(run)),
        averages=tuple(_read_averages(runs)),
        regularisation=tuple(read_curves(entries)),
        errors=tuple(one for one in pictures if isinstance(one, ShownError)),
    )


def without_speed(loaded: Loaded) -> Loaded:
    """Return the same without what was measured of speed, which is no accuracy."""
    return dataclasses.replace(loaded, entries=tuple(e for e in loaded.entries if e.record.task != TASK))


def merge(pairs: Iterable[tuple[Record, Run]]) -> list[Entry]:
    """Return one entry per number: equal duplicates collapse, and what later succeeded no longer failed.

    Records of before a metric was data mean what those say that tell it.

    Raises:
        OutputError: two runs give different values for one number of one encoder.
    """
    pairs = list(pairs)
    told = {(r.task, r.metric): r.metric_info for r, _ in pairs if r.metric_info is not None}
    pairs = [
        (dataclasses.replace(r, metric_info=r.metric_info or told.get((r.task, r.metric))), run)
        for r, run in pairs
    ]
    columns = column_titles(pairs)
    kept: dict[tuple[str, str, str], Entry] = {}
    for record, run in pairs:
        entry = Entry(record=record, run=run, model=column_of(record, columns))
        key = (record.unit, entry.model, record.metric)
        if key not in kept:
            kept[key] = entry
        elif record.status == "ok" and kept[key].record.status == "ok":
            _refuse_contradiction(kept[key], entry)
        elif record.status == "ok":
            kept[key] = entry
    if pair := look_alike(dict.fromkeys(entry.model for entry in kept.values())):
        spelt = " and ".join(f"{code_points(name)} ({name!a})" for name in pair)
        raise OutputError(f"Two models have names that look alike, spelt {spelt}; report one of them.")
    succeeded = {(e.record.unit, e.model) for e in kept.values() if e.record.status == "ok"}
    return [e for e in kept.values() if e.record.status == "ok" or (e.record.unit, e.model) not in succeeded]


def _refuse_contradiction(first: Entry, second: Entry) -> None:
    def differs(a: object, b: object) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        return a != b

    one, other = dataclasses.asdict(first.record), dataclasses.asdict(second.record)
    unknown = {n for n in _LATER if "" in (one[n], other[n])}
    names = [n for n in one if n not in _INCIDENTAL | unknown and differs(one[n], other[n])]
    if names:
        facts = "; ".join(f"{n} {one[n]!r} against {other[n]!r}" for n in names)
        raise OutputError(
            f"{first.run.path} and {second.run.path} contradict each other on {first.record.unit}, "
            f"{first.record.metric}: {facts}. One of them is stale or was run differently; leave it out, or "
            "report the two separately."
        )


def _read_info(path: Path) -> RunInfo | None:
    if not path.exists():
        return None
    return _printable(read_run_info(path))


def _printable(content: _Content) -> _Content:
    """Return records and descriptions with texts that can stand in any page, table and drawing."""
    values = {f.name: printable_json(getattr(content, f.name)) for f in dataclasses.fields(content)}
    return dataclasses.replace(content, **values)


def _read_averages(runs: Iterable[Run]) -> list[Average]:
    """Return what the runs' suites average; one name for two different means says which run's it is."""
    found: list[Average] = []
    for run in runs:
        for fields in run.info.averages if run.info else ():
            text = json.dumps(fields).encode()
            average = parsed(Average, text, f"{run.path / 'run.json'}: not an average")
            one = (average.name, average.task, average.protocol)
            if average in found:
                continue
            if any((a.name, a.task, a.protocol) == one for a in found):
                average = dataclasses.replace(average, name=f"{average.name} ({run.name})")
            found.append(average)
    return found


def read_thumbnails(path: Path) -> dict[str, str]:
    """Return image index → base64 JPEG of an examples file.

    Raises:
        OutputError: it is none.
    """
    return _example_file(path).thumbnails


def _example_file(path: Path) -> _ExampleFile:
    content = read_bytes(path, limit=EXAMPLES_LIMIT_BYTES, what="examples", error=OutputError)
    return parsed(_ExampleFile, content, f"{path} is not an examples file; run the suite again")


def _read_examples(run: Run, columns: dict[tuple[Path, str], str]) -> list[Example | ShownError]:
    examples: list[Example | ShownError] = []
    for path in sorted((run.path / "examples").glob("*.json")):
        # A unit another run already told of (a collapsed duplicate) has no column of this run.
        model = columns.get((run.path, path.stem))
        if model is None:
            continue
        file = _example_file(path)
        for item in file.examples:
            shown = {item.target, *item.retrieved}
            examples.append(
                Example(
                    unit=path.stem,
                    model=model,
                    query=printable(item.query),
                    target=item.target,
                    retrieved=tuple(item.retrieved),
                    scores=tuple(item.scores),
                    thumbnails={i: file.thumbnails[str(i)] for i in shown if str(i) in file.thumbnails},
                )
            )
        examples += [
            ShownError(
                unit=path.stem,
                model=model,
                image=wrong.image,
                label=printable(wrong.label),
                prediction=printable(wrong.prediction),
                confidence=wrong.confidence,
                thumbnail=file.thumbnails.get(str(wrong.image), ""),
            )
            for wrong in file.errors
        ]
    return examples


def _read_curves(run: Run) -> list[TrainingCurve]:
    curves = []
    for path in sorted((run.path / "training").glob("*.jsonl")):
        by_model: dict[str, list[dict[str, Any]]] = {}
        content = read_bytes(path, limit=LOG_LIMIT_BYTES, what="training log", error=OutputError)
        # Of a report, a line without an end is one, too.
        content += b"" if content.endswith(b"\n") else b"\n"
        lines = whole_lines(content, f"training log {path}", error=OutputError)
        del content
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = parsed(_LogLine, line, f"{path}:{number}: not a training log line")
                model = printable(path.stem if row.model is None else row.model)
                by_model.setdefault(model, []).append(row.model_dump())
        curves += [TrainingCurve(model=model, rows=tuple(rows)) for model, rows in by_model.items()]
    return curves
