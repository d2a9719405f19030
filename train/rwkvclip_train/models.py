"""The two families that can be trained, behind one small interface.

Axes: B pairs, L context (tokens), D embedding, H W image height and width (px).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.encoders.hugging_face_config import check_text_model
from rwkvclip_eval.encoders.open_clip_config import check_open_clip_config
from rwkvclip_eval.errors import ConfigError, shortened
from rwkvclip_models.checkpoint import fit_state_dict, read_checkpoint
from rwkvclip_models.limits import check_memory, check_parameters, num_parameters
from rwkvclip_models.tokenizer import check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor, nn

    from rwkvclip_train.recipe import ModelRecipe


@dataclass(frozen=True)
class Trainee:
    """A model from scratch and what training must know of it.

    Attributes:
        family: `rwkv-clip` or `open_clip`.
        config: as the family writes it in a JSON file.
        module: called with pixels [B, 3, H, W] and tokens [B, L] it returns image and text embeddings
            [B, D] and the exponentiated logit scale; its parameter `logit_scale` is the logarithm.
        tokenize: list of texts → [n, L] int64.
        image_size_px: (height, width).
        drop_path_layers: layers of the image tower whose drop path takes draws [layers, 2, B] as a third
            argument of the module; 0 where there are none.
    """

    family: str
    config: dict[str, Any]
    module: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    image_size_px: tuple[int, int]
    drop_path_layers: int = 0

    @property
    def spec_prefix(self) -> str:
        """What precedes the config's path in a spec for `--model`."""
        return "" if self.family == "rwkv-clip" else "open_clip:"

    @property
    def num_parameters(self) -> int:
        """Parameters of both towers."""
        return num_parameters(self.module)

    def load(self, checkpoint: str) -> None:
        """Begin with the weights of a checkpoint: a path or hf://owner/repo/file.

        Raises:
            CheckpointError: it cannot be read, does not fit, or is not finite.
        """
        state = read_checkpoint(checkpoint)
        self.module.load_state_dict(fit_state_dict(state, self.module.state_dict(), checkpoint))

    def lock(self, towers: Collection[str]) -> None:
        """Leave the weights of these towers, `image` and `text`, as they are: no gradients, no drop path."""
        image = "image_model" if self.family == "rwkv-clip" else "visual"
        for name, parameter in self.module.named_parameters():
            tower = "image" if name.startswith(f"{image}.") else "text"
            if name not in ("logit_scale", "logit_bias") and tower in towers:
                parameter.requires_grad_(False)
        for name, child in self.module.named_children():
            if ("image" if name == image else "text") in towers:
                child.eval()

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each layer for the backward pass."""
        if self.family == "open_clip":
            switch: Any = self.module.set_grad_checkpointing
            switch(True)
            return
        for name in ("image_model", "text_model"):
            tower: Any = self.module.get_submodule(name)
            tower.with_cp = True


def build_trainee(model: ModelRecipe, *, seed: int, device: torch.device) -> Trainee:
    """Return the model of a recipe, initialised from `seed` (the same on every device).

    Raises:
        ConfigError: the config misses a key, has one that is unknown, or describes no model.
    """
    build = _rwkv_clip if model.family == "rwkv-clip" else _open_clip
    trainee = build(dict(model.config), seed)
    trainee.module.to(device)
    if trainee.family == "open_clip" and device.type == "cpu":
        from rwkvclip_eval.encoders.tokens_first import lay_tokens_first

        lay_tokens_first(trainee.module)
    return trainee


def text_decay_to_bfloat16(model: nn.Module) -> None:
    """Make time_decay and time_faaaa of an RWKV-CLIP's text tower bfloat16, as the official parameters are.

    Their initial values are bfloat16 numbers in any case. AdamW's steps are below half of the last digit
    where |p| ≥ 0.5, and change nothing there. A locked tower stays as it is. Call it before an optimizer is
    given the parameters.
    """
    for name, parameter in model.named_parameters():
        kept = name.startswith("text_model.") and name.endswith(("time_decay", "time_faaaa"))
        if kept and parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()


def _rwkv_clip(config: dict[str, Any], seed: int) -> Trainee:
    from rwkvclip_models import load_model, tokenize

    module = load_model(config, seed=seed)
    check_vocabulary(config["vocab_size"], "model.config: vocab_size")
    size_px = config["input_size"]
    return Trainee(
        family="rwkv-clip",
        config=config,
        module=module,
        tokenize=partial(tokenize, context_length=config["ctx_len"]),
        image_size_px=(size_px, size_px),
        drop_path_layers=module.config.image_depth if module.config.drop_path_rate else 0,
    )


def _open_clip(config: dict[str, Any], seed: int) -> Trainee:
    import open_clip

    check_open_clip_config(config, "model.config")
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    arguments["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    arguments["text_cfg"] = {**config["text_cfg"], "hf_model_pretrained": False}
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    try:
        if name := config["text_cfg"].get("hf_model_name"):
            check_text_model(name)
        elif not config["vision_cfg"].get("timm_model_name"):
            with torch.device("meta"):
                count = num_parameters(build(**arguments))
            check_parameters(count)
            check_memory(count)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = build(**arguments)
    except Exception as error:  # model code raises what it likes on sizes that do not fit
        raise ConfigError(
            f"model.config is no open_clip config: {shortened(str(error), 500)}. Expected the keys "
            "embed_dim, vision_cfg and text_cfg of open_clip's model_configs/*.json."
        ) from error
    if (vocabulary := getattr(module, "vocab_size", None)) is not None:
        check_vocabulary(vocabulary, "model.config: text_cfg.vocab_size")
    height, width = module.visual.image_size
    return Trainee(
        family="open_clip",
        config=config,
        module=module,
        tokenize=open_clip.SimpleTokenizer(context_length=module.context_length),
        image_size_px=(height, width),
    )
