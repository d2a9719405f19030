"""Which samples a step takes, and every random draw of training, as arithmetic: continuing needs no state.

A key is (epoch, sample). The text, crop and flip of a sample are drawn from `sample_rng` of its key, its drop
path from `drop_path_draws`; neither knows how many processes or passes share a step.

Axes: B pairs of a step, over all processes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rwkvclip_train.recipe import Recipe

SHUFFLE_BUFFER = 16_384
"""Samples of a shard among which the official loader (dali.py of deepglint/RWKV-CLIP) draws."""


class Order(Protocol):
    """The samples of every step."""

    @property
    def batch_size(self) -> int:
        """B."""

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Return the epoch and the samples [B] of a step, from 0."""


@dataclass(frozen=True)
class GlobalOrder:
    """Each epoch is a new permutation of all samples; what is left after the last whole batch is dropped.

    Attributes:
        num_samples: in an epoch.
        batch_size: B.
        seed: of the recipe.
        stride: batches that are read for one that is used.
    """

    num_samples: int
    batch_size: int
    seed: int
    stride: int = 1

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Return the epoch and the samples [B] of a step, from 0."""
        epoch, place = divmod(step * self.stride, self.num_samples // self.batch_size)
        order = _permutation(self.num_samples, self.seed, epoch)
        return epoch, order[place * self.batch_size : (place + 1) * self.batch_size]


@dataclass(frozen=True)
class OfficialOrder:
    """The official loader's: contiguous shards, one a GPU, each read through a shuffle buffer.

    An epoch has as many batches as its longest shard needs; shards are filled up from their own beginning. A
    batch holds the shares of the GPUs one after the other. Not as there, the buffer is empty at the end of an
    epoch, so that no epoch depends on another.

    Attributes:
        num_samples: in an epoch.
        batch_size: B.
        seed: of the recipe.
        world_size: GPUs of the run that is reproduced, however many processes this one has.
        stride: batches that are read for one that is used.
        buffer: samples among which a shard's next one is drawn.
    """

    num_samples: int
    batch_size: int
    seed: int
    world_size: int = 8
    stride: int = 1
    buffer: int = SHUFFLE_BUFFER

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Return the epoch and the samples [B] of a step, from 0."""
        share = self.batch_size // self.world_size
        longest = -(-self.num_samples // self.world_size)
        epoch, place = divmod(step * self.stride, -(-longest // share))
        places = np.arange(place * share, (place + 1) * share)
        shards = (self._shard(epoch, shard) for shard in range(self.world_size))
        return epoch, np.concatenate([shard[places % len(shard)] for shard in shards])

    def _shard(self, epoch: int, shard: int) -> NDArray[np.int64]:
        first, end = (self.num_samples * number // self.world_size for number in (shard, shard + 1))
        return first + _buffered(end - first, self.buffer, self.seed, epoch, shard)


def order_of(recipe: Recipe, num_samples: int) -> tuple[Order, int]:
    """Return the order that a recipe asks for, and the passes in which a step takes a process' share.

    The official script clears the gradients before each of the batches that it is to accumulate, and takes
    its step after the first: the others are read and lost.
    """
    quirks, size, seed = recipe.quirks, recipe.batch_size, recipe.seed
    dropped = recipe.accumulation if quirks.accumulation_drops_batches else 1
    order: Order = (
        OfficialOrder(num_samples, size // dropped, seed, recipe.world_size, dropped)
        if quirks.shuffle_buffer_order
        else GlobalOrder(num_samples, size // dropped, seed, dropped)
    )
    return order, recipe.accumulation // dropped


def batch_keys(
    order: Order, step: int, *, rank: int = 0, num_ranks: int = 1, part: int = 0, num_parts: int = 1
) -> list[tuple[int, int]]:
    """Return the (epoch, sample) keys that one process takes in one pass of a step.

    The batch is cut into equal runs, one a process, and each of those into equal runs, one a pass, so that
    the batch is the same however it is cut.
    """
    epoch, samples = order.batch(step)
    mine = np.split(np.split(samples, num_ranks)[rank], num_parts)[part]
    return [(epoch, int(sample)) for sample in mine]


def key_stream(
    order: Order, *, first_step: int, num_steps: int, rank: int = 0, num_ranks: int = 1, num_parts: int = 1
) -> Iterator[list[tuple[int, int]]]:
    """Yield `batch_keys` of every pass of the steps from `first_step` to `num_steps` − 1."""
    for step in range(first_step, num_steps):
        for part in range(num_parts):
            yield batch_keys(order, step, rank=rank, num_ranks=num_ranks, part=part, num_parts=num_parts)


def check_shares(name: str, batch_size: int, num_ranks: int, num_parts: int) -> None:
    """Refuse a batch that cannot be cut into equal shares.

    Raises:
        RecipeError: it cannot.
    """
    if batch_size % (num_ranks * num_parts):
        raise RecipeError(
            f"Recipe {name}: batch_size {batch_size} cannot be shared equally by {num_ranks} processes times "
            f"accumulation {num_parts}: choose a multiple of {num_ranks * num_parts}."
        )


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """Return the generator of a sample's text, crop and flip in an epoch."""
    return np.random.default_rng([seed, epoch, sample])


def drop_path_draws(seed: int, step: int, samples: NDArray[np.int64], num_layers: int) -> NDArray[np.float64]:
    """Return uniform draws in [0, 1) [num_layers, 2, n] of a step's `samples` [n]; 2 are a layer's two paths.

    Each is a hash of (seed, step, sample, layer, path).
    """
    places = np.arange(2 * num_layers, dtype=np.uint64)
    row = _hashed(_hashed(np.array([seed], np.uint64)) + np.uint64(step))
    mixed = _hashed(_hashed(row + samples.astype(np.uint64)) + places[:, None])
    return (mixed >> np.uint64(11)).reshape(num_layers, 2, -1).astype(np.float64) * 2.0**-53


def keys_digest(epochs: NDArray[np.int64], samples: NDArray[np.int64], first_row: int = 0) -> int:
    """Return a 64-bit digest of the keys in the rows from `first_row` of a batch.

    Digests of the parts of a batch, added modulo 2^64, are that of the batch.
    """
    rows = np.arange(first_row, first_row + len(samples), dtype=np.uint64)
    return int(np.sum(_hashed(_hashed(_hashed(rows) + epochs.astype(np.uint64)) + samples.astype(np.uint64))))


def _hashed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the step of SplitMix64 (Steele, Lea and Flood 2014) from each of `words` (uint64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@functools.lru_cache(maxsize=1)
def _permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


@functools.lru_cache(maxsize=64)
def _buffered(num_samples: int, buffer: int, seed: int, epoch: int, shard: int) -> NDArray[np.int64]:
    """Return 0 … num_samples − 1 as they leave a shuffle buffer.

    A sample leaves from a place drawn at random and the next one of the shard takes it; at the end the last
    of the buffer does. While the buffer is full, what leaves a place is what came when it was last drawn.
    """
    rng = np.random.default_rng([seed, epoch, shard])
    size = min(buffer, num_samples)
    drawn = rng.integers(size, size=num_samples - size)
    by_place = np.argsort(drawn, kind="stable")
    ordered = drawn[by_place]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    left = drawn.copy()
    left[by_place[again]] = by_place[again - 1] + size
    held = np.arange(size)
    held[drawn] = np.arange(size, num_samples)
    rest, last = held.tolist(), []
    for place in rng.integers(np.arange(size, 0, -1)).tolist():
        rest[place], rest[-1] = rest[-1], rest[place]
        last.append(rest.pop())
    return np.concatenate([left, np.array(last, dtype=np.int64)])
