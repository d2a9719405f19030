"""The training loader beside plain torchvision and Pillow in turns: one thread's CPU time, on photographs."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from rwkvclip_train.data.bench import measure
from rwkvclip_train.data.build import build_index
from rwkvclip_train.data.open import open_pairs
from rwkvclip_train.recipe import AugmentationRecipe

ROUNDS = 15
IMAGES = 32
AT_LEAST = {(1024, 768): 1.5, (500, 375): 1.0}
"""Times as many images a second. Of the smaller ones no crop can be decoded at half its size."""


def photographs(size_px, quality):
    """Parts of scikit-learn's two photographs, mirrored at their edges where they are too small."""
    width, height = size_px
    for number in range(IMAGES):
        photo = load_sample_images().images[number % 2]
        photo = np.pad(photo, ((0, 500), (0, 600), (0, 0)), mode="symmetric")
        top, left = 9 * number, 11 * number
        stream = io.BytesIO()
        Image.fromarray(photo[top : top + height, left : left + width]).save(stream, "JPEG", quality=quality)
        yield stream.getvalue()


def indexed(folder, size_px, quality):
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, content in enumerate(photographs(size_px, quality)):
            for suffix, data in (("jpg", content), ("txt", b"a photograph")):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    build_index(folder)
    return open_pairs(folder)


@pytest.mark.slow
@pytest.mark.parametrize("size_px", AT_LEAST)
@pytest.mark.parametrize("quality", [75, 90])
def test_the_loader_gives_more_images_a_second_and_core(benchmark, tmp_path, capsys, size_px, quality):
    source = indexed(tmp_path / "data", size_px, quality)
    bytes_each = np.mean([len(source.content(i)) for i in range(IMAGES)])
    official = AugmentationRecipe.model_validate({"horizontal_flip": 0.5})
    speed = benchmark.pedantic(
        measure,
        args=(source,),
        kwargs={"size_px": (224, 224), "augmentation": official, "images": IMAGES, "rounds": ROUNDS},
    )
    with capsys.disabled():
        print(  # noqa: T201  # what a benchmark is run for
            f"\n{size_px[0]} × {size_px[1]} px, quality {quality}, {bytes_each / 1000:.0f} kB: "
            f"{speed.images_per_s:.0f} images/s and core, plain {speed.plain_images_per_s:.0f}, ratio "
            f"{speed.ratio:.2f} ({speed.ratio_low:.2f} to {speed.ratio_high:.2f}); "
            f"{speed.reduced_share:.0%} reduced, error {speed.mean_error:.2f} mean, {speed.max_error} max"
        )
    assert speed.ratio >= AT_LEAST[size_px]
