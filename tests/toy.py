"""A small encoder and dataset of a user's own kind: real images, real features, no trained weights."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from rwkvclip_eval.data.open import DATASETS
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.encoders.protocol import EncoderInfo, ImageFeatures, make_fingerprint
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.features.context import Context
from rwkvclip_eval.features.engine import LocalEngine
from rwkvclip_eval.features.options import EncodeOptions
from rwkvclip_eval.plan.suite import LoadedSuite, parse_suite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest


def engine(batch_size: int = 64, num_workers: int = 0, **told: Any) -> LocalEngine:
    """Return what encodes in this process; `told` are `on_progress` and `on_message`."""
    return LocalEngine(EncodeOptions(batch_size=batch_size, num_workers=num_workers), Context(**told))


COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


class ColourEncoder:
    """Embeds an image as its mean colour and a text as the colours it names."""

    def __init__(self, name: str = "colour") -> None:
        self.info = EncoderInfo(
            name=name,
            spec=name,
            family="python",
            checkpoint_sha256="0" * 64,
            fingerprint=make_fingerprint(name=name),
            embed_dim=3,
            probe_dim=3,
            image_size_px=(8, 8),
            context_length=77,
            logit_scale=100.0,
        )
        self.images = 0
        self.texts = 0

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        array = np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)

    def encode_image(self, pixels: torch.Tensor) -> ImageFeatures:
        self.images += len(pixels)
        mean = pixels.mean((2, 3))
        return ImageFeatures(torch.nn.functional.normalize(mean, dim=-1), mean)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[int(colour in text.split()) for colour in COLOURS] for text in texts])

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.texts += len(tokens)
        return torch.nn.functional.normalize(tokens.float() + 0.01, dim=-1)


@dataclass
class ColourDataset:
    """n noisy one-colour images; `damaged` indices cannot be decoded."""

    n: int = 30
    damaged: tuple[int, ...] = ()
    labels: np.ndarray[Any, Any] | None = field(init=False)
    captions: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        self.labels = np.arange(self.n, dtype=np.int64) % 3
        self.keys = [f"image-{i:03d}" for i in range(self.n)]
        self.info = DatasetInfo(
            name="colours",
            kind="classification",
            num_samples=self.n,
            fingerprint=hashlib.sha256(f"{self.n}{self.damaged}".encode()).hexdigest(),
            class_names=tuple(COLOURS),
            templates=("a {c} picture",),
        )

    def __len__(self) -> int:
        return self.n

    def image(self, index: int) -> Image.Image:
        if index in self.damaged:
            raise DamagedData(f"{self.keys[index]} cannot be decoded")
        rng = np.random.default_rng(index)
        base = np.array(list(COLOURS.values())[index % 3])
        pixels = np.clip(base + rng.normal(0, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels)


def suite(*datasets: object, protocol: str = "standard") -> LoadedSuite:
    tasks = [{"task": "zero_shot_classification", "protocol": protocol, "datasets": list(datasets)}]
    return parse_suite(json.dumps({"name": "mine", "tasks": tasks}))


def register(monkeypatch: pytest.MonkeyPatch, **datasets: ColourDataset) -> None:
    monkeypatch.setattr(DATASETS, "_entries", {n: lambda split, d=d: d for n, d in datasets.items()})


def probe_suite(**more: object) -> LoadedSuite:
    tasks = [{"task": "knn_probe", "datasets": ["colours"], **more}]
    return parse_suite(json.dumps({"name": "mine", "tasks": tasks}))


def register_splits(monkeypatch: pytest.MonkeyPatch, **splits: ColourDataset) -> None:
    def open_split(split: str) -> ColourDataset:
        if split not in splits:
            raise DataNotFound(f"No split {split}.")
        return splits[split]

    monkeypatch.setattr(DATASETS, "_entries", {"colours": open_split})


def task_suite(*tasks: str | dict[str, object]) -> LoadedSuite:
    given = [task if isinstance(task, dict) else {"task": task} for task in tasks]
    entries = [{"datasets": ["colours"], **task} for task in given]
    return parse_suite(json.dumps({"name": "mine", "tasks": entries}))


def write_shards(root: Path, name: str, split: str, labels: list[int], shade: int) -> None:
    folder = root / f"wds_{name}" / split
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, label in enumerate(labels):
            image = io.BytesIO()
            Image.new("RGB", (8, 8), (label * 40 % 256, shade, i % 256)).save(image, "PNG")
            for suffix, content in ((".png", image.getvalue()), (".cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:05d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
