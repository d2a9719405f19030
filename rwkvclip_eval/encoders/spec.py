"""How a model is named on the command line: `NAME[=CHECKPOINT[@ema]]`, globs in CHECKPOINT included."""

from __future__ import annotations

import dataclasses
import glob
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, shown
from rwkvclip_eval.printable import one_line
from rwkvclip_models.files import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.encoders.protocol import StepUnit

_EMA = "@ema"
# A seed of torch's generators has 64 bits, a step is kept with 15 digits.
_RANDOM = re.compile(r"random:([0-9]{1,18})")
_NAMED_STEP = re.compile(
    r"(?:(?P<step>global_?step|step|iter|iteration)|(?P<epoch>epoch|ep|model)|ckpt|checkpoint)"
    r"[-_=]?(?P<number>[0-9]{1,15})(?![0-9])",
    re.IGNORECASE,
)
_LAST_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})$")
_MAX_LENGTH = 1000


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One model to evaluate, parsed and not yet loaded.

    Attributes:
        text: as given, with the one checkpoint a glob stood for put in its place.
        model: NAME, what selects the family and architecture.
        name: display name; holds no folder of this machine and is unique among the specs of
            `expand_specs`.
        checkpoint: path, `hf://owner/repo/file`, tag of pretrained weights, `random:SEED`, or None.
        ema: take the exponential moving average of the weights (`@ema`).
        step: number in the checkpoint's file name; None where there is none.
        step_unit: what it counts, as far as the name says.
    """

    text: str
    model: str
    name: str
    checkpoint: str | None = None
    ema: bool = False
    step: int | None = None
    step_unit: StepUnit = ""

    @property
    def seed(self) -> int | None:
        """The seed of `random:SEED`; None for every other checkpoint."""
        match = _RANDOM.fullmatch(self.checkpoint or "")
        return int(match[1]) if match else None

    @property
    def public_text(self) -> str:
        """`NAME[=CHECKPOINT]` for records: file names only, never a folder of this machine."""
        if self.checkpoint is None:
            return one_line(_public_model(self.model))
        hub = self.checkpoint.startswith("hf://")
        checkpoint = self.checkpoint if hub else PurePosixPath(self.checkpoint).name
        return one_line(f"{_public_model(self.model)}={checkpoint}{_EMA if self.ema else ''}")


def parse_spec(text: str) -> EncoderSpec:
    """Return the spec `text` says; its display name is NAME without folders.

    Raises:
        UserError: `text` is not `NAME` or `NAME=CHECKPOINT`.
    """
    if len(text) > _MAX_LENGTH or "\0" in text:
        raise UserError(
            f"Model {shown(text)}: expected NAME=CHECKPOINT of at most {_MAX_LENGTH} characters, got "
            f"{len(text)}."
        )
    model, equals, checkpoint = (part.strip() for part in text.partition("="))
    ema = checkpoint.endswith(_EMA)
    checkpoint = checkpoint.removesuffix(_EMA)
    if not model or model.endswith(":") or (equals and not checkpoint):
        raise UserError(
            f"Model {shown(text)} is not NAME or NAME=CHECKPOINT, for example "
            "rwkv-clip-b32=model_31.pt; `rwkvclip-eval models` lists the names."
        )
    if checkpoint.startswith("random:") and (ema or not _RANDOM.fullmatch(checkpoint)):
        raise UserError(
            f"Model {shown(text)}: random weights are written random:SEED, for example random:0; a seed has "
            "at most 18 digits."
        )
    step, step_unit = parse_step(checkpoint)
    return EncoderSpec(
        text=text,
        model=model,
        name=one_line(_display_model(model)),
        checkpoint=checkpoint or None,
        ema=ema,
        step=step,
        step_unit=step_unit,
    )


def expand_specs(texts: Sequence[str]) -> list[EncoderSpec]:
    """Return the specs `texts` stand for, with globs expanded in order of steps or epochs and unique names.

    A glob's models are always called `NAME@FILE`, so that names stay when later checkpoints appear; other
    models are called NAME, or `NAME@FILE` where several share NAME.

    Raises:
        UserError: a text is malformed or given twice, or a glob matches no file.
    """
    specs = [parse_spec(text) for text in texts]
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        raise UserError(f"Model {', '.join(map(repr, repeated))} is given more than once; give it once.")
    bases = [spec.name for spec in specs]
    expanded: list[EncoderSpec] = []
    for spec in specs:
        if _is_glob(spec.checkpoint):
            expanded += [_named_for_file(member) for member in _glob(spec)]
        else:
            expanded.append(_named_for_file(spec) if bases.count(spec.name) > 1 else spec)
    return _unique(expanded)


def parse_step(checkpoint: str) -> tuple[int | None, StepUnit]:
    """Return the number in a checkpoint's file name and what it counts: `step_900.pt` → 900, `step`.

    A number after `step` or `iter` counts steps. Else the last of those after `epoch` or `model`, which count
    epochs (the released `model_31.pt` is of epoch 31), and after `checkpoint`, which may be either. Else the
    number that ends the name.
    """
    if checkpoint.startswith("random:") or not Path(checkpoint).suffix:
        return None, ""
    stem = _stem(checkpoint)
    named = list(_NAMED_STEP.finditer(stem))
    if found := ([m for m in named if m["step"]] or named):
        return int(found[-1]["number"]), "step" if found[-1]["step"] else "epoch" if found[-1][
            "epoch"
        ] else ""
    last = _LAST_NUMBER.search(stem)
    return int(last[1]) if last else None, ""


def _is_glob(checkpoint: str | None) -> bool:
    # A file whose name holds such a sign is meant as it is.
    return (
        checkpoint is not None
        and "://" not in checkpoint
        and any(sign in checkpoint for sign in "*?[")
        and not Path(checkpoint).exists()
    )


def _glob(spec: EncoderSpec) -> list[EncoderSpec]:
    assert spec.checkpoint is not None
    # glob.glob takes a pattern with or without a leading folder; pathlib's wants it split in two.
    pattern = str(expanded(spec.checkpoint))
    files = [f for f in glob.glob(pattern, recursive=True) if Path(f).is_file()]  # noqa: PTH207
    if not files:
        raise UserError(
            f"Model {spec.text!r}: no file matches {spec.checkpoint!r}. Check the folder, and quote the "
            "pattern so that the shell does not expand it."
        )
    members = []
    for file in files:
        step, unit = parse_step(file)
        text = f"{spec.model}={file}{_EMA if spec.ema else ''}"
        members.append(dataclasses.replace(spec, text=text, checkpoint=file, step=step, step_unit=unit))
    return sorted(members, key=lambda m: (m.step is None, m.step_unit, m.step or 0, m.checkpoint or ""))


def _named_for_file(spec: EncoderSpec) -> EncoderSpec:
    if spec.checkpoint is None:
        return spec
    name = one_line(f"{spec.name}@{_stem(spec.checkpoint)}{'-ema' if spec.ema else ''}")
    return dataclasses.replace(spec, name=name)


def _unique(specs: Iterable[EncoderSpec]) -> list[EncoderSpec]:
    taken: set[str] = set()
    unique = []
    for spec in specs:
        name, number = spec.name, 1
        while name in taken:
            number += 1
            name = f"{spec.name}#{number}"
        taken.add(name)
        unique.append(dataclasses.replace(spec, name=name))
    return unique


def _stem(checkpoint: str) -> str:
    name = PurePosixPath(checkpoint).name
    return name if checkpoint.startswith("random:") else PurePosixPath(name).stem


def _public_model(model: str) -> str:
    """NAME without folders of this machine; names of the hub and of Python modules stay whole."""
    prefix, colon, rest = model.partition(":")
    if not colon:
        prefix, rest = "", model
    local = rest.endswith(".json") or rest.startswith(("./", "../", "/", "~")) or Path(rest).is_dir()
    return f"{prefix}{colon}{PurePosixPath(rest).name}" if local else model


def _display_model(model: str) -> str:
    return _public_model(model).removesuffix(".json")
