"""A complete `--plugin` file: a model, a dataset and a task of a user's own. It needs nothing beside it.

With this suite as mine.yaml

    name: mine
    tasks:
      - task: margin
        datasets: [my-images]
      - task: zero_shot_classification
        datasets: [my-images]

it runs by `rwkvclip-eval run mine.yaml --model my-colours --plugin my_plugin.py --out runs/mine`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

import rwkvclip_eval as rc
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.encoders import make_fingerprint
from rwkvclip_eval.records.metrics import Metric
from rwkvclip_eval.tasks.base import MetricValue, Task, TaskResult

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


class ColourEncoder:
    """A model: embeds an image as its mean colour, a text as the colours it names."""

    def __init__(self, name):
        self.info = rc.EncoderInfo(
            name=name,
            spec=name,
            family="python",
            checkpoint_sha256="0" * 64,
            # Whatever shapes the features belongs into it: weights, preprocessing, version of this code.
            fingerprint=make_fingerprint(model="my-colours", version=1),
            embed_dim=3,
            probe_dim=3,
            image_size_px=(8, 8),
            context_length=77,
            logit_scale=100.0,
        )

    def preprocess(self, image):
        pixels = np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode_image(self, pixels):
        mean = pixels.mean((2, 3))
        return rc.ImageFeatures(torch.nn.functional.normalize(mean, dim=-1), mean)

    def tokenize(self, texts):
        return torch.tensor([[int(colour in text.split()) for colour in COLOURS] for text in texts])

    def encode_text(self, tokens):
        return torch.nn.functional.normalize(tokens.float() + 0.01, dim=-1)


class ColourImages:
    """A dataset: noisy pictures of one colour each."""

    def __init__(self, num_images=12):
        self.keys = [f"image-{i:03d}" for i in range(num_images)]
        self.labels = np.arange(num_images, dtype=np.int64) % len(COLOURS)
        self.captions = None
        self.info = DatasetInfo(
            name="my-images",
            kind="classification",
            num_samples=num_images,
            # Another for other samples: keys, images, labels.
            fingerprint=make_fingerprint(dataset="my-images", num_images=num_images),
            class_names=tuple(COLOURS),
            templates=("a {c} picture",),
        )

    def __len__(self):
        return len(self.keys)

    def image(self, index):
        colour = list(COLOURS.values())[self.labels[index]]
        noise = np.random.default_rng(index).normal(0, 20, (8, 8, 3))
        return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


MEAN_MARGIN = Metric(name="mean_margin", title="mean margin", unit="number")


class Margin(Task):
    """A task, the mean margin: similarity to the right class's text less that to the best wrong one."""

    name = "margin"
    description = "Cosine to the right class's text less that to the best wrong one."
    needs = frozenset({"text", "embedding"})

    def texts(self, samples, protocol):
        return [f"a {name} picture" for name in samples.info.class_names]

    def score(self, samples, features, protocol):
        similarity = features.image_embedding @ features.text_embedding.T
        rows = np.arange(len(samples.labels))
        right = similarity[rows, samples.labels].copy()
        similarity[rows, samples.labels] = -np.inf
        margin = right - similarity.max(1)
        table = pa.table({"key": list(samples.keys), "margin": margin})
        value = MetricValue(metric=MEAN_MARGIN, value=float(margin.mean()), n=len(margin))
        return TaskResult(metrics=[value], predictions={"predictions": table})


rc.register_encoder("my-colours", lambda spec, **options: ColourEncoder(spec.name))
rc.register_dataset("my-images", lambda split: ColourImages())
rc.register_task(Margin())
