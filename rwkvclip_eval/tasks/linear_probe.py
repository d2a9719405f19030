"""Linear probe on frozen features: logistic regression by CLIP's protocol (arXiv 2103.00020, appendix A.3).

The strength λ of the penalty λ/2 ‖W‖² beside the summed cross entropy is chosen on the validation split, the
last fit takes train and validation together, and the test split is judged once.

Predictions: see `tasks.classification` (multilabel: key, labels, scores of every label). A label of −1 is
left open: that image is left out of that label's score, and trained on as if it were absent.
Table `regularisation`, one row per strength tried, then the last fit:
    l2          λ
    score       primary metric on the validation split (last fit: on the test split)
    objective   Σ cross entropy + λ/2 ‖W‖²
    gap         certified upper bound of objective − optimum; NaN where none was proven
    iterations  of the solver
    status      `converged`, `iteration_limit` or `unattainable`; see `probe.solution.Status`
    stage       `search` or `final`

Axes: n images, F features, K classes or labels.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.metrics import classification, ranking
from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.metrics.chunks import row_chunks
from rwkvclip_eval.records.metrics import MAP_11_POINT, MAP_AREA, MEAN_TOP1_TOP5, ROC_AUC
from rwkvclip_eval.tasks.base import Features, MetricValue, Samples, TaskResult
from rwkvclip_eval.tasks.classification import (
    ACCURACIES,
    accuracies,
    accuracies_on,
    interval_fields,
    rank,
)
from rwkvclip_eval.tasks.probe_data import Labelled, ProbeData, ProbeTask, probe_data
from rwkvclip_eval.tasks.probe_options import LinearProbeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.logistic import Search, Solution
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.tasks.base import Compute
    from rwkvclip_eval.tasks.probe_options import LogisticOptions

    Metric = Callable[[NDArray[np.float64], NDArray[Any]], float]
    """Scores [n, K] and labels → what the search maximises."""


FINAL_GAP = 1e-8
"""Relative gap, as `probe.certificate.Certificate` measures it, to which the last fit is solved."""

MEAN_PRECISIONS = frozenset({MAP_11_POINT.name, MAP_AREA.name})


class LinearProbe(ProbeTask):
    """Logistic regression on probe features; single-label and multilabel sets."""

    name = "linear_probe"
    version = 7
    description = "Logistic regression on frozen features, its strength chosen on the validation split."
    kinds: frozenset[DatasetKind] = frozenset({"classification", "multilabel"})
    gives = ACCURACIES | {MEAN_TOP1_TOP5.name, ROC_AUC.name} | MEAN_PRECISIONS
    protocols = ("clip-certified", "clip-lbfgs")
    Options = LinearProbeOptions

    def gives_on(self, info: DatasetInfo) -> frozenset[str]:
        """Return the names of the metrics that it gives on a dataset."""
        if info.kind == "multilabel":
            return MEAN_PRECISIONS
        both = {MEAN_TOP1_TOP5.name} & {info.primary_metric}
        return accuracies_on(info) | both | ({ROC_AUC.name} if len(info.class_names) == 2 else set())

    def check_budget(
        self, fit: Mapping[str, Samples], protocol: Protocol, num_features: int, memory_budget: int
    ) -> None:
        """Refuse, before any encoding, a memory budget in which the last fit would not fit."""
        labels = np.concatenate([given.labels for given in fit.values() if given.labels is not None])
        require_budget(labels, fit["train"].info, num_features, memory_budget)

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return the metrics on the test split, predictions and the regularisation curve.

        Raises:
            DamagedData: see `probe_data`.
            UserError: the memory budget is too small.
        """
        options, compute = LinearProbeOptions.of(protocol), features.compute
        data = probe_data(
            samples,
            features,
            draw=(options.validation_fraction, options.seed) if options.C is None else None,
            normalize=options.normalize,
            standardize=options.standardize,
        )
        metric = SCORES[score_name(samples.info.primary_metric, data)]
        rows: list[dict[str, Any]] = []
        notes: dict[str, float | int | str] = {}
        if options.C is None:
            what = f"{samples.info.name} · probe"
            found = search(data.train, data.val, data, metric, options, compute, what)
            rows = [_row(point, point.score, "search") for point in found.points]
            l2, notes["l2_at_edge"] = found.best.l2, int(found.at_edge)
            notes["validation_score"] = found.best.score
            if found.unsolved:
                notes["unsolved"] = found.unsolved
        else:
            l2 = 1 / options.C
        final = fit(data.learned, l2, data, options.method, compute)
        scores = predict(data.test.x, final, compute)
        rows.append(_row(final, metric(scores, data.test.y), "final"))
        notes |= {
            "l2": l2,
            "C": 1 / l2,
            "objective": final.objective,
            "gap": final.gap if math.isfinite(final.gap) else "not certified",
            "iterations": final.iterations,
            "status": final.status,
            "validation": data.validation if options.C is None else "none: fixed strength",
            "num_train": data.num_train,
            "num_val": len(data.val.y),
            "num_features": data.test.x.shape[1],
            "num_classes": data.num_classes,
            "train_fingerprint": data.train_fingerprint,
            **_left_open(data),
        } | {
            key: str(value)
            for key, value in options.model_dump(include=_effective(options, features)).items()
        }
        values, predictions = judge(samples, scores, data)
        return TaskResult(
            metrics=values, predictions=predictions | {"regularisation": _table(rows)}, notes=notes
        )


def _effective(options: LinearProbeOptions, features: Features) -> set[str]:
    """Return the options that had a part in the numbers: a fixed strength searches and draws nothing."""
    names = {"method", "normalize", "standardize"}
    if options.C is None:
        names |= {"search"} if "val" in features.fit else {"search", "seed"}
    return names


def _left_open(data: ProbeData) -> dict[str, str]:
    """Return the rule for labels that are left open, with their number; nothing where there are none."""
    learned, judged = (int((y < 0).sum()) for y in (data.learned.y, data.test.y))
    if not data.multilabel or not learned + judged:
        return {}
    return {"left_open": f"{judged} labels of test images left out of scores, {learned} trained as absent"}


def search(
    train: Labelled,
    val: Labelled,
    data: ProbeData,
    metric: Metric,
    options: LogisticOptions,
    compute: Compute,
    what: str = "",
) -> Search:
    """Return the strengths tried on `train` and how they do on `val`; `what` names the progress."""
    from rwkvclip_eval.logistic import search_l2

    return search_l2(
        train.x,
        train.targets,
        val.x,
        val.targets,
        num_classes=data.num_classes,
        multilabel=data.multilabel,
        policy=options.search,
        method=options.method,
        metric=lambda scores, _: metric(scores, val.y),
        memory_budget=compute.memory_budget,
        device=compute.device,
        on_progress=(lambda done, total: compute.on_progress(done, total, what)) if what else None,
    )


def fit(split: Labelled, l2: float, data: ProbeData, method: str, compute: Compute) -> Solution:
    """Return the logistic regression of `split` at strength `l2`."""
    from rwkvclip_eval.logistic import fit_lbfgs, fit_logistic

    y = split.targets
    common: dict[str, Any] = {
        "num_classes": data.num_classes,
        "multilabel": data.multilabel,
        "memory_budget": compute.memory_budget,
        "device": compute.device,
    }
    if method == "lbfgs":
        (solution,) = fit_lbfgs(split.x, y, [l2], **common)
    else:
        (solution,) = fit_logistic(split.x, y, [l2], relative_gap=FINAL_GAP, **common)
    return solution


def require_budget(labels: NDArray[Any], info: DatasetInfo, num_features: int, memory_budget: int) -> None:
    """Refuse a memory budget in which `labels` [n] or [n, K] cannot be learned.

    Raises:
        UserError: it is too small; the text says what would do.
    """
    from rwkvclip_eval.logistic import check_budget

    multilabel = info.kind == "multilabel"
    check_budget(
        (labels == 1).astype(np.int64) if multilabel else labels,
        num_features,
        num_classes=len(info.class_names),
        multilabel=multilabel,
        memory_budget=memory_budget,
    )


def predict(x: NDArray[np.float32], solution: Solution, compute: Compute) -> NDArray[np.float64]:
    """Return [n, K] logits."""
    from rwkvclip_eval.logistic import scores

    return scores(x, solution, memory_budget=compute.memory_budget, device=compute.device)


def score_name(primary: str, data: ProbeData) -> str:
    """Return which of `SCORES` to maximise: the dataset's primary metric where it fits the labels."""
    if data.multilabel:
        return primary if primary == "mean_average_precision" else "mean_average_precision_11_point"
    fits = primary in ("mean_per_class_accuracy", "mean_top1_top5_accuracy")
    return primary if fits or (primary == "roc_auc" and data.num_classes == 2) else "top1_accuracy"


_FORMS = {
    "11-point": ranking.eleven_point_average_precision,
    "area": ranking.average_precision,
}


SCORES: dict[str, Metric] = {
    "top1_accuracy": lambda s, y: float((s.argmax(axis=1) == y).mean()),
    "mean_per_class_accuracy": lambda s, y: classification.mean_per_class_accuracy(s.argmax(axis=1) == y, y),
    "mean_top1_top5_accuracy": lambda s, y: float(classification.mean_of_top1_and_top5(s, y).mean()),
    "roc_auc": lambda s, y: ranking.roc_auc(s[:, 1] - s[:, 0], y == 1).value,
    "mean_average_precision": functools.partial(ranking.mean_average_precision, form=_FORMS["area"]),
    "mean_average_precision_11_point": functools.partial(
        ranking.mean_average_precision, form=_FORMS["11-point"]
    ),
}
"""Metric → what a search maximises."""


def judge(
    samples: Samples, scores: NDArray[np.float64], data: ProbeData
) -> tuple[list[MetricValue], dict[str, pa.Table]]:
    """Return metrics and predictions of test scores [n, K]."""
    if data.multilabel:
        return _judge_labels(samples, scores)
    labels, num_classes = data.test.y, data.num_classes
    ranked = rank(_blocks(scores), labels, num_classes)
    values, n = accuracies(ranked, labels, num_classes), len(labels)
    chance = classification.chance_levels(labels, num_classes)
    if samples.info.primary_metric == "mean_top1_top5_accuracy":
        each = classification.mean_of_top1_and_top5(scores, labels)
        values.append(
            MetricValue(
                metric=MEAN_TOP1_TOP5,
                value=float(each.mean()),
                n=n,
                **interval_fields(statistics.mean_of(each)),
                notes=chance["mean_top1_top5_accuracy"],
            )
        )
    if num_classes == 2 and 0 < np.count_nonzero(labels) < n:
        area = ranking.roc_auc(scores[:, 1] - scores[:, 0], labels == 1)
        interval = statistics.area_under_curve(area.per_positive, area.per_negative)
        values.append(
            MetricValue(
                metric=ROC_AUC, value=area.value, n=n, **interval_fields(interval), notes=chance["roc_auc"]
            )
        )
    return values, {"predictions": ranked.table(samples)}


def _judge_labels(
    samples: Samples, scores: NDArray[np.float64]
) -> tuple[list[MetricValue], dict[str, pa.Table]]:
    import pyarrow as pa

    labels = np.asarray(samples.labels)
    n, num_labels = labels.shape

    def resampled(label: int, weights: NDArray[np.float64], form: str) -> NDArray[np.float64]:
        known = labels[:, label] >= 0
        positive = labels[known, label] == 1
        return _FORMS[form](ranking.precision_recall(scores[known, label], positive, weights[:, known]))

    values, positives = [], (labels == 1).sum(axis=0)
    for metric, form in ((MAP_11_POINT, "11-point"), (MAP_AREA, "area")):
        statistic = functools.partial(resampled, form=form)
        interval = statistics.mean_over_labels(statistic, positives, n) if positives.any() else None
        values.append(
            MetricValue(
                metric=metric,
                value=ranking.mean_average_precision(scores, labels, _FORMS[form]),
                n=n,
                **(interval_fields(interval) if interval else {}),
                notes={
                    "form": form,
                    "labels_absent": int((positives == 0).sum()),
                    "chance": ranking.chance_mean_average_precision(labels, _FORMS[form]),
                },
            )
        )
    table = pa.table(
        {
            "key": pa.array(list(samples.keys), pa.string()),
            "labels": pa.FixedSizeListArray.from_arrays(pa.array(labels.astype(np.int8).ravel()), num_labels),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), num_labels),
        }
    )
    return values, {"predictions": table}


def _blocks(scores: NDArray[np.float64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    for rows in row_chunks(*scores.shape):
        yield rows, scores[rows]


def _row(point: Any, score: float, stage: str) -> dict[str, Any]:
    return {
        "l2": point.l2,
        "score": score,
        "objective": point.objective,
        "gap": point.gap if math.isfinite(point.gap) else math.nan,
        "iterations": point.iterations,
        "status": point.status,
        "stage": stage,
    }


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
