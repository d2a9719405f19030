"""This suite's encoders as models of the package mteb, for its tasks and result files.

    import mteb
    from rwkvclip_eval.exchange.mteb_model import mteb_model

    model = mteb_model("rwkv-clip-b32=model_31.pt", device="cuda")
    mteb.evaluate(model, mteb.get_tasks(["CIFAR10ZeroShot", "Flickr30kT2IRetrieval"]))

Axes: N samples, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.encoders.protocol import TextFeatures
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from rwkvclip_eval.encoders.protocol import Encoder

OWNER = "rwkvclip-eval"
"""What stands for the owner in the names that mteb gives to models."""


def mteb_model(spec: str, device: str = "cpu", precision: str = "fp32") -> MtebModel:
    """Return the model of a spec as mteb takes it.

    Args:
        spec: `NAME[=CHECKPOINT]`, as `--model` takes it.
        device: cpu, cuda, cuda:N or mps.
        precision: fp32, bf16 or fp16.

    Raises:
        UserError: there is no such model, or it compares otherwise than by the cosine.
    """
    return MtebModel(load_encoder(spec, device, precision))


class MtebModel(AbsEncoder):  # type: ignore[misc]  # mteb is optional, and untyped where it is absent
    """An encoder with the calls that mteb makes of a model.

    Args:
        encoder: what encodes.

    Raises:
        UserError: it compares otherwise than by the cosine.
    """

    def __init__(self, encoder: Encoder) -> None:
        info = encoder.info
        if info.similarity != "cosine":
            raise UserError(f"{info.name} compares by {info.similarity}; mteb's tasks take the cosine.")
        self.encoder = self.model = encoder
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=f"{OWNER}/{folder_name(info.name)}",
            revision=info.fingerprint,
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=info.num_parameters or None,
            memory_usage_mb=None,
            max_tokens=info.context_length,
            embed_dim=info.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=["image", "text"] if info.has_text else ["image"],
            experiment_kwargs={"rwkvclip_eval": __version__, "precision": info.precision},
        )

    def encode(self, inputs: Iterable[Any], **_: Any) -> Tensor:
        """Return [N, D] float32 on the CPU of mteb's batches; a picture with its text as the sum of both."""
        return torch.cat([self._batch(batch) for batch in inputs])

    def _batch(self, batch: dict[str, Any]) -> Tensor:
        parts = []
        if "text" in batch:
            features = self.encoder.encode_text(self.encoder.tokenize(list(batch["text"])))
            parts.append(features.embedding if isinstance(features, TextFeatures) else features)
        if "image" in batch:
            pixels = torch.stack([self.encoder.preprocess(image) for image in batch["image"]])
            parts.append(self.encoder.encode_image(pixels).embedding)
        return torch.stack(parts).sum(dim=0).cpu()
