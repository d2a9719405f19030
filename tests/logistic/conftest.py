"""Features of towers on real images."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def trained_nano(tmp_path_factory):
    """Spec of a nano RWKV-CLIP after 150 steps on handwritten digits."""
    from rwkvclip_train.loop import train
    from rwkvclip_train.recipe import load_recipe

    recipe = load_recipe("nano-digits-rwkv-clip").model_copy(update={"steps": 150})
    return train(recipe, tmp_path_factory.mktemp("nano"), progress=False).spec


@pytest.fixture(scope="session")
def image_features(shared_data, tmp_path_factory):
    """Function: spec and set → probe features [n, F] float32 and labels of its first 1,200 test images."""
    from rwkvclip_eval import load_encoder
    from rwkvclip_eval.data.open import limit_dataset, open_dataset
    from rwkvclip_eval.data.types import DatasetRef

    cache = tmp_path_factory.mktemp("cache")

    def encode(spec, name):
        encoder = load_encoder(spec)
        dataset = limit_dataset(
            open_dataset(DatasetRef(name=name), data_root=shared_data, cache_dir=cache), 1200
        )
        features = []
        for first in range(0, len(dataset.labels), 50):
            last = min(first + 50, len(dataset.labels))
            pixels = torch.stack([encoder.preprocess(dataset.image(i)) for i in range(first, last)])
            with torch.inference_mode():
                features.append(encoder.encode_image(pixels).probe.numpy())
        return np.concatenate(features), np.asarray(dataset.labels)

    return encode
