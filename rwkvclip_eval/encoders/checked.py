"""Checks every encoder's outputs, whoever wrote it: shape, dtype, finiteness, unit norm.

Axes: B batch, H W image height and width (px), L context (tokens), D embedding, F probe features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.encoders.protocol import ImageFeatures, TextFeatures, named_texts
from rwkvclip_eval.errors import UserError, users_code
from rwkvclip_eval.printable import html_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo

# Float32 normalisation is exact to about 1e-7, and to 4e-3 where a model normalised in bfloat16.
_NORM_TOLERANCE = 1e-2
# CLIP clamps its scale at 100, SigLIP learns about 112; twice the logarithm of either would be beyond this.
_LARGEST_SCALE = 1e4
_LEAST_SCALE = 1e-4


class NonFiniteEmbedding(UserError):
    """NaN or infinity in a batch's features.

    Attributes:
        rows: the batch rows concerned, so that the caller can name the images or texts.
    """

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class CheckedEncoder:
    """An `Encoder` around another that refuses features no task can score.

    Args:
        encoder: the encoder that does the work.

    Raises:
        UserError: its logit scale or bias is none that cosines can be scaled with.
    """

    def __init__(self, encoder: Encoder) -> None:
        _check_logits(encoder.info)
        self._encoder = encoder
        self.info = encoder.info
        # Taken over as it is: a method of this class would drag the model into every worker process.
        self.preprocess = encoder.preprocess

    @property
    def wrapped(self) -> Encoder:
        """The encoder that does the work."""
        return self._encoder

    def __repr__(self) -> str:
        """Return what the encoder is, in one line."""
        facts = "; ".join(f"{name} {text}" for name, text in self.info.facts().items() if name != "model")
        return f"<Encoder {self.info.name}: {facts}>"

    def _repr_html_(self) -> str:
        """Return what the encoder is as a table, for notebooks."""
        return html_table([self.info.name, ""], [list(fact) for fact in self.info.facts().items()])

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Return embedding [B, D] and probe [B, F] of `pixels` [B, 3, H, W] float32.

        Raises:
            NonFiniteEmbedding: a row holds NaN or infinity.
            UserError: the wrapped encoder returned the wrong shape or embeddings of another norm than 1.
        """
        with users_code(f"encode_image of {self.info.name}"):
            features = self._encoder.encode_image(pixels)
        embedding, probe = _float32(features[0]), _float32(features[1])
        self._check(embedding, (len(pixels), self.info.embed_dim), "image embeddings")
        self._check(probe, (len(pixels), self.info.probe_dim), "probe features")
        self._check_norm(embedding, "image embeddings")
        given = features[2] if len(features) > 2 else {}
        arrays = self._own_arrays(given, self.info.image_arrays, len(pixels), "image")
        return ImageFeatures(embedding, probe, arrays)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return [B, L] int64 token ids.

        Raises:
            UserError: the encoder has no text tower.
        """
        self._need_text()
        with users_code(f"tokenize of {self.info.name}"):
            return self._encoder.tokenize(texts)

    def encode_text(self, tokens: Tensor) -> Tensor | TextFeatures:
        """Return [B, D] float32 embeddings of unit L2 norm of `tokens` [B, L] int64.

        Raises:
            NonFiniteEmbedding: a row holds NaN or infinity.
            UserError: there is no text tower, or shape or norm are wrong.
        """
        self._need_text()
        with users_code(f"encode_text of {self.info.name}"):
            arrays = named_texts(self._encoder.encode_text(tokens))
        embedding = _float32(arrays["embedding"])
        self._check(embedding, (len(tokens), self.info.embed_dim), "text embeddings")
        self._check_norm(embedding, "text embeddings")
        if not self.info.text_arrays:
            return embedding
        own = self._own_arrays(arrays, self.info.text_arrays, len(tokens), "text")
        return TextFeatures(embedding, own)

    def _own_arrays(
        self, given: Mapping[str, Tensor], declared: Mapping[str, Sequence[int]], rows: int, what: str
    ) -> dict[str, Tensor]:
        """Return the declared arrays.

        Raises:
            NonFiniteEmbedding: a row holds NaN or infinity.
            UserError: one is lacking or of another shape.
        """
        found = {}
        for name, shape in declared.items():
            if name not in given:
                raise UserError(f"{self.info.name} declares {name!r} of each {what}, and gives none.")
            found[name] = _float32(given[name])
            self._check(found[name], (rows, *shape), f"{what} array {name}")
        return found

    def _need_text(self) -> None:
        if not self.info.has_text:
            raise UserError(f"{self.info.name} is a vision-only encoder: it has no text tower.")

    def _check(self, features: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(features.shape) != shape:
            raise UserError(
                f"{self.info.name}: {what} have shape {list(features.shape)}, expected {list(shape)}."
            )
        finite = torch.isfinite(features).flatten(1).all(dim=1)
        if not bool(finite.all()):
            rows = (~finite).nonzero().flatten().tolist()
            cure = (
                "float16 overflows beyond 65504: try --precision bf16 or fp32"
                if self.info.precision == "fp16"
                else "check the inputs and the weights"
            )
            raise NonFiniteEmbedding(
                f"{self.info.name}: NaN or infinity in the {what} of {len(rows)} of {shape[0]} rows "
                f"({self.info.precision}); {cure}.",
                rows,
            )

    def _check_norm(self, embedding: Tensor, what: str) -> None:
        norm = torch.linalg.vector_norm(embedding, dim=1)
        if not bool(((norm - 1).abs() <= _NORM_TOLERANCE).all()):
            raise UserError(
                f"{self.info.name}: {what} must have L2 norm 1, got {float(norm.min()):.4g} to "
                f"{float(norm.max()):.4g}. Normalise them in the encoder; a norm of 0 means dead features."
            )


def _check_logits(info: EncoderInfo) -> None:
    """Refuse a logit scale or bias that would be found out only once everything is encoded."""
    if not info.has_text:
        return
    scale, bias = info.logit_scale, info.logit_bias
    if not isinstance(scale, int | float) or not _LEAST_SCALE <= scale <= _LARGEST_SCALE:
        raise UserError(
            f"{info.name}: the cosines would be multiplied by {scale} (exp of the weight logit_scale); "
            f"expected {_LEAST_SCALE:g} to {_LARGEST_SCALE:g}. The weight is the scale's logarithm: for a "
            "scale of 100 it is 4.605 = ln 100, not 100."
        )
    if bias is not None and not (isinstance(bias, int | float) and abs(bias) <= _LARGEST_SCALE):
        raise UserError(
            f"{info.name}: logit_bias is {bias}; expected a number of at most {_LARGEST_SCALE:g} in size."
        )


def _float32(features: Tensor) -> Tensor:
    return features.detach().float()
