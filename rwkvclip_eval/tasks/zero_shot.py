"""Zero-shot classification: the class whose prompt ensemble lies nearest (CLIP, arXiv 2103.00020).

Predictions (table `predictions`, one row per image, K = min(5, C)):
    key          sample key
    label        class id
    prediction   class id that top-1 and mean per-class accuracy judge
    top_ids      K class ids that top-5 judges; the first is `prediction` except where equal truncated logits
                 are ranked differently for K = 1 and K = 5 (see `metrics.classification.truncated_top_k`)
    top_logits   their logits, 100·cosine, never truncated
    label_logit  the label's logit
    log_sum_exp  over all classes; label_logit − log_sum_exp is the log-probability at logit scale 100

Axes: n images, C classes, P templates, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval import statistics
from rwkvclip_eval.errors import DamagedData, SuiteError
from rwkvclip_eval.metrics import classification as metrics
from rwkvclip_eval.metrics.chunks import require_finite, row_chunks
from rwkvclip_eval.tasks.base import Features, MetricValue, Need, Samples, TaskResult, hash_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.protocols import Protocol

LOGIT_SCALE = 100.0
"""The field's multiplier of the cosine for every model; accuracies of float logits do not depend on it."""


class ZeroShotClassification:
    """Top-1, top-5 (from 5 classes up) and mean per-class accuracy of single-label sets."""

    name = "zero_shot_classification"
    version = 1
    needs: frozenset[Need] = frozenset({"text", "embedding"})
    kinds: frozenset[DatasetKind] = frozenset({"classification"})

    def texts(self, samples: Samples, protocol: Protocol) -> Sequence[str]:
        """Return the C·P prompts, all templates of the first class first.

        Raises:
            SuiteError: class names or templates are missing, or a template has no `{c}`.
        """
        info = samples.info
        _check_prompts(info)
        return [template.replace("{c}", name) for name in info.class_names for template in info.templates]

    def prompt_hash(self, samples: Samples, protocol: Protocol) -> str:
        """Return the SHA-256 (hex) of class names and templates in order."""
        return hash_prompts(samples.info.class_names, samples.info.templates, "")

    def score(
        self, samples: Samples, features: Features, encoder: EncoderInfo, protocol: Protocol
    ) -> TaskResult:
        """Return accuracies with intervals, and one prediction per image.

        Raises:
            DamagedData: a label names no class.
            SuiteError: see `texts`.
            ValueError: an embedding is not finite.
        """
        _check_prompts(samples.info)
        labels, num_classes = _labels(samples), len(samples.info.class_names)
        images, texts = features.image_embedding, features.text_embedding
        assert images is not None and texts is not None, "the runner passes what `needs` names"
        assert len(images) == len(labels) and len(texts) == num_classes * len(samples.info.templates)
        classifier = class_embeddings(texts, num_classes)
        require_finite(images=images, classifier=classifier)
        k = min(5, num_classes)
        ranked = _rank(images, classifier, labels, k, truncated=protocol.logits == "truncated")
        hit_1, hit_k = ranked.prediction == labels, metrics.hits(ranked.top_ids, labels)

        n = len(labels)
        top1 = MetricValue(
            name="top1_accuracy",
            value=metrics.accuracy(hit_1),
            n=n,
            **_interval(statistics.wilson(int(hit_1.sum()), n)),
            notes=_tie_notes(ranked.ties_1, metrics.accuracy) | {"chance": 1 / num_classes},
        )
        values = [top1]
        if k == 5:
            values.append(
                MetricValue(
                    name="top5_accuracy",
                    value=metrics.accuracy(hit_k),
                    n=n,
                    **_interval(statistics.wilson(int(hit_k.sum()), n)),
                    notes=_tie_notes(ranked.ties_k, metrics.accuracy) | {"chance": k / num_classes},
                )
            )
        num_present = len(np.unique(labels))
        values.append(
            MetricValue(
                name="mean_per_class_accuracy",
                value=metrics.mean_per_class_accuracy(hit_1, labels),
                n=n,
                **_interval(statistics.mean_per_class(hit_1, labels)),
                notes=_tie_notes(ranked.ties_1, lambda hit: metrics.mean_per_class_accuracy(hit, labels))
                | {
                    "chance": 1 / num_classes,
                    "num_classes_present": num_present,
                    "num_classes_absent": num_classes - num_present,
                },
            )
        )
        if protocol.padding is not None and samples.info.name in protocol.padding.datasets:
            values.append(_padded(top1, protocol, num_classes))
        notes: dict[str, float | int | str] = {
            "logits": protocol.logits,
            "logit_scale": LOGIT_SCALE,
            "num_classes": num_classes,
            "num_templates": len(samples.info.templates),
        }
        return TaskResult(metrics=values, predictions={"predictions": ranked.table(samples)}, notes=notes)


def class_embeddings(texts: NDArray[np.float32], num_classes: int) -> NDArray[np.float32]:
    """Return [C, D] float32, the unit-norm class embeddings of a prompt ensemble.

    Each prompt's embedding is L2-normalised, those of one class are averaged, the mean is normalised again.

    Args:
        texts: [C·P, D] embeddings, all prompts of the first class first.
        num_classes: C.
    """
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    mean = unit.reshape(num_classes, -1, texts.shape[1]).mean(axis=1)
    normalised: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return normalised


class _Ranked:
    """Per-image outcomes; `ties_1` and `ties_k` are None for float logits."""

    def __init__(self, n: int, k: int, *, truncated: bool) -> None:
        self.prediction = np.empty(n, np.int64)
        self.top_ids = np.empty((n, k), np.int64)
        self.top_logits = np.empty((n, k), np.float32)
        self.label_logit = np.empty(n, np.float32)
        self.log_sum_exp = np.empty(n, np.float32)
        self.ties_1, self.ties_k = (
            metrics.Ties(*(np.empty(n, np.bool_) for _ in metrics.Ties._fields)) if truncated else None
            for _ in range(2)
        )

    def table(self, samples: Samples) -> pa.Table:
        """Return the predictions table described at the top of this file."""
        import pyarrow as pa

        k = self.top_ids.shape[1]
        return pa.table(
            {
                "key": pa.array(list(samples.keys), pa.string()),
                "label": pa.array(samples.labels, pa.int64()),
                "prediction": pa.array(self.prediction),
                "top_ids": pa.FixedSizeListArray.from_arrays(pa.array(self.top_ids.ravel()), k),
                "top_logits": pa.FixedSizeListArray.from_arrays(pa.array(self.top_logits.ravel()), k),
                "label_logit": pa.array(self.label_logit),
                "log_sum_exp": pa.array(self.log_sum_exp),
            }
        )


def _rank(
    images: NDArray[np.float32],
    classifier: NDArray[np.float32],
    labels: NDArray[np.int64],
    k: int,
    *,
    truncated: bool,
) -> _Ranked:
    """Return every image's ranking, computed over bounded blocks of images."""
    ranked = _Ranked(len(images), k, truncated=truncated)
    for rows in row_chunks(len(images), len(classifier)):
        logits = (LOGIT_SCALE * images[rows]) @ classifier.T
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
        peak = logits.max(axis=1)
        ranked.log_sum_exp[rows] = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return ranked


def _padded(top1: MetricValue, protocol: Protocol, num_classes: int) -> MetricValue:
    """Return top-1 as printed with the protocol's unfilled rows averaged in; the interval moves alike."""
    assert protocol.padding is not None and top1.ci_low is not None and top1.ci_high is not None
    rows = metrics.num_padding_rows(top1.n, protocol.padding.world_size, protocol.padding.batch_size)
    value, low, high = (
        metrics.padded_accuracy(fraction, top1.n, rows, num_classes)
        for fraction in (top1.value, top1.ci_low, top1.ci_high)
    )
    notes: dict[str, float | int | str] = {
        "padding_rows": rows,
        "rows": top1.n + rows,
        "world_size": protocol.padding.world_size,
        "batch_size": protocol.padding.batch_size,
    }
    return MetricValue(
        name="top1_accuracy_padded",
        value=value,
        n=top1.n,
        ci_low=low,
        ci_high=high,
        ci_method=top1.ci_method,
        notes=notes,
    )


def _interval(interval: statistics.Interval) -> dict[str, Any]:
    return {"ci_low": interval.low, "ci_high": interval.high, "ci_method": interval.method}


def _tie_notes(ties: metrics.Ties | None, metric: Any) -> dict[str, float | int | str]:
    if ties is None:
        return {}
    return {
        "tied_rows": int(ties.tied.sum()),
        "ties_best": metric(ties.best),
        "ties_worst": metric(ties.worst),
    }


def _labels(samples: Samples) -> NDArray[np.int64]:
    """Return the labels, checked against the class names."""
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


def _check_prompts(info: DatasetInfo) -> None:
    if not info.class_names or not info.templates:
        lacking = " and ".join(
            what for what in ("class_names", "templates") if not getattr(info, what)
        ).replace("_", " ")
        raise SuiteError(
            f"Zero-shot classification of {info.name!r} needs {lacking}: put classnames.txt and "
            "zeroshot_classification_templates.txt beside the shards, or class_names and templates into "
            "the suite."
        )
    plain = [template for template in info.templates if "{c}" not in template]
    if plain:
        raise SuiteError(
            f"Template {plain[0]!r} of {info.name!r} has no {{c}}: write {{c}} where the class name goes."
        )
