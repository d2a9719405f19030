"""What training asks of a set of pairs; an evaluation dataset with texts is one such set.

A pair is an image with texts of one or more kinds (`raw`, `synthetic`, `generated`, `txt`, …). A text is a
string, or the ids that CLIP's tokenizer makes of one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rwkvclip_eval.data.samples import Undecodable
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.printable import unreadable
from rwkvclip_models.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

    from rwkvclip_eval.data.types import Dataset

CONTEXT = 77
"""Ids of a text that was stored as tokens: CLIP's context."""
LONGEST = 2000
"""Characters of a text; of a longer one 77 tokens would hold a small part, and it is rarely a caption."""
NO_TEXT = (0, VOCABULARY - 1)
"""Ids that follow the start where a text has no word: padding, end."""

Text = str | np.ndarray[Any, np.dtype[np.int64]]
"""A string, or token ids [77] int64."""


class PairSource(Protocol):
    """Pairs with random access. Picklable, and light to pickle: workers read images and texts themselves."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that other pairs, or the same ones in another order, would not have."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of text that its pairs have, not each of them all."""
        ...

    def __len__(self) -> int:
        """Return the number of pairs."""
        ...

    def key(self, index: int) -> str:
        """Return what names a pair, unique in the source: `SHARD:KEY`."""
        ...

    def keys(self) -> Iterator[str]:
        """Yield the names of all pairs in their order."""
        ...

    def image(self, index: int) -> Image:
        """Return the image, opened; its pixels may be read later, at a smaller scale.

        Raises:
            DamagedData: it is no image, or one of too many pixels; the text names the pair.
            DataNotFound: the file or its disk cannot be read now.
        """
        ...

    def texts(self, index: int) -> Mapping[str, Sequence[Text]]:
        """Return the usable texts of a pair by kind; a kind of which it has none is no key.

        Raises:
            DamagedData: they cannot be read; the text names the pair.
        """
        ...

    def lacking(self, kinds: Sequence[str]) -> Sequence[int]:
        """Return which pairs have a text of none of `kinds`."""
        ...


@dataclass(frozen=True)
class ImagesWithTexts:
    """One split of an evaluation dataset and the texts of each of its images.

    Attributes:
        dataset: where images come from.
        by_kind: kind → a non-empty list of texts per image, in the dataset's order.
    """

    dataset: Dataset
    by_kind: Mapping[str, Sequence[Sequence[str]]]

    @property
    def fingerprint(self) -> str:
        """The dataset's."""
        return self.dataset.info.fingerprint

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of text; every image has all."""
        return tuple(self.by_kind)

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, index: int) -> str:
        """Return `NAME/SPLIT:KEY`."""
        info = self.dataset.info
        return f"{info.name}/{info.split}:{self.dataset.keys[index]}"

    def keys(self) -> Iterator[str]:
        """Yield the names of all pairs."""
        return (self.key(index) for index in range(len(self)))

    def image(self, index: int) -> Image:
        """Return the decoded image.

        Raises:
            DamagedData: it cannot be decoded.
            DataNotFound: its file cannot be read now.
        """
        return self.dataset.image(index)

    def texts(self, index: int) -> Mapping[str, Sequence[Text]]:
        """Return the texts of an image by kind."""
        return {kind: texts[index] for kind, texts in self.by_kind.items()}

    def lacking(self, kinds: Sequence[str]) -> Sequence[int]:
        """Return no image, or all."""
        return [] if set(kinds) & set(self.by_kind) else range(len(self))


def wrong_text(text: str, longest: int = LONGEST) -> str:
    """Return why a text is not drawn, as a message counts it; nothing where it is fine.

    Args:
        text: of a pair.
        longest: characters it may have.
    """
    if len(text) > longest:
        return f"longer than {longest} characters"
    return "empty" if not text or unreadable(text) else ""


def wrong_ids(ids: np.ndarray[Any, Any]) -> str:
    """Return why token ids [77] of any numeric type are no text to draw: empty or damaged; else nothing."""
    low, high = ids.min(), ids.max()
    if not (low >= 0 and high < VOCABULARY and (ids.dtype.kind in "iu" or (ids == np.floor(ids)).all())):
        return "damaged"
    return "empty" if ids[1] in NO_TEXT else ""


def fit_ids(ids: np.ndarray[Any, np.dtype[np.int64]], length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return ids [length] of a text stored as ids [77]: padded with 0, or cut as the tokenizer cuts."""
    if length >= len(ids):
        return np.pad(ids, (0, length - len(ids)))
    kept = ids[:length].copy()
    if ids[length:].any():
        kept[-1] = VOCABULARY - 1
    return kept


@functools.cache
def unreadable_image_errors() -> tuple[type[Exception], ...]:
    """Return what decoding raises on damaged bytes; Pillow's plugins raise errors of many kinds."""
    import struct

    return (OSError, ValueError, SyntaxError, struct.error, LookupError, TypeError, EOFError, Undecodable)


def image_damage(error: Exception, where: str) -> DamagedData | DataNotFound:
    """Return the error to raise for an image that could not be opened or decoded.

    Args:
        error: what was raised.
        where: shard and key.
    """
    if isinstance(error, DamagedData | DataNotFound):
        return error
    # Pillow's own errors carry no number.
    if isinstance(error, OSError) and error.errno is not None:
        return DataNotFound(f"Cannot read {where}: {error.strerror}. Check the disk.")
    from PIL import UnidentifiedImageError

    # Its own text holds a memory address.
    said = "not an image" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
    return DamagedData(
        f"Cannot decode the image of {where}: {said}. Fetch the shard again, or leave the pair out: "
        "`rwkvclip-train data stats` lists such pairs, `rwkvclip-train data index --without` takes the list."
    )
