"""What a task is: it names the texts it needs, then turns features into metrics and per-sample predictions.

A task never sees a model or an image; the runner encodes, drops samples that are missing, and calls it.
Axes: n images, m texts, D embedding, F probe features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.protocols import Protocol as EvaluationProtocol

Need = Literal["text", "embedding", "probe"]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples a task scores, without their images.

    Attributes:
        info: facts about the dataset split.
        keys: n unique sample keys.
        labels: [n] int64, [n, K] 0/1 (−1: left open) for multilabel, or None.
        captions: n lists of captions, or None.
    """

    info: DatasetInfo
    keys: Sequence[str]
    labels: np.ndarray[Any, Any] | None = None
    captions: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """Arrays a task scores; those it did not ask for are None.

    Attributes:
        image_embedding: [n, D] float32, unit norm.
        image_probe: [n, F] float32.
        text_embedding: [m, D] float32, unit norm, one row per text of `Task.texts`.
        fit: split → samples and features of the splits a probe learns from (`Task.fit_splits`); those that
            the data lack are left out.
        compute: where and with how much memory a probe may work.
    """

    image_embedding: np.ndarray[Any, Any] | None = None
    image_probe: np.ndarray[Any, Any] | None = None
    text_embedding: np.ndarray[Any, Any] | None = None
    fit: Mapping[str, tuple[Samples, Features]] = field(default_factory=dict)
    compute: Compute = field(default_factory=lambda: Compute())


@dataclass(frozen=True)
class Compute:
    """Where a probe works; none of it changes its numbers beyond rounding.

    Attributes:
        device: as torch names it.
        memory_budget: bytes that scores and gradients may take at once.
        on_progress: called with (done, total, what).
    """

    device: str = "cpu"
    memory_budget: int = MEMORY_BUDGET
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """One number with its uncertainty.

    Attributes:
        name: `top1_accuracy`, `image_retrieval_recall@5`, …
        value: fractions in [0, 1]; ranks are ranks (from 1).
        n: units the value is a mean over (images, or captions for text→image retrieval).
        ci_low: lower end of the 95 % interval; None where none is defined.
        ci_high: upper end.
        ci_method: names in `statistics`, empty where there is no interval.
        ci_conservative: few images decide the number, so that the interval covers more than 95 %.
        ci_resamples: of the interval's bootstrap; None for all else.
        ci_seed: of the interval's bootstrap; None for all else.
        notes: extra figures that belong to this number (tied rows, attainable best and worst, …).
    """

    name: str
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    ci_method: str = ""
    ci_conservative: bool = False
    ci_resamples: int | None = None
    ci_seed: int | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RetrievalExample:
    """One query of a retrieval task for the report's picture gallery.

    Attributes:
        query: the caption.
        target: index of the image the caption belongs to.
        retrieved: indices of the best images, best first.
        scores: their cosine similarities.
    """

    query: str
    target: int
    retrieved: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What `Task.score` returns.

    Attributes:
        metrics: every number of the unit; the protocol or catalogue says which is primary.
        predictions: table name → per-sample outputs, written as parquet. Where a table has a `key`, the
            runner puts the image's `content_id` beside it; see `data.content`.
        examples: queries for the report's gallery; the runner adds thumbnails.
        notes: figures about the whole unit (chance level, ties, …).
    """

    metrics: Sequence[MetricValue]
    predictions: Mapping[str, pa.Table]
    examples: Sequence[RetrievalExample] = ()
    notes: Mapping[str, float | int | str] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """A task over one dataset split.

    Five attributes are optional. `protocols`: names of those it can follow, its default first; without it,
    any, `standard` by default. `options`: names of the `ProbeOptions` that it reads; a suite that sets
    another one is refused. `fit_splits`: splits it learns from (`Features.fit`); the first must be there.
    `check(samples, fit, protocol)`: refuses, before any encoding, splits that the task cannot work on.
    `check_budget(fit, protocol, num_features, memory_budget)`: refuses a memory budget that is too small.
    """

    name: str
    """As in reports/published: `zero_shot_classification`, `zero_shot_retrieval`, `linear_probe`."""
    version: int
    """Raised whenever the same features could give other numbers."""
    needs: frozenset[Need]
    """What an encoder must offer; one that cannot serve is recorded as not applicable."""
    kinds: frozenset[DatasetKind]
    """The kinds of dataset it can score."""

    def texts(self, samples: Samples, protocol: EvaluationProtocol) -> Sequence[str]:
        """Return the m texts to encode, in the order `score` expects their embeddings."""
        ...

    def prompt_hash(self, samples: Samples, protocol: EvaluationProtocol) -> str:
        """Return the SHA-256 (hex) of ordered class names, templates and caption prefix."""
        ...

    def score(
        self, samples: Samples, features: Features, encoder: EncoderInfo, protocol: EvaluationProtocol
    ) -> TaskResult:
        """Return the unit's metrics and predictions. Deterministic: bootstraps are seeded."""
        ...


def hash_prompts(class_names: Sequence[str], templates: Sequence[str], prefix: str) -> str:
    """Return the SHA-256 (hex) of ordered class names + templates + caption prefix."""
    text = json.dumps([list(class_names), list(templates), prefix], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
