"""From two runs' per-sample tables to a difference: what each metric is made of.

Axes: n images, m captions, S seeds, K classes or labels, k entries of a ranking.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from rwkvclip_eval.compare import paired
from rwkvclip_eval.compare.flips import Flipped, MovedClass, Repeated, flipped, moved_classes, repeated
from rwkvclip_eval.compare.tables import SamplesDiffer, Table, in_one_order, read_table
from rwkvclip_eval.metrics import classification, ranking, seed_intervals
from rwkvclip_eval.records.metrics import (
    MAP_11_POINT,
    MAP_AREA,
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    ROC_AUC,
    STANDARD,
    TOP1,
    TOP1_PADDED,
    TOP5,
    Metric,
    known,
    median_rank,
    recall,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.difference import Difference
    from rwkvclip_eval.compare.tables import Place
    from rwkvclip_eval.records.schema import Record

S = TypeVar("S")
T = TypeVar("T")

_SAMPLE = ("key", "content_id")
CLASSIFICATION_COLUMNS = (*_SAMPLE, "label", "prediction", "top_ids", "top_logits")
FEW_SHOT_COLUMNS = (*_SAMPLE, "label", "shots", "seed", "prediction", "hit_5", "score")
MULTILABEL_COLUMNS = (*_SAMPLE, "labels", "scores")
RETRIEVAL_COLUMNS = (*_SAMPLE, "caption_index", "caption_id", "rank")

PRECISION_FORMS = {
    MAP_11_POINT: ranking.eleven_point_average_precision,
    MAP_AREA: ranking.average_precision,
}


class Measured(NamedTuple):
    """One metric of two runs.

    Attributes:
        baseline: its value, from the predictions.
        candidate: its value, from the predictions.
        difference: None where one seed leaves no interval.
        flipped: where the metric is one of hits.
        classes: those that moved most, where it is one of the first answer.
    """

    baseline: float
    candidate: float
    difference: Difference | None
    flipped: Flipped | None = None
    classes: tuple[MovedClass, ...] = ()


class Unknown(Exception):  # not an error: a metric that is not compared
    """Predictions do not say how the metric came about."""


@dataclass
class PairOfUnits:
    """One unit of two runs; tables are read once, when a metric first asks for them.

    Attributes:
        folders: of the baseline's and the candidate's predictions.
        by: column that tells samples: `key` where both datasets have one fingerprint, else `content_id`.
        _tables: what was read, by name and columns.
    """

    folders: tuple[Place, Place]
    by: str
    _tables: dict[tuple[str, tuple[str, ...]], tuple[Table, Table]] = field(default_factory=dict)

    def measure(self, record: Record) -> Measured:
        """Return the metric that `record` is of.

        Raises:
            OutputError: predictions are missing or damaged.
            SamplesDiffer: they are not of the same samples.
            Unknown: they do not say how the metric came about.
        """
        # Titles may differ between the versions that wrote the two records.
        metric = known(record.metric)
        if metric.shots is not None:
            return self._few_shot(metric, metric.shots)
        if metric in (TOP1, TOP5, TOP1_PADDED, MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC):
            return self._classification(metric, record)
        if metric in PRECISION_FORMS:
            return self._multilabel(PRECISION_FORMS[metric])
        if metric.direction:
            return self._retrieval(metric)
        raise Unknown(metric.title)

    def queries(self, metric: Metric) -> int | None:
        """Return how many predictions a number is a mean over; None where it is no plain mean of hits."""
        if metric in (TOP1, TOP5):
            return self._read("predictions", CLASSIFICATION_COLUMNS)[0].num_rows
        if metric.direction:
            name = "image_to_text" if metric.direction == "image→text" else "text_to_image"
            return self._read(name, RETRIEVAL_COLUMNS)[0].num_rows
        return None

    def repeated(self) -> Repeated | None:
        """Return which images of the split are equal; None where the predictions read do not tell."""
        sides = next(iter(self._tables.values()), None)
        return None if sides is None else repeated(sides[0])

    def _read(self, name: str, columns: tuple[str, ...]) -> tuple[Table, Table]:
        key = (name, columns)
        if key not in self._tables:
            self._tables[key] = _both(lambda f: read_table(f / f"{name}.parquet", columns), self.folders)
        return self._tables[key]

    def _ordered(
        self, name: str, columns: tuple[str, ...], targets: tuple[str, ...], within: tuple[str, ...] = ()
    ) -> tuple[Table, Table]:
        """Return both tables in one order, which is found once."""
        key = (f"{name} in order", columns)
        if key not in self._tables:
            before, after = self._read(name, columns)
            self._tables[key] = in_one_order(before, after, targets, within, by=self.by)
        return self._tables[key]

    def _classification(self, metric: Metric, record: Record) -> Measured:
        sides = self._ordered("predictions", CLASSIFICATION_COLUMNS, ("label",))
        labels = sides[0]["label"].astype(np.int64)
        if metric == ROC_AUC:
            return _areas(_both(binary_scores, sides), labels == 1)
        one = _both(lambda side: side["prediction"] == labels, sides)
        if metric in (TOP5, MEAN_TOP1_TOP5):
            five = _both(lambda side: classification.hits(side["top_ids"], labels), sides)
            if metric == TOP5:
                return _of_hits(sides, five, paired.hits(*five))
            means = ((one[0] + five[0].astype(float)) / 2, (one[1] + five[1].astype(float)) / 2)
            return Measured(float(means[0].mean()), float(means[1].mean()), paired.mean_of(*means))
        if metric == MEAN_PER_CLASS:
            found = _of_answers(sides, labels, one, paired.mean_per_class(*one, labels))
            mean = classification.mean_per_class_accuracy
            return found._replace(baseline=mean(one[0], labels), candidate=mean(one[1], labels))
        found = _of_answers(sides, labels, one, paired.hits(*one))
        return _padded(found, record, len(labels)) if metric == TOP1_PADDED else found

    def _few_shot(self, metric: Metric, shots: int) -> Measured:
        base = next((one for one in STANDARD.values() if one.of_shots(shots).name == metric.name), None)
        if base is None:
            raise Unknown(metric.title)
        chosen = _both(
            lambda side: side.rows(side["shots"] == shots), self._read("predictions", FEW_SHOT_COLUMNS)
        )
        seeds = _both(lambda side: np.unique(side["seed"]), chosen)
        if not np.array_equal(*seeds):
            raise SamplesDiffer(f"seeds of {shots} shots are {seeds[0].tolist()} and {seeds[1].tolist()}")
        if not len(seeds[0]):
            raise SamplesDiffer(f"there are no predictions of {shots} shots")
        sides = in_one_order(*chosen, ("label",), ("seed",), by=self.by)
        order = np.argsort(sides[0]["seed"], kind="stable")
        if len(order) % len(seeds[0]):
            raise SamplesDiffer(f"seeds of {shots} shots were judged on different images")

        def by_seed(column: NDArray[Any]) -> NDArray[Any]:
            return column[order].reshape(len(seeds[0]), -1)

        labels = by_seed(sides[0]["label"])[0].astype(np.int64)
        return _over_seeds(base, sides, by_seed, labels)

    def _multilabel(self, form: Callable[[ranking.PrecisionRecall], NDArray[np.float64]]) -> Measured:
        sides = self._ordered("predictions", MULTILABEL_COLUMNS, ("labels",))
        labels = sides[0]["labels"]
        positives = (labels == 1).sum(axis=0)
        if not positives.any():
            raise Unknown("no label has a positive")

        def precision(side: Table) -> Callable[[int, NDArray[np.float64]], NDArray[np.float64]]:
            def of(label: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
                known = labels[:, label] >= 0
                positive = labels[known, label] == 1
                curve = ranking.precision_recall(side["scores"][known, label], positive, weights[:, known])
                return form(curve)

            return of

        models, once = _both(precision, sides), np.ones((1, len(labels)))
        there = np.flatnonzero(positives)
        values = _both(lambda of: float(np.mean([of(int(k), once)[0] for k in there])), models)
        return Measured(*values, paired.mean_over_labels(*models, positives, len(labels)))

    def _captions(self) -> tuple[Table, Table]:
        """Return the rows of captions in one order, after checking that they are the same.

        Copies of a set may list an image's captions in another order.

        Raises:
            SamplesDiffer: they are not, or a run of before they were kept does not tell.
        """
        if self.by == "key":
            return self._ordered("text_to_image", RETRIEVAL_COLUMNS, (), ("caption_index",))
        for side in self._read("text_to_image", RETRIEVAL_COLUMNS):
            if "caption_id" not in side.columns:
                raise SamplesDiffer(
                    f"captions are not kept in {side.path}, so that copies of a retrieval set with different "
                    "fingerprints cannot be shown to hold the same; run it again with this version, or both "
                    "over one copy"
                )
        return self._ordered("text_to_image", RETRIEVAL_COLUMNS, (), ("caption_id",))

    def _retrieval(self, metric: Metric) -> Measured:
        names, retrieved = ["text_to_image", "image_to_text"], "image"
        sides = self._captions() if self.by != "key" or metric.direction == "text→image" else None
        if metric.direction == "image→text":
            names.reverse()
            retrieved, sides = "text", None
        sides = sides or self._ordered(names[0], RETRIEVAL_COLUMNS, ())
        ranks = _both(lambda side: side["rank"].astype(np.int64), sides)
        owner = sides[0].codes("key")
        if metric.k is not None and metric == recall(retrieved, metric.k):
            k = metric.k
            hits = _both(lambda rank: rank <= k, ranks)
            return _of_hits(sides, hits, paired.recall(*hits, owner))
        if metric == median_rank(retrieved):
            # Every query of the other direction is a candidate of this one.
            last = self._read(names[1], RETRIEVAL_COLUMNS)[0].num_rows
            values = _both(lambda rank: float(np.median(rank)), ranks)
            return Measured(*values, paired.median_rank(*ranks, owner, last))
        raise Unknown(metric.title)


def _over_seeds(
    base: Metric,
    sides: tuple[Table, Table],
    by_seed: Callable[[NDArray[Any]], NDArray[Any]],
    labels: NDArray[np.int64],
) -> Measured:
    """Return a few-shot number.

    Args:
        base: the metric of which it is a mean over seeds.
        sides: rows of every seed and image, in one order.
        by_seed: brings a column to [S, n].
        labels: [n].
    """
    of: Callable[[NDArray[Any]], seed_intervals.SeedInterval | None] = seed_intervals.of_mean
    images = float(len(labels))
    values = _both(lambda side: by_seed(side["prediction"]) == labels, sides)
    scores = _both(lambda hit: hit.mean(axis=1), values)
    if base == ROC_AUC:
        positive = labels == 1
        values = _both(lambda side: fractions(by_seed(side["score"]), positive), sides)
        scores = _both(lambda side: side[:, positive].mean(axis=1), values)
        of = functools.partial(seed_intervals.of_area_under_curve, positive=positive)
        images = float(min(np.count_nonzero(positive), np.count_nonzero(~positive)))
    elif base == MEAN_TOP1_TOP5:
        five = _both(lambda side: by_seed(side["hit_5"]).astype(np.float64), sides)
        values = (values[0] + five[0]) / 2, (values[1] + five[1]) / 2
        scores = _both(lambda side: side.mean(axis=1), values)
    elif base == MEAN_PER_CLASS:
        mean = functools.partial(classification.mean_per_class_accuracy, labels=labels)
        scores = _both(lambda side: np.array([mean(hit) for hit in side]), values)
        of = functools.partial(seed_intervals.of_mean_per_class, labels=labels)
        counts = np.bincount(labels)
        images = np.count_nonzero(counts) ** 2 / float((1 / counts[counts > 0]).sum())
    one, other = _both(lambda side: float(np.mean(side)), scores)
    return Measured(one, other, paired.over_seeds(*values, of, other - one, images))


def _both(of: Callable[[S], T], sides: tuple[S, S]) -> tuple[T, T]:
    return of(sides[0]), of(sides[1])


def _of_hits(
    sides: tuple[Table, Table], hits: tuple[NDArray[np.bool_], NDArray[np.bool_]], difference: Difference
) -> Measured:
    def said(row: int) -> tuple[str, str, str]:
        if "rank" in sides[0].columns:
            one, other = (f"rank {side['rank'][row]}" for side in sides)
            return "", one, other
        label, one, other = (
            side.class_name(int(side[name][row]))
            for side, name in ((sides[0], "label"), (sides[0], "prediction"), (sides[1], "prediction"))
        )
        return label, one, other

    before, after = hits
    return Measured(
        float(before.mean()), float(after.mean()), difference, flipped(sides[0], before, after, said)
    )


def _of_answers(
    sides: tuple[Table, Table],
    labels: NDArray[np.int64],
    hits: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    difference: Difference,
) -> Measured:
    found = _of_hits(sides, hits, difference)
    return found._replace(classes=moved_classes(sides[0], labels, *hits))


def _padded(found: Measured, record: Record, num_images: int) -> Measured:
    """Return top-1 with unfilled rows averaged in, the same for both models: only the scale changes."""
    assert found.difference is not None
    rows = record.notes.get("rows") or num_images
    if rows < num_images:
        raise Unknown(f"its record says of {rows} rows for {num_images} images")
    share = num_images / rows
    value = found.baseline if record.value is None else record.value
    scaled = _scaled(found.difference, share)
    return found._replace(baseline=value, candidate=value + scaled.value, difference=scaled)


def _areas(scores: tuple[NDArray[np.float64], NDArray[np.float64]], positive: NDArray[np.bool_]) -> Measured:
    if positive.all() or not positive.any():
        raise Unknown("one class has no images")
    one, other = _both(lambda side: ranking.roc_auc(side, positive), scores)
    return Measured(one.value, other.value, paired.area_under_curve(one[1:], other[1:]))


def binary_scores(table: Table) -> NDArray[np.float64]:
    """Return [n], logit of class 1 minus that of class 0."""
    ids, logits = table["top_ids"], table["top_logits"].astype(np.float64)
    if ids.shape[1:] != (2,) or logits.shape != ids.shape:
        raise Unknown("not of two classes")
    difference: NDArray[np.float64] = logits[:, 0] - logits[:, 1]
    return np.where(ids[:, 0] == 1, difference, -difference)


def fractions(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return [S, n], see `metrics.seed_intervals.of_area_under_curve`."""
    found = np.empty(scores.shape)
    for row, of_seed in zip(found, scores, strict=True):
        area = ranking.roc_auc(of_seed, positive)
        row[positive], row[~positive] = area.per_positive, area.per_negative
    return found


def _scaled(difference: Difference, share: float) -> Difference:
    return difference._replace(
        value=difference.value * share,
        low=difference.low * share,
        high=difference.high * share,
        variance=difference.variance * share**2,
        images=difference.images / share,
        fewest=difference.fewest / share,
        unseen=difference.unseen * share,
    )
