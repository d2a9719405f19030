"""What a task is: it names the texts it needs, then turns features into metrics and per-sample predictions.

A task never sees a model or an image; the runner encodes, drops samples that are missing, and calls it.
Axes: n images, m texts, D embedding, F probe features.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from rwkvclip_eval.errors import SuiteError, UserError, joined
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.metrics import known
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict, misfits
from rwkvclip_eval.tasks.similarity import COSINE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.tasks.similarity import Arrays, Similarity

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
    """Arrays a task scores, by the names under which the encoder declares them.

    Attributes:
        images: `embedding` [n, D] float32 of unit norm, `probe` [n, F] float32, or arrays of the encoder's
            own, one entry an image; those that the task did not ask for are not there.
        texts: `embedding` [m, D] float32 of unit norm, or the encoder's own, one entry per text of
            `Task.texts`.
        similarity: how images and texts are compared; the encoder's choice.
        logit_scale: by which the encoder itself multiplies its similarity; None where it has none.
        logit_bias: what it adds then.
        fit: split → samples and features of the splits a probe learns from (`Task.fit_splits`); those that
            the data lack are left out.
        compute: where and with how much memory a probe may work.
    """

    images: Arrays = field(default_factory=dict)
    texts: Arrays = field(default_factory=dict)
    similarity: Similarity = COSINE
    logit_scale: float | None = None
    logit_bias: float = 0.0
    fit: Mapping[str, tuple[Samples, Features]] = field(default_factory=dict)
    compute: Compute = field(default_factory=lambda: Compute())

    @property
    def image_embedding(self) -> np.ndarray[Any, Any]:
        """[n, D] float32, unit norm, of a task that needs `embedding`."""
        array: np.ndarray[Any, Any] = self.images["embedding"]
        return array

    @property
    def image_probe(self) -> np.ndarray[Any, Any]:
        """[n, F] float32, of a task that needs `probe`."""
        array: np.ndarray[Any, Any] = self.images["probe"]
        return array

    @property
    def text_embedding(self) -> np.ndarray[Any, Any]:
        """[m, D] float32, unit norm, of a task that needs `text`."""
        array: np.ndarray[Any, Any] = self.texts["embedding"]
        return array


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
        metric: what it means; `records.metrics` has the standard ones.
        value: fractions in [0, 1]; ranks are ranks (from 1).
        n: units the value is a mean over (images, or captions for text→image retrieval).
        ci_low: lower end of the 95 % interval; None where none is defined.
        ci_high: upper end.
        ci_method: how it was made, named as in `metrics.intervals`; empty where there is no interval.
        ci_conservative: few images decide the number, so that the interval covers more than 95 %.
        ci_resamples: of the interval's bootstrap; None for all else.
        ci_seed: of the interval's bootstrap; None for all else.
        notes: extra figures that belong to this number (tied rows, attainable best and worst, …).
    """

    metric: Metric
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    ci_method: str = ""
    ci_conservative: bool = False
    ci_resamples: int | None = None
    ci_seed: int | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.name


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
class Misclassified:
    """One image that a classification task got wrong, for the report's pictures.

    Attributes:
        image: its index.
        label: name of its class.
        prediction: name of the class that was predicted.
        confidence: probability of that class, in [0, 1].
    """

    image: int
    label: str
    prediction: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What `Task.score` returns.

    Attributes:
        metrics: every number of the unit; the protocol or catalogue says which is primary.
        predictions: table name → per-sample outputs, written as parquet. Where a table has a `key`, the
            runner puts the image's `content_id` beside it; see `data.content`.
        examples: queries for the report's gallery; the runner adds thumbnails.
        errors: images that were got wrong, for the report; the runner adds thumbnails.
        notes: figures about the whole unit (chance level, ties, …).
    """

    metrics: Sequence[MetricValue]
    predictions: Mapping[str, pa.Table]
    examples: Sequence[RetrievalExample] = ()
    errors: Sequence[Misclassified] = ()
    notes: Mapping[str, float | int | str] = field(default_factory=dict)


class TaskOptions(Strict):
    """What a suite's `options` set of a task; a task with any derives a model of its own from this.

    Attributes:
        BY_PROTOCOL: those that a protocol alone sets.
    """

    BY_PROTOCOL: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        """Return the options that `protocol` sets, defaults for the others; what is not read is left alone.

        Raises:
            UserError: they do not fit.
        """
        read = {name: value for name, value in protocol.options.items() if name in cls.model_fields}
        try:
            return cls.model_validate(read)
        except ValidationError as error:
            raise UserError(f"The protocol {protocol.name}: {joined(misfits(error), '; ')}.") from error

    @classmethod
    def settable(cls) -> frozenset[str]:
        """Return the names that a suite may set."""
        return frozenset(cls.model_fields) - cls.BY_PROTOCOL


class Task(ABC):
    """A task over one dataset split. A task of your own derives from this; `name` and `score` are enough.

    Attributes:
        name: as in reports/published: `zero_shot_classification`, `zero_shot_retrieval`, `linear_probe`.
        version: raised whenever the same features could give other numbers.
        description: one sentence for reports: what is measured.
        needs: what an encoder must offer; one that cannot serve is recorded as not applicable.
        kinds: the kinds of dataset it can score.
        fit_splits: splits it learns from (`Features.fit`); the first must be there.
        gives: names of the metrics that it may give; empty where only a run tells.
        keeps_budget: whether it works in less memory where `Compute.memory_budget` says so.
        Options: what a suite can set of it.
    """

    name: str
    version: int = 1
    description: str = ""
    needs: frozenset[Need] = frozenset({"embedding"})
    kinds: frozenset[DatasetKind] = frozenset({"classification"})
    fit_splits: tuple[str, ...] = ()
    gives: frozenset[str] = frozenset()
    keeps_budget: bool = False
    Options: type[TaskOptions] = TaskOptions

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols that it can follow, its default first; any, if it has no say."""
        return ("standard", *PROTOCOLS)

    def under(self, protocol: Protocol, given: Mapping[str, Any] | None) -> Protocol:
        """Return `protocol` with a suite's options; its name then carries those that differ from its own.

        Raises:
            ValidationError: pydantic's, where they do not fit `Options`.
        """
        own = self.Options.of(protocol)
        asked = self.Options.model_validate(given or {}).model_dump(exclude_unset=True)
        return protocol.with_options({k: v for k, v in asked.items() if v != getattr(own, k)})

    def check(  # noqa: B027  # most tasks refuse nothing
        self, samples: Samples, fit: Mapping[str, Samples], protocol: Protocol
    ) -> None:
        """Refuse, before any encoding, splits that the task cannot work on.

        Args:
            samples: the split it is judged on.
            fit: split → samples it learns from.
            protocol: how features become numbers.
        """

    def check_budget(  # noqa: B027  # as above
        self, fit: Mapping[str, Samples], protocol: Protocol, num_features: int, memory_budget: int
    ) -> None:
        """Refuse, before any encoding, a memory budget (bytes) that is too small for F probe features."""

    def check_metric(self, name: str, info: DatasetInfo | None = None) -> None:
        """Refuse, before any encoding, a metric that the task does not give.

        Args:
            name: as a suite has it; numbers of few shots may be meant by the name of all.
            info: of the dataset, once it is open; without it, what some dataset allows passes.

        Raises:
            SuiteError: it never gives that.
        """
        given = self.gives_on(info) if info else self.gives
        if not given or name in given:
            return
        meant = known(name)
        whole = name.removesuffix(f"_{meant.shots}_shot") if meant.shots else name
        if whole not in given:
            raise SuiteError(unknown_name(f"metric of {self.name}", name, given))

    def gives_on(self, info: DatasetInfo) -> frozenset[str]:
        """Return the names of the metrics that it gives on a dataset; empty where only a run tells."""
        return self.gives

    def numbers(self, info: DatasetInfo, protocol: Protocol) -> frozenset[str]:
        """Return the names under which its numbers can appear; empty where only a run tells."""
        return self.gives_on(info)

    def texts(self, samples: Samples, protocol: Protocol) -> Sequence[str]:
        """Return the m texts to encode, in the order in which `score` expects them; none by default."""
        return ()

    def prompt_hash(self, samples: Samples, protocol: Protocol) -> str:
        """Return the SHA-256 (hex) of what decides the texts; by default class names and texts in order."""
        return hash_prompts(samples.info.class_names, self.texts(samples, protocol), "")

    @abstractmethod
    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return the unit's metrics and predictions. Deterministic: bootstraps are seeded."""


def hash_prompts(class_names: Sequence[str], templates: Sequence[str], prefix: str) -> str:
    """Return the SHA-256 (hex) of ordered class names + templates + caption prefix."""
    text = json.dumps([list(class_names), list(templates), prefix], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
