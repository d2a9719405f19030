"""What two models' differing answers are about: samples that flipped, classes that moved, repeated pictures.

Axes: n images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.tables import Table

MAX_FLIPPED = 1000
"""Samples that came out otherwise, whose names are kept."""
MAX_CLASSES = 10
"""Classes that moved most."""


class Flip(NamedTuple):
    """A sample that one of two models has right.

    Attributes:
        key: of the baseline's copy.
        target: name of its class; empty for retrieval.
        baseline: what the baseline said: a class, or the rank of what was asked for.
        candidate: what the candidate said.
    """

    key: str
    target: str
    baseline: str
    candidate: str


class Flipped(NamedTuple):
    """Samples on which two models differ, the first of them by key.

    Attributes:
        gained: those that only the candidate has right.
        lost: those that only the baseline has right.
    """

    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]


class MovedClass(NamedTuple):
    """A class of which two models have other numbers of images right.

    Attributes:
        label: its id.
        name: its name.
        images: its images.
        baseline: those that the baseline has right.
        candidate: those that the candidate has right.
    """

    label: int
    name: str
    images: int
    baseline: int
    candidate: int


class Repeated(NamedTuple):
    """Images of a split that are equal byte for byte.

    Attributes:
        pictures: different ones among them.
        images: how many there are of these.
        num_images: of the split.
    """

    pictures: int
    images: int
    num_images: int

    @property
    def note(self) -> str:
        """In words; empty where all images differ."""
        if not self.pictures:
            return ""
        return (
            f"{self.pictures} pictures occur more than once ({self.images} of {self.num_images} images, by "
            "their bytes)"
        )


def flipped(
    keys: Table,
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    said: Callable[[int], tuple[str, str, str]],
) -> Flipped:
    """Return the samples that flipped.

    Args:
        keys: the baseline's table.
        before: [n] the baseline has it right.
        after: [n] the candidate has it right.
        said: row → target, the baseline's and the candidate's answer.
    """
    names = keys.columns["key"]

    def told(rows: NDArray[np.bool_]) -> tuple[Flip, ...]:
        chosen = np.flatnonzero(rows)[:MAX_FLIPPED]
        return tuple(Flip(names[int(row)].as_py(), *said(int(row))) for row in chosen)

    return Flipped(told(after & ~before), told(before & ~after))


def moved_classes(
    table: Table, labels: NDArray[np.int64], before: NDArray[np.bool_], after: NDArray[np.bool_]
) -> tuple[MovedClass, ...]:
    """Return the classes of which most images were gained or lost, the largest change first."""
    images = np.bincount(labels)
    one, other = (
        np.bincount(labels, weights=hit, minlength=len(images)).astype(int) for hit in (before, after)
    )
    order = np.argsort(-np.abs(other - one), kind="stable")[:MAX_CLASSES]
    return tuple(
        MovedClass(int(k), table.class_name(int(k)), int(images[k]), int(one[k]), int(other[k]))
        for k in order
        if one[k] != other[k]
    )


def repeated(table: Table) -> Repeated | None:
    """Return what content ids tell of equal images, see `data.content`; None where they are not known."""
    import pyarrow.compute as pc

    if "content_id" not in table.columns or table.columns["content_id"].null_count:
        return None
    ids = pc.unique(table.columns["content_id"])
    again = ids.filter(pc.match_substring(ids, "#"))
    pictures = len({name.partition("#")[0] for name in again.to_pylist()})
    return Repeated(pictures, pictures + len(again), len(ids))
