"""open_clip models: CLIP, ALIP (open_clip's ViT-B-32, plain GELU), SigLIP and every other configuration.

Probe features of a `VisionTransformer` are its pooled output after `ln_post` and before `proj` (the class
token for CLIP), as CLIP's linear probe takes them. Other towers (ModifiedResNet, timm) project inside their
pooling or head; there the probe is the embedding before normalisation.

Axes: B batch, D embedding, F probe features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    get_model_preprocess_cfg,
    set_model_preprocess_cfg,
)
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import VisionTransformer

from rwkvclip_eval.encoders.hub import fetch, hub_error, hub_mode
from rwkvclip_eval.encoders.hugging_face_config import check_text_model
from rwkvclip_eval.encoders.open_clip_config import read_open_clip_config
from rwkvclip_eval.encoders.open_clip_sizes import sizes_taker
from rwkvclip_eval.encoders.open_clip_text import open_clip_text
from rwkvclip_eval.encoders.tokens_first import lay_tokens_first
from rwkvclip_eval.encoders.towers import Towers, attention_implementation, build, scalar
from rwkvclip_eval.encoders.weights import need_checkpoint, seeded
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError, shortened
from rwkvclip_eval.registry import unknown_name
from rwkvclip_models.checkpoint import checkpoint_file, fit_state_dict, read_checkpoint
from rwkvclip_models.device import resolve_device
from rwkvclip_models.disk import file_digest
from rwkvclip_models.files import expanded
from rwkvclip_models.limits import check_memory, check_parameters, num_parameters
from rwkvclip_models.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.encoders.towers import Preprocess, Tokenize

ALIASES = {
    "clip-vit-b32": "ViT-B-32",
    "clip-vit-b16": "ViT-B-16",
    "clip-vit-l14": "ViT-L-14",
    "alip-vit-b32": "ViT-B-32",
}
"""Short names → open_clip's."""

_EXAMPLES = "a pretrained tag (=openai), a file (=runs/x/epoch_5.pt) or =hf://owner/repo/file"
# OpenAI's TorchScript archives carry these beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class _Architecture:
    """A model configuration and what images it expects.

    Attributes:
        name: as open_clip or the file calls it.
        config: open_clip's `model_cfg`.
        preprocess: open_clip's `preprocess_cfg`: size and statistics of its images.
        tags: pretrained weights by tag; none for ALIP, which shares an architecture but no weights with CLIP.
        own: of a file, so that it may describe anything.
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    tags: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    own: bool = False


def load(spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool) -> Encoder:
    """Return the encoder of `open_clip:NAME=CHECKPOINT`, `open_clip:CONFIG.json=CHECKPOINT` or an alias.

    `implementation` names a Bi-WKV operator and means nothing here.
    """
    architecture = _architecture(spec)
    checkpoint = need_checkpoint(spec.text, spec.checkpoint, examples=_EXAMPLES)
    sha256 = weights = None
    with hub_mode(offline=offline):
        tokenize = _tokenizer(architecture, offline=offline)
        skeleton = _skeleton(architecture, offline=offline)
        if spec.seed is None:
            path = _weights_file(architecture, checkpoint, offline=offline)
            sha256 = file_digest(path)
            # Before memory is made for a model that they may not fit.
            weights = _fitted(skeleton, path, spec, architecture) if skeleton else None
        if skeleton:
            check_memory(num_parameters(skeleton))
        model = _build_model(architecture, spec.seed, offline=offline)
    if spec.seed is None:
        model.load_state_dict(weights or _fitted(model, path, spec, architecture))
    if resolve_device(device).type == "cpu":
        lay_tokens_first(model)
    result = towers(
        model,
        preprocess=None,
        tokenize=tokenize,
        config=architecture.config,
        checkpoint_sha256=sha256,
        trained=spec.seed is None,
    )
    return build(result, spec, device=device, precision=precision)


def prefetch(spec: EncoderSpec) -> list[str]:
    """Download weights, tokenizer and tower configurations; return what is now in the local caches."""
    architecture = _architecture(spec)
    fetched = []
    checkpoint = need_checkpoint(spec.text, spec.checkpoint, examples=_EXAMPLES)
    if spec.seed is None:
        fetched.append(str(_weights_file(architecture, checkpoint, offline=False)))
    text = architecture.config["text_cfg"]
    _tokenizer(architecture, offline=False)
    if name := text.get("hf_tokenizer_name"):
        fetched.append(f"tokenizer {name}")
    if name := text.get("hf_model_name"):
        check_text_model(name)
        fetched.append(f"configuration {name}")
    return fetched


def untrained_image_tower(name: str, image_px: int) -> nn.Module:
    """Return an image tower of open_clip's with random weights, for images of any size; for timings."""
    tower: nn.Module = open_clip.create_model(name, force_image_size=image_px).visual.eval()
    return tower


def is_open_clip(module: nn.Module) -> bool:
    """Return whether `module` is one of open_clip's models and encodes images as they do."""
    kinds = (open_clip.CLIP, open_clip.CustomTextCLIP, open_clip.CoCa)
    return any(isinstance(module, kind) and type(module).encode_image is kind.encode_image for kind in kinds)


def towers(
    model: nn.Module,
    *,
    preprocess: Preprocess | None = None,
    tokenize: Tokenize | None = None,
    config: object = None,
    checkpoint_sha256: str | None = None,
    trained: bool = True,
    in_memory: bool = False,
) -> Towers:
    """Return the towers of an open_clip model.

    Raises:
        UserError: its tokenizer cannot be told from the model and must be given.
    """
    clip = cast("Any", model)
    if preprocess is None:
        chosen = merge_preprocess_dict(PreprocessCfg(), dict(get_model_preprocess_cfg(model)))
        preprocess = image_transform_v2(PreprocessCfg(**chosen), is_train=False)
    if tokenize is None:
        vocabulary = getattr(clip, "vocab_size", None)
        if vocabulary != VOCABULARY:
            raise UserError(
                f"Give tokenize=: the model has {vocabulary} tokens, CLIP's tokenizer {VOCABULARY}."
            )
        tokenize = open_clip.SimpleTokenizer(context_length=clip.context_length)
    # The repr names every layer with its sizes and activation.
    described = config if config is not None else repr(model)
    return Towers(
        family="open_clip",
        module=model,
        image=lambda pixels: _encode_image(clip, pixels),
        preprocess=preprocess,
        text=open_clip_text(clip),
        tokenize=tokenize,
        logit_scale=float(clip.logit_scale.detach().float().exp().item()),
        logit_bias=scalar(getattr(clip, "logit_bias", None)),
        implementation=lambda: attention_implementation(model),
        config=described,
        checkpoint_sha256=checkpoint_sha256,
        trained=trained,
        in_memory=in_memory,
        take_sizes=sizes_taker(clip),
    )


def _encode_image(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embedding [B, D] before normalisation and the probe [B, F], from one forward."""
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.proj is None:
        embedding = _pooled(visual(pixels))
        return embedding, embedding
    # The library's own forward, with the projection held back, so that every kind of pooling stays its own.
    projection, visual.proj = visual.proj, None
    try:
        probe = _pooled(visual(pixels))
    finally:
        visual.proj = projection
    return probe @ projection, probe


def _pooled(output: Any) -> Tensor:
    # CoCa's tower returns its tokens too.
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)


def _architecture(spec: EncoderSpec) -> _Architecture:
    name = ALIASES.get(spec.model) or spec.model.removeprefix("open_clip:")
    if name.endswith(".json"):
        path = expanded(name)
        config, given = read_open_clip_config(path)
        preprocess = merge_preprocess_dict(PreprocessCfg(), given)
        return _Architecture(path.stem, config, preprocess, own=True)
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(unknown_name("open_clip model", name, open_clip.list_models()))
    preprocess = dataclasses.asdict(PreprocessCfg())
    known = [] if spec.model == "alip-vit-b32" else open_clip.list_pretrained_tags_by_model(name)
    tags = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in known}
    if tag := tags.get(spec.checkpoint or ""):
        preprocess = merge_preprocess_dict(preprocess, tag)
        # OpenAI's weights (and a few others) were trained with QuickGELU and are wrong without it.
        config["quick_gelu"] = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    return _Architecture(name, config, preprocess, tags)


def _build_model(architecture: _Architecture, seed: int | None, *, offline: bool) -> nn.Module:
    # Built from the classes, since create_model registers configurations globally and may fetch and
    # unpickle weights of single towers.
    config = {key: value for key, value in architecture.config.items() if key != "custom_text"}
    config["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    config["text_cfg"] = {**config["text_cfg"], "hf_model_pretrained": False}
    hugging_face_text = config["text_cfg"].get("hf_model_name")
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    elif architecture.config.get("custom_text") or hugging_face_text:
        kind = open_clip.CustomTextCLIP
    else:
        kind = open_clip.CLIP
    try:
        if hugging_face_text:
            check_text_model(hugging_face_text)
        with seeded(0 if seed is None else seed):
            model = kind(**config)
    except OSError as error:
        raise hub_error(str(hugging_face_text), error, offline=offline) from error
    except Exception as error:  # model code raises what it likes on sizes that do not fit
        raise ConfigError(
            f"open_clip cannot build {architecture.name}: {shortened(str(error), 500)}"
        ) from error
    size = getattr(model.visual, "image_size", None)
    set_model_preprocess_cfg(model, {**architecture.preprocess, **({"size": size} if size else {})})
    return cast("nn.Module", model)


def _skeleton(architecture: _Architecture, *, offline: bool) -> nn.Module | None:
    """Return the model without memory for weights, where a file describes it and no other library builds it.

    Raises:
        ConfigError: it cannot be built or is too large.
    """
    text, vision = architecture.config["text_cfg"], architecture.config["vision_cfg"]
    if not architecture.own or text.get("hf_model_name") or vision.get("timm_model_name"):
        return None
    with torch.device("meta"):
        model = _build_model(architecture, None, offline=offline)
    check_parameters(num_parameters(model))
    return model


def _tokenizer(architecture: _Architecture, *, offline: bool) -> Tokenize:
    text = architecture.config["text_cfg"]
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        try:
            return cast("Tokenize", open_clip.SimpleTokenizer(context_length=length, **options))
        except (TypeError, ValueError, AssertionError, KeyError) as error:
            raise ConfigError(f"open_clip's tokenizer does not take {options}: {error}") from error
    try:
        with hub_mode(offline=offline):
            return cast(
                "Tokenize",
                open_clip.tokenizer.HFTokenizer(
                    name,
                    context_length=length,
                    tokenizer_mode=text.get("tokenizer_mode"),
                    trust_remote_code=False,
                    **options,
                ),
            )
    except OSError as error:
        raise hub_error(f"tokenizer {name}", error, offline=offline) from error
    except Exception as error:  # that library raises what it likes on a file that does not fit
        raise ConfigError(f"The tokenizer {name} cannot be read: {shortened(str(error), 500)}") from error


def _weights_file(architecture: _Architecture, checkpoint: str, *, offline: bool) -> Path:
    tag = architecture.tags.get(checkpoint)
    if tag is None:
        looks_like_tag = not (Path(checkpoint).suffix or "/" in checkpoint or Path(checkpoint).exists())
        if looks_like_tag:
            raise UserError(
                unknown_name(f"pretrained tag of {architecture.name}", checkpoint, architecture.tags)
                + " Files are given as a path or hf://owner/repo/file."
            )
        return checkpoint_file(checkpoint, offline=offline)
    repository, _, file = str(tag.get("hf_hub") or "").rpartition("/")
    if not repository:
        raise UserError(
            f"open_clip's tag {checkpoint!r} of {architecture.name} is not on the Hugging Face hub; download "
            f"{tag.get('url')} and give the file as CHECKPOINT."
        )
    file = file or "open_clip_pytorch_model.bin"
    # Repositories of before safetensors hold the older form only.
    safe = "open_clip_model.safetensors" if file == "open_clip_pytorch_model.bin" else None
    safe = safe or str(Path(file).with_suffix(".safetensors"))
    return fetch(repository, [safe, file], offline=offline)


def _fitted(
    model: nn.Module, path: Path, spec: EncoderSpec, architecture: _Architecture
) -> dict[str, Tensor]:
    """Return the weights in `path` as `model`, which may be without memory, takes them."""
    state = read_checkpoint(path, ema=spec.ema)
    state = {key: value for key, value in state.items() if key not in _NOT_WEIGHTS}
    own = model.state_dict()
    try:
        state = dict(convert_state_dict(model, state))
        if "positional_embedding" in state and "positional_embedding" not in own:
            state = dict(convert_to_custom_text_state_dict(state))
    except Exception as error:  # that library raises what it likes on keys that it half knows
        raise CheckpointError(
            f"open_clip cannot convert the weights in {path.name} ({type(error).__name__}: "
            f"{shortened(str(error), 300)})."
        ) from error
    # Made on the fly by transformers since 4.31.
    if (key := "text.transformer.embeddings.position_ids") not in own:
        state.pop(key, None)
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in own and state[key].numel() == 1:
            state[key] = state[key].reshape(own[key].shape)
    try:
        return fit_state_dict(state, own, path.name)
    except CheckpointError as error:
        raise CheckpointError(f"open_clip {architecture.name}: {error}{_fitting(state)}") from None


def _fitting(state: Mapping[str, Tensor]) -> str:
    """Return which of open_clip's ViT configurations have the state dict's sizes, as a sentence."""
    patch, projection = state.get("visual.conv1.weight"), state.get("visual.proj")
    text = state.get("text_projection", state.get("text.text_projection"))
    positions = state.get("visual.positional_embedding")
    if patch is None or projection is None or text is None or positions is None:
        return ""
    blocks = {key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")}
    sizes = (
        patch.shape[0],
        patch.shape[-1],
        len(blocks),
        round((positions.shape[0] - 1) ** 0.5) * patch.shape[-1],
        projection.shape[-1],
        text.shape[0],
    )
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, words = config["vision_cfg"], config["text_cfg"]
        own = tuple(vision.get(key) for key in ("width", "patch_size", "layers", "image_size"))
        if (*own, config["embed_dim"], words.get("width")) == sizes:
            names.append(name)
    return f"\nIts sizes are those of {' and '.join(names)}." if names else ""
