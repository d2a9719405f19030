from collections import Counter

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from test_loop import recipe

from rwkvclip_eval.data.embedded import digits_samples, scene_metadata
from rwkvclip_eval.errors import DataNotFound
from rwkvclip_train.data.crops import Crop, cropped
from rwkvclip_train.data.digit_texts import three_kinds
from rwkvclip_train.data.open import open_sources
from rwkvclip_train.data.pairs import Pairs
from rwkvclip_train.models import build_trainee
from rwkvclip_train.recipe import AugmentationRecipe, RecipeError


def pairs(*data: dict[str, object], seed: int = 0) -> Pairs:
    asked = recipe("open_clip", data=list(data))
    trainee = build_trainee(asked.model, seed=0, device=torch.device("cpu"))
    return Pairs(
        open_sources(asked, None),
        image_size_px=(16, 16),
        tokenize=trainee.tokenize,
        augmentation=AugmentationRecipe(),
        seed=seed,
    )


def test_each_text_of_an_image_is_drawn_equally_often():
    some = pairs({"dataset": "digits", "texts": "kinds"})
    drawn = Counter(some[epoch, 7][1] for epoch in range(300))
    assert set(drawn) == set(three_kinds("digits", "train")[7])
    # 100 expected each; a fair draw leaves this range in fewer than one of a thousand seeds.
    assert all(70 < count < 130 for count in drawn.values())


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    data = {"dataset": "digits_scenes", "texts": "captions"}
    first, again, other = pairs(data), pairs(data), pairs(data, seed=1)
    assert torch.equal(first[0, 3][0], again[0, 3][0])
    assert not torch.equal(first[0, 3][0], first[1, 3][0])
    assert not torch.equal(first[0, 3][0], other[0, 3][0])


def test_sources_are_concatenated_and_repeated_in_order():
    some = pairs(
        {"dataset": "digits", "texts": "templates", "repeat": 2},
        {"dataset": "digits_scenes", "texts": "captions"},
    )
    digits, scenes = digits_samples("train"), scene_metadata("train")
    assert len(some) == 2 * len(digits) + len(scenes)
    assert digits[-1].word in some[0, len(digits) - 1][1]
    assert digits[0].word in some[0, len(digits)][1]
    assert some[0, 2 * len(digits)][1] in scenes[0].captions


def test_a_batch_has_normalised_pixels_and_token_ids():
    some = pairs({"dataset": "digits", "texts": ["one {c}"]})
    pixels, tokens = some.collate([some[0, 0], some[0, 1]])
    assert (pixels.shape, pixels.dtype) == ((2, 3, 16, 16), torch.float32)
    assert (tokens.shape, tokens.dtype) == ((2, 16), torch.int64)
    # Black is −mean/std of CLIP.
    assert pixels[:, 0].min().item() == pytest.approx(-0.48145466 / 0.26862954)


@pytest.mark.parametrize("dataset", ["digits", "digits_scenes"])
def test_caption_and_description_name_every_digit_and_fit_the_context(dataset):
    texts = three_kinds(dataset, "train")
    shown = (
        [[s.word] for s in digits_samples("train")]
        if dataset == "digits"
        else [[d.phrase for d in s.digits] for s in scene_metadata("train")]
    )
    for (raw, caption, description), phrases in zip(texts, shown, strict=True):
        assert raw
        assert all(phrase in caption and phrase in description for phrase in phrases)
    from rwkvclip_models import tokenize

    # Position 31 of 32 holds padding or the end of text: nothing was cut.
    ids = tokenize([d for _, _, d in texts[:300]], context_length=33)
    assert (ids[:, 32] == 0).all()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ({"dataset": "digits", "texts": "captions"}, RecipeError, "has no captions"),
        ({"dataset": "digits_scenes", "texts": "templates"}, RecipeError, "use captions"),
        ({"dataset": "digits", "texts": ["no class"]}, ValidationError, "{c}"),
        ({"dataset": "mnist", "texts": "templates"}, DataNotFound, "mnist"),
    ],
)
def test_texts_that_a_dataset_cannot_give_are_refused(data, error, said):
    with pytest.raises(error) as caught:
        pairs(data)
    assert said in str(caught.value)


@pytest.mark.data
def test_pairs_come_from_webdataset_folders_of_both_kinds(shared_data):
    asked = recipe(
        "open_clip",
        data=[{"dataset": "flickr8k", "texts": "captions"}, {"dataset": "cifar10", "texts": "templates"}],
    )
    captioned, classified = open_sources(asked, shared_data)
    assert captioned.source.dataset.info.split == classified.source.dataset.info.split == "train"
    assert len(captioned.source.texts(0)["caption"]) == 5
    assert all("{c}" not in text for text in classified.source.texts(0)["template"])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_training_images_of_any_mode_become_rgb_tensors(mode):
    tensor = cropped(Image.new(mode, (40, 30)), Crop(2, 1, 30, 20, True), (32, 32))
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.uint8
