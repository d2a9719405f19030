"""Few-shot linear probe: logistic regression on a few training images a class, mean over seeded draws.

For every seed and number of shots, that many training images of each class are drawn. The strength is chosen
on min(shots, 4) further images of each class (CoOp's rule, arXiv 2109.01134): the official validation split's
where there is one, else training images that no number of shots draws. The test split is whole.

Table `few_shot`, one row per seed × shots:
    shots    training images a class
    seed     of the draw
    l2       strength λ
    at_edge  1 where λ is the smallest or largest of those searched, else 0
    status   how the solver ended at λ; see `probe.solution.Status`
    score    primary metric on the test split

Axes: n images, F features, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval import statistics
from rwkvclip_eval.errors import DamagedData
from rwkvclip_eval.tasks.base import Features, MetricValue, Samples, TaskResult
from rwkvclip_eval.tasks.classification import checked_labels, interval_fields
from rwkvclip_eval.tasks.linear_probe import SCORES, fit, predict, require_budget, score_name, search
from rwkvclip_eval.tasks.probe_data import ProbeTask, by_class, probe_data, standardized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetKind
    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.protocols import ProbeOptions, Protocol

MOST_VALIDATION_SHOTS = 4


class FewShotLinearProbe(ProbeTask):
    """The linear probe with 1, 2, 4, … training images a class."""

    name = "few_shot_linear_probe"
    version = 6
    kinds: frozenset[DatasetKind] = frozenset({"classification"})
    protocols = ("clip-certified", "clip-lbfgs")
    options = frozenset({"search", "C", "normalize", "standardize", "shots", "num_seeds", "seed"})

    def check(self, samples: Samples, fit: Mapping[str, Samples], protocol: Protocol) -> None:
        """Refuse, before any encoding, what cannot be learned from, or has fewer images than shots."""
        super().check(samples, fit, protocol)
        assert protocol.probe is not None
        _require_shots(fit, protocol.probe)

    def check_budget(
        self, fit: Mapping[str, Samples], protocol: Protocol, num_features: int, memory_budget: int
    ) -> None:
        """Refuse, before any encoding, a memory budget in which most shots would not fit."""
        assert protocol.probe is not None
        info = fit["train"].info
        labels = np.repeat(np.arange(len(info.class_names)), max(protocol.probe.shots))
        require_budget(labels, info, num_features, memory_budget)

    def score(
        self, samples: Samples, features: Features, encoder: EncoderInfo, protocol: Protocol
    ) -> TaskResult:
        """Return the primary metric for every number of shots: mean over seeds, deviation in the notes.

        Raises:
            DamagedData: a class has fewer training images than shots; and see `probe_data`.
            UserError: the memory budget is too small.
        """
        assert protocol.probe is not None, "the runner checks that the protocol is one of a probe"
        options, compute = protocol.probe, features.compute
        data = probe_data(samples, features, options, needs_validation=False, standardize=False)
        official = "val" in features.fit
        train = data.train
        name = score_name(samples.info.primary_metric, data)
        metric = SCORES[name]
        most = max(options.shots)
        _require_shots({split: given for split, (given, _) in features.fit.items()}, options)
        total, rows = len(options.shots) * options.num_seeds, []
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
                    l2, at_edge = found.best.l2, int(found.at_edge)
                else:
                    l2, at_edge = 1 / options.C, 0
                solution = fit(few, l2, data, options.method, compute)
                score = metric(predict(test.x, solution, compute), test.y)
                rows.append(
                    {
                        "shots": shots,
                        "seed": seed,
                        "l2": l2,
                        "at_edge": at_edge,
                        "status": solution.status,
                        "score": score,
                    }
                )
                compute.on_progress(
                    len(rows), total, f"{encoder.name} · {samples.info.name} · few-shot probe"
                )
        return TaskResult(
            metrics=[
                _mean([row for row in rows if row["shots"] == shots], shots, name, data)
                for shots in sorted(options.shots, reverse=True)
            ],
            predictions={"few_shot": _table(rows)},
            notes={
                "validation": "official validation split" if official else "further training images",
                "num_classes": data.num_classes,
                "train_fingerprint": data.train_fingerprint,
            },
        )


def _mean(rows: list[dict[str, Any]], shots: int, metric: str, data: Any) -> MetricValue:
    scores = [row["score"] for row in rows]
    interval = statistics.mean_over_seeds(scores)
    return MetricValue(
        name=f"{metric}_{shots}_shot",
        value=float(np.mean(scores)),
        n=len(data.test.y),
        **(interval_fields(interval) if interval else {}),
        notes={
            "shots": shots,
            "seeds": len(scores),
            "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
            "l2_at_edge": sum(row["at_edge"] for row in rows),
        },
    )


def _orders(labels: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return for every class a seeded order of its samples, of which any number of shots takes the first."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(group) for group in by_class(labels)]


def _first(orders: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    return np.sort(np.concatenate([order[:count] for order in orders]))


def _require_shots(fit: Mapping[str, Samples], options: ProbeOptions) -> None:
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
