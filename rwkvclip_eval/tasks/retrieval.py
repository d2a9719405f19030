"""Zero-shot image-text retrieval by the encoder's similarity, both directions.

Predictions:
    image_to_text   key, rank   one row per image: rank from 1 of its best-placed caption
    text_to_image   key, caption_index, caption_id, rank   one row per caption of image `key`: rank from 1 of
                                that image; `caption_id` is a digest of the caption

Axes: n images, m captions.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.errors import DamagedData
from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.metrics import retrieval as metrics
from rwkvclip_eval.metrics.chunks import row_chunks
from rwkvclip_eval.records.metrics import median_rank, recall
from rwkvclip_eval.tasks.base import (
    Features,
    MetricValue,
    Need,
    RetrievalExample,
    Samples,
    Task,
    TaskResult,
    hash_prompts,
)
from rwkvclip_eval.tasks.classification import interval_fields
from rwkvclip_eval.tasks.similarity import COSINE, num_entries, score_blocks, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetKind
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.tasks.similarity import Scores

KS = (1, 5, 10)
NUM_EXAMPLES = 8
EXAMPLE_DEPTH = 5
"""Images shown per example query."""
CAPTION_ID_CHARS = 32


class ZeroShotRetrieval(Task):
    """Recall@1/5/10 and median rank; text retrieval is image → text, image retrieval text → image."""

    name = "zero_shot_retrieval"
    version = 2
    description = (
        "The rank of an image's first caption among all captions, and of a caption's image among all."
    )
    needs: frozenset[Need] = frozenset({"text", "embedding"})
    kinds: frozenset[DatasetKind] = frozenset({"retrieval"})
    gives = frozenset(
        metric.name
        for retrieved in ("image", "text")
        for metric in (*(recall(retrieved, k) for k in KS), median_rank(retrieved))
    )
    protocols = ("standard", "official-rwkv-clip", "clip-benchmark")

    def texts(self, samples: Samples, protocol: Protocol) -> Sequence[str]:
        """Return all captions with the protocol's prefix, those of the first image first."""
        return [protocol.caption_prefix + caption for _, _, caption in _captions(samples)]

    def prompt_hash(self, samples: Samples, protocol: Protocol) -> str:
        """Return the SHA-256 (hex) of the caption prefix."""
        return hash_prompts((), (), protocol.caption_prefix)

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return recalls and median ranks with intervals, every query's rank, and example queries.

        Raises:
            DamagedData: an image has no caption.
            ValueError: an embedding is not finite.
        """
        captions = list(_captions(samples))
        owner = np.array([image for image, _, _ in captions], np.int64)
        n, m = num_entries(features.images), num_entries(features.texts)
        assert n == len(samples.keys) and m == len(owner)
        by_image, by_text = ranks(features, owner)
        one = np.ones(1, np.int64)
        values = [
            *_direction("image", by_text, owner, num_right=one, num_candidates=n),
            *_direction("text", by_image, np.arange(n), num_right=np.bincount(owner), num_candidates=m),
        ]
        queries = _choose_examples(by_text, owner)
        return TaskResult(
            metrics=values,
            predictions=_tables(samples, captions, by_image, by_text),
            examples=[_example(features, q, protocol.caption_prefix, captions[q]) for q in queries],
            notes={
                "num_images": n,
                "num_captions": m,
                "caption_prefix": protocol.caption_prefix,
                **modality_gap(features, owner),
            },
        )


def ranks(features: Features, owner: NDArray[np.int64]) -> metrics.Ranks:
    """Return the ranks both ways; `owner` [m] says which image each text describes.

    Raises:
        ValueError: a feature is not finite, or an image owns no text.
    """
    similarity, images = features.similarity, features.images
    similarity.check(images, "images")
    similarity.check(features.texts, "texts")

    def blocks(order: NDArray[np.int64]) -> Callable[[], Iterator[tuple[slice, Scores]]]:
        return functools.partial(score_blocks, similarity, images, taken(features.texts, order))

    return metrics.ranks(blocks, owner, num_entries(images))


def modality_gap(features: Features, owner: NDArray[np.int64]) -> dict[str, float]:
    """Return how far apart images and texts lie (Liang et al., Mind the Gap, NeurIPS 2022).

    `modality_gap` is the distance of the mean image from the mean text, `matched_cosine` the mean cosine of a
    text and its image, `unmatched_cosine` that of a text and any other. Nothing where they are compared by
    something else than the cosine.

    Args:
        features: of n images and m texts, of unit norm.
        owner: [m] image of each text.
    """
    if features.similarity is not COSINE:
        return {}
    images, texts = features.image_embedding, features.text_embedding
    n, m = len(images), len(texts)
    mean_image, mean_text = (x.mean(axis=0, dtype=np.float64) for x in (images, texts))
    matched = sum(
        float(np.einsum("ij,ij->", images[owner[rows]], texts[rows], dtype=np.float64))
        for rows in row_chunks(m, images.shape[1])
    )
    found = {
        "modality_gap": float(np.linalg.norm(mean_image - mean_text)),
        "matched_cosine": matched / m,
    }
    if n > 1:
        found["unmatched_cosine"] = (n * m * float(mean_image @ mean_text) - matched) / (n * m - m)
    return found


def _captions(samples: Samples) -> Iterator[tuple[int, int, str]]:
    """Yield (image index, caption index within the image, caption) in the order texts are encoded."""
    assert samples.captions is not None and len(samples.captions) == len(samples.keys)
    if not samples.keys:
        raise DamagedData(f"{samples.info.name}/{samples.info.split} holds no samples to score.")
    for image, captions in enumerate(samples.captions):
        if not captions:
            raise DamagedData(
                f"{samples.info.name}/{samples.info.split}: image {samples.keys[image]!r} has no caption; "
                "retrieval needs at least one for every image."
            )
        for index, caption in enumerate(captions):
            yield image, index, caption


def _direction(
    retrieved: str,
    ranks: NDArray[np.int64],
    owner: NDArray[np.int64],
    *,
    num_right: NDArray[np.int64],
    num_candidates: int,
) -> list[MetricValue]:
    """Return recalls and median rank of one direction; `owner` [queries] is each query's image."""
    values = [
        MetricValue(
            metric=recall(retrieved, k),
            value=metrics.recall_at_k(ranks, k),
            n=len(ranks),
            **interval_fields(statistics.recall(ranks <= k, owner)),
            notes={
                "chance": metrics.chance_recall(num_right, num_candidates, k),
                "num_candidates": num_candidates,
            },
        )
        for k in KS
    ]
    values.append(
        MetricValue(
            metric=median_rank(retrieved),
            value=metrics.median_rank(ranks),
            n=len(ranks),
            **interval_fields(statistics.median_rank(ranks, owner, num_candidates)),
            notes={"num_candidates": num_candidates},
        )
    )
    return values


def _tables(
    samples: Samples,
    captions: Sequence[tuple[int, int, str]],
    by_image: NDArray[np.int64],
    by_text: NDArray[np.int64],
) -> dict[str, pa.Table]:
    """Return the prediction tables described at the top of this file."""
    import pyarrow as pa

    keys = list(samples.keys)
    return {
        "image_to_text": pa.table({"key": pa.array(keys, pa.string()), "rank": pa.array(by_image)}),
        "text_to_image": pa.table(
            {
                "key": pa.array([keys[image] for image, _, _ in captions], pa.string()),
                "caption_index": pa.array([index for _, index, _ in captions], pa.int64()),
                "caption_id": pa.array([_caption_id(text) for _, _, text in captions], pa.string()),
                "rank": pa.array(by_text),
            }
        ),
    }


def _caption_id(caption: str) -> str:
    """Return what tells a caption in whatever copy of the data it stands: half its SHA-256 (hex)."""
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()[:CAPTION_ID_CHARS]


def _choose_examples(ranks: NDArray[np.int64], owner: NDArray[np.int64]) -> list[int]:
    """Return up to `NUM_EXAMPLES` captions of different images, half of them hits where possible.

    The first half is drawn whatever the ranks, so that models are shown on the same captions; the other half
    makes up what it has too few of, hits or misses.
    """
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(len(ranks))
    # One caption per image, the first in shuffled order.
    _, first = np.unique(owner[shuffled], return_index=True)
    candidates = [int(q) for q in shuffled[np.sort(first)]]
    half = NUM_EXAMPLES // 2
    chosen, others = candidates[:half], candidates[half:]
    hits = [q for q in others if ranks[q] == 1]
    misses = [q for q in others if ranks[q] > 1]
    wanted_hits = half - sum(ranks[q] == 1 for q in chosen)
    num_hits = min(len(hits), max(wanted_hits, NUM_EXAMPLES - half - len(misses)))
    return [*chosen, *hits[:num_hits], *misses[: NUM_EXAMPLES - half - num_hits]]


def _example(features: Features, query: int, prefix: str, caption: tuple[int, int, str]) -> RetrievalExample:
    """Return the best images of one caption; equal scores keep the order of the images."""
    text = taken(features.texts, slice(query, query + 1))
    scores = features.similarity.scores(features.images, text).text_to_image[:, 0]
    best = np.argsort(-scores, kind="stable")[:EXAMPLE_DEPTH]
    return RetrievalExample(
        query=prefix + caption[2],
        target=caption[0],
        retrieved=[int(i) for i in best],
        scores=[float(scores[i]) for i in best],
    )
