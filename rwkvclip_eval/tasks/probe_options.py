"""What a suite can set of the probes; what differs from the protocol's own is in the protocol of a record.

The order of the fields is the order in which that name lists them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rwkvclip_eval.tasks.base import TaskOptions

MAX_SHOTS = 1_000_000

Normalize = Annotated[bool, Field(description="scale every feature vector to unit length")]
Standardize = Annotated[
    bool, Field(description="zero mean, unit variance per feature, in what is learned from")
]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="of every draw")]


class LogisticOptions(TaskOptions):
    """How a logistic regression on features is fitted."""

    BY_PROTOCOL: ClassVar[frozenset[str]] = frozenset({"method"})

    method: Literal["certified", "lbfgs"] = Field(
        default="certified",
        description="of the protocol: optima with a certified gap, or L-BFGS capped at 1,000 iterations",
    )
    search: Literal["clip", "grid"] = Field(
        default="clip", description="CLIP's binary search over 97 strengths, or all of them"
    )
    C: float | None = Field(
        default=None,
        ge=1e-12,
        le=1e12,
        allow_inf_nan=False,
        description="a fixed strength C = 1/λ instead of a search",
    )
    normalize: Normalize = False
    standardize: Standardize = False

    @model_validator(mode="after")
    def _strength_searched_or_fixed(self) -> Self:
        unread = sorted(self.model_fields_set & {"search", "validation_fraction"})
        if self.C is not None and unread:
            raise ValueError(f"C fixes the strength, so {' and '.join(unread)} would not be read.")
        return self


class LinearProbeOptions(LogisticOptions):
    """Of `linear_probe`."""

    validation_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="of train, drawn where there is no official validation split"
    )
    seed: Seed = 0


class FewShotOptions(LogisticOptions):
    """Of `few_shot_linear_probe`."""

    seed: Seed = 0
    shots: tuple[Annotated[int, Field(ge=1, le=MAX_SHOTS)], ...] = Field(
        default=(1, 2, 4, 8, 16), min_length=1, max_length=20, description="training images a class"
    )
    num_seeds: int = Field(default=3, ge=1, le=1000, description="few-shot draws")

    @field_validator("shots")
    @classmethod
    def _once(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if twice := {count for count in shots if shots.count(count) > 1}:
            raise ValueError(f"{min(twice)} stands there twice")
        return shots


class KnnOptions(TaskOptions):
    """Of `knn_probe`."""

    normalize: Normalize = False
    standardize: Standardize = False
    k: int = Field(default=20, ge=1, le=1_000_000, description="neighbours that vote")
    temperature: float = Field(
        default=0.07, ge=1e-3, le=1e3, description="a neighbour's vote weighs exp(cosine / temperature)"
    )
