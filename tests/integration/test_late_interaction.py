"""An encoder of a user's own that gives tokens: stored, read back, and compared by late interaction."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from toy import COLOURS, ColourDataset, ColourEncoder, engine, register_splits, task_suite

import rwkvclip_eval as rc
from rwkvclip_eval.encoders.checked import CheckedEncoder
from rwkvclip_eval.encoders.protocol import ImageFeatures, TextFeatures
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.store import FeatureStore

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = 4


class TokenEncoder(ColourEncoder):
    """Tokens are the colours of an image's quarters, of which dark ones have two, and those a text names."""

    def __init__(self) -> None:
        super().__init__("tokens")
        own = {"tokens": (TOKENS, 3), "token_mask": (TOKENS,)}
        self.info = dataclasses.replace(
            self.info, similarity="late_interaction", image_arrays=own, text_arrays=own
        )

    def encode_image(self, pixels: torch.Tensor) -> ImageFeatures:
        plain = super().encode_image(pixels)
        quarters = pixels.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).flatten(2).transpose(1, 2)
        mask = torch.ones(len(pixels), TOKENS)
        mask[pixels.mean((1, 2, 3)) < 0.36, 2:] = 0
        return ImageFeatures(*plain[:2], self.arrays(quarters, mask))

    def encode_text(self, tokens: torch.Tensor) -> TextFeatures:
        there = torch.cat([tokens, torch.ones(len(tokens), 1)], dim=1)
        each = torch.cat([torch.eye(3), torch.full((1, 3), 0.5)]).expand(len(tokens), -1, -1)
        return TextFeatures(super().encode_text(tokens), self.arrays(each, there))

    def arrays(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        unit = torch.nn.functional.normalize(tokens, dim=-1) * mask[..., None]
        return {"tokens": unit, "token_mask": mask}


def by_hand(encoder: TokenEncoder, dataset: ColourDataset, texts: list[str]) -> tuple[Any, Any]:
    """FILIP's two scores of every pair, token by token, from the encoder alone."""
    pixels = torch.stack([encoder.preprocess(dataset.image(i)) for i in range(len(dataset))])
    images, words = encoder.encode_image(pixels).arrays, encoder.encode_text(encoder.tokenize(texts)).arrays

    def tokens(arrays: Any, i: int) -> list[Any]:
        pairs = zip(arrays["tokens"][i], arrays["token_mask"][i], strict=True)
        return [token.double().numpy() for token, there in pairs if there]

    ways = np.zeros((2, len(dataset), len(texts)))
    for i in range(len(dataset)):
        for j in range(len(texts)):
            ours, theirs = tokens(images, i), tokens(words, j)
            ways[0, i, j] = np.mean([max(a @ b for b in theirs) for a in ours])
            ways[1, i, j] = np.mean([max(a @ b for a in ours) for b in theirs])
    return ways[0], ways[1]


def test_zero_shot_and_retrieval_score_stored_tokens_as_a_loop_over_them_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captions = [[f"number {i} is {name}", name] for i, name in zip(range(24), list(COLOURS) * 8, strict=True)]
    dataset = ColourDataset(24)
    register_splits(monkeypatch, test=dataset)
    encoder = TokenEncoder()
    suite = task_suite("zero_shot_classification")
    results = rc.evaluate(encoder, suite, batch_size=5, cache_dir=tmp_path)
    prompts = [f"a {name} picture" for name in COLOURS]
    expected, _ = by_hand(encoder, dataset, prompts)
    (tables,) = results.predictions.values()
    frame = tables["predictions"].to_pandas()
    top = np.take_along_axis(100 * expected, np.stack(frame.top_ids), axis=1)
    np.testing.assert_allclose(np.stack(frame.top_logits), top, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.diff(top), np.minimum(np.diff(top), 1e-4), rtol=0, atol=1e-9)

    dataset.captions = captions
    dataset.labels = None
    dataset.info = dataclasses.replace(dataset.info, kind="retrieval", class_names=(), templates=())
    results = rc.evaluate(encoder, task_suite("zero_shot_retrieval"), batch_size=7, cache_dir=tmp_path)
    texts = [text for own in captions for text in own]
    to_text, to_image = by_hand(encoder, dataset, texts)
    tables = next(iter(results.predictions.values()))
    for table, scores, right in (
        ("image_to_text", to_text, [{2 * i, 2 * i + 1} for i in range(24)]),
        ("text_to_image", to_image.T, [{j // 2} for j in range(48)]),
    ):
        ranks = tables[table]["rank"].to_pylist()
        for row, own, rank in zip(scores, right, ranks, strict=True):
            best = max(row[i] for i in own)
            # Ties of one colour are broken by rounding: the rank lies between the strict and the lenient one.
            others = [row[i] for i in range(len(row)) if i not in own]
            assert sum(s > best + 1e-5 for s in others) < rank <= 1 + sum(s > best - 1e-5 for s in others)
    # What was stored for the first run was read by the second: images are the same.
    assert rc.evaluate(encoder, task_suite("zero_shot_retrieval"), cache_dir=tmp_path).records


def test_any_number_of_declared_arrays_is_stored_resumed_and_read_back(tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    dataset = ColourDataset(18, damaged=(2,))
    whole = FeatureStore(tmp_path / "a").images(TokenEncoder(), dataset, engine(batch_size=4))
    assert {name: array.shape for name, array in whole.arrays.items()} == {
        "embedding": (18, 3),
        "probe": (18, 3),
        "tokens": (18, TOKENS, 3),
        "token_mask": (18, TOKENS),
    }
    assert not whole.arrays["tokens"][2].any()
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path / "b").images(TokenEncoder(), dataset, engine(batch_size=4, on_progress=stop))
    encoder = TokenEncoder()
    resumed = FeatureStore(tmp_path / "b").images(encoder, dataset, engine(batch_size=4))
    assert encoder.images < 12
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, resumed.arrays[name])
    again = TokenEncoder()
    read = FeatureStore(tmp_path / "b").images(again, dataset, engine())
    assert again.images == 0
    np.testing.assert_array_equal(read.arrays["tokens"], whole.arrays["tokens"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_arrays": {"tokens": (TOKENS, 2), "token_mask": (TOKENS,)}}, r"\[\d+, 4, 3\], expected"),
        ({"image_arrays": {"tokens": (TOKENS, 3), "other": (1,)}}, "token_mask of images"),
        ({"text_arrays": {}}, "tokens of texts and token_mask of texts"),
        ({"similarity": "late_interacton"}, "Did you mean 'late_interaction'"),
    ],
)
def test_arrays_that_are_not_as_declared_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    register_splits(monkeypatch, test=ColourDataset(6))
    encoder = TokenEncoder()
    encoder.info = dataclasses.replace(encoder.info, **change)
    with pytest.raises(UserError, match=said):
        rc.evaluate(CheckedEncoder(encoder), task_suite("zero_shot_classification"))
