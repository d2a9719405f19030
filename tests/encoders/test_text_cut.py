"""Padding behind the end-of-text token is left out where that is exact, and only there."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional
from toy import engine

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.encoders.open_clip_text import open_clip_text
from rwkvclip_eval.features.encoding import by_token_count
from rwkvclip_eval.features.store import FeatureStore

LONG = "a description of " + "many different things and " * 30
TEXTS = ["a", "a photo of a cat", LONG, "two dogs"]


def model_of(kind: Any, **text: Any) -> Any:
    config = json.loads(Path("tiny.json").read_text())
    config["text_cfg"] |= text
    torch.manual_seed(0)
    return kind(**config).eval()


def positions(module: Any) -> list[int]:
    """Collect how many positions each call of a text transformer works on."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_causal_towers_give_the_same_embeddings_from_fewer_positions(in_tmp: Path, kind: Any) -> None:
    model = model_of(kind)
    text, tokens = open_clip_text(model), open_clip.tokenize(TEXTS)
    with torch.no_grad():
        expected = [functional.normalize(model.encode_text(row[None])) for row in tokens]
        seen = positions(model.transformer if kind is open_clip.CLIP else model.text.transformer)
        found = [functional.normalize(text(row[None])) for row in tokens]
        together = functional.normalize(text(tokens[[0, 1, 3]]))
    assert seen == [3, 7, 77, 4, 7]
    assert max((a - b).abs().max() for a, b in zip(found, expected, strict=True)) <= 1e-6
    assert (together - torch.cat([expected[i] for i in (0, 1, 3)])).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "changes", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}], ids=str
)
def test_towers_that_need_every_position_keep_them(in_tmp: Path, changes: dict[str, Any]) -> None:
    model = model_of(open_clip.CustomTextCLIP, **changes)
    assert open_clip_text(model) == model.encode_text


def test_a_model_with_a_forward_of_its_own_keeps_every_position(in_tmp: Path) -> None:
    class Mine(open_clip.CustomTextCLIP):
        def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            return super().encode_text(text, normalize) + text.shape[1]

    model = model_of(Mine)
    assert open_clip_text(model) == model.encode_text


def test_rwkv_clip_pools_padding_and_keeps_it(in_tmp: Path) -> None:
    encoder: Any = load_encoder("rwkv.json=random:0")
    seen = positions(encoder._encoder._towers.module.text_model.blocks[0])
    encoder.encode_text(encoder.tokenize(["a"]))
    assert seen == [77]


def test_transformers_clip_is_cut_and_siglip_is_not(hf_clip: Path, hf_siglip: Path) -> None:
    for folder, expected in ((hf_clip, 3), (hf_siglip, 16)):
        encoder: Any = load_encoder(f"hf:{folder}")
        tower = encoder._encoder._towers.module.text_model
        seen = positions(tower.encoder.layers[0].mlp)
        encoder.encode_text(encoder.tokenize(["c"]))
        assert seen == [expected]


def test_the_store_gives_embeddings_in_the_order_of_the_texts(in_tmp: Path, tmp_path: Path) -> None:
    encoder = load_encoder("open_clip:tiny.json=random:0")
    texts = [*TEXTS, TEXTS[1]]
    with FeatureStore(tmp_path) as store:
        found = store.texts(encoder, texts, engine(batch_size=2))["embedding"]
    for text, row in zip(texts, found, strict=True):
        expected = encoder.encode_text(encoder.tokenize([text]))[0]
        assert (torch.from_numpy(row) - expected).abs().max() <= 1e-6


def test_texts_of_like_token_count_share_a_batch(in_tmp: Path, tmp_path: Path) -> None:
    encoder: Any = load_encoder("open_clip:tiny.json=random:0")
    seen = positions(encoder._encoder._towers.module.transformer)
    # By letters they would pair otherwise; the start and end tokens make two more.
    texts = ["a b c d", "i j k l m n o p", "hi", "photograph"]
    with FeatureStore(tmp_path) as store:
        found = store.texts(encoder, texts, engine(batch_size=2))["embedding"]
        assert seen == [3, 10]
        again = store.texts(encoder, texts[::-1], engine(batch_size=2))["embedding"]
    assert seen == [3, 10] and (again == found[::-1]).all()
    for text, row in zip(texts, found, strict=True):
        expected = encoder.encode_text(encoder.tokenize([text]))[0]
        assert (torch.from_numpy(row) - expected).abs().max() <= 1e-6


def test_batches_are_sorted_by_what_stands_before_the_padding() -> None:
    batches = [torch.tensor([[9, 5, 5, 5, 8], [9, 8, 0, 0, 0]]), torch.tensor([[9, 5, 8, 0, 0]])]
    made, order = by_token_count(batches)
    assert [batch.tolist() for batch in made] == [[[9, 8, 0, 0, 0], [9, 5, 8, 0, 0]], [[9, 5, 5, 5, 8]]]
    assert order.tolist() == [1, 2, 0]
    several = [torch.ones(1, 3), torch.ones(2, 2)]
    made, order = by_token_count(several)
    assert made is several and order.tolist() == [0, 1, 2]
