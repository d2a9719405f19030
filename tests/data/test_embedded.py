import numpy as np
import pytest
from sklearn.datasets import load_digits

from rwkvclip_eval.data.embedded import (
    COLOURS,
    DIGIT_WORDS,
    GLYPH_SIZE_PX,
    EmbeddedReader,
    digits_samples,
    open_embedded,
    scene_metadata,
)
from rwkvclip_eval.errors import DataNotFound

PINNED = {
    ("digits", "train"): "0b994b01265437e285de5dead20cc4d6b59afce63f8adebf7b25e8d1a02ab844",
    ("digits", "test"): "0a36b7cabc7c88431e19f059b381708fabfadab4286decb24d231032eebe1606",
    ("digits_scenes", "train"): "953292760df7176f47544dc32f1f622b8f76eff65475cf3984e0f0d5c85e2cda",
    ("digits_scenes", "test"): "bd080593a6e96d220ff2afac3326d195d2cc3d492d8ae4bd5ceeda8317c72f96",
}


@pytest.mark.parametrize(("name", "split"), PINNED)
def test_pixels_labels_and_captions_are_the_same_on_every_machine(name, split):
    assert open_embedded(name, split).fingerprint == PINNED[name, split]


def test_halves_share_no_digit_and_are_stratified():
    train, test = digits_samples("train"), digits_samples("test")
    rows = [s.row for s in (*train, *test)]
    assert sorted(rows) == list(range(1797))
    labels = load_digits().target
    assert all(labels[s.row] == s.digit for s in (*train, *test))
    in_train, in_test = (np.bincount([s.digit for s in part]) for part in (train, test))
    assert np.abs(in_test - in_train).max() <= 1


def test_digit_is_the_original_enlarged():
    image = np.asarray(EmbeddedReader("digits", "test").read(3), dtype=float)
    original = load_digits().images[digits_samples("test")[3].row]
    assert image.shape == (64, 64, 3)
    assert (image[..., 0] == image[..., 2]).all()
    blocks = image[..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)) / 15
    assert np.corrcoef(blocks.ravel(), original.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_use_digits_of_their_half_only(split):
    own = {s.row: s.digit for s in digits_samples(split)}
    for scene in scene_metadata(split):
        assert all(own[d.row] == d.digit for d in scene.digits)


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_caption_fits_two_scenes_of_a_split(split):
    captions = [c for scene in scene_metadata(split) for c in scene.captions]
    assert len(captions) == len(set(captions))


def test_captions_are_ragged_and_name_each_digit_with_its_colour():
    scenes = scene_metadata("test")
    assert {len(s.captions) for s in scenes} == {2, 3, 4, 5}
    assert {len(s.digits) for s in scenes} == {2, 3}
    for scene in scenes:
        for caption in scene.captions:
            assert all(f"{d.colour} {DIGIT_WORDS[d.digit]}" in caption for d in scene.digits)


@pytest.mark.parametrize("index", range(12))
def test_scene_shows_each_digit_where_and_in_the_colour_its_metadata_say(index):
    scene = scene_metadata("test")[index]
    image = np.asarray(EmbeddedReader("digits_scenes", "test").read(index), dtype=float)
    for digit in scene.digits:
        box = image[digit.y_px : digit.y_px + GLYPH_SIZE_PX, digit.x_px : digit.x_px + GLYPH_SIZE_PX]
        brightest = box.reshape(-1, 3)[box.sum(axis=2).argmax()]
        colour = np.array(COLOURS[digit.colour])
        assert np.allclose(brightest / brightest.max(), colour / colour.max(), atol=0.02)
        image[digit.y_px : digit.y_px + GLYPH_SIZE_PX, digit.x_px : digit.x_px + GLYPH_SIZE_PX] = 0
    assert not image.any()


@pytest.mark.parametrize("index", range(40))
def test_captions_agree_with_the_places(index):
    scene = scene_metadata("train")[index]
    first, second = scene.digits[:2]
    if scene.layout == "row":
        assert (first.position, second.position) == ("left", "right") and first.x_px < second.x_px
    elif scene.layout == "column":
        assert (first.position, second.position) == ("top", "bottom") and first.y_px < second.y_px
    else:
        for d in scene.digits:
            assert d.position == f"{('top', 'bottom')[d.y_px > 0]} {('left', 'right')[d.x_px > 0]}"


def test_unknown_split_or_name_is_reported():
    with pytest.raises(DataNotFound, match="splits train and test, not 'val'"):
        digits_samples("val")
    with pytest.raises(DataNotFound, match="No embedded dataset"):
        open_embedded("letters", "test")
