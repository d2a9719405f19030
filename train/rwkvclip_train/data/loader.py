"""Batches in the order of the steps, read ahead by worker processes.

Axes: B pairs of one pass, L context (tokens), H W image height and width (px).
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from rwkvclip_train.data.pairs import Pairs


class Batch(NamedTuple):
    """The pairs of one pass.

    Attributes:
        keys: (epoch, sample) of each pair [B, 2] int64.
        pixels: [B, 3, H, W] float32, normalised.
        tokens: [B, L] int64.
    """

    keys: Tensor
    pixels: Tensor
    tokens: Tensor


def batch_loader(pairs: Pairs, keys: Iterable[list[tuple[int, int]]], *, num_workers: int) -> Iterable[Batch]:
    """Return a loader of a batch for each list of keys, in their order; iterated once."""
    loader: DataLoader[Any] = DataLoader(
        _Batches(pairs),
        # A list of keys is one index of `_Batches`: the loader itself collates nothing.
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_parent,
    )
    return loader


class _Batches(TorchDataset[Batch]):
    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch:
        return Batch(torch.tensor(keys), *self.pairs.collate([self.pairs[key] for key in keys]))


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(_: int) -> None:
    # Schedulers and terminals signal the whole group; the step that is under way still needs its batch.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
