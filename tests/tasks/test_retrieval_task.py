import dataclasses
import hashlib

import numpy as np
import pytest

from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import DamagedData
from rwkvclip_eval.metrics import retrieval as metrics
from rwkvclip_eval.protocols import CLIP_BENCHMARK, OFFICIAL, STANDARD
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Features, Samples
from rwkvclip_eval.tasks.retrieval import modality_gap
from rwkvclip_eval.tasks.similarity import Cosine

TASK = TASKS.get("zero_shot_retrieval")


def samples(captions):
    info = DatasetInfo(name="flickr8k", kind="retrieval", num_samples=len(captions), fingerprint="f")
    return Samples(info=info, keys=[f"i{i}" for i in range(len(captions))], captions=captions)


def random_case(n=60, noise=0.8):
    """Ragged captions, 1 to 4 per image, scattered around their image."""
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 5, n)
    owner = np.repeat(np.arange(n), counts)
    images = generator.standard_normal((n, 12)).astype(np.float32)
    texts = images[owner] + noise * generator.standard_normal((len(owner), 12)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    case = samples([[f"caption {i} {j}" for j in range(c)] for i, c in enumerate(counts)])
    return case, Features(images={"embedding": images}, texts={"embedding": texts}), owner


def test_captions_carry_the_protocols_prefix_and_its_hash():
    case = samples([["a dog", "dogs"], ["a cat"]])
    assert TASK.texts(case, STANDARD) == ["a dog", "dogs", "a cat"]
    assert TASK.texts(case, OFFICIAL) == ["a photo of a dog", "a photo of dogs", "a photo of a cat"]
    assert TASK.prompt_hash(case, STANDARD) == TASK.prompt_hash(case, CLIP_BENCHMARK)
    assert TASK.prompt_hash(case, STANDARD) != TASK.prompt_hash(case, OFFICIAL)


def test_two_images_with_ragged_captions_give_ranks_checked_by_eye():
    # Scores (images down, captions across): [[.3 .5 .9], [.8 .1 .4]]; captions 0 and 1 belong to image 0.
    case = samples([["first", "second"], ["third"]])
    features = Features(
        images={"embedding": np.eye(2, dtype=np.float32)},
        texts={"embedding": np.array([[0.3, 0.8], [0.5, 0.1], [0.9, 0.4]], np.float32)},
    )
    result = TASK.score(case, features, STANDARD)
    assert result.predictions["image_to_text"].to_pydict() == {"key": ["i0", "i1"], "rank": [2, 2]}
    assert result.predictions["text_to_image"].to_pydict() == {
        "key": ["i0", "i0", "i1"],
        "caption_index": [0, 1, 0],
        "caption_id": [hashlib.sha256(c).hexdigest()[:32] for c in (b"first", b"second", b"third")],
        "rank": [2, 1, 2],
    }
    values = {m.name: m.value for m in result.metrics}
    assert values == pytest.approx(
        {
            "image_retrieval_recall@1": 1 / 3,
            "image_retrieval_recall@5": 1,
            "image_retrieval_recall@10": 1,
            "image_retrieval_median_rank": 2,
            "text_retrieval_recall@1": 0,
            "text_retrieval_recall@5": 1,
            "text_retrieval_recall@10": 1,
            "text_retrieval_median_rank": 2,
        }
    )
    chance = {m.name: m.notes["chance"] for m in result.metrics if "recall@1" in m.name}
    assert chance["image_retrieval_recall@1"] == 0.5
    assert chance["text_retrieval_recall@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_every_value_has_n_and_an_interval_around_it():
    case, features, owner = random_case()
    result = TASK.score(case, features, STANDARD)
    for metric in result.metrics:
        assert metric.n == (len(owner) if metric.name.startswith("image_retrieval") else 60)
        assert metric.ci_low <= metric.value <= metric.ci_high
        assert metric.ci_method
    counted = {"num_images": 60, "num_captions": len(owner), "caption_prefix": ""}
    assert counted.items() <= result.notes.items()


def test_the_gap_between_images_and_texts_is_that_of_a_loop_over_pairs():
    case, features, owner = random_case()
    notes = TASK.score(case, features, STANDARD).notes
    images, texts = (x.astype(np.float64) for x in (features.image_embedding, features.text_embedding))
    pairs = [(i, j, images[i] @ texts[j]) for i in range(len(images)) for j in range(len(texts))]
    matched = [cosine for i, j, cosine in pairs if owner[j] == i]
    others = [cosine for i, j, cosine in pairs if owner[j] != i]
    gap = np.sqrt(((images.mean(axis=0) - texts.mean(axis=0)) ** 2).sum())
    assert notes["matched_cosine"] == pytest.approx(np.mean(matched), abs=1e-6)
    assert notes["unmatched_cosine"] == pytest.approx(np.mean(others), abs=1e-6)
    assert notes["modality_gap"] == pytest.approx(gap, abs=1e-6)


def test_what_is_compared_otherwise_than_by_the_cosine_has_no_gap():
    _, features, owner = random_case()

    class Other(Cosine):
        pass

    assert modality_gap(dataclasses.replace(features, similarity=Other()), owner) == {}


def test_metrics_follow_from_the_prediction_tables():
    case, features, _ = random_case()
    result = TASK.score(case, features, STANDARD)
    for name, table in (("image_retrieval", "text_to_image"), ("text_retrieval", "image_to_text")):
        ranks = result.predictions[table].column("rank").to_numpy()
        for metric in result.metrics:
            if metric.name.startswith(f"{name}_recall"):
                assert metric.value == metrics.recall_at_k(ranks, int(metric.name.split("@")[1]))


def test_scores_repeat_exactly():
    case, features, _ = random_case()
    first, again = (TASK.score(case, features, OFFICIAL) for _ in range(2))
    assert first.metrics == again.metrics
    assert first.examples == again.examples
    assert all(first.predictions[name].equals(again.predictions[name]) for name in first.predictions)


def test_examples_mix_hits_and_misses_of_different_images():
    case, features, _ = random_case()
    examples = TASK.score(case, features, OFFICIAL).examples
    assert len(examples) == 8
    assert len({e.target for e in examples}) == 8
    assert sum(e.retrieved[0] == e.target for e in examples) == 4
    for example in examples:
        assert example.query.startswith(f"a photo of caption {example.target} ")
        assert list(example.scores) == sorted(example.scores, reverse=True)
        assert len(example.retrieved) == 5


def test_examples_fill_up_where_there_are_no_misses():
    case, features, _ = random_case(noise=0.0)
    examples = TASK.score(case, features, STANDARD).examples
    assert len(examples) == 8
    assert all(e.retrieved[0] == e.target for e in examples)


def test_an_image_without_captions_is_named():
    with pytest.raises(DamagedData, match="image 'i1' has no caption"):
        TASK.texts(samples([["a"], []]), STANDARD)


def test_models_of_unlike_quality_are_shown_on_the_same_captions_for_half_of_the_gallery():
    queries = []
    for noise in (0.0, 0.5, 5.0):
        case, features, _ = random_case(noise=noise)
        queries.append([e.query for e in TASK.score(case, features, STANDARD).examples])
    shared = set(queries[0]) & set(queries[1]) & set(queries[2])
    assert len(shared) >= 4
