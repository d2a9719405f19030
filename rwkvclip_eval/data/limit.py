"""Deterministic subsets for `--limit`: stratified by class, without random numbers."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from rwkvclip_eval.data.types import Dataset, DatasetInfo


@dataclass(kw_only=True)
class SubsetDataset:
    """Some samples of another dataset, in its order.

    Attributes:
        info: of these samples; `subset` is set.
        keys: of these samples.
        labels: of these samples; see `Dataset.labels`.
        captions: of these samples; see `Dataset.captions`.
        parent: the other dataset.
        indices: each sample's place in it.
    """

    info: DatasetInfo
    keys: Sequence[str]
    labels: np.ndarray[Any, Any] | None
    captions: Sequence[Sequence[str]] | None
    parent: Dataset
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image:
        """Return the decoded image; see `Dataset.image`."""
        return self.parent.image(self.indices[index])


def limit_dataset(dataset: Dataset, num_samples: int) -> Dataset:
    """Return `num_samples` samples of `dataset`, or `dataset` itself where it has no more.

    Classification: as many of each class as of any other where the class has them, spread evenly over the
    class's samples. Retrieval and multilabel: images spread evenly over the split, with all their captions.
    The order is kept; the same call always chooses the same samples.

    Raises:
        UserError: `num_samples` is below 1.
    """
    if num_samples < 1:
        raise UserError(f"The limit must be at least 1 sample, not {num_samples}.")
    if num_samples >= len(dataset):
        return dataset
    labels = dataset.labels
    if labels is not None and labels.ndim == 1:
        chosen = _stratified(labels, num_samples)
    else:
        chosen = _spread(np.arange(len(dataset)), num_samples)
    return subset_dataset(dataset, chosen)


def subset_dataset(dataset: Dataset, indices: Sequence[int] | np.ndarray[Any, Any]) -> Dataset:
    """Return the samples `indices` of `dataset`, marked as a subset and with a fingerprint of their own."""
    listed = tuple(int(i) for i in indices)
    fingerprint = hashlib.sha256(f"{dataset.info.fingerprint} {listed}".encode()).hexdigest()
    info = dataclasses.replace(
        dataset.info,
        num_samples=len(listed),
        fingerprint=fingerprint,
        subset=True,
        own_copy=False,
        verified=False,
    )
    keys, labels, captions = dataset.keys, dataset.labels, dataset.captions
    return SubsetDataset(
        info=info,
        keys=[keys[i] for i in listed],
        labels=None if labels is None else labels[list(listed)],
        captions=None if captions is None else [captions[i] for i in listed],
        parent=dataset,
        indices=listed,
    )


def _spread(items: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return `count` of `items` at equal distances: the middles of `count` equal stretches."""
    return items[(2 * np.arange(count) + 1) * len(items) // (2 * count)]


def _stratified(labels: np.ndarray[Any, Any], num_samples: int) -> np.ndarray[Any, Any]:
    """Return sorted indices with class counts as equal as the classes allow."""
    classes, counts = np.unique(labels, return_counts=True)
    quota = np.zeros_like(counts)
    while (left := num_samples - int(quota.sum())) > 0:
        unfilled = np.flatnonzero(quota < counts)
        if left < len(unfilled):
            quota[_spread(unfilled, left)] += 1
        else:
            step = min(left // len(unfilled), int((counts - quota)[unfilled].min()))
            quota[unfilled] += step
    chosen = [_spread(np.flatnonzero(labels == c), int(q)) for c, q in zip(classes, quota, strict=True) if q]
    return np.sort(np.concatenate(chosen))
