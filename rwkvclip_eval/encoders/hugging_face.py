"""Hugging Face models: CLIP and SigLIP dual encoders, and vision-only ones (ViT, DINOv2, CLIP's tower …).

A model is a folder with `config.json`, weights and processor files, on disk or of the hub. Its own image
processor and tokenizer are used; texts are padded to the tower's full context, as SigLIP was trained (CLIP's
causal text tower reads nothing behind the end-of-text token). Code of a repository is never run.

Probe features are the pooled output of the vision tower before `visual_projection` (CLIP); SigLIP and
vision-only towers have no projection, so probe and embedding differ by the normalisation alone.

Axes: B batch, L context (tokens), D embedding, F probe features.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from rwkvclip_eval.encoders.hub import fetch_folder, hub_mode
from rwkvclip_eval.encoders.hugging_face_config import check_folder, num_parameters_of, read_config
from rwkvclip_eval.encoders.hugging_face_sizes import ClipSizes
from rwkvclip_eval.encoders.towers import Towers, build, cut_at_end
from rwkvclip_eval.encoders.weights import seeded
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError, shortened, shown
from rwkvclip_models.checkpoint import fit_state_dict
from rwkvclip_models.checkpoint_family import refuse_other_family
from rwkvclip_models.disk import file_digest
from rwkvclip_models.files import expanded
from rwkvclip_models.limits import check_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor, nn

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec

_SETTINGS = ("*.json", "*.txt", "*.model")
_SAFE_WEIGHTS = "model*.safetensors"
_PICKLED_WEIGHTS = "pytorch_model*.bin"


def load(spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool) -> Encoder:
    """Return the encoder of `hf:owner/repo` or `hf:FOLDER`, with `=random:SEED` for untrained weights.

    `implementation` names a Bi-WKV operator and means nothing here.
    """
    if spec.ema or (spec.checkpoint is not None and spec.seed is None):
        raise UserError(
            f"Model {spec.text!r}: a Hugging Face folder brings its own weights; give hf:FOLDER, or "
            "hf:FOLDER=random:SEED for untrained ones."
        )
    folder = _folder(spec, offline=offline)
    check_folder(folder, _SETTINGS, _weight_files(folder) if spec.seed is None else [])
    with hub_mode(offline=True), _quiet():
        config = read_config(folder, spec.text)
        model = _build_model(folder, config, spec)
        towers = _towers(folder, config, model, spec)
    return build(towers, spec, device=device, precision=precision)


def prefetch(spec: EncoderSpec) -> list[str]:
    """Download the model's folder; return where it is cached (nothing for a local folder)."""
    folder = _folder(spec, offline=False)
    return [] if _is_local(spec) else [str(folder)]


def _is_local(spec: EncoderSpec) -> bool:
    name = spec.model.removeprefix("hf:")
    return name.startswith(("./", "../", "/", "~")) or Path(name).is_dir()


def _folder(spec: EncoderSpec, *, offline: bool) -> Path:
    name = spec.model.removeprefix("hf:")
    if _is_local(spec):
        folder = expanded(name)
        if not (folder / "config.json").exists():
            what = "has no config.json" if folder.is_dir() else "does not exist"
            raise CheckpointError(f"Model {spec.text!r}: folder {name} {what}.")
        return folder
    if name.count("/") != 1:
        raise UserError(f"Model {spec.text!r} is not hf:owner/repo or hf:./FOLDER.")
    if spec.seed is not None:
        return fetch_folder(name, _SETTINGS, offline=offline)
    folder = fetch_folder(name, [*_SETTINGS, _SAFE_WEIGHTS], offline=offline)
    if not list(folder.glob(_SAFE_WEIGHTS)):
        folder = fetch_folder(name, [*_SETTINGS, _PICKLED_WEIGHTS], offline=offline)
    return folder


def _build_model(folder: Path, config: Any, spec: EncoderSpec) -> nn.Module:
    """Return the model in float32 on the CPU."""
    from transformers import AutoModel

    if spec.seed is not None:
        check_memory(num_parameters_of(config))
        with seeded(spec.seed):
            return cast("nn.Module", AutoModel.from_config(config, dtype=torch.float32))
    files = _weight_files(folder)
    if not files:
        raise CheckpointError(
            f"Model {spec.text!r}: no weights in its folder; expected {_SAFE_WEIGHTS} or {_PICKLED_WEIGHTS}."
        )
    expected, found = num_parameters_of(config), sum(file.stat().st_size for file in files)
    # What weights lack is made, so that a few bytes could ask for any memory.
    if expected > found:
        raise CheckpointError(
            f"Model {spec.text!r}: the weights do not fit config.json, which describes {expected:,} "
            f"parameters: the files have {found:,} bytes."
        )
    check_memory(expected)
    try:
        # The global generators would otherwise initialise what the checkpoint lacks.
        with seeded(0):
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                # Listed below, which the library's error does not do.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # pickle, safetensors and model code raise what they like on damaged weights
        raise CheckpointError(
            f"Model {spec.text!r}: transformers cannot load {', '.join(f.name for f in files)}: "
            f"{shortened(str(error).strip(), 800)}. A truncated download must be fetched again."
        ) from error
    missing = sorted(report["missing_keys"])
    # A vision tower saved from a classifier has no pooler; its class token is taken instead.
    problems = [f"{key} is missing" for key in missing if not key.startswith("pooler.")]
    problems += [
        f"{key} is {list(got)}, expected {list(expected)}"
        for key, got, expected in sorted(report["mismatched_keys"])
    ]
    if problems:
        refuse_other_family(report["unexpected_keys"], model.state_dict(), files[0].name)
        raise CheckpointError(
            f"Model {spec.text!r}: the weights do not fit config.json in {len(problems)} tensors: "
            f"{'; '.join(problems[:8])}{'; …' if len(problems) > 8 else ''}."
        )
    if missing:
        model.pooler = None
    state = model.state_dict()
    fit_state_dict(state, state, spec.public_text)  # refuses NaN and infinity
    return cast("nn.Module", model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's progress bar and load report; what matters in it becomes our error."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(_SAFE_WEIGHTS)) or sorted(folder.glob(_PICKLED_WEIGHTS))


def _towers(folder: Path, config: Any, model: Any, spec: EncoderSpec) -> Towers:
    sizes = ClipSizes(model) if config.model_type == "clip" else None
    image, text, context = _calls(model, config, sizes)
    tokenize = PaddedTokenizer(folder, context) if context is not None else None
    if tokenize is not None and config.model_type == "clip":
        _check_end(config, tokenize)
    return Towers(
        family="hf",
        module=model,
        image=image,
        preprocess=ProcessorTransform(folder),
        text=text,
        tokenize=tokenize,
        logit_scale=float(model.logit_scale.detach().exp().item()) if text else None,
        logit_bias=float(model.logit_bias.detach().item()) if hasattr(model, "logit_bias") else None,
        implementation=lambda: str(model.config._attn_implementation or "torch"),
        config=_plain(config.to_dict()),
        checkpoint_sha256=file_digest(*_weight_files(folder)) if spec.seed is None else None,
        trained=spec.seed is None,
        take_sizes=sizes.take if sizes else None,
    )


def _calls(
    model: Any, config: Any, sizes: ClipSizes | None
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor], Tensor] | None, int | None]:
    """Return the image call, the text call and the context length in tokens."""
    if config.model_type == "clip":

        def clip_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
            other = sizes is not None and sizes.interpolate
            probe = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=other).pooler_output
            return model.visual_projection(probe), probe

        def clip_text(tokens: Tensor) -> Tensor:
            pooled = model.text_model(input_ids=tokens).pooler_output
            return cast("Tensor", model.text_projection(pooled))

        return clip_image, cut_at_end(clip_text, _end_of(config)), config.text_config.max_position_embeddings
    if config.model_type == "siglip":

        def siglip_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
            probe = model.vision_model(pixel_values=pixels).pooler_output
            return probe, probe

        def siglip_text(tokens: Tensor) -> Tensor:
            return cast("Tensor", model.text_model(input_ids=tokens).pooler_output)

        return siglip_image, siglip_text, config.text_config.max_position_embeddings

    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        probe = output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
        return probe, probe

    return image, None, None


def _end_of(config: Any) -> Callable[[Tensor], Tensor]:
    """Return tokens [B, L] → [B], the position of CLIP's text tower that is read (causal before it)."""
    end = config.text_config.eos_token_id
    # Configurations older than transformers' repair of the id say 2, and the highest id is read.
    if end == 2:
        return lambda tokens: tokens.argmax(dim=-1)
    return lambda tokens: (tokens == end).int().argmax(dim=-1)


def _check_end(config: Any, tokenize: PaddedTokenizer) -> None:
    """Refuse an end of texts that no text has: all would have the embedding of their first token."""
    end, ids = config.text_config.eos_token_id, tokenize(["a"])[0].tolist()
    if end not in (2, *ids):
        raise ConfigError(
            f"config.json: text_config.eos_token_id is {shown(end)}, but the tokenizer makes of the text 'a' "
            f"the ids {shown(ids[:8])}: the tower reads a text at its end. Take both from one model."
        )


class ProcessorTransform:
    """The model's own image processor as a picklable function of one image.

    Args:
        folder: holds preprocessor_config.json.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # that library raises what it likes on a file that does not fit
            raise ConfigError(f"No image processor in {folder.name}: {shortened(str(error), 500)}") from error

    def __call__(self, image: Image) -> Tensor:
        """Return [3, H, W] float32."""
        output = self._processor(images=image.convert("RGB"), return_tensors="pt")
        return cast("Tensor", output["pixel_values"])[0].float()

    def __repr__(self) -> str:
        return json.dumps(_plain(self._processor.to_dict()), sort_keys=True)


class PaddedTokenizer:
    """The model's own tokenizer, padding and cutting every text to the context length.

    Args:
        folder: holds the tokenizer's files.
        context_length: L in tokens.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # that library raises what it likes on a file that does not fit
            raise ConfigError(f"No tokenizer in {folder.name}: {shortened(str(error), 500)}") from error
        self._context_length = context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [B, L] int64."""
        output = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._context_length,
            return_tensors="pt",
        )
        return cast("Tensor", output["input_ids"])


def _plain(settings: dict[str, Any]) -> Any:
    """Return settings as JSON values, without what changes from place to place."""
    kept = {k: v for k, v in settings.items() if k not in ("_name_or_path", "transformers_version")}
    return json.loads(json.dumps(kept, sort_keys=True, default=str))
