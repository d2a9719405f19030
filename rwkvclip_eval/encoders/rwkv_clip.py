"""RWKV-CLIP, by configuration name or an official-format JSON file.

There is no projection: the probe is the pooled feature itself, which the embedding normalises.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from rwkvclip_eval.encoders.towers import Towers, build
from rwkvclip_eval.encoders.weights import need_checkpoint
from rwkvclip_models import RWKVCLIP, eval_transform, load_config, load_model
from rwkvclip_models import tokenize as clip_tokenize
from rwkvclip_models.checkpoint import checkpoint_file, read_checkpoint
from rwkvclip_models.disk import file_digest
from rwkvclip_models.files import expanded
from rwkvclip_models.tokenizer import check_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.encoders.towers import Preprocess, Tokenize

_EXAMPLES = "a file (=model_31.pt) or =hf://owner/repo/file"


def load(spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool) -> Encoder:
    """Return the encoder of `rwkv-clip-b32=CHECKPOINT` or `CONFIG.json=CHECKPOINT`."""
    config = load_config(_config_name(spec))
    checkpoint = need_checkpoint(spec.text, spec.checkpoint, examples=_EXAMPLES)
    sha256 = None
    if spec.seed is not None:
        model = load_model(config, implementation=implementation, seed=spec.seed)
    else:
        path = checkpoint_file(checkpoint, offline=offline)
        sha256 = file_digest(path)
        weights = read_checkpoint(path, ema=True) if spec.ema else path
        model = load_model(config, weights, implementation=implementation)
    result = towers(model, checkpoint_sha256=sha256, trained=spec.seed is None)
    return build(result, spec, device=device, precision=precision)


def prefetch(spec: EncoderSpec) -> list[str]:
    """Download the checkpoint of `=hf://owner/repo/file`; return where it is (nothing for local files)."""
    load_config(_config_name(spec))
    checkpoint = need_checkpoint(spec.text, spec.checkpoint, examples=_EXAMPLES)
    return [str(checkpoint_file(checkpoint))] if checkpoint.startswith("hf://") else []


def is_rwkv_clip(module: nn.Module) -> bool:
    """Return whether `module` is an RWKV-CLIP."""
    return isinstance(module, RWKVCLIP)


def towers(
    module: nn.Module,
    *,
    preprocess: Preprocess | None = None,
    tokenize: Tokenize | None = None,
    checkpoint_sha256: str | None = None,
    trained: bool = True,
    in_memory: bool = False,
) -> Towers:
    """Return the towers of an `RWKVCLIP`."""
    model = cast("RWKVCLIP", module)
    config = model.config
    if tokenize is None:
        check_vocabulary(config.vocab_size, "vocab_size")
    return Towers(
        family="rwkv-clip",
        module=model,
        image=lambda pixels: _encode_image(model, pixels),
        preprocess=preprocess or eval_transform(config.input_size),
        text=model.encode_text,
        tokenize=tokenize or functools.partial(clip_tokenize, context_length=config.ctx_len),
        logit_scale=float(model.logit_scale.detach().float().exp().item()),
        implementation=lambda: model.implementation,
        pack=model.pack_weights,
        config=_shaping(config.to_dict()),
        checkpoint_sha256=checkpoint_sha256,
        trained=trained,
        in_memory=in_memory,
        take_sizes=lambda size, length: _take_length(model, length),
    )


def _take_length(model: RWKVCLIP, length: int) -> None:
    # Images of any size pass as they are, and there are no positions of tokens; texts have a limit alone.
    model.text_model.context_length = max(length, 1)


def _encode_image(model: RWKVCLIP, pixels: Tensor) -> tuple[Tensor, Tensor]:
    pooled = model.encode_image(pixels)
    return pooled, pooled


def _config_name(spec: EncoderSpec) -> str | Path:
    return expanded(spec.model) if spec.model.endswith(".json") else spec.model


def _shaping(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that shape features; those of training alone do not."""
    training = ("drop_path_rate", "dropout", "with_cp")
    return {key: value for key, value in config.items() if key not in training}
