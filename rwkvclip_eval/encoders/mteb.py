"""Models that the package mteb loads, as encoders: `mteb:NAME`, such as `mteb:openai/clip-vit-base-patch32`.

mteb's own code makes model, image processor and tokenizer and chooses the arithmetic, so that features are
those that its tasks see. It takes pictures and sentences: what leaves `preprocess` is the picture itself, as
bytes, and what leaves `tokenize` are its characters. It may run code of a model's repository, where one of
its implementations does. Models that want an instruction for each task are refused: an encoder here knows no
task.

Axes: B batch, L characters of the longest text, D embedding.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from rwkvclip_eval.encoders.hub import hub_mode
from rwkvclip_eval.encoders.protocol import EncoderInfo, ImageFeatures, make_fingerprint
from rwkvclip_eval.encoders.weights import sha256_state_dict
from rwkvclip_eval.environment import version
from rwkvclip_eval.errors import CheckpointError, UserError, shortened
from rwkvclip_models.limits import num_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec

ADAPTER_VERSION = 1
_LOGIT_SCALE = 100.0
"""mteb compares by the cosine alone; the ranking is the same at any scale."""
_SIZE = struct.Struct("<II")
_TASK = "CIFAR10ZeroShot"
"""A task of mteb that is named to models, which are asked only where they read no instruction from it."""


def load(spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool) -> Encoder:
    """Return the encoder of `mteb:NAME`; `implementation` names a Bi-WKV operator and means nothing here.

    Raises:
        UserError: mteb is not installed, has no such model, or the model reads no images, wants
            instructions or compares otherwise than by the cosine.
        CheckpointError: mteb cannot load it.
    """
    if spec.checkpoint is not None or precision != "fp32":
        raise UserError(
            f"Model {spec.text!r}: mteb loads its own weights in its own precision; give mteb:NAME alone, "
            "without --precision."
        )
    meta = _meta(spec)
    return MtebEncoder(_loaded(spec, meta, device, offline=offline), meta, spec, device)


def prefetch(spec: EncoderSpec) -> list[str]:
    """Load the model once, which fetches what it needs; mteb has no way to fetch alone."""
    _loaded(spec, _meta(spec), "cpu", offline=False)
    return [spec.model]


def _loaded(spec: EncoderSpec, meta: Any, device: str, *, offline: bool) -> Any:
    """Return the model that mteb makes.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        with hub_mode(offline=offline):
            return meta.load_model(device=device)
    except Exception as error:  # implementations of many authors share no base class
        raise CheckpointError(
            f"Model {spec.text!r}: mteb cannot load it ({type(error).__name__}: "
            f"{shortened(str(error), 500)})."
        ) from error


def _meta(spec: EncoderSpec) -> Any:
    """Return mteb's description of the model.

    Raises:
        UserError: it cannot be an encoder here.
    """
    try:
        import mteb
    except ImportError as error:
        raise UserError(
            f"Model {spec.text!r} needs the package mteb, which is not installed: pip install mteb."
        ) from error
    name = spec.model.removeprefix("mteb:")
    try:
        meta = mteb.get_model_meta(name)
    except KeyError as error:
        raise UserError(f"Model {spec.text!r}: {error.args[0]}") from error
    similarity = getattr(meta.similarity_fn_name, "value", meta.similarity_fn_name)
    for wrong, why in (
        ("image" not in meta.modalities, "reads no images"),
        (
            bool(meta.use_instructions),
            "wants an instruction for each task, and an encoder knows none",
        ),
        (
            similarity not in (None, "cosine"),
            f"compares by {similarity}, not by the cosine",
        ),
    ):
        if wrong:
            raise UserError(f"Model {spec.text!r}: it {why}.")
    return meta


class MtebEncoder:
    """An `Encoder` around a model of mteb.

    Args:
        model: what mteb loaded.
        meta: its description.
        spec: how it was asked for.
        device: where it runs.

    Raises:
        UserError: it fails on one image.
    """

    def __init__(self, model: Any, meta: Any, spec: EncoderSpec, device: str) -> None:
        import mteb

        self._model = model
        self._task = mteb.get_task(_TASK).metadata
        self._name = spec.name
        example = self.preprocess(Image.linear_gradient("L").resize((96, 64)))
        dim = self._encode("image", [_picture(example)]).shape[1]
        module = getattr(model, "model", None)
        weights, count = "", int(meta.n_parameters or 0)
        if isinstance(module, nn.Module):
            weights = sha256_state_dict(module.state_dict())
            count = num_parameters(module)
        has_text = "text" in meta.modalities
        tokens = meta.max_tokens if meta.max_tokens and math.isfinite(meta.max_tokens) else 0
        self.info = EncoderInfo(
            name=spec.name,
            spec=spec.public_text,
            family="mteb",
            checkpoint_sha256=weights,
            fingerprint=make_fingerprint(
                adapter=["mteb", ADAPTER_VERSION],
                name=meta.name,
                revision=meta.revision,
                weights=weights,
                mteb=version("mteb"),
            ),
            embed_dim=dim,
            probe_dim=dim,
            image_size_px=(0, 0),
            context_length=int(tokens) if has_text else None,
            logit_scale=_LOGIT_SCALE if has_text else None,
            device=device,
            implementation="mteb",
            num_parameters=count,
        )

    @staticmethod
    def preprocess(image: Image.Image) -> Any:
        """Return width, height and RGB pixels as bytes; a batch is a list of them."""
        picture = image.convert("RGB")
        return _SIZE.pack(*picture.size) + picture.tobytes()

    def encode_image(self, pixels: Any) -> ImageFeatures:
        """Return embedding and probe [B, D] of a list of what `preprocess` returned."""
        features = self._encode("image", [_picture(one) for one in pixels])
        return ImageFeatures(functional.normalize(features, dim=-1), features)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return [B, L] int64, the characters of each text, zeros behind its end."""
        rows = [torch.tensor([*map(ord, text), 0], dtype=torch.int64) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return [B, D] float32 embeddings of unit L2 norm."""
        texts = ["".join(map(chr, filter(None, row))) for row in tokens.tolist()]
        return functional.normalize(self._encode("text", texts), dim=-1)

    def _encode(self, column: str, values: list[Any]) -> Tensor:
        """Return [B, D] float32 of one batch, as mteb's tasks would be given it.

        Raises:
            UserError: mteb's code fails on it.
        """
        try:
            with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
                features = self._model.encode(
                    _loader(column, values),
                    task_metadata=self._task,
                    hf_split="test",
                    hf_subset="default",
                    show_progress_bar=False,
                    batch_size=len(values),
                )
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # implementations of many authors share no base class
            raise UserError(
                f"{self._name}: mteb fails on a batch of {column} ({type(error).__name__}: "
                f"{shortened(str(error), 500)})."
            ) from error
        return torch.as_tensor(features if isinstance(features, Tensor) else np.asarray(features)).float()


class _Batch(torch.utils.data.Dataset[dict[str, Any]]):
    """What mteb's models ask of a dataset: its rows, and the names of its columns."""

    def __init__(self, column: str, values: list[Any]) -> None:
        self.features = {column: None}
        self.column_names = [column]
        self._rows = [{column: value} for value in values]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


def _loader(column: str, values: list[Any]) -> torch.utils.data.DataLoader[Any]:
    def collate(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
        return {column: [row[column] for row in rows]}

    return torch.utils.data.DataLoader(_Batch(column, values), batch_size=len(values), collate_fn=collate)


def _picture(content: bytes) -> Image.Image:
    size = _SIZE.unpack_from(content)
    return Image.frombytes("RGB", size, content[_SIZE.size :])
