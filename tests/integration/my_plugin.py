"""A complete `--plugin` file: an encoder, a dataset and a task of a user's own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from toy import ColourDataset, ColourEncoder

import rwkvclip_eval as rc
from rwkvclip_eval.tasks.base import MetricValue, TaskResult, hash_prompts


class Margin:
    """Mean margin: similarity to the right class's text less that to the best wrong one."""

    name = "margin"
    version = 1
    needs = frozenset({"text", "embedding"})
    kinds = frozenset({"classification"})

    def texts(self, samples, protocol):
        return [f"a {name} picture" for name in samples.info.class_names]

    def prompt_hash(self, samples, protocol):
        return hash_prompts(samples.info.class_names, ["a {c} picture"], "")

    def score(self, samples, features, encoder, protocol):
        similarity = features.image_embedding @ features.text_embedding.T
        rows = np.arange(len(samples.labels))
        right = similarity[rows, samples.labels].copy()
        similarity[rows, samples.labels] = -np.inf
        margin = right - similarity.max(1)
        table = pa.table({"key": list(samples.keys), "margin": margin})
        value = MetricValue(name="mean_margin", value=float(margin.mean()), n=len(margin))
        return TaskResult(metrics=[value], predictions={"predictions": table})


rc.register_encoder("my-colours", lambda spec, **options: ColourEncoder(name=spec.name))
rc.register_dataset("my-images", lambda split: ColourDataset(n=12))
rc.register_task(Margin())
