"""One number of several runs on the same samples, taken apart by image.

What a number varies by over test images is a vector for each run: the covariance of two runs' numbers over
the draw of images is the inner product of theirs. So means over runs, differences and what belongs to one run
alone have their variances without asking again what the metric is made of.

Axes: n images, m captions, G groups of images, K labels, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.compare.measured import (
    CLASSIFICATION_COLUMNS,
    MULTILABEL_COLUMNS,
    PRECISION_FORMS,
    RETRIEVAL_COLUMNS,
    Unknown,
    binary_scores,
)
from rwkvclip_eval.compare.tables import SamplesDiffer, Table, in_one_order, read_table
from rwkvclip_eval.metrics import classification, ranking
from rwkvclip_eval.metrics.intervals import NUM_RESAMPLES, resampled_means
from rwkvclip_eval.records.metrics import (
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    ROC_AUC,
    TOP1,
    TOP5,
    known,
    recall,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.pairing import UnitKey
    from rwkvclip_eval.compare.tables import Place
    from rwkvclip_eval.records.metrics import Metric


class ByImage(NamedTuple):
    """One number of one run.

    Attributes:
        value: the number, from the predictions.
        parts: [p] what it varies by over images; see the top of this file.
        images: the number of images at which a proportion varies as much as this number can at most.
    """

    value: float
    parts: NDArray[np.float64]
    images: float


@dataclass(frozen=True, kw_only=True)
class SetNumbers:
    """One primary metric of all runs.

    Attributes:
        unit: what it is of.
        metric: what the number means.
        images: units that a value is a mean over.
        values: of each group its runs' numbers.
        subset: part of the split was judged.
    """

    unit: UnitKey
    metric: Metric
    images: int
    values: tuple[tuple[ByImage, ...], ...]
    subset: bool


@dataclass(frozen=True)
class RunsOfUnit:
    """One unit of several runs.

    Attributes:
        folders: of their predictions.
        by: column that tells samples: `key` where all datasets have one fingerprint, else `content_id`.
    """

    folders: tuple[Place, ...]
    by: str

    def numbers(self, name: str) -> list[ByImage]:
        """Return the metric called `name` of each run.

        Raises:
            OutputError: predictions are missing or damaged.
            SamplesDiffer: they are not of the same samples.
            Unknown: they do not say how the metric came about over images alone.
        """
        metric = known(name)
        if metric.shots is not None:
            raise Unknown(
                "a few-shot number varies by the draw of its training images, too, of which this interval "
                "knows nothing; two checkpoints can be compared by it: compare BASELINE CANDIDATE"
            )
        if metric in (TOP1, TOP5, MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC):
            tables = self._tables("predictions", CLASSIFICATION_COLUMNS, ("label",))
            return [_of_classes(metric, table) for table in tables]
        if metric in PRECISION_FORMS:
            tables = self._tables("predictions", MULTILABEL_COLUMNS, ("labels",))
            return [_mean_precision(PRECISION_FORMS[metric], table) for table in tables]
        if metric.k is not None and metric.direction:
            return self._recalls(metric, metric.k)
        raise Unknown(metric.title)

    def _recalls(self, metric: Metric, k: int) -> list[ByImage]:
        texts = metric.direction == "image→text"
        if metric != recall("text" if texts else "image", k):
            raise Unknown(metric.title)
        if self.by != "key":
            raise SamplesDiffer("their captions cannot be shown to be the same over different copies")
        name, within = ("image_to_text", ()) if texts else ("text_to_image", ("caption_index",))
        tables = self._tables(name, RETRIEVAL_COLUMNS, (), within)
        return [_recall(table["rank"] <= k, table.codes("key")) for table in tables]

    def _tables(
        self, name: str, columns: tuple[str, ...], targets: tuple[str, ...], within: tuple[str, ...] = ()
    ) -> list[Table]:
        """Return the tables of all runs in one order of rows."""
        read = [read_table(folder / f"{name}.parquet", columns) for folder in self.folders]
        for other in read[1:]:
            in_one_order(read[0], other, targets, within, by=self.by)
        keys = [tuple(table.columns[column] for column in (self.by, *within)) for table in read]
        if all(_same(keys[0], other) for other in keys[1:]):
            return read
        return [table.rows(_sorted(own)) for table, own in zip(read, keys, strict=True)]


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a.equals(b)
        for a, b in zip(one, other, strict=True)
    )


def _sorted(keys: Sequence[Any]) -> NDArray[np.int64]:
    """Return the rows in the order of `keys`, the first of which counts most."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {str(i): pa.array(key) if isinstance(key, np.ndarray) else key for i, key in enumerate(keys)}
    order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
    found: NDArray[np.int64] = order.to_numpy().astype(np.int64)
    return found


def _of_classes(metric: Metric, table: Table) -> ByImage:
    labels = table["label"].astype(np.int64)
    if metric == ROC_AUC:
        return _area(binary_scores(table), labels == 1)
    hit = table["prediction"] == labels
    if metric == MEAN_PER_CLASS:
        counts = np.bincount(labels)
        images = np.count_nonzero(counts) ** 2 / float((1 / counts[counts > 0]).sum())
        value = classification.mean_per_class_accuracy(hit, labels)
        return ByImage(value, varying(hit.astype(float), labels), images)
    values = hit.astype(np.float64)
    if metric in (TOP5, MEAN_TOP1_TOP5):
        five = classification.hits(table["top_ids"], labels)
        values = five.astype(float) if metric == TOP5 else (values + five) / 2
    return ByImage(float(values.mean()), varying(values), len(values))


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> ByImage:
    if positive.all() or not positive.any():
        raise Unknown("one class has no images")
    area = ranking.roc_auc(scores, positive)
    # Positives and negatives each move all of the area (DeLong).
    parts = [(side - side.mean()) / math.sqrt(len(side) * max(1, len(side) - 1)) for side in area[1:]]
    return ByImage(area.value, np.concatenate(parts), min(len(side) for side in area[1:]))


def _recall(hit: NDArray[np.bool_], owner: NDArray[np.int64]) -> ByImage:
    """Return a recall of [m] queries that come several to an image: a ratio of totals of images."""
    counts = np.bincount(owner).astype(np.float64)
    value = float(hit.mean())
    residuals = (np.bincount(owner, weights=hit) - value * counts) / counts.mean()
    return ByImage(value, varying(residuals), len(hit) ** 2 / float((counts**2).sum()))


def _mean_precision(form: Callable[[ranking.PrecisionRecall], NDArray[np.float64]], table: Table) -> ByImage:
    """Return a mean over labels of average precision; every run is drawn again with the same images."""
    labels = table["labels"]
    positives = (labels == 1).sum(axis=0)
    there = np.flatnonzero(positives)
    if not len(there):
        raise Unknown("no label has a positive")

    def of(label: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        told = labels[:, label] >= 0
        curve = ranking.precision_recall(
            table["scores"][told, label], labels[told, label] == 1, weights[:, told]
        )
        return form(curve)

    once = np.ones((1, len(labels)))
    value = float(np.mean([of(int(k), once)[0] for k in there]))
    means = resampled_means(of, there, len(labels), 0, NUM_RESAMPLES)
    images = len(there) ** 2 / float((1 / positives[there]).sum())
    return ByImage(value, (means - means.mean()) / math.sqrt(len(means) - 1), images)


def varying(values: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return what a mean over groups of each group's mean varies by over images.

    A group's own variance counts with one observation of the variance among all images beside it, since a
    single image says nothing of its group's; see `metrics.seed_intervals`.

    Args:
        values: [n].
        groups: [n]; all images are one group by default.
    """
    groups = np.zeros(len(values), np.int64) if groups is None else groups
    which, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    num = len(counts)
    means = np.bincount(which, weights=values) / counts
    within = values - means[which]
    among = math.sqrt(float((1 / counts**2).sum())) / num
    parts = (
        within / counts[which] / num,
        among * within / np.sqrt(counts[which] * num),
        among * (means - means.mean()) / math.sqrt(num),
    )
    return np.concatenate(parts)
