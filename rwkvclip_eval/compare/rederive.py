"""Derives the numbers of a run again from its per-sample predictions, and says which are not those recorded.

Values and the ends of their intervals, by the functions of `metrics` alone: not by the tasks that wrote them.

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
from rwkvclip_eval.compare.tables import Table, read_table
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.metrics import classification, intervals, ranking, seed_intervals
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
from rwkvclip_eval.records.reading import read_records, run_dirs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.records.schema import Record

CLOSE = 1e-9
"""Of values and ends: what the order of sums may change."""
CLOSE_AREA = 1e-4
"""Of areas whose logits are kept in float32, in which near scores may tie."""

Outcome = Literal["equal", "differs", "not derived"]


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


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One recorded number beside the same from predictions.

    Attributes:
        unit: names the folder of predictions.
        metric: its title.
        recorded: what the record says.
        derived: what predictions say; None where they do not tell.
        outcome: whether the two agree.
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
    found = []
    for directory in run_dirs(path):
        for record in read_records(directory / "results.jsonl"):
            if record.status == "ok" and record.value is not None:
                found.append(_checked(directory, record))
    return found


def _checked(directory: Path, record: Record) -> Checked:
    assert record.value is not None
    recorded = Number(record.value, record.ci_low, record.ci_high)
    derived, why = None, ""
    outcome: Outcome = "not derived"
    try:
        if "/" in record.unit or record.unit in ("", ".", ".."):
            raise OutputError(f"unit {record.unit!r} is no name of a folder")
        derived = derive(directory / "predictions" / record.unit, record)
    except Unknown as unknown:
        why = f"predictions do not tell ({unknown})"
    except OutputError as error:
        outcome, why = "differs", str(error)
    else:
        close = CLOSE_AREA if record.measure.name.startswith(ROC_AUC.name) else CLOSE
        wrong = [
            name
            for name, one, other in zip(Number._fields, recorded, derived, strict=True)
            if not _agree(one, other, close)
        ]
        outcome, why = ("differs", f"{' and '.join(wrong)} differ") if wrong else ("equal", "")
    return Checked(
        unit=record.unit,
        metric=record.measure.title,
        recorded=recorded,
        derived=derived,
        outcome=outcome,
        why=why,
    )


def _agree(one: float | None, other: float | None, close: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=close, abs_tol=close)


def derive(folder: Path, record: Record) -> Number:
    """Return the number of a record from the predictions in `folder`.

    Raises:
        OutputError: predictions are missing or damaged.
        Unknown: they do not say how the metric came about.
    """
    metric = record.measure
    if metric.shots is not None:
        return _few_shot(folder, metric, metric.shots)
    if metric in (TOP1, TOP5, TOP1_PADDED, MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC):
        return _classification(read_table(folder / "predictions.parquet", CLASSIFICATION_COLUMNS), record)
    if metric in PRECISION_FORMS:
        return _multilabel(folder, metric)
    if metric.direction:
        return _retrieval(folder, metric)
    raise Unknown(metric.title)


def _with(interval: intervals.Interval | seed_intervals.SeedInterval | None, value: float) -> Number:
    return Number(value) if interval is None else Number(value, interval.low, interval.high)


def _classification(table: Table, record: Record) -> Number:
    metric, labels = record.measure, table["label"].astype(np.int64)
    if metric == ROC_AUC:
        area = ranking.roc_auc(binary_scores(table), labels == 1)
        return _with(intervals.area_under_curve(area.per_positive, area.per_negative), area.value)
    hit = table["prediction"] == labels
    if metric == MEAN_PER_CLASS:
        value = classification.mean_per_class_accuracy(hit, labels)
        return _with(intervals.mean_per_class(hit, labels), value)
    if metric in (TOP5, MEAN_TOP1_TOP5):
        five = classification.hits(table["top_ids"], labels)
        if metric == MEAN_TOP1_TOP5:
            each = (hit + five.astype(np.float64)) / 2
            return _with(intervals.mean_of(each), float(each.mean()))
        hit = five
    top = _with(intervals.wilson(int(hit.sum()), len(hit)), float(hit.mean()))
    return _padded(top, record, len(hit)) if metric == TOP1_PADDED else top


def _padded(top1: Number, record: Record, num_images: int) -> Number:
    """Return top-1 with the protocol's unfilled rows averaged in, as many as the record says."""
    rows, num_classes = record.notes.get("padding_rows"), record.notes.get("num_classes")
    if not isinstance(rows, int) or not isinstance(num_classes, int):
        raise Unknown("the record does not say how many rows were padding")

    def padded(value: float | None) -> float:
        assert value is not None
        return classification.padded_accuracy(
            value, num_samples=num_images, num_padding=rows, num_classes=num_classes
        )

    return Number(*map(padded, top1))


def _multilabel(folder: Path, metric: Metric) -> Number:
    table = read_table(folder / "predictions.parquet", MULTILABEL_COLUMNS)
    labels, scores, form = table["labels"], table["scores"], PRECISION_FORMS[metric]
    positives = (labels == 1).sum(axis=0)
    if not positives.any():
        return Number(0.0)

    def precision(label: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        known = labels[:, label] >= 0
        return form(
            ranking.precision_recall(scores[known, label], labels[known, label] == 1, weights[:, known])
        )

    once = np.ones((1, len(labels)))
    value = float(np.mean([precision(int(k), once)[0] for k in np.flatnonzero(positives)]))
    return _with(intervals.mean_over_labels(precision, positives, len(labels)), value)


def _retrieval(folder: Path, metric: Metric) -> Number:
    retrieved, names = "image", ["text_to_image", "image_to_text"]
    if metric.direction == "image→text":
        retrieved, names = "text", names[::-1]
    table = read_table(folder / f"{names[0]}.parquet", RETRIEVAL_COLUMNS)
    ranks, owner = table["rank"].astype(np.int64), table.codes("key")
    if metric.k is not None and metric == recall(retrieved, metric.k):
        hit = ranks <= metric.k
        return _with(intervals.recall(hit, owner), float(hit.mean()))
    if metric == median_rank(retrieved):
        # Every query of the other direction is a candidate of this one.
        last = read_table(folder / f"{names[1]}.parquet", RETRIEVAL_COLUMNS).num_rows
        return _with(intervals.median_rank(ranks, owner, last), float(np.median(ranks)))
    raise Unknown(metric.title)


def _few_shot(folder: Path, metric: Metric, shots: int) -> Number:
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
        scores = [classification.mean_per_class_accuracy(one, labels) for one in hit]
        return _with(seed_intervals.of_mean_per_class(hit, labels), float(np.mean(scores)))
    if base == ROC_AUC:
        positive = labels == 1
        values = fractions(np.stack([one["score"] for one in by_seed]), positive)
        interval = seed_intervals.of_area_under_curve(values, positive)
        return _with(interval, float(values[:, positive].mean()))
    if base == MEAN_TOP1_TOP5:
        values = (hit + np.stack([one["hit_5"] for one in by_seed]).astype(np.float64)) / 2
    return _with(seed_intervals.of_mean(values), float(values.mean()))


def _seeds(table: Table) -> Iterator[Table]:
    """Yield the rows of each seed, images in the same order in each."""
    keys, seeds = table.codes("key"), table["seed"]
    for seed in np.unique(seeds):
        rows = np.flatnonzero(seeds == seed)
        yield table.rows(rows[np.argsort(keys[rows], kind="stable")])
