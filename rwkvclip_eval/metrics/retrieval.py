"""Image-text retrieval: the rank of the first right answer, both ways, for any number of captions per image.

Axes: n images, m texts, D embedding. `owner` [m] says which image each text describes, so ragged captions
(MSCOCO has 5 to 7 per image) need no padding and nothing assumes five.

Text retrieval is image → text (find a caption of this image), image retrieval is text → image, as in the
field's tables. Ranks are those of a stable descending sort: from 1, counting every higher score and those of
equal scores that come earlier. Recall@k, the share of ranks ≤ k, then equals the counts of the official
text_image_retrieval.py and of CLIP_benchmark apart from ties, which those leave to their sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.metrics.chunks import require_finite, row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def image_to_text_ranks(
    images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return [n] int64: for each image the rank, from 1, of its best-placed caption among all m texts.

    Args:
        images: [n, D] unit-norm image embeddings.
        texts: [m, D] unit-norm text embeddings.
        owner: [m] index of each text's image; every image owns at least one.

    Example:
        Image 0 scores texts a b c at .3 .9 .5 and owns a and c: b comes first, c second, so its rank is 2.

    Raises:
        ValueError: an embedding is not finite, or an image owns no text.
    """
    require_finite(images=images, texts=texts)
    num_images, num_texts = len(images), len(texts)
    counts = np.bincount(owner, minlength=num_images)
    if len(counts) > num_images or not counts.all():
        raise ValueError(f"owner must name each of the {num_images} images at least once and no other.")
    # Texts grouped by owner: those of images [a, b) are by_owner[first[a] : first[b]].
    by_owner = np.argsort(owner, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)])
    column = np.arange(num_texts)
    ranks = np.empty(num_images, np.int64)
    for rows in row_chunks(num_images, num_texts):
        scores = images[rows] @ texts.T
        own = by_owner[first[rows.start] : first[rows.stop]]
        own_row = owner[own] - rows.start
        starts = first[rows] - first[rows.start]
        own_score = scores[own_row, own]
        best = np.maximum.reduceat(own_score, starts)
        # Of the image's own texts that reach the best score, the earliest is the one a stable sort meets.
        earliest = np.minimum.reduceat(np.where(own_score == best[own_row], own, num_texts), starts)
        ranks[rows] = _stable_rank(scores, best, earliest, column)
    return ranks


def text_to_image_ranks(
    images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return [m] int64: for each text the rank, from 1, of its image among all n images.

    Args:
        images: [n, D] unit-norm image embeddings.
        texts: [m, D] unit-norm text embeddings.
        owner: [m] index of each text's image.

    Raises:
        ValueError: an embedding is not finite.
    """
    require_finite(images=images, texts=texts)
    column = np.arange(len(images))
    ranks = np.empty(len(texts), np.int64)
    for rows in row_chunks(len(texts), len(images)):
        scores = texts[rows] @ images.T
        target = owner[rows]
        ranks[rows] = _stable_rank(scores, scores[np.arange(len(target)), target], target, column)
    return ranks


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


def _stable_rank(
    scores: NDArray[Any], target: NDArray[Any], position: NDArray[np.int64], column: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rank from 1 of the entry at `position` with score `target` in each row of `scores`."""
    above = np.count_nonzero(scores > target[:, None], axis=1)
    level = scores == target[:, None]
    level &= column < position[:, None]
    rank: NDArray[np.int64] = 1 + above + np.count_nonzero(level, axis=1)
    return rank
