"""Turns what an adapter knows about a model (`Towers`) into an `Encoder`: facts, fingerprint, arithmetic.

Axes: B batch, H W image height and width (px), L context (tokens), D embedding, F probe features.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from rwkvclip_eval.encoders.arithmetic import arithmetic, check_precision, product_dtype
from rwkvclip_eval.encoders.checked import CheckedEncoder
from rwkvclip_eval.encoders.protocol import EncoderInfo, ImageFeatures, make_fingerprint
from rwkvclip_eval.encoders.weights import sha256_state_dict
from rwkvclip_eval.errors import UserError, shortened, users_code
from rwkvclip_models.device import resolve_device
from rwkvclip_models.limits import num_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec

ADAPTER_VERSION = 2
"""Part of every fingerprint; raised whenever an adapter could give other features for the same weights."""

# Their token ids identify a tokenizer: case, punctuation, non-ASCII, numbers, two lengths.
_SENTENCES = ("a", "A photo of TWO cats, 3.5 m apart — naïve façade 猫!")

# Their versions are pinned by results, not by fingerprints; their text forms name every setting.
_LIBRARIES = {"torch", "torchvision", "open_clip", "transformers", "rwkvclip_models", "rwkvclip_eval"}

Preprocess = Callable[[Image.Image], Tensor]
Tokenize = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Towers:
    """A model and how to call it.

    Attributes:
        family: `rwkv-clip`, `open_clip`, `hf` or `python`.
        module: holds all weights.
        image: pixels [B, 3, H, W] → embedding [B, D] before normalisation and probe [B, F], in one forward.
        preprocess: picklable; PIL image of any mode and size → [3, H, W] float32.
        text: tokens [B, L] → embedding [B, D] before normalisation; None for a vision-only model.
        tokenize: texts → [B, L] int64, L fixed; None for a vision-only model.
        logit_scale: multiplier of the cosine (exponentiated); None for a vision-only model.
        logit_bias: of sigmoid models.
        implementation: asked once the module is on its device: the operator implementation that runs there.
        pack: told the dtype of products once the module is on its device, unless its weights may change.
        config: JSON-serialisable; all that shapes the features beside weights, preprocessing and tokenizer.
        checkpoint_sha256: of the checkpoint's bytes; None takes that of the state dict.
        trained: False for `random:SEED`.
        in_memory: the module belongs to someone who may be training it.
        take_sizes: has the module take images of (height, width) px and texts of so many tokens from now on,
            to time it: what it then gives means nothing. None for models that take their own sizes alone.
    """

    family: str
    module: nn.Module
    image: Callable[[Tensor], tuple[Tensor, Tensor]]
    preprocess: Preprocess
    text: Callable[[Tensor], Tensor] | None = None
    tokenize: Tokenize | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    implementation: Callable[[], str] = lambda: "torch"
    pack: Callable[[torch.dtype], None] = lambda dtype: None
    config: Any = field(default_factory=dict)
    checkpoint_sha256: str | None = None
    trained: bool = True
    in_memory: bool = False
    take_sizes: Callable[[tuple[int, int], int], None] | None = None


class ModuleEncoder:
    """An `Encoder` that runs an `nn.Module`.

    A loaded module is in eval mode for good. One in memory is in eval mode during each call only, its
    training flags, the random generators and every global switch are as before afterwards, and encoding
    after its weights changed is refused, since `info` would be wrong.
    """

    def __init__(self, towers: Towers, info: EncoderInfo, device: torch.device) -> None:
        self.info = info
        self.preprocess = towers.preprocess
        self._towers = towers
        self._device = device
        self._versions = _versions(towers.module) if towers.in_memory else 0

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Return embedding [B, D] and probe [B, F] of `pixels` [B, 3, H, W] float32, on the device."""
        with self._running():
            embedding, probe = self._towers.image(pixels.to(self._device, non_blocking=True))
            return ImageFeatures(functional.normalize(embedding.float(), dim=-1), probe.float())

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return [B, L] int64 token ids."""
        assert self._towers.tokenize is not None
        return self._towers.tokenize(list(texts))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return [B, D] float32 embeddings of unit L2 norm, on the device."""
        assert self._towers.text is not None
        with self._running():
            embedding = self._towers.text(tokens.to(self._device, non_blocking=True))
            return functional.normalize(embedding.float(), dim=-1)

    @property
    def towers(self) -> Towers:
        """What it runs."""
        return self._towers

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._towers.in_memory:
                if _versions(self._towers.module) != self._versions:
                    raise UserError(
                        f"{self.info.name}: the weights changed since as_encoder(); call it again, for its "
                        "fingerprint must be that of the weights."
                    )
                stack.enter_context(borrowed(self._towers.module, self._device))
            else:
                stack.enter_context(torch.inference_mode())
            stack.enter_context(arithmetic(self._device, self.info.precision))
            yield


@contextlib.contextmanager
def borrowed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put `module` into eval mode without gradients for a block; flags and random generators come back."""
    # Not inference mode: buffers a module makes on first use would be inference tensors, which the next
    # training step cannot save for backward.
    flags = [(m, m.training) for m in module.modules()]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, training in flags:
                part.training = training


def build(towers: Towers, spec: EncoderSpec, *, device: str | torch.device, precision: str) -> CheckedEncoder:
    """Return the encoder of `towers`, moved to `device`; one image is encoded to learn sizes.

    Raises:
        UserError: device or precision are impossible, or the model fails on one image.
    """
    check_precision(precision)
    target = resolve_device(device)
    sha256 = towers.checkpoint_sha256 or sha256_state_dict(towers.module.state_dict())
    towers.module.to(target)
    if not towers.in_memory:
        towers.module.eval()
        towers.pack(product_dtype(precision))
    name, example = spec.name, _example_image()
    pixels = _check_pixels(_call(towers.preprocess, example, f"{name}: preprocess of a PIL image"), name)
    guard = borrowed(towers.module, target) if towers.in_memory else torch.inference_mode()
    with guard, arithmetic(target, precision):
        size = f"{pixels.shape[1]}×{pixels.shape[2]} px"
        embedding, probe = _call(
            towers.image, pixels[None].to(target), f"{name}: image tower on one {size} image"
        )
    for what, features in (("embedding", embedding), ("probe features", probe)):
        if features.dim() != 2 or len(features) != 1:
            raise UserError(f"{name}: {what} of one image must be [1, D], got {list(features.shape)}.")
        _check_finite(features, f"{what} of one image", towers, precision, name)
    tokens = None
    if towers.tokenize is not None:
        tokens = _check_tokens(_call(towers.tokenize, list(_SENTENCES), f"{name}: tokenize"), name)
        _check_text(towers, tokens, embedding.shape[1], target, precision, name)
    info = EncoderInfo(
        name=name,
        spec=spec.public_text,
        family=towers.family,
        checkpoint_sha256=sha256,
        fingerprint=make_fingerprint(
            adapter=[towers.family, ADAPTER_VERSION],
            checkpoint=sha256,
            ema=spec.ema,
            config=towers.config,
            preprocessing=[describe(towers.preprocess), _summary(pixels)],
            tokenizer=None if tokens is None else tokens.tolist(),
        ),
        embed_dim=embedding.shape[1],
        probe_dim=probe.shape[1],
        image_size_px=(pixels.shape[1], pixels.shape[2]),
        context_length=None if tokens is None else tokens.shape[1],
        logit_scale=None if tokens is None else towers.logit_scale,
        logit_bias=None if tokens is None else towers.logit_bias,
        precision=precision,
        device=str(target),
        implementation=towers.implementation(),
        num_parameters=num_parameters(towers.module),
        trained=towers.trained,
        step=spec.step,
        step_unit=spec.step_unit,
    )
    return CheckedEncoder(ModuleEncoder(towers, info, target))


def towers_of(encoder: Encoder) -> Towers:
    """Return the towers that a loaded encoder runs.

    Raises:
        UserError: it is one of a plugin's own, of which nothing but its outputs is known.
    """
    inner = encoder.wrapped if isinstance(encoder, CheckedEncoder) else encoder
    if not isinstance(inner, ModuleEncoder):
        raise UserError(
            f"{encoder.info.name} is an encoder of a plugin's own ({type(inner).__name__}); only models that "
            "are torch modules can be timed part by part."
        )
    return inner.towers


def cut_at_end(
    text: Callable[[Tensor], Tensor], end: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return a causal `text` on tokens cut behind the batch's last end-of-text token.

    In a causal tower no position sees a later one, so the embedding at the end-of-text token is the same, up
    to the rounding of differently shaped products, whether or not the padding behind it is computed. Towers
    that are not causal (SigLIP) or that pool padding (RWKV-CLIP) need every position.

    Args:
        text: tokens [B, L], any L → embedding [B, D].
        end: tokens [B, L] → [B], each text's position that is read.
    """

    def shortened(tokens: Tensor) -> Tensor:
        # Without values nothing says where to cut.
        last = tokens.shape[1] if tokens.is_meta else int(end(tokens).max()) + 1
        return text(tokens[:, :last])

    return shortened


def describe(function: object) -> str:
    """Return what identifies a callable or class across processes: its text form, and its source if a user's.

    The text form of a library's transform says all; a user's function or class may change its work without
    changing its text, so an edit of its source gives another fingerprint. What a transform is composed of
    (partial functions, Compose, Lambda) is described part by part.
    """
    if isinstance(function, functools.partial):
        return f"partial {describe(function.func)} {_plain_repr((function.args, function.keywords))}"
    parts = [*getattr(function, "transforms", ()), *filter(None, [getattr(function, "lambd", None)])]
    inside = "".join(f" {describe(part)}" for part in parts)
    defined: Any = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    if str(getattr(defined, "__module__", "")).partition(".")[0] in _LIBRARIES:
        return _plain_repr(function) + inside
    try:
        source = inspect.getsource(defined)
    except (OSError, TypeError):
        source = ""
    return f"{_plain_repr(function)} {hashlib.sha256(source.encode()).hexdigest()}{inside}"


def describe_module(module: nn.Module) -> list[str]:
    """Return what identifies a module's work beside its weights: its layers, and the source of users' own."""
    kinds = {type(part) for part in module.modules()}
    return [_plain_repr(module), *sorted(describe(kind) for kind in kinds)]


def _plain_repr(value: object) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def scalar(value: Tensor | float | None) -> float | None:
    """Return a parameter of one element, or a number, as a float; None stays None."""
    if value is None:
        return None
    return float(value.detach().float().item()) if isinstance(value, Tensor) else float(value)


def attention_implementation(module: nn.Module) -> str:
    """Return `sdpa` where PyTorch's attention runs, which chooses its kernel itself."""
    has_attention = any(isinstance(m, nn.MultiheadAttention) for m in module.modules())
    return "sdpa" if has_attention else "torch"


def _summary(pixels: Tensor) -> list[float]:
    # Coarse, so that rounding on another machine does not show and an edited transform does.
    deviation, mean = torch.std_mean(pixels, dim=(1, 2), correction=int(pixels[0].numel() > 1))
    return [round(float(value), 2) for value in (*mean, *deviation)]


def _versions(module: nn.Module) -> int:
    # In-place updates, an optimizer's among them, raise a tensor's version.
    return sum(p._version for p in module.parameters() if not p.is_inference())


def _example_image() -> Image.Image:
    gradient = Image.linear_gradient("L")
    return Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).resize((96, 64))


def _call(function: Callable[[Any], Any], argument: object, what: str) -> Any:
    try:
        with users_code(what):
            return function(argument)
    except UserError:
        raise
    except Exception as error:  # models, transforms and tokenizers are others' code
        raise UserError(
            f"{what} failed with {type(error).__name__}: {shortened(str(error), 1000)}"
        ) from error


def _check_pixels(pixels: object, name: str) -> Tensor:
    if not isinstance(pixels, Tensor) or pixels.dim() != 3 or pixels.dtype != torch.float32:
        got = f"{list(pixels.shape)} {pixels.dtype}" if isinstance(pixels, Tensor) else type(pixels).__name__
        raise UserError(f"{name}: preprocess must return a [3, H, W] float32 tensor, got {got}.")
    if not pixels.isfinite().all():
        raise UserError(f"{name}: preprocess gives NaN or infinity; is a standard deviation of it 0?")
    return pixels


def _check_finite(features: Tensor, what: str, towers: Towers, precision: str, name: str) -> None:
    """Refuse, before anything is encoded, weights whose products overflow.

    Raises:
        UserError: `features` hold NaN or infinity; the largest weight is named.
    """
    if bool(features.isfinite().all()):
        return
    sizes = {key: float(value.detach().abs().max()) for key, value in towers.module.named_parameters()}
    largest = max(sizes, key=sizes.__getitem__, default="")
    weight = f" The largest weight is {shortened(largest)}, {sizes[largest]:.3g}." if largest else ""
    cure = " float16 overflows beyond 65504: try bf16 or fp32." if precision == "fp16" else ""
    raise UserError(f"{name}: NaN or infinity in the {what} ({precision}).{weight}{cure}")


def _check_text(
    towers: Towers, tokens: Tensor, width: int, target: torch.device, precision: str, name: str
) -> None:
    """Refuse a text tower that cannot encode its own tokenizer's tokens to the image embedding's width."""
    assert towers.text is not None
    guard = borrowed(towers.module, target) if towers.in_memory else torch.inference_mode()
    ids = f"{len(tokens)} texts (token ids up to {int(tokens.max())})"
    with guard, arithmetic(target, precision):
        embedding = _call(towers.text, tokens.to(target), f"{name}: text tower on {ids}")
    if embedding.shape != (len(tokens), width):
        raise UserError(
            f"{name}: text embeddings of {len(tokens)} texts must be [{len(tokens)}, {width}] as those of "
            f"images are, got {list(embedding.shape)}."
        )
    _check_finite(embedding, "text embeddings", towers, precision, name)


def _check_tokens(tokens: object, name: str) -> Tensor:
    expected = f"a [B, L] int64 tensor with one length L for all texts (B {len(_SENTENCES)} here)"
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or len(tokens) != len(_SENTENCES):
        got = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise UserError(f"{name}: tokenize must return {expected}, got {got}.")
    return tokens
