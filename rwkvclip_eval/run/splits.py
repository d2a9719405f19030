"""The splits that a run's units read: opened once, with what tasks and records see of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.errors import DataNotFound, UserError
from rwkvclip_eval.tasks.base import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from rwkvclip_eval.data.types import Dataset, DatasetRef
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class OpenedUnit:
    """A unit with the splits it reads, which its task has found fit to work on.

    Attributes:
        unit: the unit.
        dataset: the split that it is judged on.
        fit: split → what its task learns from, see `Datasets.fit_splits`.
    """

    unit: Unit
    dataset: Dataset
    fit: Mapping[str, Dataset]

    @cached_property
    def samples(self) -> Samples:
        """What the task sees of the split it is judged on, all samples."""
        return samples_of(self.dataset)

    @property
    def splits(self) -> list[Dataset]:
        """The split that is judged, then those learned from."""
        return [self.dataset, *self.fit.values()]

    @property
    def scorable(self) -> bool:
        """Whether the task scores sets of this kind."""
        return self.dataset.info.kind in self.unit.task.kinds


class Datasets:
    """Opens each split once and remembers why one could not be opened."""

    def __init__(self, options: RunOptions, base_dir: Path) -> None:
        self._options, self._base_dir = options, base_dir
        self._opened: dict[Any, Dataset | UserError] = {}

    def get(self, ref: DatasetRef, variant: str | None, split: str | None = None) -> Dataset:
        """Return the split that a unit of this `Unit.dataset_key` is judged on, or another of the same data.

        Raises:
            DataNotFound: it is not where it was looked for.
            DamagedData: it is there but wrong.
        """
        key = (ref, variant, split)
        if key not in self._opened:
            try:
                self._opened[key] = self._open(ref, variant, split)
            except UserError as error:
                self._opened[key] = error
        found = self._opened[key]
        if isinstance(found, UserError):
            raise found
        return found

    def fit_splits(self, ref: DatasetRef, variant: str | None, splits: Sequence[str]) -> dict[str, Dataset]:
        """Return the splits that a unit's task learns from, by name.

        The first must be there, and every one that the catalogue knows.

        Raises:
            DataNotFound: one of these is not there.
            DamagedData: one is there but wrong.
        """
        from rwkvclip_eval.data.catalogue import canonical_name, how_to_complete
        from rwkvclip_eval.data.open import known_splits

        found: dict[str, Dataset] = {}
        for split in splits:
            try:
                found[split] = self.get(ref, variant, split)
            except DataNotFound as error:
                if not found:
                    raise
                if split in known_splits(ref, variant):
                    name = canonical_name(ref.name)
                    cure = how_to_complete(name, variant or "default")
                    why = (
                        f"{name} has an official split {split}; without it, numbers are not "
                        f"comparable. Where a copy lacks it, {cure}."
                    )
                    raise DataNotFound(f"{error} {why}", f"{error.brief} {why}") from error
        return found

    def _open(self, ref: DatasetRef, variant: str | None, split: str | None) -> Dataset:
        from rwkvclip_eval.data.open import limit_dataset, open_dataset

        options = self._options
        dataset = open_dataset(
            ref if split is None else ref.model_copy(update={"split": split}),
            data_root=options.data_root,
            base_dir=self._base_dir,
            variant=variant,
            offline=options.offline,
            cache_dir=options.cache_dir or default_cache_dir(),
        )
        if options.limit is None:
            return dataset
        # A probe can neither learn a class without an image nor choose its strength without a second.
        least = 0 if split is None else 2 * len(dataset.info.class_names)
        return limit_dataset(dataset, max(options.limit, least))


def samples_of(dataset: Dataset, kept: np.ndarray[Any, Any] | None = None) -> Samples:
    """Return what a task sees of a split: its samples without their images, `kept` rows or all."""
    rows = range(len(dataset)) if kept is None else kept
    labels, captions = dataset.labels, dataset.captions
    return Samples(
        info=dataset.info,
        keys=[dataset.keys[i] for i in rows],
        labels=labels if labels is None or kept is None else labels[kept],
        captions=None if captions is None else [captions[i] for i in rows],
    )
