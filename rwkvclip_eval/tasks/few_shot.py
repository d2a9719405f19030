"""Few-shot linear probe: logistic regression on a few training images a class, mean over seeded draws.

For every seed and number of shots, that many training images of each class are drawn. The strength is chosen
on min(shots, 4) further images of each class (CoOp's rule, arXiv 2109.01134): the official validation split's
where there is one, else training images that no number of shots draws. The test split is whole.

Table `few_shot`, one row per seed × shots:
    shots    training images a class
    seed     of the draw
    l2       strength λ
    at_edge  1 where λ is the smallest or largest of those searched, else 0
    unsolved strengths of the search whose score is not known to be that of an optimum
    status   how the solver ended at λ; see `probe.solution.Status`
    score    primary metric on the test split

Table `predictions`, one row per test image × seed × shots, an image's rows together, so that another run of
the same seeds can be paired with this one:
    key         sample key
    label       class id
    shots       as above
    seed        as above
    prediction  class id
    hit_5       whether the label is among the five best; where the metric is the mean of top-1 and top-5
    score       logit of class 1 minus that of class 0; where the metric is ROC AUC

Axes: S seeds, n images, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import DamagedData
from rwkvclip_eval.metrics import classification, ranking
from rwkvclip_eval.metrics import seed_intervals as seed_statistics
from rwkvclip_eval.records.metrics import ROC_AUC, STANDARD
from rwkvclip_eval.tasks.base import Features, MetricValue, Samples, TaskResult
from rwkvclip_eval.tasks.classification import checked_labels
from rwkvclip_eval.tasks.linear_probe import (
    MEAN_PRECISIONS,
    SCORES,
    fit,
    predict,
    require_budget,
    score_name,
    search,
)
from rwkvclip_eval.tasks.probe_data import ProbeTask, by_class, probe_data, standardized
from rwkvclip_eval.tasks.probe_options import FewShotOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.protocols import Protocol

MOST_VALIDATION_SHOTS = 4


class FewShotLinearProbe(ProbeTask):
    """The linear probe with 1, 2, 4, … training images a class."""

    name = "few_shot_linear_probe"
    version = 7
    description = "Logistic regression on a few training images a class, mean over seeded draws."
    kinds: frozenset[DatasetKind] = frozenset({"classification"})
    gives = frozenset(SCORES) - MEAN_PRECISIONS
    protocols = ("clip-certified", "clip-lbfgs")
    Options = FewShotOptions

    def gives_on(self, info: DatasetInfo) -> frozenset[str]:
        """Return the names of the metrics that it gives on a dataset, without their shots."""
        return self.gives if len(info.class_names) == 2 else self.gives - {ROC_AUC.name}

    def numbers(self, info: DatasetInfo, protocol: Protocol) -> frozenset[str]:
        """Return the names under which its numbers can appear: the metric's for every number of shots."""
        shots = FewShotOptions.of(protocol).shots
        return frozenset(STANDARD[name].of_shots(k).name for name in self.gives_on(info) for k in shots)

    def check(self, samples: Samples, fit: Mapping[str, Samples], protocol: Protocol) -> None:
        """Refuse, before any encoding, what cannot be learned from, or has fewer images than shots."""
        super().check(samples, fit, protocol)
        _require_shots(fit, FewShotOptions.of(protocol))

    def check_budget(
        self, fit: Mapping[str, Samples], protocol: Protocol, num_features: int, memory_budget: int
    ) -> None:
        """Refuse, before any encoding, a memory budget in which most shots would not fit."""
        info = fit["train"].info
        labels = np.repeat(np.arange(len(info.class_names)), max(FewShotOptions.of(protocol).shots))
        require_budget(labels, info, num_features, memory_budget)

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return the primary metric for every number of shots: mean over seeds, with its interval.

        Raises:
            DamagedData: a class has fewer training images than shots; and see `probe_data`.
            UserError: the memory budget is too small.
        """
        options, compute = FewShotOptions.of(protocol), features.compute
        data = probe_data(samples, features, normalize=options.normalize)
        official = "val" in features.fit
        train = data.train
        name = score_name(samples.info.primary_metric, data)
        metric = SCORES[name]
        most = max(options.shots)
        _require_shots({split: given for split, (given, _) in features.fit.items()}, options)
        total = len(options.shots) * options.num_seeds
        judged: list[_Judged] = []
        for seed in range(options.seed, options.seed + options.num_seeds):
            drawn = _orders(train.y, seed)
            held_out = _orders(data.val.y, seed) if official else [order[most:] for order in drawn]
            for shots in options.shots:
                few = train.rows(_first(drawn, shots))
                watched = (data.val if official else train).rows(
                    _first(held_out, min(shots, MOST_VALIDATION_SHOTS))
                )
                test = data.test
                if options.standardize:
                    # By the few images alone: the statistics of all of train would be knowledge of all.
                    few, watched, test = standardized([few, watched, test])
                if options.C is None:
                    found = search(few, watched, data, metric, options, compute)
                    l2, at_edge, unsolved = found.best.l2, int(found.at_edge), found.unsolved
                else:
                    l2, at_edge, unsolved = 1 / options.C, 0, 0
                solution = fit(few, l2, data, options.method, compute)
                logits = predict(test.x, solution, compute)
                row = {
                    "shots": shots,
                    "seed": seed,
                    "l2": l2,
                    "at_edge": at_edge,
                    "unsolved": unsolved,
                    "status": solution.status,
                    "score": metric(logits, test.y),
                }
                judged.append(_judge(row, logits, test.y, name))
                compute.on_progress(len(judged), total, f"{samples.info.name} · few-shot probe")
        return TaskResult(
            metrics=[
                _mean(
                    [one for one in judged if one.row["shots"] == shots],
                    name,
                    data.test.y,
                    data.num_classes,
                    chosen=options.C is None,
                )
                for shots in sorted(options.shots, reverse=True)
            ],
            predictions={
                "few_shot": _table([one.row for one in judged]),
                "predictions": _predictions(samples, judged),
            },
            notes={
                "validation": "official validation split" if official else "further training images",
                "num_classes": data.num_classes,
                "train_fingerprint": data.train_fingerprint,
            },
        )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What the probe of one seed and number of shots makes of the n test images.

    Attributes:
        row: of the table `few_shot`.
        prediction: [n] class ids.
        values: [n] what the metric is a mean of; see `seed_statistics`.
        further: name → [n], what the metric reads beside the prediction.
    """

    row: dict[str, Any]
    prediction: NDArray[np.int64]
    values: NDArray[Any]
    further: Mapping[str, NDArray[Any]]


def _judge(
    row: dict[str, Any], logits: NDArray[np.float64], labels: NDArray[np.int64], metric: str
) -> _Judged:
    prediction = logits.argmax(axis=1)
    values: NDArray[Any] = prediction == labels
    further: dict[str, NDArray[Any]] = {}
    if metric == "mean_top1_top5_accuracy":
        values = classification.mean_of_top1_and_top5(logits, labels)
        # 1 where both hit, ½ where the second alone does.
        further["hit_5"] = values > 0
    elif metric == "roc_auc":
        positive = labels == 1
        further["score"] = logits[:, 1] - logits[:, 0]
        area = ranking.roc_auc(further["score"], positive)
        values = np.empty(len(labels))
        values[positive], values[~positive] = area.per_positive, area.per_negative
    return _Judged(row=row, prediction=prediction, values=values, further=further)


def _mean(
    judged: Sequence[_Judged], metric: str, labels: NDArray[np.int64], num_classes: int, *, chosen: bool
) -> MetricValue:
    """Return the mean over the seeds of one number of shots; `chosen` says that each seed chose its λ."""
    scores, shots = [one.row["score"] for one in judged], judged[0].row["shots"]
    values = np.stack([one.values for one in judged])
    if metric == "mean_per_class_accuracy":
        interval = seed_statistics.of_mean_per_class(values, labels)
    elif metric == "roc_auc":
        interval = seed_statistics.of_area_under_curve(values, labels == 1)
    else:
        interval = seed_statistics.of_mean(values)
    notes: dict[str, float | int | str] = {
        "shots": shots,
        "seeds": len(scores),
        "l2_at_edge": sum(one.row["at_edge"] for one in judged),
        **classification.chance_levels(labels, num_classes)[metric],
    }
    if unsolved := sum(one.row["unsolved"] for one in judged):
        notes["unsolved"] = unsolved
    if interval is None:
        # One over the images alone would stand beside intervals that hold the larger part, the draws, too.
        return MetricValue(
            metric=STANDARD[metric].of_shots(shots), value=float(np.mean(scores)), n=len(labels), notes=notes
        )
    draws = "training images, validation images and the λ chosen on them" if chosen else "training images"
    notes |= {
        "std": float(np.std(scores, ddof=1)),
        "seeds_se": interval.seeds_se,
        "images_low": interval.images_low,
        "images_high": interval.images_high,
        "interval_covers": f"draws of {draws}; draws of test images; not the model's own training",
    }
    return MetricValue(
        metric=STANDARD[metric].of_shots(shots),
        value=float(np.mean(scores)),
        n=len(labels),
        ci_low=interval.low,
        ci_high=interval.high,
        ci_method=seed_statistics.method(len(scores)),
        notes=notes,
    )


def _predictions(samples: Samples, judged: Sequence[_Judged]) -> pa.Table:
    """Return the table `predictions` of the top of this file."""
    import pyarrow as pa

    n = len(samples.keys)
    # Rows of one image side by side make runs of equal keys and labels, which take next to no room on disk.
    image = np.repeat(np.arange(n), len(judged))

    def side_by_side(columns: Sequence[NDArray[Any]]) -> pa.Array:
        return pa.array(np.stack(columns, axis=1).ravel())

    return pa.table(
        {
            "key": pa.array(list(samples.keys), pa.string()).take(pa.array(image)),
            "label": pa.array(np.asarray(samples.labels, np.int64)[image]),
            "shots": pa.array(np.tile([one.row["shots"] for one in judged], n)),
            "seed": pa.array(np.tile([one.row["seed"] for one in judged], n)),
            "prediction": side_by_side([one.prediction for one in judged]),
            **{name: side_by_side([one.further[name] for one in judged]) for name in judged[0].further},
        }
    )


def _orders(labels: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return for every class a seeded order of its samples, of which any number of shots takes the first."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(group) for group in by_class(labels)]


def _first(orders: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    return np.sort(np.concatenate([order[:count] for order in orders]))


def _require_shots(fit: Mapping[str, Samples], options: FewShotOptions) -> None:
    train, shots = fit["train"], max(options.shots)
    watched = 0 if "val" in fit or options.C is not None else min(shots, MOST_VALIDATION_SHOTS)
    counts = np.bincount(checked_labels(train), minlength=len(train.info.class_names))
    if counts.min() < shots + watched:
        name = train.info.class_names[int(counts.argmin())]
        further = f" and {watched} for choosing the strength" if watched else ""
        part = " These data are a subset: raise --limit, or complete them." if train.info.subset else ""
        raise DamagedData(
            f"{train.info.name}: class {name!r} has {counts.min()} training images, fewer than the {shots} "
            f"shots{further}; lower `shots` in the suite's options.{part}"
        )


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
