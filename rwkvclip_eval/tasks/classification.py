"""From logits to accuracies and predictions, for every task that judges one label an image.

Predictions (table `predictions`, one row per image, K = min(5, C)):
    key          sample key
    label        class id
    prediction   class id that top-1 and mean per-class accuracy judge
    top_ids      K class ids that top-5 judges; the first is `prediction` except where equal truncated logits
                 are ranked differently for K = 1 and K = 5 (see `metrics.classification.truncated_top_k`)
    top_logits   their logits, never truncated
    label_logit  the label's logit, float64 where it was computed so
    log_sum_exp  over all classes, float64; label_logit − log_sum_exp is the log-probability
    model_log_sum_exp  the same at the model's own scale and bias, of zero-shot with float logits

Its metadata `class_names` lists the names of the class ids as JSON.

Axes: n images, C classes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import DamagedData
from rwkvclip_eval.metrics import classification as metrics
from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.records.metrics import MEAN_PER_CLASS, TOP1, TOP5
from rwkvclip_eval.tasks.base import MetricValue, Misclassified, Samples

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo


NUM_ERRORS = 4
"""Images got wrong that are shown of one unit."""


class Scaling(NamedTuple):
    """Takes the logits that are ranked to those of the model itself.

    Attributes:
        factor: the model's scale over that of the logits.
        bias: what it adds.
    """

    factor: float
    bias: float


class Ranked:
    """Per-image outcomes; ties are None for float logits, `own_log_sum_exp` without a scaling."""

    def __init__(self, n: int, k: int, *, truncated: bool, scaling: Scaling | None = None) -> None:
        self.prediction = np.empty(n, np.int64)
        self.top_ids = np.empty((n, k), np.int64)
        self.top_logits = np.empty((n, k), np.float32)
        self.label_logit = np.empty(n)
        self.log_sum_exp = np.empty(n)
        self.scaling = scaling
        self.own_log_sum_exp = None if scaling is None else np.empty(n)
        self.ties_1, self.ties_k = (
            metrics.Ties(*(np.empty(n, np.bool_) for _ in metrics.Ties._fields)) if truncated else None
            for _ in range(2)
        )

    def table(self, samples: Samples) -> pa.Table:
        """Return the predictions table described at the top of this file."""
        import pyarrow as pa

        k = self.top_ids.shape[1]
        own = {} if self.own_log_sum_exp is None else {"model_log_sum_exp": pa.array(self.own_log_sum_exp)}
        names = json.dumps(list(samples.info.class_names))
        return pa.table(
            {
                "key": pa.array(list(samples.keys), pa.string()),
                "label": pa.array(samples.labels, pa.int64()),
                "prediction": pa.array(self.prediction),
                "top_ids": pa.FixedSizeListArray.from_arrays(pa.array(self.top_ids.ravel()), k),
                "top_logits": pa.FixedSizeListArray.from_arrays(pa.array(self.top_logits.ravel()), k),
                "label_logit": pa.array(self.label_logit),
                "log_sum_exp": pa.array(self.log_sum_exp),
                **own,
            }
        ).replace_schema_metadata({"class_names": names})

    def errors(self, samples: Samples) -> list[Misclassified]:
        """Return the images got wrong with the largest confidence, at the model's own scale if it has one."""
        wrong = np.flatnonzero(self.prediction != samples.labels)
        top = self.top_logits[:, 0].astype(np.float64)
        if self.scaling is None or self.own_log_sum_exp is None:
            sure = np.exp(np.minimum(0, top - self.log_sum_exp))
        else:
            own = self.scaling.factor * top + self.scaling.bias
            sure = np.exp(np.minimum(0, own - self.own_log_sum_exp))
        names, labels = samples.info.class_names, samples.labels
        assert labels is not None
        return [
            Misclassified(
                image=int(i),
                label=names[labels[i]],
                prediction=names[self.prediction[i]],
                confidence=float(sure[i]),
            )
            for i in wrong[np.argsort(-sure[wrong], kind="stable")][:NUM_ERRORS]
        ]


def rank(
    blocks: Iterable[tuple[slice, NDArray[Any]]],
    labels: NDArray[np.int64],
    num_classes: int,
    *,
    truncated: bool = False,
    scaling: Scaling | None = None,
) -> Ranked:
    """Return every image's ranking.

    Args:
        blocks: rows and their logits [rows, C], together all n images.
        labels: [n] int64.
        num_classes: C.
        truncated: rank as the official scripts do, see `metrics.classification.truncated_top_k`.
        scaling: of the model itself.
    """
    k = min(5, num_classes)
    ranked = Ranked(len(labels), k, truncated=truncated, scaling=scaling)
    for rows, logits in blocks:
        label = labels[rows]
        if truncated:
            ranked.prediction[rows] = metrics.truncated_top_k(logits, 1)[:, 0]
            ranked.top_ids[rows] = metrics.truncated_top_k(logits, k)
            whole = metrics.truncate(logits)
            for ties, ranks in ((ranked.ties_1, 1), (ranked.ties_k, k)):
                assert ties is not None
                for kept, found in zip(ties, metrics.ties(whole, label, ranks), strict=True):
                    kept[rows] = found
        else:
            ranked.top_ids[rows] = metrics.top_k(logits, k)
            ranked.prediction[rows] = ranked.top_ids[rows][:, 0]
        ranked.top_logits[rows] = np.take_along_axis(logits, ranked.top_ids[rows], axis=1)
        ranked.label_logit[rows] = np.take_along_axis(logits, label[:, None], axis=1)[:, 0]
        # In float32 the log-probability of a sure answer would be 0.
        wide = logits.astype(np.float64)
        ranked.log_sum_exp[rows] = _log_sum_exp(wide)
        if scaling is not None and ranked.own_log_sum_exp is not None:
            same = scaling.factor == 1
            own = ranked.log_sum_exp[rows] if same else _log_sum_exp(scaling.factor * wide)
            ranked.own_log_sum_exp[rows] = own + scaling.bias
    return ranked


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = logits.max(axis=1)
    found: NDArray[np.float64] = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return found


ACCURACIES = frozenset({TOP1.name, TOP5.name, MEAN_PER_CLASS.name})
"""Names of what `accuracies` gives."""


def accuracies_on(info: DatasetInfo) -> frozenset[str]:
    """Return the names of what `accuracies` gives on a dataset."""
    return ACCURACIES if len(info.class_names) >= 5 else ACCURACIES - {TOP5.name}


def accuracies(ranked: Ranked, labels: NDArray[np.int64], num_classes: int) -> list[MetricValue]:
    """Return top-1, top-5 (from 5 classes up) and mean per-class accuracy with intervals, top-1 first."""
    n, k = len(labels), ranked.top_ids.shape[1]
    hit_1, hit_k = ranked.prediction == labels, metrics.hits(ranked.top_ids, labels)
    chance = metrics.chance_levels(labels, num_classes)
    top1 = MetricValue(
        metric=TOP1,
        value=metrics.accuracy(hit_1),
        n=n,
        **interval_fields(statistics.wilson(int(hit_1.sum()), n)),
        notes=_tie_notes(ranked.ties_1, metrics.accuracy) | chance["top1_accuracy"],
    )
    values = [top1]
    if k == 5:
        values.append(
            MetricValue(
                metric=TOP5,
                value=metrics.accuracy(hit_k),
                n=n,
                **interval_fields(statistics.wilson(int(hit_k.sum()), n)),
                notes=_tie_notes(ranked.ties_k, metrics.accuracy) | chance["top5_accuracy"],
            )
        )
    num_present = len(np.unique(labels))
    values.append(
        MetricValue(
            metric=MEAN_PER_CLASS,
            value=metrics.mean_per_class_accuracy(hit_1, labels),
            n=n,
            **interval_fields(statistics.mean_per_class(hit_1, labels)),
            notes=_tie_notes(ranked.ties_1, lambda hit: metrics.mean_per_class_accuracy(hit, labels))
            | chance["mean_per_class_accuracy"]
            | {"num_classes_present": num_present, "num_classes_absent": num_classes - num_present},
        )
    )
    return values


def interval_fields(interval: statistics.Interval) -> dict[str, Any]:
    """Return the interval as keyword arguments of `MetricValue`."""
    return {f"ci_{name}": value for name, value in interval._asdict().items()}


def _tie_notes(ties: metrics.Ties | None, metric: Any) -> dict[str, float | int | str]:
    if ties is None:
        return {}
    return {
        "tied_rows": int(ties.tied.sum()),
        "ties_best": metric(ties.best),
        "ties_worst": metric(ties.worst),
    }


def checked_labels(samples: Samples) -> NDArray[np.int64]:
    """Return the labels, checked against the class names.

    Raises:
        DamagedData: there are none, or one names no class.
    """
    assert samples.labels is not None and samples.labels.ndim == 1
    labels, num_classes = samples.labels.astype(np.int64), len(samples.info.class_names)
    if not len(labels):
        raise DamagedData(f"{samples.info.name}/{samples.info.split} holds no samples to score.")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        raise DamagedData(
            f"{samples.info.name}/{samples.info.split}: {len(outside)} labels name no class; sample "
            f"{samples.keys[first]!r} has label {labels[first]}, expected 0 to {num_classes - 1} "
            f"({num_classes} class names). Give class names that belong to this copy of the data."
        )
    return labels
