"""How images and texts are compared: cosine bit by bit, late interaction against loops over single tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from toy import ColourDataset, ColourEncoder, register, suite

import rwkvclip_eval as rc
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.metrics import retrieval as metrics
from rwkvclip_eval.protocols import STANDARD
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Features, Samples, TaskResult
from rwkvclip_eval.tasks.similarity import (
    COSINE,
    SIMILARITIES,
    Cosine,
    Scores,
    class_blocks,
    class_embeddings,
    score_blocks,
)

if TYPE_CHECKING:
    from rwkvclip_eval.tasks.similarity import Arrays

LATE = SIMILARITIES.get("late_interaction")
CHUNKS = "rwkvclip_eval.metrics.chunks.CHUNK_ELEMENTS"


def token_arrays(generator: np.random.Generator, lengths: Any, most: int, width: int = 6) -> dict[str, Any]:
    """Tokens of unit norm; what stands in padding is large, and in places not finite.

    Every third entry has its tokens last, as towers that pad on the left give them.
    """
    tokens = np.full((len(lengths), most, width), 1e6, np.float32)
    tokens[1::4] = np.nan
    mask = np.zeros((len(lengths), most), np.uint8)
    for i, length in enumerate(lengths):
        part = slice(most - length, most) if i % 3 == 2 else slice(0, length)
        own = generator.standard_normal((length, width))
        tokens[i, part] = own / np.linalg.norm(own, axis=1, keepdims=True)
        mask[i, part] = 1
    return {"tokens": tokens, "token_mask": mask}


def entry(arrays: dict[str, Any], i: int) -> list[np.ndarray[Any, Any]]:
    return [
        token.astype(float)
        for token, there in zip(arrays["tokens"][i], arrays["token_mask"][i], strict=True)
        if there
    ]


def by_hand(images: dict[str, Any], texts: dict[str, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """FILIP's two scores of every pair, token by token."""
    n, m = len(images["tokens"]), len(texts["tokens"])
    to_text, to_image = np.zeros((n, m)), np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            ours, theirs = entry(images, i), entry(texts, j)
            to_text[i, j] = sum(max(a @ b for b in theirs) for a in ours) / len(ours)
            to_image[i, j] = sum(max(a @ b for a in ours) for b in theirs) / len(theirs)
    return to_text, to_image


def sorted_rank(scores: np.ndarray[Any, Any], right: Any) -> int:
    order = list(np.argsort(-scores, kind="stable"))
    return 1 + min(order.index(one) for one in right)


@pytest.mark.parametrize("chunk", [1, 50, 700, 1 << 23])
def test_late_interaction_is_the_mean_best_match_of_ragged_tokens_both_ways(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(CHUNKS, chunk)
    generator = np.random.default_rng(0)
    images = token_arrays(generator, generator.integers(1, 8, 9), 7)
    texts = token_arrays(generator, generator.integers(1, 6, 11), 5)
    expected = by_hand(images, texts)
    LATE.check(images, "images")
    found = [
        np.concatenate([s[way] for _, s in score_blocks(LATE, images, texts, scale=100)]) for way in (0, 1)
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, 100 * other, rtol=0, atol=1e-4)
    # The two directions are different numbers, but those of a pair of one token each.
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def score(task: str, samples: Samples, images: Any, texts: Any) -> TaskResult:
    return TASKS.get(task).score(samples, Features(images=images, texts=texts, similarity=LATE), STANDARD)


def test_zero_shot_classification_averages_scores_over_templates() -> None:
    generator = np.random.default_rng(1)
    n, num_classes, templates = 40, 6, ("a {c}", "the {c}", "one {c}")
    images = token_arrays(generator, generator.integers(1, 8, n), 7)
    texts = token_arrays(generator, generator.integers(1, 6, num_classes * len(templates)), 5)
    expected = by_hand(images, texts)[0].reshape(n, num_classes, len(templates)).mean(axis=2)
    info = DatasetInfo(
        name="mine",
        kind="classification",
        num_samples=n,
        fingerprint="f",
        class_names=tuple("abcdef"),
        templates=templates,
    )
    labels = generator.integers(0, num_classes, n)
    labels[::2] = expected.argmax(axis=1)[::2]
    samples = Samples(info=info, keys=[f"i{i}" for i in range(n)], labels=labels)
    result = score("zero_shot_classification", samples, images, texts)
    table = result.predictions["predictions"].to_pandas()
    assert table.prediction.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(table.label_logit, 100 * expected[np.arange(n), labels], atol=1e-4)
    values = {m.name: m.value for m in result.metrics}
    assert values["top1_accuracy"] == (expected.argmax(axis=1) == labels).mean()
    five = np.argsort(-expected, axis=1)[:, :5]
    assert values["top5_accuracy"] == (five == labels[:, None]).any(axis=1).mean()


@pytest.mark.parametrize("kept", [0, 1 << 27])
def test_retrieval_ranks_each_direction_by_its_own_scores(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(metrics, "KEPT_SCORES", kept)
    generator = np.random.default_rng(2)
    counts = generator.integers(1, 4, 15)
    owner = np.repeat(np.arange(15), counts)
    images = token_arrays(generator, generator.integers(1, 8, 15), 7)
    texts = token_arrays(generator, generator.integers(1, 6, len(owner)), 5)
    to_text, to_image = by_hand(images, texts)
    info = DatasetInfo(name="mine", kind="retrieval", num_samples=15, fingerprint="f")
    captions = [[f"{i} {j}" for j in range(count)] for i, count in enumerate(counts)]
    samples = Samples(info=info, keys=[f"i{i}" for i in range(15)], captions=captions)
    result = score("zero_shot_retrieval", samples, images, texts)
    by_image = [sorted_rank(to_text[i], np.flatnonzero(owner == i)) for i in range(15)]
    by_text = [sorted_rank(to_image[:, j], [owner[j]]) for j in range(len(owner))]
    assert result.predictions["image_to_text"]["rank"].to_pylist() == by_image
    assert result.predictions["text_to_image"]["rank"].to_pylist() == by_text
    # With the other direction's scores the ranks would be others.
    assert by_image != [sorted_rank(to_image[i], np.flatnonzero(owner == i)) for i in range(15)]
    assert by_text != [sorted_rank(to_text[:, j], [owner[j]]) for j in range(len(owner))]
    for example in result.examples:
        query = [text for own in captions for text in own].index(example.query)
        assert list(example.retrieved) == np.argsort(-to_image[:, query])[:5].tolist()


def test_cosine_gives_the_bits_of_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    images, texts = (generator.standard_normal((n, 40)).astype(np.float32) for n in (60, 45))
    sides = {"embedding": images}, {"embedding": texts}
    ((rows, found),) = score_blocks(COSINE, *sides)
    assert rows == slice(0, 60)
    assert found.image_to_text is found.text_to_image
    assert (found.image_to_text == images @ texts.T).all()
    ((_, logits),) = class_blocks(COSINE, *sides, 15, scale=100.0)
    assert (logits == (100.0 * images) @ class_embeddings(texts, 15).T).all()
    # One query, as for examples: the product with its vector.
    one = COSINE.scores(sides[0], {"embedding": texts[7:8]}).text_to_image[:, 0]
    assert (one == images @ texts[7]).all()
    monkeypatch.setattr(CHUNKS, 45 * 7)
    blocks = list(score_blocks(COSINE, *sides))
    assert [rows.stop - rows.start for rows, _ in blocks] == [7] * 8 + [4]
    assert all((scores.image_to_text == images[rows] @ texts.T).all() for rows, scores in blocks)


def test_arrays_that_cannot_be_compared_are_refused_by_name_and_row() -> None:
    generator = np.random.default_rng(4)
    arrays = token_arrays(generator, [2, 3, 1], 4)
    arrays["tokens"][1, 1] = np.nan
    with pytest.raises(ValueError, match="texts must have finite tokens; row 1"):
        LATE.check(arrays, "texts")
    empty = token_arrays(generator, [2, 0], 4)
    with pytest.raises(ValueError, match="images must have finite tokens; row 1"):
        LATE.check(empty, "images")
    with pytest.raises(ValueError, match="images must be finite; row 2"):
        COSINE.check({"embedding": np.array([[1.0], [0.0], [np.inf]])}, "images")


class Farthest(Cosine):
    """A similarity of a user's own: the class that lies farthest wins."""

    def scores(self, images: Arrays, texts: Arrays, scale: float = 1.0) -> Scores:
        near, _ = super().scores(images, texts, scale)
        return Scores(-near, -near)


def encoder(similarity: str) -> ColourEncoder:
    found = ColourEncoder()
    found.info = dataclasses.replace(found.info, similarity=similarity)
    return found


def test_tasks_score_by_the_similarity_that_the_encoder_names(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    own = {name: SIMILARITIES.get(name) for name in SIMILARITIES} | {"farthest": Farthest()}
    monkeypatch.setattr(SIMILARITIES, "_entries", own)
    values = {
        name: rc.evaluate(encoder(name), suite("colours")).value("colours")
        for name in own
        if name != "late_interaction"
    }
    assert values == {"cosine": 1.0, "farthest": 0.0}


def test_an_unknown_similarity_is_named_with_near_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    with pytest.raises(UserError, match=r"Unknown similarity 'cosin'\. Did you mean 'cosine'"):
        rc.evaluate(encoder("cosin"), suite("colours"))
