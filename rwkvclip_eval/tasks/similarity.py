"""How images and texts are compared: every score that a task ranks by comes from here, in blocks.

`cosine` compares one vector of an image with one of a text. `late_interaction` compares their tokens, as
FILIP does (Fine-grained Interactive Language-Image Pre-Training, arXiv 2111.07783): an image's score for a
text is the mean over the image's tokens of each one's best match in the text, a text's score for an image the
same the other way round. `SIMILARITIES` holds them by the name that `EncoderInfo.similarity` gives; a plugin
registers its own there.

Axes: n images, m texts, C classes, P templates, T tokens of an image or text (padded), D embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rwkvclip_eval.metrics.chunks import require_finite, row_chunks
from rwkvclip_eval.registry import Registry

Arrays = Mapping[str, Any]
"""Name → array whose first axis counts images or texts."""


class Scores(NamedTuple):
    """A block of scores, [rows, m] both; one array where the similarity is symmetric.

    Attributes:
        image_to_text: how well each text matches, asked from the image.
        text_to_image: how well the image matches, asked from each text.
    """

    image_to_text: np.ndarray[Any, Any]
    text_to_image: np.ndarray[Any, Any]


class Similarity(ABC):
    """A way to compare images with texts, or images with images.

    Attributes:
        image_arrays: names of the arrays it reads of images.
        text_arrays: names of the arrays it reads of texts.
    """

    image_arrays: tuple[str, ...]
    text_arrays: tuple[str, ...]

    @abstractmethod
    def check(self, arrays: Arrays, what: str) -> None:
        """Refuse arrays that cannot be compared.

        Raises:
            ValueError: a number is not finite, or an entry is empty; the text names `what` and the row.
        """

    @abstractmethod
    def scores(self, images: Arrays, texts: Arrays, scale: float = 1.0) -> Scores:
        """Return the scores of all pairs, times `scale`."""

    def ensemble(self, texts: Arrays, num_classes: int) -> Arrays:
        """Return what stands for C classes: one entry a class, or all texts, whose scores are averaged.

        Args:
            texts: C·P prompts, all of the first class first.
            num_classes: C.
        """
        return texts


def score_blocks(
    similarity: Similarity,
    images: Arrays,
    texts: Arrays,
    *,
    scale: float = 1.0,
    rows: Iterable[slice] | None = None,
) -> Iterator[tuple[slice, Scores]]:
    """Yield rows and their scores against all texts; the same blocks, thus the same bits, each time.

    Args:
        similarity: how to compare.
        images: what the rows are of.
        texts: what they are compared with: texts, or other images.
        scale: multiplier of all scores.
        rows: the blocks; by default each of at most `metrics.chunks.CHUNK_ELEMENTS` scores.
    """
    for part in rows or row_chunks(num_entries(images), num_entries(texts)):
        yield part, similarity.scores(taken(images, part), texts, scale)


def class_blocks(
    similarity: Similarity, images: Arrays, texts: Arrays, num_classes: int, *, scale: float
) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
    """Yield rows and their scores [rows, C] for classes that P prompts each describe.

    Args:
        similarity: how to compare, and how templates combine.
        images: n images.
        texts: C·P prompts, all of the first class first.
        num_classes: C.
        scale: multiplier of all scores.

    Raises:
        ValueError: see `Similarity.check`.
    """
    classifier = similarity.ensemble(texts, num_classes)
    similarity.check(images, "images")
    similarity.check(classifier, "classifier")
    for rows, (scores, _) in score_blocks(similarity, images, classifier, scale=scale):
        averaged = scores.shape[1] != num_classes
        yield rows, scores.reshape(len(scores), num_classes, -1).mean(axis=2) if averaged else scores


def num_entries(arrays: Arrays) -> int:
    """Return how many images or texts there are."""
    return len(next(iter(arrays.values())))


def taken(arrays: Arrays, rows: Any) -> dict[str, Any]:
    """Return the images or texts `rows`, a slice or an index array."""
    return {name: array[rows] for name, array in arrays.items()}


class Cosine(Similarity):
    """The product of two vectors of unit norm; a class is the renormalised mean of its prompts' vectors."""

    image_arrays = ("embedding",)
    text_arrays = ("embedding",)

    def check(self, arrays: Arrays, what: str) -> None:
        """Refuse what is not finite."""
        require_finite(**{what: arrays["embedding"]})

    def scores(self, images: Arrays, texts: Arrays, scale: float = 1.0) -> Scores:
        """Return the products; of numpy arrays or of torch tensors, on their device."""
        left = images["embedding"] if scale == 1 else scale * images["embedding"]
        block = left @ texts["embedding"].T
        return Scores(block, block)

    def ensemble(self, texts: Arrays, num_classes: int) -> Arrays:
        """Return the class embeddings; see `class_embeddings`."""
        return {"embedding": class_embeddings(texts["embedding"], num_classes)}


def class_embeddings(texts: np.ndarray[Any, Any], num_classes: int) -> np.ndarray[Any, Any]:
    """Return [C, D] float32, the unit-norm class embeddings of a prompt ensemble.

    Each prompt's embedding is L2-normalised, those of one class are averaged, the mean is normalised again.

    Args:
        texts: [C·P, D] embeddings, all prompts of the first class first.
        num_classes: C.
    """
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    mean = unit.reshape(num_classes, -1, texts.shape[1]).mean(axis=1)
    normalised: np.ndarray[Any, Any] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return normalised


class LateInteraction(Similarity):
    """Mean over tokens of the best match, both ways; a class' score is the mean over its prompts' scores.

    It reads `tokens` [n, T, D] float32, each of unit norm, and `token_mask` [n, T], non-zero where a token is
    none of padding. What stands in padding has no part in any score.
    """

    image_arrays = ("tokens", "token_mask")
    text_arrays = ("tokens", "token_mask")

    def check(self, arrays: Arrays, what: str) -> None:
        """Refuse tokens that are not finite, and entries without a token."""
        for rows in row_chunks(num_entries(arrays), int(np.prod(arrays["tokens"].shape[1:]))):
            tokens, mask = _without_padding(taken(arrays, rows))
            bad = ~np.isfinite(tokens.sum(axis=(1, 2), dtype=np.float64)) | ~mask.any(axis=1)
            if bad.any():
                row = rows.start + int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"{what} must have finite tokens; row {row} holds NaN, infinity or no token."
                )

    def scores(self, images: Arrays, texts: Arrays, scale: float = 1.0) -> Scores:
        """Return the mean best matches; token products are held in parts of bounded size."""
        n, m = num_entries(images), num_entries(texts)
        found = Scores(np.empty((n, m), np.float32), np.empty((n, m), np.float32))
        pair = images["tokens"].shape[1] * texts["tokens"].shape[1]
        for columns in row_chunks(m, pair):
            right = taken(texts, columns)
            for rows in row_chunks(n, pair * num_entries(right)):
                part = _mean_best(taken(images, rows), right)
                for whole, own in zip(found, part, strict=True):
                    whole[rows, columns] = scale * own
        return found


def _mean_best(images: Arrays, texts: Arrays) -> Scores:
    """Return the mean best matches of a few pairs, whose token products are held at once."""
    (left, left_mask), (right, right_mask) = _without_padding(images), _without_padding(texts)
    (r, t, d), (c, u, _) = left.shape, right.shape
    products = (left.reshape(r * t, d) @ right.reshape(c * u, d).T).reshape(r, t, c, u)
    of_image = np.where(right_mask, products, -np.inf).max(axis=3)
    of_text = np.where(left_mask[:, :, None, None], products, -np.inf).max(axis=1)
    return Scores(
        _masked_mean(of_image, left_mask[:, :, None], axis=1), _masked_mean(of_text, right_mask[None], axis=2)
    )


def _without_padding(arrays: Arrays) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return tokens that are zero where there is padding, and [n, T] bool, where there is none."""
    mask = np.asarray(arrays["token_mask"]) != 0
    return np.where(mask[:, :, None], arrays["tokens"], np.float32(0)), mask


def _masked_mean(values: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    mean: np.ndarray[Any, Any] = np.where(mask, values, 0).sum(axis=axis) / mask.sum(axis=axis)
    return mean


COSINE = Cosine()
SIMILARITIES: Registry[Similarity] = Registry("similarity")
SIMILARITIES.register("cosine", COSINE)
SIMILARITIES.register("late_interaction", LateInteraction())
