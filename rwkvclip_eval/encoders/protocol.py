"""What the suite asks of a model: the `Encoder` protocol and the facts an encoder states about itself.

Axes: B batch, H W image height and width (px), L context (tokens), D embedding, F probe features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

StepUnit = Literal["", "step", "epoch"]
"""What a checkpoint's number counts; empty where its name does not say."""


class ImageFeatures(NamedTuple):
    """What one forward pass of the image tower gives.

    Attributes:
        embedding: [B, D] float32, unit L2 norm; what zero-shot tasks compare with texts.
        probe: [B, F] float32, un-normalised; what a linear probe sees (before the projection for ViTs,
            the pooled feature for RWKV-CLIP).
        arrays: name → [B, …] float32, what `EncoderInfo.image_arrays` declares beside these.
    """

    embedding: Tensor
    probe: Tensor
    arrays: Mapping[str, Tensor] = MappingProxyType({})


class TextFeatures(NamedTuple):
    """What the text tower gives, where an encoder has more of a text than its embedding.

    Attributes:
        embedding: [B, D] float32, unit L2 norm.
        arrays: name → [B, …] float32, what `EncoderInfo.text_arrays` declares.
    """

    embedding: Tensor
    arrays: Mapping[str, Tensor] = MappingProxyType({})


def named_images(features: ImageFeatures) -> dict[str, Tensor]:
    """Return every array of `features` by its name."""
    return {"embedding": features.embedding, "probe": features.probe, **features.arrays}


def named_texts(features: Tensor | TextFeatures) -> dict[str, Tensor]:
    """Return every array of `features` by its name."""
    if isinstance(features, TextFeatures):
        return {"embedding": features.embedding, **features.arrays}
    return {"embedding": features}


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Facts about an encoder that go into every result record.

    Attributes:
        name: name shown in tables; unique within a run.
        spec: `NAME[=CHECKPOINT]` with the checkpoint's file name only, never a folder of this machine.
        family: `rwkv-clip`, `open_clip`, `hf` or `python`.
        checkpoint_sha256: SHA-256 (hex) of the checkpoint's bytes; of the state dict for weights that came
            from no file.
        fingerprint: SHA-256 (hex) of checkpoint, configuration, preprocessing, tokenizer and adapter version:
            equal fingerprints mean equal features up to rounding. See `make_fingerprint`.
        embed_dim: D.
        probe_dim: F.
        image_size_px: (height, width) of what `preprocess` returns.
        context_length: L in tokens; None for a vision-only encoder, which leaves out the text half.
        logit_scale: multiplier of the cosine similarity (already exponentiated); None for a vision-only
            encoder.
        logit_bias: added to the scaled similarity by sigmoid models; None elsewhere.
        similarity: how images and texts are compared, a name of `tasks.similarity.SIMILARITIES`; one that is
            not cosine belongs into the fingerprint.
        image_arrays: name → shape of one image's, of what it gives beside `embedding` and `probe`; finite
            float32.
        text_arrays: the same of texts, beside `embedding`.
        precision: `fp32`, `bf16` or `fp16`: the arithmetic of the towers.
        device: `cpu`, `cuda`, `cuda:1` or `mps`, as asked for.
        implementation: what really ran of the operators (`torch` for Bi-WKV, `sdpa` for attention, …).
        num_parameters: parameters of both towers.
        trained: False for `random:SEED`; reports mark it.
        step: number parsed from the checkpoint's name, for plots of metrics against it.
        step_unit: what that number counts.
    """

    name: str
    spec: str
    family: str
    checkpoint_sha256: str
    fingerprint: str
    embed_dim: int
    probe_dim: int
    image_size_px: tuple[int, int]
    context_length: int | None
    logit_scale: float | None
    logit_bias: float | None = None
    similarity: str = "cosine"
    image_arrays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    text_arrays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    precision: str = "fp32"
    device: str = "cpu"
    implementation: str = ""
    num_parameters: int = 0
    trained: bool = True
    step: int | None = None
    step_unit: StepUnit = ""

    @property
    def image_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of one image's, of every array of images."""
        return {"embedding": (self.embed_dim,), "probe": (self.probe_dim,), **self.image_arrays}

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of one text's, of every array of texts."""
        return {"embedding": (self.embed_dim,), **self.text_arrays}

    @property
    def has_text(self) -> bool:
        """Whether the encoder has a text tower."""
        return self.context_length is not None

    def facts(self) -> dict[str, str]:
        """Return what a reader wants to know of it, in words."""
        height, width = self.image_size_px
        where = f"{self.device} ({self.implementation})" if self.implementation else self.device
        facts = {
            "model": self.spec,
            "family": self.family,
            "weights": "trained" if self.trained else "random, untrained",
            "parameters": f"{self.num_parameters:,}" if self.num_parameters else "",
            "image": f"{height} × {width} px",
            "text": f"{self.context_length} tokens" if self.has_text else "none: vision only",
            "embedding": f"{self.embed_dim} wide, probes see {self.probe_dim}",
            "arithmetic": f"{self.precision} on {where}",
            "fingerprint": self.fingerprint[:12],
        }
        return {name: text for name, text in facts.items() if text}


def make_fingerprint(**parts: object) -> str:
    """Return the SHA-256 (hex) of `parts` as canonical JSON; every part must be JSON-serialisable."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@runtime_checkable
class Encoder(Protocol):
    """A CLIP-like dual encoder. A vision-only one sets `info.context_length` to None and omits the text half.

    `preprocess` must be picklable: it runs in data-loading worker processes.
    """

    info: EncoderInfo

    def preprocess(self, image: Image) -> Tensor:
        """Return [3, H, W] float32 for an image of any mode and size."""
        ...

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Return embedding and probe features of `pixels` [B, 3, H, W] float32, from one forward pass."""
        ...

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return [B, L] int64 token ids."""
        ...

    def encode_text(self, tokens: Tensor) -> Tensor | TextFeatures:
        """Return [B, D] float32 embeddings of unit L2 norm, or these and the arrays that `info` declares."""
        ...
