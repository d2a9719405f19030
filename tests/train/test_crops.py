import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import hflip, pil_to_tensor, resized_crop

from rwkvclip_train.data.crops import Crop, cropped, draw_crop, reduction
from rwkvclip_train.recipe import AugmentationRecipe

OFFICIAL = AugmentationRecipe.model_validate({"horizontal_flip": 0.5})


def picture(width, height, *, mode="RGB", form="JPEG", **options):
    """A file with smooth and sharp parts, as bytes."""
    rng = np.random.default_rng(width)
    small = Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8))
    made = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    made[height // 3 : height // 2, width // 4 : width // 2] = 255 - made[height // 3 : height // 2, :1]
    stream = io.BytesIO()
    Image.fromarray(made).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


def crops(size_px, count, augmentation=OFFICIAL):
    return [draw_crop(np.random.default_rng([1, i]), size_px, augmentation) for i in range(count)]


def test_crops_are_distributed_as_torchvisions():
    size = (120, 90)
    torch.manual_seed(0)
    image = Image.new("RGB", size)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.7, 1.0), (0.8, 1.25)) for _ in range(4000)])
    ours = np.array([(c.top, c.left, c.height, c.width) for c in crops(size, 4000)])
    for column in range(4):
        a, b = np.sort(ours[:, column]), np.sort(theirs[:, column])
        grid = np.union1d(a, b)
        distance = np.abs(
            np.searchsorted(a, grid, side="right") - np.searchsorted(b, grid, side="right")
        ).max() / len(a)
        # Kolmogorov and Smirnov's distance; equal distributions exceed this in one of a thousand draws.
        assert distance < 1.95 * np.sqrt(2 / 4000)


def test_half_of_the_crops_are_flipped_and_none_where_the_recipe_says_none():
    assert 430 < sum(crop.flipped for crop in crops((50, 40), 1000)) < 570
    assert not any(crop.flipped for crop in crops((50, 40), 100, AugmentationRecipe.model_validate({})))


@pytest.mark.parametrize(
    ("size", "expected"), [((300, 10), (12, 10)), ((10, 300), (10, 12)), ((1, 1), (1, 1))]
)
def test_an_image_no_crop_fits_gives_the_widest_part_in_its_middle(size, expected):
    for crop in crops(size, 5):
        assert (crop.width, crop.height) == expected
        assert abs(2 * crop.left + crop.width - size[0]) <= 1
        assert abs(2 * crop.top + crop.height - size[1]) <= 1


@pytest.mark.parametrize(("form", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "L")])
def test_without_a_smaller_scale_pixels_are_torchvisions(form, mode):
    content = picture(61, 47, form=form, mode=mode)
    for crop in crops((61, 47), 6):
        image = opened(content).convert("RGB")
        expected = resized_crop(
            image, crop.top, crop.left, crop.height, crop.width, [32, 24], InterpolationMode.BILINEAR
        )
        expected = pil_to_tensor(hflip(expected) if crop.flipped else expected)
        assert torch.equal(cropped(opened(content), crop, (32, 24)), expected)


def test_a_png_is_never_decoded_at_a_smaller_scale():
    content, crop = picture(400, 300, form="PNG"), Crop(0, 0, 400, 300, False)
    assert torch.equal(
        cropped(opened(content), crop, (32, 32)), cropped(opened(content), crop, (32, 32), reduced=False)
    )


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        ((448, 448), 224, 2),
        ((447, 600), 224, 1),
        ((600, 447), 224, 1),
        ((896, 896), 224, 4),
        ((1792, 1792), 224, 8),
        ((9000, 9000), 224, 8),
        ((100, 100), 224, 1),
    ],
)
def test_the_scale_leaves_the_crop_as_many_pixels_as_come_out(crop, size, expected):
    assert reduction(Crop(0, 0, *crop, False), (size, size)) == expected


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("size", [(1024, 768), (1023, 767), (517, 901)])
def test_a_smaller_scale_changes_pixels_little_and_keeps_their_place(size, subsampling):
    content = picture(*size, quality=90, subsampling=subsampling)
    reduced = 0
    for crop in crops(size, 6):
        image = opened(content)
        found = cropped(image, crop, (112, 112))
        reduced += image.size != size
        whole = cropped(opened(content), crop, (112, 112), reduced=False)
        error = (found.int() - whole.int()).abs().float()
        assert error.mean() < 2
        # One pixel beside its place would give far more at the sharp edges.
        shifted = (found.int() - whole.roll(1, 2).int()).abs().float()
        assert error.mean() < shifted.mean() / 3
    assert reduced == 6


def test_a_scale_is_used_where_the_library_rounds_the_size_up():
    # 897 / 4 is 224.25, which becomes 225 pixels.
    content = picture(897, 897, quality=95)
    image, crop = opened(content), Crop(0, 0, 897, 897, False)
    found = cropped(image, crop, (224, 224))
    assert image.size == (225, 225)
    error = (found.int() - cropped(opened(content), crop, (224, 224), reduced=False).int()).abs().float()
    assert error.mean() < 2
