import functools
import io
import json
import os
from collections import Counter

import numpy as np
import pytest
import torch
from pair_files import as_rec, as_tar, jpeg, pairs, write_tar
from PIL import Image

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_models import tokenize
from rwkvclip_train.data.build import build_index
from rwkvclip_train.data.open import open_pairs
from rwkvclip_train.data.pairs import Pairs, Part, draw_kind, load
from rwkvclip_train.data.source import fit_ids
from rwkvclip_train.data.synthetic import SyntheticPairs, parse_synthetic
from rwkvclip_train.order import GlobalOrder, key_stream
from rwkvclip_train.recipe import AugmentationRecipe


def of(*sources, seed=0, size_px=(16, 16), tokens=tokenize):
    return Pairs(
        sources,
        image_size_px=size_px,
        tokenize=tokens,
        augmentation=AugmentationRecipe.model_validate({"horizontal_flip": 0.5}),
        seed=seed,
    )


def indexed(folder, write=as_tar):
    write(folder, pairs())
    build_index(folder)
    return open_pairs(folder)


def shares(weights, kinds, draws=4000):
    drawn = Counter(draw_kind(np.random.default_rng([0, i]), kinds, weights) for i in range(draws))
    return {kind: count / draws for kind, count in drawn.items()}


def test_kinds_are_drawn_as_often_as_the_weights_say():
    found = shares(
        {"raw": 1, "synthetic": 2, "generated": 1, "other": 0}, ("raw", "synthetic", "generated", "other")
    )
    # Four standard deviations of 4,000 draws.
    assert found == pytest.approx({"raw": 0.25, "synthetic": 0.5, "generated": 0.25}, abs=0.032)


def test_a_missing_kinds_share_goes_to_the_others_in_proportion():
    found = shares({"raw": 3, "synthetic": 1, "generated": 9}, ("synthetic", "raw"))
    assert found == pytest.approx({"raw": 0.75, "synthetic": 0.25}, abs=0.028)
    assert shares({"raw": 0, "synthetic": 1}, ("raw", "synthetic")) == {"synthetic": 1}
    assert shares(None, ("a", "b")) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.032)


def test_a_sample_does_not_depend_on_others_or_on_global_generators(tmp_path):
    some = of(indexed(tmp_path))
    first = [some[3, i] for i in range(5)]
    torch.manual_seed(7)
    np.random.seed(7)
    state = torch.random.get_rng_state()
    again = of(some.parts[0].source)
    for i in (4, 2, 0, 1, 3):
        found = again[3, i]
        assert torch.equal(found.pixels, first[i].pixels)
        assert (found.text, found.kind) == (first[i].text, first[i].kind)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("write", [as_tar, as_rec])
def test_workers_give_the_same_batches_in_the_same_order(write, tmp_path):
    some = of(indexed(tmp_path, write))
    keys = list(key_stream(GlobalOrder(len(some), 2, 0), first_step=1, num_steps=5))
    loaders = [load(some, iter(keys), num_workers=n) for n in (0, 2)]
    batches = [list(loader) for loader in loaders]
    assert len(batches[0]) == len(batches[1]) == 4
    for one, other in zip(*batches, strict=True):
        pixels, tokens = one
        assert torch.equal(pixels, other.pixels)
        assert torch.equal(tokens, other.tokens)
        assert one.kinds == other.kinds
        assert torch.equal(one.keys, other.keys)


def test_sources_are_repeated_in_whole_and_in_part():
    whole, part = Part(SyntheticPairs(10), repeat=2), Part(SyntheticPairs(10), repeat=0.4)
    more = Part(SyntheticPairs(10), repeat=1.5)
    assert (len(whole), len(part), len(more)) == (20, 4, 15)
    assert [whole.index(0, i) for i in (0, 9, 10, 19)] == [0, 9, 0, 9]
    # Five epochs of four tenths see each pair twice.
    assert Counter(part.index(epoch, i) for epoch in range(5) for i in range(4)) == dict.fromkeys(
        range(10), 2
    )
    assert Counter(more.index(epoch, i) for epoch in range(2) for i in range(15)) == dict.fromkeys(
        range(10), 3
    )
    some = of(whole, part)
    assert len(some) == 24
    assert [some.name((2, i)) for i in (19, 20, 23)] == ["synthetic:9", "synthetic:8", "synthetic:1"]
    # Each repeat of an epoch is a draw of its own.
    assert not torch.equal(some[0, 0].pixels, some[0, 10].pixels)


def test_strings_and_ids_share_a_batch(tmp_path):
    some = of(indexed(tmp_path / "a"), indexed(tmp_path / "b", as_rec))
    samples = [some[0, i] for i in range(10)]
    assert [isinstance(sample.text, str) for sample in samples] == [True] * 5 + [False] * 5
    known = tokenize([text for pair in pairs() for text in (pair.raw, pair.synthetic)])
    for ids in some.collate(samples).tokens:
        assert (known == ids).all(1).any()


def test_stored_ids_are_cut_and_padded_as_the_tokenizer_does():
    text = "one two three four five six seven eight"
    ids = tokenize([text]).numpy()[0]
    for length in (4, 10, 77, 90):
        assert fit_ids(ids, length).tolist() == tokenize([text], context_length=length)[0].tolist()


def test_a_model_of_another_context_takes_stored_ids(tmp_path):
    some = of(indexed(tmp_path, as_rec), tokens=lambda texts: tokenize(texts, context_length=5))
    tokens = some.collate([some[0, 0]]).tokens
    assert tokens.shape == (1, 5)
    assert tokens[0, -1] == 49407


def bomb():
    """A PNG of 20,000 × 20,000 pixels in 50 KB."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


BROKEN = {
    "a cut JPEG": (lambda: jpeg(0, (400, 300))[:3000], "truncated"),
    "no image": (lambda: b"<html>404</html>" * 20, "not an image"),
    "a bomb": (bomb, "at most 178956970 pixels are decoded"),
    "a JPEG of a head alone": (lambda: jpeg(0)[:150], ""),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.timeout(120)
def test_an_image_that_cannot_be_decoded_is_named_with_its_shard(what, num_workers, tmp_path):
    make, said = BROKEN[what]
    members = [("good.jpg", jpeg(1)), ("good.txt", b"x"), ("bad.jpg", make()), ("bad.txt", b"x")]
    write_tar(tmp_path / "7.tar", members)
    build_index(tmp_path)
    some = of(open_pairs(tmp_path))
    with pytest.raises(DamagedData, match=r"7\.tar:bad: .*" + said) as caught:
        list(load(some, iter([[(0, 0)], [(0, 1)]]), num_workers=num_workers))
    assert "Traceback" not in str(caught.value)
    assert "data stats" in str(caught.value)


def test_data_that_change_under_a_run_are_refused(tmp_path):
    source = indexed(tmp_path)
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[:2000])
    with pytest.raises(DamagedData, match=r"0\.tar ends at byte 2000"):
        of(source)[0, 4]
    (tmp_path / "0.tar").write_bytes(content.replace(b'"raw"', b'"war"'))
    with pytest.raises(DamagedData, match=r"0\.tar:p1 has no text of kind raw where it had one"):
        source.texts(1)["raw"]
    (tmp_path / "0.tar").unlink()
    copy = open_pairs
    with pytest.raises(DataNotFound, match=r"0\.tar"):
        copy(tmp_path)


def test_computed_pairs_need_no_data_and_are_the_same_each_time():
    source = parse_synthetic("synthetic:40@64x48")
    assert source is not None
    assert source.image(3).size == (64, 48)
    assert set(source.texts(3)) == {"raw", "synthetic", "generated"}
    some, again = of(source), of(SyntheticPairs(40, (64, 48)))
    assert torch.equal(some[1, 3].pixels, again[1, 3].pixels)
    assert some[1, 3].text == again[1, 3].text
    assert source.fingerprint != SyntheticPairs(41, (64, 48)).fingerprint
    for wrong in ("synthetic:", "synthetic:0", "synthetic:9@1", "synthetic:x"):
        with pytest.raises(UserError, match="expected synthetic:N"):
            parse_synthetic(wrong)


def test_texts_are_read_only_of_the_kind_that_is_drawn(tmp_path, monkeypatch):
    members = [("a.jpg", jpeg(0)), ("a.raw.txt", b"x"), ("a.synthetic.txt", b"y")]
    members += [("b.jpg", jpeg(0)), ("b.json", json.dumps({"raw": "z"}).encode())]
    write_tar(tmp_path / "0.tar", members)
    build_index(tmp_path)
    source = open_pairs(tmp_path)
    texts = source.texts(0)
    assert (len(texts), list(texts), "raw" in texts, "other" in texts) == (
        2,
        ["raw", "synthetic"],
        True,
        False,
    )
    read = []
    monkeypatch.setattr(source._files, "read", lambda *where: read.append(where) or b"y")
    assert texts["synthetic"] == ["y"]
    assert len(read) == 1
    with pytest.raises(KeyError):
        source.texts(1)["synthetic"]


def test_a_tokenizer_is_made_once_and_not_in_every_worker(tmp_path):
    made = tmp_path / "made"
    made.mkdir()

    @functools.cache
    def make():
        (made / str(os.getpid())).touch()
        return tokenize

    some = of(indexed(tmp_path / "pairs"), tokens=lambda texts: make()(texts))
    assert len(list(load(some, iter([[(0, 0)], [(0, 1)]]), num_workers=2))) == 2
    assert [path.name for path in made.iterdir()] == [str(os.getpid())]
