"""A user's own model: `python:package.module:factory[=CHECKPOINT]`.

`factory(checkpoint, device)` returns an `Encoder`, or a triple (module, preprocess, tokenize) with
`module.encode_image` and `module.encode_text`; tokenize is None for a vision-only model. `checkpoint` is the
text after `=` with hub files downloaded, or None; for `random:SEED` it is None and torch is seeded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from rwkvclip_eval.encoders.arithmetic import check_precision
from rwkvclip_eval.encoders.checked import CheckedEncoder
from rwkvclip_eval.encoders.hub import hub_mode
from rwkvclip_eval.encoders.in_memory import module_towers
from rwkvclip_eval.encoders.protocol import EncoderInfo
from rwkvclip_eval.encoders.towers import build
from rwkvclip_eval.encoders.weights import seeded
from rwkvclip_eval.errors import UserError, users_code
from rwkvclip_eval.registry import unknown_name
from rwkvclip_models.checkpoint import checkpoint_file
from rwkvclip_models.device import resolve_device
from rwkvclip_models.disk import file_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec

_METHODS = ("preprocess", "encode_image")
_TEXT_METHODS = ("tokenize", "encode_text")


def load(spec: EncoderSpec, *, device: str, precision: str, implementation: str, offline: bool) -> Encoder:
    """Return the encoder that the user's factory makes.

    A returned `Encoder` is responsible for its device, precision and operators; a returned module is run
    by the suite like its own.

    Raises:
        UserError: the factory cannot be found, fails, or returns something else.
    """
    if spec.ema:
        raise UserError(f"Model {spec.text!r}: @ema is for the suite's own families; choose in the factory.")
    check_precision(precision)
    target = resolve_device(device)
    factory = _find(spec)
    checkpoint = _local_checkpoint(spec, offline=offline)
    try:
        called = f"Model {spec.text!r}: {spec.model.removeprefix('python:')}"
        with hub_mode(offline=offline), seeded(spec.seed), users_code(called):
            made = factory(checkpoint, str(target))
    except UserError:
        raise
    except Exception as error:  # the factory is a user's code; the message names it
        raise UserError(
            f"Model {spec.text!r}: {spec.model.removeprefix('python:')}({checkpoint!r}, {str(target)!r}) "
            f"failed with {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module):
        module, preprocess, tokenize = made
        towers = module_towers(
            module,
            name=spec.name,
            preprocess=preprocess,
            tokenize=tokenize,
            in_memory=False,
            config=[spec.model, _source_sha256(factory)],
            checkpoint_sha256=_sha256(checkpoint),
            trained=spec.seed is None,
        )
        return build(towers, spec, device=target, precision=precision)
    return adopt(made, spec)


def prefetch(spec: EncoderSpec) -> list[str]:
    """Download the checkpoint of `=hf://owner/repo/file`; the factory's own downloads are its own affair."""
    _find(spec)
    checkpoint = _local_checkpoint(spec, offline=False)
    return [checkpoint] if checkpoint and (spec.checkpoint or "").startswith("hf://") else []


def adopt(encoder: Any, spec: EncoderSpec) -> CheckedEncoder:
    """Return a user's `Encoder`, checked, under the name and spec of this run.

    Raises:
        UserError: it lacks part of the protocol.
    """
    info = getattr(encoder, "info", None)
    if not isinstance(info, EncoderInfo):
        raise UserError(
            f"Model {spec.text!r}: expected an Encoder (with `info`, an EncoderInfo) or a triple "
            f"(module, preprocess, tokenize), got {type(encoder).__name__}."
        )
    needed = _METHODS + (_TEXT_METHODS if info.has_text else ())
    lacking = [name for name in needed if not callable(getattr(encoder, name, None))]
    if lacking:
        raise UserError(f"Model {spec.text!r}: {type(encoder).__name__} lacks {', '.join(lacking)}.")
    checked = CheckedEncoder(encoder)
    checked.info = dataclasses.replace(
        info,
        name=spec.name,
        spec=spec.public_text,
        step=spec.step if info.step is None else info.step,
        step_unit=spec.step_unit if info.step is None else info.step_unit,
        trained=info.trained and spec.seed is None,
    )
    return checked


def _find(spec: EncoderSpec) -> Callable[[str | None, str], Any]:
    module_name, colon, name = spec.model.removeprefix("python:").partition(":")
    if not (module_name and colon and name):
        raise UserError(f"Model {spec.text!r} is not python:package.module:factory[=CHECKPOINT].")
    # A console script, unlike `python -m`, does not look in the current folder.
    # The folder may be gone.
    with contextlib.suppress(OSError):
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
    try:
        with users_code(f"Model {spec.text!r}: importing {module_name}"):
            module = importlib.import_module(module_name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"Model {spec.text!r}: no module named {error.name!r}. It is looked for among the installed "
            "packages, in PYTHONPATH and in the current folder."
        ) from error
    except Exception as error:  # importing runs a user's code; the message names it
        raise UserError(
            f"Model {spec.text!r}: importing {module_name} failed with {type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, name, None)
    if factory is None:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UserError(f"Model {spec.text!r}: " + unknown_name(f"function of {module_name}", name, public))
    if not callable(factory):
        raise UserError(f"Model {spec.text!r}: {name} is a {type(factory).__name__}, not a function.")
    return factory  # type: ignore[no-any-return]  # it was looked at just now


def _local_checkpoint(spec: EncoderSpec, *, offline: bool) -> str | None:
    if spec.checkpoint is None or spec.seed is not None:
        return None
    if spec.checkpoint.startswith("hf://"):
        return str(checkpoint_file(spec.checkpoint, offline=offline))
    return spec.checkpoint


def _sha256(checkpoint: str | None) -> str | None:
    # A factory may take anything; what is no file is covered by the state dict's hash.
    return file_digest(Path(checkpoint)) if checkpoint and Path(checkpoint).is_file() else None


def _source_sha256(factory: object) -> str:
    file = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__file__", None)
    return file_digest(Path(file)) if file else ""
