"""Image-text retrieval: the rank of the first right answer, both ways, for any number of captions per image.

Axes: n images, m texts. `owner` [m] says which image each text describes, so ragged captions
(MSCOCO has 5 to 7 per image) need no padding and nothing assumes five.

Text retrieval is image → text (find a caption of this image), image retrieval is text → image, as in the
field's tables. Ranks are those of a stable descending sort: from 1, counting every higher score and those of
equal scores that come earlier. Recall@k, the share of ranks ≤ k, then equals the counts of the official
text_image_retrieval.py and of CLIP_benchmark apart from ties, which those leave to their sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Blocks = Callable[[], Iterable[tuple[slice, tuple[NDArray[np.float32], NDArray[np.float32]]]]]
    """Walks all images: rows, and their scores [rows, m] image → text and text → image (one array where they
    are the same); with the same bits each time."""

KEPT_SCORES = 1 << 27
"""Scores kept, 512 MiB at most: half a matrix, so that MSCOCO's 5,000 × 25,010 take 250 MB. The product of a
larger one is computed twice."""


class Ranks(NamedTuple):
    """Rank, from 1, of every query's first right answer.

    Attributes:
        image_to_text: [n] int64, for each image the rank of its best-placed caption among all m texts.
        text_to_image: [m] int64, for each text the rank of its image among all n images.
    """

    image_to_text: NDArray[np.int64]
    text_to_image: NDArray[np.int64]


def ranks(
    blocks_of: Callable[[NDArray[np.int64]], Blocks], owner: NDArray[np.int64], num_images: int
) -> Ranks:
    """Return the ranks both ways, from blocks of finite scores.

    Args:
        blocks_of: takes an order of the texts, [m] indices, and returns what walks the scores in it.
        owner: [m] index of each text's image; every image owns at least one.
        num_images: n.

    Example:
        Image 0 scores texts a b c at .3 .9 .5 and owns a and c: b comes first, c second, so its rank is 2.

    Raises:
        ValueError: an image owns no text.
    """
    n, m = num_images, len(owner)
    counts = np.bincount(owner, minlength=n)
    if len(counts) > n or not counts.all():
        raise ValueError(f"owner must name each of the {n} images at least once and no other.")
    # Texts grouped by owner: those of image i are first[i] to first[i + 1], in their own order.
    position = np.argsort(owner, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)])
    blocks = blocks_of(position)
    keep = n * m // 2 <= KEPT_SCORES
    kept: list[NDArray[np.float32]] = []

    by_image, ahead = np.empty(n, np.int64), _Tally(m)
    own_score = np.empty(m, np.float32)
    for row, to_text, to_image in _rows(blocks):
        own, known = slice(first[row], first[row + 1]), first[row + 1]
        by_image[row] = 1 + _num_ahead(to_text, position, own)
        own_score[own] = to_image[own]
        # Texts of this image and of those before it, whose own score is known: equal ones stay ahead.
        ahead.add(slice(0, known), to_image[:known] > own_score[:known])
        if keep:
            kept.append(to_image[known:].copy())
    again = enumerate(kept) if keep else ((row, scores[first[row + 1] :]) for row, _, scores in _rows(blocks))
    for row, scores in again:
        later = slice(first[row + 1], m)
        # Texts of images behind this one, which therefore goes ahead at equal scores.
        ahead.add(later, scores >= own_score[later])
    by_text = np.empty(m, np.int64)
    by_text[position] = 1 + ahead.total()
    return Ranks(by_image, by_text)


def _num_ahead(scores: NDArray[np.float32], position: NDArray[np.int64], own: slice) -> int:
    """Return how many texts a stable sort puts before the best-placed one of `own`."""
    best = scores[own].max()
    place = position[own][scores[own] == best].min()
    equal = np.flatnonzero(scores == best)
    return int(np.count_nonzero(scores > best) + np.count_nonzero(position[equal] < place))


class _Tally:
    """Counts per text, added up in bytes."""

    def __init__(self, num_texts: int) -> None:
        self._total = np.zeros(num_texts, np.int64)
        self._bytes = np.zeros(num_texts, np.uint8)
        self._added = 0

    def add(self, texts: slice, counted: NDArray[np.bool_]) -> None:
        """Add 1 to those of `texts` that are `counted`."""
        self._bytes[texts] += counted.view(np.uint8)
        self._added += 1
        if self._added == np.iinfo(np.uint8).max:
            self.total()

    def total(self) -> NDArray[np.int64]:
        """Return the counts so far."""
        self._total += self._bytes
        self._bytes[:] = 0
        self._added = 0
        return self._total


def _rows(blocks: Blocks) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield every image with its scores [m] both ways."""
    for rows, scores in blocks():
        yield from zip(range(rows.start, rows.stop), *scores, strict=True)


def recall_at_k(ranks: NDArray[np.int64], k: int) -> float:
    """Return the fraction of queries whose first right answer is among the top k."""
    return float(np.count_nonzero(ranks <= k) / len(ranks))


def median_rank(ranks: NDArray[np.int64]) -> float:
    """Return the median of ranks from 1; the mean of the middle two for an even number of queries."""
    return float(np.median(ranks))


def chance_recall(num_right: NDArray[np.int64], num_candidates: int, k: int) -> float:
    """Return the expected recall@k of a random order.

    Args:
        num_right: right answers of each query (captions per image; 1 for text → image).
        num_candidates: size of the gallery.
        k: ranks that count.
    """
    draws = np.arange(min(k, num_candidates))
    wrong = np.maximum(num_candidates - num_right[:, None] - draws, 0) / (num_candidates - draws)
    return float((1 - wrong.prod(axis=1)).mean())
