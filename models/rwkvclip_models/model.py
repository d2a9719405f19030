"""RWKV-CLIP: both towers and the logit scale, with loading, saving and the Hugging Face hub.

Paper and official code as in `layers.py` (model/utils.py).

Axes: B batch, L context (tokens), C embedding width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelHubMixin
from torch import nn

from rwkvclip_models import ops
from rwkvclip_models.checkpoint import fit_state_dict, read_checkpoint, save_state_dict, strip_prefixes
from rwkvclip_models.config import RWKVCLIPConfig, config_names, load_config
from rwkvclip_models.errors import CheckpointError
from rwkvclip_models.image_tower import ImageTower
from rwkvclip_models.layers import pack_weights
from rwkvclip_models.limits import check_memory
from rwkvclip_models.text_tower import TextTower

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"

MAX_LOGIT_SCALE = math.log(100)
"""Training clamps logit_scale to [0, MAX_LOGIT_SCALE] after each step."""


class RWKVCLIP(nn.Module, ModelHubMixin):
    """A dual encoder with RWKV towers; `state_dict()` has the official keys in the official order.

    Args:
        config: name, path, mapping or `RWKVCLIPConfig`.
        implementation: of Bi-WKV, as `ops.bi_wkv6` takes it.
    """

    def __init__(
        self, config: str | Path | Mapping[str, Any] | RWKVCLIPConfig, *, implementation: str = "auto"
    ) -> None:
        super().__init__()
        self.config = load_config(config)
        self._requested = ops.known(implementation)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.text_model = TextTower(self.config, implementation)
        self.image_model = ImageTower(self.config, implementation)

    @property
    def implementation(self) -> str:
        """The Bi-WKV implementation that runs on the device the weights are on."""
        config, device = self.config, self.logit_scale.device
        widths = config.image_embed_dims // config.image_num_heads, config.head_size
        names = {ops.resolve(self._requested, device=device, width=width): None for width in widths}
        return ", ".join(names)

    def pack_weights(self, dtype: torch.dtype) -> None:
        """Make encoding in `dtype` (that of the weights, or autocast's) faster on a CPU, without gradients.

        Weights that products take are copied into the order in which the processor's library reads them, see
        `matmul.pack`. The copies take as much memory again. They serve until a weight changes or moves; do
        not write to a packed weight through `.data`, NumPy or DLPack, which torch does not notice. Elsewhere
        nothing happens.
        """
        if "cpu" in self.implementation.split(", "):
            pack_weights(self.text_model, dtype)
            pack_weights(self.image_model, dtype)

    def encode_image(self, pixels: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return un-normalised embeddings [B, C] of pixels [B, 3, height, width], any size.

        `draws` [layers, 2, B] decide on drop path in training, see `ImageTower.forward`.
        """
        embedding: Tensor = self.image_model(pixels, draws)
        return embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return un-normalised embeddings [B, C] of token ids [B, L], any L up to the context length."""
        embedding: Tensor = self.text_model(tokens)
        return embedding

    def forward(
        self, pixels: Tensor, tokens: Tensor, draws: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return image embeddings [B, C], text embeddings [B, C] (un-normalised) and exp(logit_scale)."""
        return self.encode_image(pixels, draws), self.encode_text(tokens), self.logit_scale.exp()

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self, save_directory / _WEIGHTS_FILE)
        config = json.dumps(self.config.to_dict(), indent=2) + "\n"
        (save_directory / _CONFIG_FILE).write_text(config, encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> RWKVCLIP:
        from huggingface_hub import hf_hub_download

        def fetch(name: str) -> Path:
            if Path(model_id).is_dir():
                return Path(model_id) / name
            return Path(
                hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )

        # The mixin hands over the content of config.json too; the file itself is read here.
        model_kwargs.pop("config", None)
        return load_model(fetch(_CONFIG_FILE), fetch(_WEIGHTS_FILE), **model_kwargs)


def load_model(
    config: str | Path | Mapping[str, Any] | RWKVCLIPConfig,
    checkpoint: str | Path | Mapping[str, Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    implementation: str = "auto",
    seed: int = 0,
    offline: bool = False,
) -> RWKVCLIP:
    """Return the model in evaluation mode, with the weights of `checkpoint` or fresh ones.

    Args:
        config: shipped name, path of an official-format JSON, or mapping with its keys.
        checkpoint: path (.pt, .safetensors), `hf://owner/repo/file`, or a state dict with official keys
            (`module.` and `_orig_mod.` may stand in front); None initialises.
        device: where the model goes.
        dtype: of the weights; decay, bonus and logit scale stay float32 in half precision.
        implementation: of Bi-WKV, as `ops.bi_wkv6` takes it.
        seed: of the initialisation, independent of the global generator and of the device; unused with a
            checkpoint.
        offline: never fetch; `hf://` files must be in the local cache.

    Raises:
        ConfigError: the configuration is unknown or impossible.
        CheckpointError: the checkpoint cannot be read, is unsafe, does not fit or is not finite.
        UserError: there is no such implementation.
    """
    config = load_config(config)
    if checkpoint is None:
        check_memory(config.most_parameters())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = RWKVCLIP(config, implementation=implementation)
    else:
        with torch.device("meta"):
            model = RWKVCLIP(config, implementation=implementation)
        if isinstance(checkpoint, Mapping):
            # The model gets its own storage: training it must not change the caller's tensors.
            own = {key: value.detach().clone() for key, value in checkpoint.items()}
            state, source = strip_prefixes(own, "the state dict"), "the state dict"
        else:
            state, source = read_checkpoint(checkpoint, offline=offline), str(checkpoint)
        try:
            fitted = fit_state_dict(state, model.state_dict(), source)
        except CheckpointError as error:
            fits = [name for name in config_names() if _shapes(state) == _shapes(_on_meta(name).state_dict())]
            hint = f"\nThe weights fit the configuration {fits[0]!r}: use that." if fits else ""
            raise CheckpointError(f"{error}{hint}") from None
        model.load_state_dict(fitted, assign=True)
    model.to(device=device, dtype=dtype)
    if dtype in (torch.bfloat16, torch.float16):
        for name, parameter in model.named_parameters():
            if name.endswith(("time_decay", "time_faaaa", "logit_scale")):
                parameter.data = parameter.data.float()
    return model.eval()


def save_checkpoint(model: RWKVCLIP, path: str | Path) -> None:
    """Write the weights: `.safetensors`, or `.pt` as official checkpoints are (a plain state dict).

    Raises:
        CheckpointError: another suffix, or the file cannot be written. Nothing half-written stays.
    """
    save_state_dict(model.state_dict(), Path(path))


def _on_meta(name: str) -> RWKVCLIP:
    with torch.device("meta"):
        return RWKVCLIP(name)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
