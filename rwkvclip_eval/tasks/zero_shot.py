"""Zero-shot classification: the class whose prompt ensemble lies nearest (CLIP, arXiv 2103.00020).

Predictions: see `tasks.classification`; the logits are 100 times the encoder's similarity, which also says
how templates combine (see `tasks.similarity`).

Axes: C classes, P templates.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import SuiteError, shown
from rwkvclip_eval.metrics import classification as metrics
from rwkvclip_eval.records.metrics import TOP1_PADDED
from rwkvclip_eval.tasks.base import Features, MetricValue, Need, Samples, Task, TaskResult, hash_prompts
from rwkvclip_eval.tasks.classification import (
    ACCURACIES,
    Scaling,
    accuracies,
    accuracies_on,
    checked_labels,
    rank,
)
from rwkvclip_eval.tasks.similarity import class_blocks, num_entries
from rwkvclip_models.moved import forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.protocols import Protocol

forward(__name__)

LOGIT_SCALE = 100.0
"""The field's multiplier of the cosine for every model; accuracies of float logits do not depend on it."""


class ZeroShotClassification(Task):
    """Top-1, top-5 (from 5 classes up) and mean per-class accuracy of single-label sets."""

    name = "zero_shot_classification"
    version = 2
    description = "The class whose prompts, averaged over templates, lie nearest to the image."
    needs: frozenset[Need] = frozenset({"text", "embedding"})
    kinds: frozenset[DatasetKind] = frozenset({"classification"})
    gives = ACCURACIES | {TOP1_PADDED.name}
    protocols = ("standard", "official-rwkv-clip", "clip-benchmark")

    def gives_on(self, info: DatasetInfo) -> frozenset[str]:
        """Return the names of the metrics that it gives on a dataset."""
        return accuracies_on(info) | {TOP1_PADDED.name}

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

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return accuracies with intervals, and one prediction per image.

        Raises:
            DamagedData: a label names no class.
            SuiteError: see `texts`.
            ValueError: an embedding is not finite.
        """
        _check_prompts(samples.info)
        labels, num_classes = checked_labels(samples), len(samples.info.class_names)
        images, texts = features.images, features.texts
        assert num_entries(images) == len(labels)
        assert num_entries(texts) == num_classes * len(samples.info.templates)
        blocks = class_blocks(features.similarity, images, texts, num_classes, scale=LOGIT_SCALE)
        # What truncated logits would say of confidence is not what the model says.
        truncated = protocol.logits == "truncated"
        scale = None if truncated else features.logit_scale
        scaling = None if scale is None else Scaling(scale / LOGIT_SCALE, features.logit_bias)
        ranked = rank(blocks, labels, num_classes, truncated=truncated, scaling=scaling)
        values = accuracies(ranked, labels, num_classes)
        notes: dict[str, float | int | str] = {
            "logits": protocol.logits,
            "logit_scale": LOGIT_SCALE,
            "num_classes": num_classes,
            "num_templates": len(samples.info.templates),
        }
        if protocol.padding is not None and samples.info.name in protocol.padding.datasets:
            # Unfilled rows beside a part of the images would be most of the mean.
            if len(labels) == samples.info.expected_samples:
                values.append(_padded(values[0], protocol, num_classes))
            else:
                notes["padding"] = (
                    f"left out: it belongs to all {samples.info.expected_samples or 'its'} images, "
                    f"{len(labels)} were scored"
                )
        return TaskResult(
            metrics=values,
            predictions={"predictions": ranked.table(samples)},
            errors=ranked.errors(samples),
            notes=notes,
        )


def _padded(top1: MetricValue, protocol: Protocol, num_classes: int) -> MetricValue:
    """Return top-1 as printed with the protocol's unfilled rows averaged in.

    Its interval, its chance and what its ties allow move alike.
    """
    padding = protocol.padding
    assert padding is not None and top1.ci_low is not None and top1.ci_high is not None
    rows = metrics.num_padding_rows(top1.n, padding.world_size, padding.batch_size)
    padded = functools.partial(
        metrics.padded_accuracy, num_samples=top1.n, num_padding=rows, num_classes=num_classes
    )
    moved = {
        name: padded(float(value))
        for name, value in top1.notes.items()
        if name in ("chance", "majority", "ties_best", "ties_worst")
    }
    return MetricValue(
        metric=TOP1_PADDED,
        value=padded(top1.value),
        n=top1.n,
        ci_low=padded(top1.ci_low),
        ci_high=padded(top1.ci_high),
        ci_method=top1.ci_method,
        ci_conservative=top1.ci_conservative,
        notes={
            **top1.notes,
            **moved,
            "padding_rows": rows,
            "rows": top1.n + rows,
            "world_size": padding.world_size,
            "batch_size": padding.batch_size,
        },
    )


def _check_prompts(info: DatasetInfo) -> None:
    if not info.class_names or not info.templates:
        lacking = " and ".join(
            what for what in ("class_names", "templates") if not getattr(info, what)
        ).replace("_", " ")
        raise SuiteError(
            f"Zero-shot classification of {info.name!r} needs {lacking}: write class_names: [...] and "
            "templates: ['a photo of a {c}.'] into the suite, point prompts at a label.json and a "
            "template.json, or put classnames.txt and zeroshot_classification_templates.txt beside the data."
        )
    if len(info.class_names) < 2:
        raise SuiteError(
            f"Zero-shot classification of {info.name!r} has one class, {shown(info.class_names[0])}, which "
            "every model gets right: it needs two at least."
        )
    plain = [template for template in info.templates if "{c}" not in template]
    if plain:
        raise SuiteError(
            f"Template {plain[0]!r} of {info.name!r} has no {{c}}: write {{c}} where the class name goes."
        )
