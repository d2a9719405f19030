import importlib.util
import json
import tracemalloc

import numpy as np
import pytest

from rwkvclip_eval.metrics import retrieval as metrics
from rwkvclip_eval.metrics.chunks import require_finite, row_chunks
from rwkvclip_eval.tasks.base import Features
from rwkvclip_eval.tasks.retrieval import ranks as ranks_of

# Two images; image 0 owns captions 0 and 2, image 1 owns caption 1.
# Scores (images down, captions across): [[.3 .9 .5], [.8 .4 .1]].
IMAGES = np.eye(2, dtype=np.float32)
TEXTS = np.array([[0.3, 0.8], [0.9, 0.4], [0.5, 0.1]], np.float32)
OWNER = np.array([0, 1, 0])


def ranks(images, texts, owner):
    return ranks_of(Features(images={"embedding": images}, texts={"embedding": texts}), owner)


def brute_force(images, texts, owner):
    scores = images @ texts.T
    by_image = []
    for i, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        by_image.append(1 + min(list(order).index(t) for t in np.flatnonzero(owner == i)))
    by_text = []
    for t, column in enumerate(texts @ images.T):
        by_text.append(1 + list(np.argsort(-column, kind="stable")).index(owner[t]))
    return by_image, by_text


def unit(generator, *shape):
    rows = generator.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_ranks_of_two_images_and_three_captions():
    # Image 0: order 1 2 0, its best caption is second. Image 1: order 0 1 2, its caption is second.
    assert ranks(IMAGES, TEXTS, OWNER).image_to_text.tolist() == [2, 2]
    # Caption 0 prefers image 1, caption 1 prefers image 0, caption 2 prefers its own.
    assert ranks(IMAGES, TEXTS, OWNER).text_to_image.tolist() == [2, 2, 1]


def test_recall_and_median_of_four_ranks():
    four = np.array([1, 3, 6, 20])
    assert [metrics.recall_at_k(four, k) for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert metrics.median_rank(four) == 4.5
    assert metrics.median_rank(np.array([1, 3, 6])) == 3


def test_equal_scores_rank_in_order_of_position():
    same = np.ones((3, 1), np.float32)
    owner = np.array([2, 1, 0])
    assert ranks(same, same, owner).text_to_image.tolist() == [3, 2, 1]
    assert ranks(same, same, owner).image_to_text.tolist() == [3, 2, 1]
    # Image 0 owns captions 1 and 2, all equal: caption 1 is met first, after caption 0.
    assert ranks(same[:2], same, np.array([1, 0, 0])).image_to_text.tolist() == [2, 1]


@pytest.mark.parametrize("kept", [0, 1 << 27])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 23])
def test_ranks_of_ragged_captions_in_any_order_agree_with_a_sort(monkeypatch, chunk, kept):
    monkeypatch.setattr("rwkvclip_eval.metrics.chunks.CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(metrics, "KEPT_SCORES", kept)
    generator = np.random.default_rng(3)
    owner = np.concatenate([np.arange(30), generator.integers(0, 30, 55)])
    generator.shuffle(owner)
    # Few distinct scores, so that ties abound; small integers are exact whatever the order of summation.
    images = generator.integers(-1, 2, (30, 4)).astype(np.float32)
    texts = generator.integers(-1, 2, (85, 4)).astype(np.float32)
    by_image, by_text = brute_force(images, texts, owner)
    found = ranks(images, texts, owner)
    assert found.image_to_text.tolist() == by_image
    assert found.text_to_image.tolist() == by_text


def test_an_image_behind_300_equal_ones_has_rank_301():
    images = np.ones((310, 1), np.float32)
    owner = np.arange(310)
    assert ranks(images, images, owner).text_to_image.tolist() == list(range(1, 311))


@pytest.mark.parametrize("ragged", [False, True])
def test_recalls_agree_with_the_official_code_and_clip_benchmark(parity, ragged):
    spec = importlib.util.spec_from_file_location("parity_inputs", parity / "inputs.py")
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    golden = json.loads((parity / "eval_golden.json").read_text())["retrieval"]
    images, texts, owner = inputs.retrieval(ragged=ragged)
    by_image, by_text = ranks(images, texts, owner)
    if ragged:
        # The golden file has no ragged figures: an independent sort stands in.
        assert (by_image.tolist(), by_text.tolist()) == brute_force(images, texts, owner)
        return
    assert (len(images), len(texts)) == (golden["n_images"], golden["n_texts"])
    for k in (1, 5, 10):
        image_retrieval, text_retrieval = metrics.recall_at_k(by_text, k), metrics.recall_at_k(by_image, k)
        assert 100 * image_retrieval == pytest.approx(golden["t2i_image_retrieval"][f"r{k}"], abs=1e-9)
        assert 100 * text_retrieval == pytest.approx(golden["i2t_text_retrieval"][f"r{k}"], abs=1e-9)
        theirs = golden["clip_benchmark"]
        assert image_retrieval == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert text_retrieval == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)


def test_ranks_do_not_depend_on_the_order_of_images_and_captions():
    generator = np.random.default_rng(4)
    images, texts = unit(generator, 40, 16), unit(generator, 100, 16)
    owner = np.concatenate([np.arange(40), generator.integers(0, 40, 60)])
    image_order, text_order = generator.permutation(40), generator.permutation(100)
    moved = (images[image_order], texts[text_order], np.argsort(image_order)[owner[text_order]])
    before, after = ranks(images, texts, owner), ranks(*moved)
    assert (after.image_to_text == before.image_to_text[image_order]).all()
    assert (after.text_to_image == before.text_to_image[text_order]).all()


def test_chance_recall_is_that_of_a_random_order():
    assert metrics.chance_recall(np.array([1]), 4, 1) == 0.25
    # Two of four captions are right: both draws wrong with 2/4 · 1/3.
    assert metrics.chance_recall(np.array([2]), 4, 2) == pytest.approx(1 - 1 / 6)
    assert metrics.chance_recall(np.array([1, 2]), 4, 10) == 1


def test_non_finite_embeddings_are_refused_by_name_and_row():
    bad = TEXTS.copy()
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match="texts must be finite; row 1"):
        ranks(IMAGES, bad, OWNER)
    with pytest.raises(ValueError, match="row 0"):
        require_finite(images=np.array([[np.inf, -np.inf]]))


def test_an_image_without_a_caption_is_refused():
    with pytest.raises(ValueError, match="at least once"):
        ranks(IMAGES, TEXTS, np.array([0, 0, 0]))


def test_chunks_cover_every_row_once_within_the_budget():
    chunks = list(row_chunks(25_000, 5_000))
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(25_000))
    assert max(c.stop - c.start for c in chunks) * 5_000 <= 1 << 23


@pytest.mark.parametrize(("kept", "most"), [(1 << 27, 350e6), (0, 100e6)])
def test_25k_captions_against_5k_images_need_well_under_1_gb(monkeypatch, kept, most):
    monkeypatch.setattr(metrics, "KEPT_SCORES", kept)
    generator = np.random.default_rng(5)
    images, texts = unit(generator, 5_000, 8), unit(generator, 25_000, 8)
    owner = np.repeat(np.arange(5_000), 5)
    tracemalloc.start()
    try:
        ranks(images, texts, owner)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < most
