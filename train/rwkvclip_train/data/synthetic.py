"""Pairs that are computed: for measuring the speed of a loop or a loader without data."""

from __future__ import annotations

import functools
import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.reading import open_image
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

    from rwkvclip_train.data.source import Text

NAME = "synthetic:"
KINDS = ("raw", "synthetic", "generated")
_PICTURES = 32
_WORDS = ("red", "small", "dog", "tree", "on", "a", "street", "two", "boats", "old", "house", "in", "water")


@dataclass(frozen=True)
class SyntheticPairs:
    """A `PairSource` of JPEG files with smooth and noisy parts, and made-up texts of three kinds.

    Attributes:
        num_pairs: how many; the images repeat.
        size_px: (width, height) of the images.
    """

    num_pairs: int
    size_px: tuple[int, int] = (256, 256)

    @property
    def fingerprint(self) -> str:
        """Of the settings."""
        return hashlib.sha256(repr(("synthetic", 1, self.num_pairs, self.size_px)).encode()).hexdigest()

    @property
    def kinds(self) -> Sequence[str]:
        """Those of RWKV-CLIP."""
        return KINDS

    def __len__(self) -> int:
        return self.num_pairs

    def key(self, index: int) -> str:
        """Return `synthetic:NUMBER`."""
        return f"{NAME}{index}"

    def keys(self) -> Iterator[str]:
        """Yield the names of all pairs."""
        return map(self.key, range(self.num_pairs))

    def content(self, index: int) -> bytes:
        """Return the bytes of an image file."""
        return _jpeg(index % _PICTURES, self.size_px)

    def image(self, index: int) -> Image:
        """Return an image, of which only the header is decoded yet."""
        return open_image(self.content(index))

    def texts(self, index: int) -> Mapping[str, Sequence[Text]]:
        """Return one text of each kind."""
        rng = np.random.default_rng(index)
        return {
            kind: [" ".join(_WORDS[i] for i in rng.integers(len(_WORDS), size=length))]
            for kind, length in zip(KINDS, (5, 9, 25), strict=True)
        }

    def lacking(self, kinds: Sequence[str]) -> Sequence[int]:
        """Return no pair, or all."""
        return [] if set(kinds) & set(KINDS) else range(self.num_pairs)


def parse_synthetic(text: str) -> SyntheticPairs | None:
    """Return what `synthetic:N` or `synthetic:N@WIDTHxHEIGHT` asks for; None for any other text.

    Raises:
        UserError: it begins so and goes on otherwise.
    """
    if not text.startswith(NAME):
        return None
    found = re.fullmatch(r"synthetic:([1-9][0-9]{0,8})(?:@([1-9][0-9]{0,3})x([1-9][0-9]{0,3}))?", text)
    if not found:
        raise UserError(f"{text[:60]!r}: expected synthetic:N or synthetic:N@WIDTHxHEIGHT.")
    size = (int(found[2]), int(found[3])) if found[2] else (256, 256)
    return SyntheticPairs(int(found[1]), size)


@functools.lru_cache(maxsize=4 * _PICTURES)
def _jpeg(number: int, size_px: tuple[int, int]) -> bytes:
    from PIL import Image

    rng = np.random.default_rng(number)
    small: Any = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size_px, Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + rng.normal(0, 12, size=smooth.shape).astype(np.int16)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
