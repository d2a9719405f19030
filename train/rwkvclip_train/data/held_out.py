"""Pairs that are held out of training: which, and a source without them or of them alone.

Whether a pair is held out is decided by a hash of its name and the seed: in any order of the data, on any
machine, and when further shards come, the same pairs are.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

    from rwkvclip_train.data.source import PairSource, Text


def held_out(source: PairSource, fraction: float, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the places [n] int64, ascending, of the pairs that are held out.

    Args:
        source: of pairs.
        fraction: of them, about.
        seed: of the recipe.
    """
    bound, salt = round(fraction * 2**64), seed.to_bytes(8, "little")

    def hashed(key: str) -> int:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, salt=salt).digest()
        return int.from_bytes(digest, "little")

    return np.array([i for i, key in enumerate(source.keys()) if hashed(key) < bound], dtype=np.int64)


@dataclass(frozen=True)
class _Part:
    """Some of the pairs of a source.

    Attributes:
        source: of all pairs.
        held: places of those that are held out, ascending, [n] int64.
    """

    source: PairSource
    held: np.ndarray[Any, np.dtype[np.int64]]

    def place(self, index: int) -> int:
        """Return the place of a pair in the source."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the source's and of which pairs these are."""
        held = hashlib.sha256(self.held.astype("<i8").tobytes()).hexdigest()
        return hashlib.sha256(f"{type(self).__name__} {self.source.fingerprint} {held}".encode()).hexdigest()

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of text that pairs of the source have."""
        return self.source.kinds

    def key(self, index: int) -> str:
        """Return the pair's name in the source."""
        return self.source.key(self.place(index))

    def keys(self) -> Iterator[str]:
        """Yield the names of all pairs."""
        return (self.key(index) for index in range(len(self)))

    def image(self, index: int) -> Image:
        """Return the image; see the source."""
        return self.source.image(self.place(index))

    def texts(self, index: int) -> Mapping[str, Sequence[Text]]:
        """Return the usable texts of a pair by kind; see the source."""
        return self.source.texts(self.place(index))

    def lacking(self, kinds: Sequence[str]) -> Sequence[int]:
        """Return which of these pairs have a text of none of `kinds`."""
        lacking = set(map(int, self.source.lacking(kinds)))
        return [index for index in range(len(self)) if self.place(index) in lacking] if lacking else []


class HeldOut(_Part):
    """The pairs that are held out."""

    def place(self, index: int) -> int:
        """Return the place of a pair in the source."""
        return int(self.held[index])

    def __len__(self) -> int:
        return len(self.held)


class WithoutHeldOut(_Part):
    """The other pairs, in their order."""

    def place(self, index: int) -> int:
        """Return the place of a pair in the source: behind as many held out as there are before it."""
        return index + int(np.searchsorted(self._before, index, side="right"))

    @functools.cached_property
    def _before(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How many others stand before each that is held out."""
        return self.held - np.arange(len(self.held))

    def __len__(self) -> int:
        return len(self.source) - len(self.held)
