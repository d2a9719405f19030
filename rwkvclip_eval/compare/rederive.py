"""Derives the numbers of a run again from its per-sample predictions, and says which are not those recorded.

Values, the ends of their intervals, counts and what else of a record predictions determine, by the functions
of `metrics` alone: not by the tasks that wrote them.

Axes: n images, m captions, S seeds, K labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rwkvclip_eval.compare.measured import (
    CLASSIFICATION_COLUMNS,
    FEW_SHOT_COLUMNS,
    MULTILABEL_COLUMNS,
    PRECISION_FORMS,
    RETRIEVAL_COLUMNS,
    Unknown,
    binary_scores,
    fractions,
)
from rwkvclip_eval.compare.possible import check_files, check_tables, fit_facts
from rwkvclip_eval.compare.tables import MAX_CLASS, Table, check_bytes, read_table
from rwkvclip_eval.errors import OutputError, shown
from rwkvclip_eval.metrics import classification, intervals, ranking, retrieval, seed_intervals
from rwkvclip_eval.records.metrics import (
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    ROC_AUC,
    STANDARD,
    TOP1,
    TOP1_PADDED,
    TOP5,
    median_rank,
    recall,
)
from rwkvclip_eval.records.reading import nothing_yet, read_results, run_dirs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.records.schema import Record

CLOSE = 1e-9
"""Of values and ends: what the order of sums may change."""
CLOSE_AREA = 1e-4
"""Of areas whose logits are kept in float32, in which near scores may tie."""

_ALWAYS = ("n", "ci_resamples", "ci_seed")
"""What records of every version say where there is such a thing."""

Outcome = Literal["equal", "differs", "not derived", "damaged"]


class Number(NamedTuple):
    """A value with its 95 % interval.

    Attributes:
        value: of the metric.
        low: lower end; None where there is no interval.
        high: upper end; None where there is no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """As it stands in a record, with enough digits to see a difference."""
        ends = "" if self.low is None or self.high is None else f" [{self.low:.6g}, {self.high:.6g}]"
        return f"{self.value:.6g}{ends}"


Facts = dict[str, float | str | None]


class Derived(NamedTuple):
    """What predictions say of one record.

    Attributes:
        number: its value and interval.
        n: units that the value is a mean over.
        facts: what else they determine, by its name in the record or in its notes.
    """

    number: Number
    n: int
    facts: Mapping[str, float | str | None] = {}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One recorded number beside the same from predictions.

    Attributes:
        unit: names the folder of predictions.
        metric: its title.
        recorded: what the record says.
        derived: what predictions say; None where they do not tell.
        outcome: whether the two agree; `damaged` where predictions are missing or cannot be read.
        why: they do not, or nothing could be derived.
    """

    unit: str
    metric: str
    recorded: Number
    derived: Number | None
    outcome: Outcome
    why: str = ""


def check_run(path: Path) -> list[Checked]:
    """Derive every number of a run again from its stored predictions.

    Args:
        path: run directory; members of a job array are found inside.

    Raises:
        OutputError: there are no results, or a record cannot be read.
    """
    found, num_records = [], 0
    for directory in run_dirs(path):
        problems: dict[str, str] = {}
        for record in read_results(directory):
            num_records += 1
            if record.status == "ok" and record.value is not None:
                found.append(_checked(directory, record, problems))
    if not num_records:
        raise OutputError(nothing_yet(path))
    return found


def _checked(directory: Path, record: Record, problems: dict[str, str]) -> Checked:
    """Return what is found of one record; `problems` keeps what is wrong with a unit's files as a whole."""
    assert record.value is not None
    recorded = Number(record.value, record.ci_low, record.ci_high)
    derived, why = None, ""
    outcome: Outcome = "not derived"
    folder = directory / "predictions" / record.unit
    try:
        if "/" in record.unit or record.unit in ("", ".", ".."):
            raise OutputError(f"{directory}: unit {record.unit!r} is no name of a folder")
        derived = derive(folder, record)
    except Unknown as unknown:
        why = f"predictions do not tell ({unknown})"
    except OutputError as error:
        outcome, why = "damaged", str(error)
    if outcome != "damaged" and record.unit not in problems:
        problems[record.unit] = _damage(folder, record, ours=derived is not None)
    if derived is not None:
        close = CLOSE_AREA if record.measure.name.startswith(ROC_AUC.name) else CLOSE
        wrong = list(_differences(record, recorded, derived, close))
        outcome, why = ("differs", "; ".join(wrong)) if wrong else ("equal", "")
    if problems.get(record.unit) and outcome != "differs":
        outcome, why = "damaged", problems[record.unit]
    return Checked(
        unit=record.unit,
        metric=record.measure.title,
        recorded=recorded,
        derived=derived.number if derived else None,
        outcome=outcome,
        why=why,
    )


def _damage(folder: Path, record: Record, *, ours: bool) -> str:
    """Return what is wrong with a unit's tables in columns that no number is made of; nothing if all fits.

    Args:
        folder: of the tables.
        record: one of the unit's.
        ours: whether a task of ours wrote them, so that it is known what they hold.
    """
    try:
        for path in sorted(folder.glob("*.parquet")):
            check_bytes(path)
        check_files(folder, record.tables)
        if ours:
            check_tables(folder, record)
    except OutputError as error:
        return str(error)
    return ""


def _differences(record: Record, recorded: Number, derived: Derived, close: float) -> Iterator[str]:
    """Yield what a record says otherwise than its predictions; what it does not say is not wrong."""
    ends = [
        name
        for name, one, other in zip(Number._fields, recorded, derived.number, strict=True)
        if not _agree(one, other, close)
    ]
    if ends:
        yield f"{' and '.join(ends)} differ"
    said = {"n": derived.n, **derived.facts}
    for name, value in said.items():
        own = getattr(record, name, None) if name == "n" or name.startswith("ci_") else record.notes.get(name)
        # Records of before there was a field have its default.
        unsaid = own is False or own == "" or (own is None and name not in _ALWAYS)
        if value is None or unsaid:
            continue
        if isinstance(value, str) or not isinstance(own, int | float):
            if own != value:
                yield f"{name} is {shown(own)}, predictions give {shown(value)}"
        elif not _agree(own, value, close):
            yield f"{name} is {shown(own)}, predictions give {value:.6g}"


def _agree(one: float | None, other: float | None, close: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=close, abs_tol=close)


def derive(folder: Path, record: Record) -> Derived:
    """Return the number of a record, and what belongs to it, from the predictions in `folder`.

    Raises:
        OutputError: predictions are missing or damaged.
        Unknown: they do not say how the metric came about.
    """
    if "imported" in record.notes and not folder.is_dir():
        raise Unknown("the number was imported without any")
    found = _derived(folder, record)
    return found._replace(facts={**found.facts, **fit_facts(folder, record)})


def _derived(folder: Path, record: Record) -> Derived:
    metric = record.measure
    if metric.shots is not None:
        return _few_shot(folder, record, metric.shots)
    if metric in (TOP1, TOP5, TOP1_PADDED, MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC):
        return _classification(read_table(folder / "predictions.parquet", CLASSIFICATION_COLUMNS), record)
    if metric in PRECISION_FORMS:
        return _multilabel(folder, metric)
    if metric.direction:
        return _retrieval(folder, metric)
    raise Unknown(metric.title)


def _with(interval: intervals.Interval, value: float, n: int, **facts: float | str | None) -> Derived:
    fields = ("conservative", "resamples", "seed", "method")
    own: Facts = {f"ci_{name}": getattr(interval, name) for name in fields}
    return Derived(Number(value, interval.low, interval.high), n, own | facts)


def _classification(table: Table, record: Record) -> Derived:
    metric, labels = record.measure, table["label"].astype(np.int64)
    facts = _chance(record, TOP1.name if metric == TOP1_PADDED else metric.name, labels)
    if table.class_names:
        facts["num_classes"] = len(table.class_names)
    if metric == ROC_AUC:
        area = ranking.roc_auc(binary_scores(table), labels == 1)
        interval = intervals.area_under_curve(area.per_positive, area.per_negative)
        return _with(interval, area.value, len(labels), **facts)
    hit = table["prediction"] == labels
    if metric == MEAN_PER_CLASS:
        value = classification.mean_per_class_accuracy(hit, labels)
        facts["num_classes_present"] = present = len(np.unique(labels))
        if table.class_names:
            facts["num_classes_absent"] = len(table.class_names) - present
        return _with(intervals.mean_per_class(hit, labels), value, len(hit), **facts)
    if metric in (TOP5, MEAN_TOP1_TOP5):
        five = classification.hits(table["top_ids"], labels)
        if metric == MEAN_TOP1_TOP5:
            each = (hit + five.astype(np.float64)) / 2
            return _with(intervals.mean_of(each), float(each.mean()), len(hit), **facts)
        hit = five
    top = _with(intervals.wilson(int(hit.sum()), len(hit)), float(hit.mean()), len(hit), **facts)
    return _padded(top, record) if metric == TOP1_PADDED else top


def _chance(record: Record, metric: str, labels: NDArray[np.int64]) -> Facts:
    """Return what can be had without looking, of as many classes as the record says."""
    num_classes = record.notes.get("num_classes")
    most = int(labels.max()) + 1
    if not isinstance(num_classes, int) or not most <= num_classes <= MAX_CLASS:
        return {} if num_classes is None else {"num_classes": most}
    levels = classification.chance_levels(labels, num_classes)
    return {**levels.get(metric, {})}


def _padded(top1: Derived, record: Record) -> Derived:
    """Return top-1 with the protocol's unfilled rows averaged in, as many as the record says."""
    rows, num_classes = record.notes.get("padding_rows"), record.notes.get("num_classes")
    if not (isinstance(rows, int) and rows >= 0):
        raise Unknown("the record does not say how many rows were padding")
    if not (isinstance(num_classes, int) and 0 < num_classes <= MAX_CLASS):
        raise Unknown("the record does not say of how many classes it is")

    def padded(value: float | None) -> float:
        assert value is not None
        return classification.padded_accuracy(
            value, num_samples=top1.n, num_padding=rows, num_classes=num_classes
        )

    moved = {
        name: padded(value)
        for name in ("chance", "majority")
        if isinstance(value := top1.facts.get(name), int | float)
    }
    facts = {**top1.facts, **moved, "rows": top1.n + rows}
    return Derived(Number(*map(padded, top1.number)), top1.n, facts)


def _multilabel(folder: Path, metric: Metric) -> Derived:
    table = read_table(folder / "predictions.parquet", MULTILABEL_COLUMNS)
    labels, scores, form = table["labels"], table["scores"], PRECISION_FORMS[metric]
    positives = (labels == 1).sum(axis=0)

    def precision(label: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        known = labels[:, label] >= 0
        return form(
            ranking.precision_recall(scores[known, label], labels[known, label] == 1, weights[:, known])
        )

    value = ranking.mean_average_precision(scores, labels, form)
    facts: Facts = {
        "labels_absent": int((positives == 0).sum()),
        "chance": ranking.chance_mean_average_precision(labels, form),
    }
    if not positives.any():
        return Derived(Number(value), len(labels), facts)
    return _with(intervals.mean_over_labels(precision, positives, len(labels)), value, len(labels), **facts)


def _retrieval(folder: Path, metric: Metric) -> Derived:
    retrieved, names = "image", ["text_to_image", "image_to_text"]
    if metric.direction == "image→text":
        retrieved, names = "text", names[::-1]
    table, other = (read_table(folder / f"{name}.parquet", RETRIEVAL_COLUMNS) for name in names)
    ranks, owner = table["rank"].astype(np.int64), table.codes("key")
    captions, images = (table, other) if retrieved == "image" else (other, table)
    # Every query of the other direction is a candidate of this one.
    facts: Facts = {
        "num_candidates": other.num_rows,
        "num_images": images.num_rows,
        "num_captions": captions.num_rows,
    }
    if metric.k is not None and metric == recall(retrieved, metric.k):
        right = np.ones(1, np.int64) if retrieved == "image" else np.bincount(captions.codes("key"))
        facts["chance"] = retrieval.chance_recall(right, other.num_rows, metric.k)
        hit = ranks <= metric.k
        return _with(intervals.recall(hit, owner), float(hit.mean()), len(ranks), **facts)
    if metric == median_rank(retrieved):
        interval = intervals.median_rank(ranks, owner, other.num_rows)
        return _with(interval, float(np.median(ranks)), len(ranks), **facts)
    raise Unknown(metric.title)


def _few_shot(folder: Path, record: Record, shots: int) -> Derived:
    metric = record.measure
    base = next((one for one in STANDARD.values() if one.of_shots(shots).name == metric.name), None)
    if base is None:
        raise Unknown(metric.title)
    table = read_table(folder / "predictions.parquet", FEW_SHOT_COLUMNS)
    table = table.rows(table["shots"] == shots)
    by_seed = list(_seeds(table))
    if not by_seed or len({len(one["label"]) for one in by_seed}) > 1:
        raise OutputError(f"{table.path} has no predictions of {shots} shots, or not of all images.")
    labels = by_seed[0]["label"].astype(np.int64)
    hit = np.stack([one["prediction"] == labels for one in by_seed])
    values: NDArray[Any] = hit
    if base == MEAN_PER_CLASS:
        scores = np.array([classification.mean_per_class_accuracy(one, labels) for one in hit])
        interval = seed_intervals.of_mean_per_class(hit, labels)
    elif base == ROC_AUC:
        positive = labels == 1
        values = fractions(np.stack([one["score"] for one in by_seed]), positive)
        scores = values[:, positive].mean(axis=1)
        interval = seed_intervals.of_area_under_curve(values, positive)
    else:
        if base == MEAN_TOP1_TOP5:
            values = (hit + np.stack([one["hit_5"] for one in by_seed]).astype(np.float64)) / 2
        scores = values.mean(axis=1)
        interval = seed_intervals.of_mean(values)
    facts: Facts = {"shots": shots, "seeds": len(by_seed)}
    facts |= _chance(record, base.name, labels)
    if interval is None:
        return Derived(Number(float(scores.mean())), len(labels), facts)
    facts |= {"std": float(np.std(scores, ddof=1)), "ci_method": seed_intervals.method(len(by_seed))}
    facts |= {name: getattr(interval, name) for name in ("seeds_se", "images_low", "images_high")}
    return Derived(Number(float(scores.mean()), interval.low, interval.high), len(labels), facts)


def _seeds(table: Table) -> Iterator[Table]:
    """Yield the rows of each seed, images in the same order in each."""
    keys, seeds = table.codes("key"), table["seed"]
    for seed in np.unique(seeds):
        rows = np.flatnonzero(seeds == seed)
        yield table.rows(rows[np.argsort(keys[rows], kind="stable")])
