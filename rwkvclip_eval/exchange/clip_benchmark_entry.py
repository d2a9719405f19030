"""CLIP_benchmark's own command line with every model of this suite: `--model_type rwkvclip_eval`.

    python -m rwkvclip_eval.exchange.clip_benchmark_entry eval --model_type rwkvclip_eval
        --model rwkv-clip-b32 --pretrained model_31.pt --dataset wds/cifar10 --dataset_root DATA/wds_cifar10
        --no_amp

NAME=CHECKPOINT of this suite is written `--model NAME --pretrained CHECKPOINT` there, or
`--pretrained_model NAME,CHECKPOINT`; where a model takes no checkpoint, `none`. Everything else is
CLIP_benchmark's: its readers, its loops, its metrics, its result files.

The towers run in float32 whether or not its mixed precision is on; `--no_amp` has its own products in
float32 too, as this suite's numbers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from clip_benchmark import models
from clip_benchmark.metrics import linear_probe, zeroshot_classification
from torch import nn

from rwkvclip_eval import console
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.encoders.protocol import TextFeatures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from rwkvclip_eval.encoders.protocol import Encoder

MODEL_TYPE = "rwkvclip_eval"
NO_CHECKPOINT = "none"


class EncoderModule(nn.Module):
    """An encoder with the two calls that CLIP_benchmark makes of a model.

    Args:
        encoder: what encodes.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return [B, D] float32, unit norm, of `pixels` [B, 3, H, W]."""
        return self.encoder.encode_image(pixels.float()).embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return [B, D] float32, unit norm, of `tokens` [B, L] int64."""
        features = self.encoder.encode_text(tokens)
        return features.embedding if isinstance(features, TextFeatures) else features


def load(
    model_name: str, pretrained: str, cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple[EncoderModule, Callable[..., Tensor], Callable[[Sequence[str]], Tensor]]:
    """Return module, image transform and tokenizer of NAME and CHECKPOINT, as CLIP_benchmark asks for them.

    Args:
        model_name: NAME of this suite.
        pretrained: CHECKPOINT; `none` where the model takes none.
        cache_dir: not used: this suite's adapters keep what they fetch in the libraries' own caches.
        device: where the model runs.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    spec = model_name if pretrained in ("", NO_CHECKPOINT) else f"{model_name}={pretrained}"
    encoder = load_encoder(spec, device=str(device))
    return EncoderModule(encoder), encoder.preprocess, encoder.tokenize


def register() -> None:
    """Make the model type known to CLIP_benchmark, and its top-k accuracy computable."""
    models.TYPE2FUNC[MODEL_TYPE] = load
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)
    try:
        zeroshot_classification.accuracy(torch.eye(2), torch.arange(2), topk=(1,))
    except TypeError:
        # It calls float() on an array of one element, which numpy 2.4 and newer refuse.
        zeroshot_classification.accuracy = linear_probe.accuracy = accuracy


def accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """Return the share of `target` [N] among the k highest of `output` [N, C], for each k of `topk`."""
    hits = output.topk(max(topk), dim=1).indices.eq(target.view(-1, 1))
    return [float(hits[:, :k].any(dim=1).double().mean()) for k in topk]


def main() -> None:
    """Run CLIP_benchmark's command line; our own errors are one message, as on ours."""
    from clip_benchmark import cli

    from rwkvclip_eval.errors import UserError

    register()
    try:
        cast("Any", cli).main()
    except UserError as error:
        console.note(f"Error: {error}")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
