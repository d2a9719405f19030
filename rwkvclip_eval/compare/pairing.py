"""Finds in two runs what can be compared, and refuses what cannot, saying in what it differs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rwkvclip_eval.compare.measured import Measured, PairOfUnits, Unknown
from rwkvclip_eval.compare.pinned import find_pinned, read_pinned, write_pinned
from rwkvclip_eval.compare.possible import check_files
from rwkvclip_eval.compare.tables import SamplesDiffer
from rwkvclip_eval.errors import OutputError, name_some
from rwkvclip_eval.printable import one_line, printable
from rwkvclip_eval.records.efficiency import TASK as EFFICIENCY
from rwkvclip_eval.records.metrics import ROC_AUC, known
from rwkvclip_eval.records.reading import has_results, nothing_yet, read_results, run_dirs
from rwkvclip_eval.records.titles import task_title, version_title
from rwkvclip_models.files import require_regular

if TYPE_CHECKING:
    from rwkvclip_eval.compare.flips import Repeated
    from rwkvclip_eval.compare.tables import Place
    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.records.schema import Record

_CLOSE = 1e-6
_CLOSE_AREA = 1e-4
"""Areas are recomputed from logits kept in float32, in which near scores may tie."""


class UnitKey(NamedTuple):
    """What two units have in common that are compared.

    Attributes:
        task: its name.
        dataset: record name.
        variant: version in circulation.
        split: split judged.
        protocol: name, with options.
    """

    task: str
    dataset: str
    variant: str
    split: str
    protocol: str

    @property
    def name(self) -> str:
        """As errors call it, by the names that suites and options take."""
        split = "" if self.split == "test" else f", {self.split}"
        return f"{self.task} on {self._version}{split} ({self.protocol})"

    @property
    def title(self) -> str:
        """As tables and pages call it: dataset, task, and what is not usual."""
        task = task_title(self.task)
        protocol = [] if self.protocol == "standard" else [self.protocol]
        dataset = version_title(self._version, "" if self.split == "test" else self.split)
        return one_line(", ".join([dataset, task[:1].lower() + task[1:], *protocol]))

    @property
    def _version(self) -> str:
        return self.dataset if self.variant in ("", "default") else f"{self.dataset}@{self.variant}"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model of one run.

    Attributes:
        path: the run directory, or the baseline file.
        model: its name.
        numbers: unit → metric name → record.
        folders: unit → where its predictions lie.
        absent: unit → why it has no number.
    """

    path: Path
    model: str
    numbers: dict[UnitKey, dict[str, Record]]
    folders: dict[UnitKey, Place]
    absent: dict[UnitKey, str]

    @property
    def any_record(self) -> Record:
        """A record that says what the model is."""
        return next(iter(next(iter(self.numbers.values())).values()))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One metric of one unit, of both runs.

    Attributes:
        unit: what it is of.
        metric: what the number means.
        primary: whether it is the one the field reports.
        n: units that the value is a mean over.
        found: both values and their difference.
        repeat: the same of the baseline and its repeat; None where there is none.
        notes: what to know of it.
        repeated: images of the split that are equal; None where that is not known.
    """

    unit: UnitKey
    metric: Metric
    primary: bool
    n: int
    found: Measured
    repeat: Measured | None = None
    notes: tuple[str, ...] = ()
    repeated: Repeated | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that two runs have in common.

    Attributes:
        baseline: the one.
        candidate: the other.
        rows: in the order of the baseline's records.
        notes: what is not compared, and why.
    """

    baseline: Side
    candidate: Side
    rows: tuple[Compared, ...]
    notes: tuple[str, ...]


def read_side(path: Path, model: str | None = None) -> Side:
    """Return one model of a run directory, members of a job array included, or of a baseline file.

    Args:
        path: the run directory, the baseline file, or the folder that holds one.
        model: its name; may be left out where the run has one.

    Raises:
        OutputError: there are no results, none of that model, or of several models.
    """
    return _side(*_read(path, model))


_Pairs = list[tuple["Record", "Place"]]
"""Records of one model, each with the directory that holds its predictions."""


def _read(path: Path, model: str | None) -> tuple[Path, str, _Pairs]:
    """Return where one model's records were read, its name, and the records."""
    if path.is_dir() and not has_results(path):
        path = find_pinned(path) or path
    elif path.exists() and not path.is_dir():
        require_regular(path, "baseline", error=OutputError)
    pairs: _Pairs
    if path.is_file():
        records, place = read_pinned(path)
        pairs = [(record, place) for record in records]
    else:
        pairs = [(r, d) for d in run_dirs(path) for r in read_results(d)]
    models = list(dict.fromkeys(record.model for record, _ in pairs))
    if not models:
        raise OutputError(nothing_yet(path))
    if all(record.task == EFFICIENCY for record, _ in pairs):
        raise OutputError(
            f"{path} holds measurements of speed, which have no samples to pair: compare two of them with "
            "`rwkvclip-eval bench compare BASELINE CANDIDATE`."
        )
    if model is None and len(models) > 1:
        raise OutputError(
            f"{path} holds {len(models)} models: {name_some(models)}. Say which: --baseline-model or "
            "--candidate-model NAME."
        )
    chosen = models[0] if model is None else model
    if chosen not in models:
        raise OutputError(f"{path} holds no model {chosen!r}; it holds {name_some(models)}.")
    return path, chosen, [(record, place) for record, place in pairs if record.model == chosen]


def _side(path: Path, chosen: str, pairs: _Pairs) -> Side:
    numbers: dict[UnitKey, dict[str, Record]] = {}
    folders: dict[UnitKey, Place] = {}
    absent: dict[UnitKey, str] = {}
    for record, directory in pairs:
        unit = UnitKey(*(printable(getattr(record, name)) for name in UnitKey._fields))
        if record.status != "ok" or record.value is None:
            absent.setdefault(unit, printable(record.reason) or record.status)
            continue
        if Path(record.unit).name != record.unit:
            raise OutputError(f"{directory}: unit {record.unit!r} is no name of a folder.")
        known = numbers.setdefault(unit, {}).setdefault(record.metric, record)
        if known.value != record.value:
            raise OutputError(
                f"{path} has two values of {unit.title}, {record.measure.title}: {known.value:.6g} and "
                f"{record.value:.6g}. Something else wrote it: run the suite again."
            )
        folders.setdefault(unit, directory / "predictions" / record.unit)
    absent = {unit: reason for unit, reason in absent.items() if unit not in numbers}
    if not numbers:
        reasons = name_some(f"{unit.name}: {reason}" for unit, reason in absent.items())
        raise OutputError(f"{path} holds no number of {chosen!r}: {reasons}")
    return Side(path=path, model=chosen, numbers=numbers, folders=folders, absent=absent)


def pin(run: Path, model: str | None, path: Path) -> int:
    """Write one model of a run as a baseline file; return its size in bytes.

    Args:
        run: the run directory.
        model: its name; may be left out where the run has one.
        path: the file.

    Raises:
        OutputError: the run holds no such model or nothing that can be compared, or the file cannot be
            written.
    """
    found = _read(run, model)
    if path.exists() and found[0].exists() and path.samefile(found[0]):
        raise OutputError(f"{path} is the baseline that is to be written from; choose another name.")
    side = _side(*found)
    # What could not be compared with itself would fail where the run is no more.
    compare(side, side)
    folders = {next(iter(side.numbers[unit].values())).unit: place for unit, place in side.folders.items()}
    records = {(record.unit, record.metric): record for record, _ in found[2]}
    return write_pinned(path, list(records.values()), folders)


def compare(baseline: Side, candidate: Side, repeat: Side | None = None) -> Comparison:
    """Return the differences of two runs, paired by sample.

    Args:
        baseline: what is compared with.
        candidate: what is judged.
        repeat: the baseline's checkpoint again, at another batch size or precision.

    Raises:
        OutputError: the candidate (or the repeat) lacks units, was judged on other samples or otherwise, or
            predictions are missing, damaged or not those of the records.
    """
    notes = [
        f"{unit.title}: not compared, the baseline has no number ({reason})"
        for unit, reason in baseline.absent.items()
    ]
    notes += [
        f"{unit.title}: not compared, the baseline lacks it"
        for unit in candidate.numbers
        if unit not in baseline.numbers and unit not in baseline.absent
    ]
    for side in (candidate, repeat):
        if side is not None:
            require_units(baseline, side)
    problems: list[str] = []
    rows: list[Compared] = []
    for unit, records in baseline.numbers.items():
        try:
            rows += _rows(unit, records, baseline, candidate, repeat, notes)
        except (SamplesDiffer, OtherNumber) as problem:
            problems.append(f"{unit.name}: {problem}")
    if problems:
        raise OutputError(
            f"{baseline.path} and {candidate.path} are not of the same: {'; '.join(problems)}. Run both with "
            "the same suite, version and data."
        )
    if not rows:
        raise OutputError(f"{baseline.path} holds nothing that can be compared: {name_some(notes)}")
    return Comparison(baseline=baseline, candidate=candidate, rows=tuple(rows), notes=tuple(notes))


class OtherNumber(OutputError):
    """Two records are of numbers that mean different things."""


def require_units(baseline: Side, side: Side) -> None:
    """Raise OutputError where `side` lacks units of `baseline`; the text names them and why."""
    missing = [unit for unit in baseline.numbers if unit not in side.numbers]
    if not missing:
        return
    told = []
    for unit in missing:
        others = [one.protocol for one in side.numbers if one._replace(protocol=unit.protocol) == unit]
        why = side.absent.get(unit) or (f"only under {name_some(others)}" if others else "no number")
        told.append(f"{unit.name}: {why}")
    raise OutputError(
        f"{side.path} lacks {len(missing)} of the {len(baseline.numbers)} units of {baseline.path}: "
        f"{name_some(told)}. Run its command to the end, with the same suite."
    )


def _rows(
    unit: UnitKey,
    records: dict[str, Record],
    baseline: Side,
    candidate: Side,
    repeat: Side | None,
    notes: list[str],
) -> list[Compared]:
    sides = [side for side in (candidate, repeat) if side is not None]
    pairs = [_pair(unit, baseline, side) for side in sides]
    told = _notes(unit, baseline, candidate)
    rows, same = [], None
    for name, record in records.items():
        others = [side.numbers[unit].get(name) for side in sides]
        if None in others and not record.primary:
            # Later versions give more numbers.
            notes.append(f"{unit.title}: {record.measure.title} not compared (only the baseline has it)")
            continue
        try:
            found = [pair.measure(record) for pair in pairs]
        except Unknown as unknown:
            notes.append(f"{unit.title}: {record.measure.title} not compared ({unknown})")
            continue
        for one, other, side in zip(found, others, sides, strict=True):
            if other is None:
                raise OtherNumber(f"only the baseline has {record.measure.title}")
            if other.primary != record.primary:
                raise OtherNumber(f"{record.measure.title} is the main number in one run only")
            n = pairs[0].queries(known(record.metric))
            require_value(record, one.baseline, baseline.folders[unit], n)
            require_value(other, one.candidate, side.folders[unit], n)
        more: tuple[str, ...] = () if found[0].difference else ("one seed, so no interval and no verdict",)
        same = same or pairs[0].repeated()
        # What a check of the data found is of decoded pixels, and more.
        if same and same.note and "duplicates" not in record.notes:
            more += (same.note,)
        rows.append(
            Compared(
                unit=unit,
                metric=record.measure,
                primary=record.primary,
                n=record.n or 0,
                found=found[0],
                repeat=found[1] if repeat is not None else None,
                notes=told + more,
                repeated=same,
            )
        )
    return rows


def _pair(unit: UnitKey, baseline: Side, other: Side) -> PairOfUnits:
    """Return a unit's predictions in two runs; see `check_same_number` and `check_files`."""
    by = check_same_number(unit, baseline, other)
    for side in (baseline, other):
        place, records = side.folders[unit], side.numbers[unit].values()
        if isinstance(place, Path):
            check_files(place, next(iter(records)).tables)
    return PairOfUnits((baseline.folders[unit], other.folders[unit]), by)


def check_same_number(unit: UnitKey, baseline: Side, other: Side) -> str:
    """Return by which column the samples of a unit in two runs are told apart: `key` or `content_id`.

    Raises:
        OtherNumber: task version, prompts or training images differ.
    """
    one, two = (next(iter(side.numbers[unit].values())) for side in (baseline, other))
    if one.task_version != two.task_version:
        raise OtherNumber(f"task version {one.task_version} against {two.task_version}")
    if one.prompt_hash and two.prompt_hash and one.prompt_hash != two.prompt_hash:
        raise OtherNumber(
            f"other class names, templates or caption prefix (prompt hash {one.prompt_hash[:12]} against "
            f"{two.prompt_hash[:12]})"
        )
    same = one.dataset_fingerprint == two.dataset_fingerprint
    fit = {record.fit_fingerprint for record in (one, two)} - {""}
    if same and len(fit) > 1:
        raise OtherNumber("the probes learned from other training or validation images")
    return "key" if same else "content_id"


def _notes(unit: UnitKey, baseline: Side, candidate: Side) -> tuple[str, ...]:
    one, two = (next(iter(side.numbers[unit].values())) for side in (baseline, candidate))
    found = []
    if one.dataset_fingerprint != two.dataset_fingerprint:
        found.append("two copies of the data, paired by what the images hold")
        if one.fit_fingerprint != two.fit_fingerprint:
            found.append("whether both learned from the same training images is not known")
    if one.subset or two.subset:
        found.append("part of the split")
    for name in ("overlap", "duplicates"):
        found += list(dict.fromkeys(str(r.notes[name]) for r in (one, two) if r.notes.get(name)))
    return tuple(found)


def require_value(record: Record, derived: float, folder: Place, n: int | None = None) -> None:
    """Raise OutputError where predictions do not give the number that their record has, or are not n."""
    if None not in (n, record.n) and n != record.n:
        raise OutputError(
            f"{folder} holds {n} predictions of {record.measure.title}, its record says n {record.n}: one of "
            "them was changed. Run the suite again."
        )
    close = _CLOSE_AREA if record.measure.name.startswith(ROC_AUC.name) else _CLOSE
    if record.value is not None and not math.isclose(derived, record.value, rel_tol=0, abs_tol=close):
        raise OutputError(
            f"{folder} holds predictions of {record.measure.title} {record.measure.text(derived)}, its "
            f"record says {record.measure.text(record.value)}: one of them was changed. Run the suite again."
        )
