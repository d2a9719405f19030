"""What a measurement of speed and memory keeps: cells, what each model did in them, their files. No torch.

A run directory of measurements holds, beside what `schema` names,
    cells/CELL.json    one `Block` each, with the digest of its content: what is cut or changed is no result
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence  # noqa: TC003  # pydantic reads annotations at run time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from rwkvclip_eval.errors import OutputError, name_some
from rwkvclip_eval.records.metrics import Metric
from rwkvclip_eval.records.reading import parsed
from rwkvclip_eval.records.schema import MAX_LISTED, SPEED, Count, Seconds, Short, Version
from rwkvclip_eval.schema import empty_or_readable, readable
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_VERSION = 1
BLOCK_LIMIT_BYTES = 16 << 20
TASK = SPEED
"""Of the records that measurements leave."""

Tower = Literal["image", "text", "both", "train"]
Precision = Literal["fp32", "bf16", "fp16"]
CellStatus = Literal["ok", "out_of_memory", "crashed", "not_possible", "not_in_grid"]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=0, le=65_536)]
Bytes = Annotated[int, Field(ge=0, le=10**15)]
Name = Annotated[Short, AfterValidator(readable)]
Note = Annotated[str, Field(max_length=4000)]
CallSeconds = Annotated[float, Field(allow_inf_nan=False, ge=1e-9, le=1e9)]
"""Of a call: no clock tells less than a nanosecond."""
Reading = Annotated[float, Field(allow_inf_nan=False, ge=-1e3, le=1e9)]
"""Of a sensor."""
Pace = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e24)]
POINTS = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One thing to measure.

    Attributes:
        tower: `image`, `text`, `both` (a forward pass of each), or `train` (a training step of both).
        precision: `fp32`, `bf16` or `fp16`.
        batch: images, texts or pairs a call.
        height: of an image, px; 0 for texts.
        width: of an image, px; 0 for texts.
        tokens: of a text; 0 for images.
        compiled: by torch.compile.
    """

    tower: Tower
    precision: Precision = "fp32"
    batch: Batch = 1
    height: Side = 0
    width: Side = 0
    tokens: Side = 0
    compiled: bool = False

    @property
    def shape(self) -> str:
        """What goes in, in words."""
        size = f"{self.height}×{self.width} px" if self.height else ""
        return " and ".join(part for part in (size, f"{self.tokens} tokens" if self.tokens else "") if part)

    @property
    def label(self) -> str:
        """The cell in words."""
        how = ", compiled" if self.compiled else ""
        name = {"train": "training step", "both": "both towers"}.get(self.tower, f"{self.tower} tower")
        return f"{name}, {self.shape}, batch {self.batch}, {self.precision}{how}"

    @property
    def key(self) -> str:
        """A name fit for a file."""
        size = f"-{self.height}x{self.width}" if self.height else ""
        length = f"-{self.tokens}tokens" if self.tokens else ""
        how = "-compiled" if self.compiled else ""
        return f"{self.tower}{size}{length}-batch{self.batch}-{self.precision}{how}"

    @property
    def what(self) -> str:
        """What a call treats a batch of."""
        return {"image": "images", "text": "texts"}.get(self.tower, "pairs")


def checked_cell(cell: Cell) -> Cell:
    """Return a cell whose tower takes inputs of its sizes.

    Raises:
        ValueError: it does not.
    """
    takes = {"height": cell.tower != "text", "width": cell.tower != "text", "tokens": cell.tower != "image"}
    for name, taken in takes.items():
        value = getattr(cell, name)
        if bool(value) != taken:
            raise ValueError(
                f"{name} of tower {cell.tower}: expected {'1 or more' if taken else 0}, got {value}"
            )
    return cell


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One model's turns in one repeat of a cell.

    Attributes:
        seconds: median time of a call.
        calls: how many were timed.
        other_load: share of the machine's processors that others used meanwhile, in [0, 1]; None where
            the system does not tell.
        clock_mhz: of the device at the end of a turn, mean of all models' turns; None, here and below, where
            the system does not tell.
        power_w: that it drew then, likewise.
        temperature_c: the highest then.
        held_back: what kept its clock down meanwhile, `heat` or `power limit`; empty where nothing did.
    """

    seconds: CallSeconds
    calls: Annotated[int, Field(ge=1, le=10**15)]
    other_load: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)] | None = None
    clock_mhz: Reading | None = None
    power_w: Reading | None = None
    temperature_c: Reading | None = None
    held_back: Annotated[Short, AfterValidator(empty_or_readable)] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a forward pass.

    Attributes:
        name: in words; `rest` is what no other takes.
        seconds: of the pass, while no part within it ran.
        flops: as in `Measured`.
        bytes: that its operators read and write.
    """

    name: Name
    seconds: Seconds
    flops: Annotated[int, Field(ge=0, le=10**18)]
    bytes: Annotated[int, Field(ge=0, le=10**18)]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one model did in a cell.

    Attributes:
        model: display name.
        spec: `NAME[=CHECKPOINT]`, file names only.
        status: `ok`; `out_of_memory`; `crashed`: its process ended; `not_possible`: it takes no such input;
            `not_in_grid`: left out of the grid on purpose.
        reason: why there is no number; empty when status is ok.
        implementation: what ran of Bi-WKV or attention.
        num_parameters: of both towers.
        beyond: the sizes that the model was made for, where the cell's are larger and the cell is for speed
            only; empty elsewhere.
        flops: of a call: twice the multiply-adds of products, Bi-WKV and attention; elementwise work counts
            nothing. None where it could not be counted.
        load_s: time to load the model, imports not counted.
        first_call_s: of the first call, which the others leave out.
        repeats: in the order of the block's.
        latency_s: `p50`, `p90`, `p95`, `p99` of all calls.
        baseline_bytes: memory of the process once the model was loaded.
        peak_bytes: most memory of the process, read from outside, from the first call to the last.
        allocated_bytes: most that torch had in use on a GPU after warm-up; None on a CPU.
        loaded_bytes: what of that the loaded model takes; None on a CPU.
        reserved_bytes: most that torch held there; None on a CPU.
        device_bytes: most that the process held of a GPU after a turn, by the driver: context and kernels
            too; None on a CPU and where the driver does not tell.
        attention_kernels: that torch chose for attention; empty where none ran.
        energy_j: of a call; None where nothing measures it.
        energy_note: what measured it, or why nothing did.
        largest_batch: that fits; 0 where not even one sample does, None where it was not looked for.
        largest_note: into what, and up to which number was tried; or why none was found.
        parts: of one eager forward pass, which they sum to; empty where it was not taken apart.
        parts_note: why not, or what is not known of them.
    """

    model: Name
    spec: Name
    status: CellStatus = "ok"
    reason: Note = ""
    implementation: Annotated[Short, AfterValidator(empty_or_readable)] = ""
    num_parameters: Count = 0
    beyond: Annotated[Short, AfterValidator(empty_or_readable)] = ""
    flops: Annotated[int, Field(ge=0, le=10**18)] | None = None
    load_s: Seconds | None = None
    first_call_s: Seconds | None = None
    repeats: Annotated[Sequence[Repeat], Field(max_length=MAX_LISTED)] = ()
    latency_s: Mapping[str, CallSeconds] = field(default_factory=dict)
    baseline_bytes: Bytes | None = None
    peak_bytes: Bytes | None = None
    allocated_bytes: Bytes | None = None
    loaded_bytes: Bytes | None = None
    reserved_bytes: Bytes | None = None
    device_bytes: Bytes | None = None
    attention_kernels: Annotated[Short, AfterValidator(empty_or_readable)] = ""
    energy_j: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e15)] | None = None
    energy_note: Note = ""
    largest_batch: Count | None = None
    largest_note: Note = ""
    parts: Annotated[Sequence[Part], Field(max_length=100)] = field(default_factory=list)
    parts_note: Note = ""

    @property
    def seconds(self) -> list[float]:
        """Median time of a call in each repeat."""
        return [repeat.seconds for repeat in self.repeats]

    def rates(self, cell: Cell) -> list[float]:
        """Return images, texts or pairs a second in each repeat of a cell."""
        return [cell.batch / seconds for seconds in self.seconds]


def _checked_measured(one: Measured) -> Measured:
    """Return what agrees with itself.

    Raises:
        ValueError: it does not.
    """
    if one.status != "ok" and (one.repeats or one.latency_s):
        raise ValueError(f"status {one.status} stands beside repeats or latency_s, which only ok has")
    if one.status == "ok" and one.reason:
        raise ValueError("status ok stands beside a reason, which only others have")
    expected = POINTS if one.repeats else ()
    if sorted(one.latency_s) != sorted(expected):
        came = name_some(one.latency_s) or "none"
        raise ValueError(f"latency_s: expected {', '.join(expected) or 'none without repeats'}, got {came}")
    for low, high in itertools.pairwise(expected):
        # Interpolated points may differ by a rounding.
        if one.latency_s[low] > one.latency_s[high] * (1 + 1e-9):
            raise ValueError(
                f"latency_s: expected {low} of at most {high}, got {one.latency_s[low]:.6g} and "
                f"{one.latency_s[high]:.6g}"
            )
    if one.parts and not sum(part.seconds for part in one.parts):
        raise ValueError("parts: expected the seconds of a pass, got 0 in all")
    _check_each_once("part", [part.name for part in one.parts])
    return one


def _check_each_once(what: str, names: Sequence[str]) -> None:
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"expected each {what} once, got {name_some(twice)} several times")


def _each_once(models: Sequence[Measured]) -> Sequence[Measured]:
    _check_each_once("model", [one.model for one in models])
    return models


@dataclass(frozen=True, kw_only=True)
class Block:
    """A cell and what every model did in it, taking turns.

    Attributes:
        cell: what was measured.
        device: as the user named it.
        models: in the order given.
        ceiling_flops: multiply-adds × 2 a second of the largest square products of this precision that the
            device was seen to do; None where that was not measured.
        ceiling_bytes: read and written a second by the copy of a large block; None where not measured.
        noisy: why these times are not to be trusted; empty where they are.
        watched: what told of clock, power and heat, or why nothing did.
        created_utc: ISO 8601, when the block ended.
        version: of this form.
    """

    cell: Annotated[Cell, AfterValidator(checked_cell)]
    device: Name
    models: Annotated[
        Sequence[Annotated[Measured, AfterValidator(_checked_measured)]],
        Field(min_length=1, max_length=1000),
        AfterValidator(_each_once),
    ]
    ceiling_flops: Pace | None = None
    ceiling_bytes: Pace | None = None
    noisy: Annotated[Note, AfterValidator(empty_or_readable)] = ""
    watched: Annotated[Note, AfterValidator(empty_or_readable)] = ""
    created_utc: Short = ""
    version: Version = BLOCK_VERSION


def _metric(name: str, title: str, better: Literal["higher", "lower"] = "lower") -> Metric:
    return Metric(name=name, title=title, unit="number", better=better)


THROUGHPUT = {
    what: _metric(f"{what}_per_second", f"{what}/s", "higher") for what in ("images", "texts", "pairs")
}
"""What a call treats → its metric."""
LATENCY = {p: _metric(f"latency_{p}_ms", f"latency {p}, ms") for p in POINTS}
PEAK_MEMORY = _metric("peak_memory_mb", "peak memory, MB")
ENERGY = _metric("energy_j", "energy, J per image, text or pair")
LARGEST_BATCH = _metric("largest_batch", "largest batch that fits", "higher")


def write_block(path: Path, block: Block) -> None:
    """Write a block with the digest of its content, at once or not at all."""
    body = json.dumps(dataclasses.asdict(block), ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    write_text(path, json.dumps({"sha256": digest, "body": body}, ensure_ascii=False) + "\n")


@dataclass(frozen=True, kw_only=True)
class _Sealed:
    """A block as text, and its digest.

    Attributes:
        sha256: of the text.
        body: a `Block` as JSON.
    """

    sha256: str
    body: str


def read_block(path: Path) -> Block:
    """Return what one file of `cells/` holds.

    Raises:
        OutputError: it is no block, of a newer version, not as it was written, or of another cell than its
            name says.
    """
    content = read_bytes(path, limit=BLOCK_LIMIT_BYTES, what="measurement", error=OutputError)
    sealed = parsed(_Sealed, content, f"{path} is not a measurement")
    if hashlib.sha256(sealed.body.encode()).hexdigest() != sealed.sha256:
        raise OutputError(
            f"{path} is not as it was written: its digest differs. Delete it and measure again."
        )
    block = parsed(Block, sealed.body.encode(), f"{path} is not a measurement")
    if block.version > BLOCK_VERSION:
        raise OutputError(
            f"{path} is of version {block.version}; this program reads up to {BLOCK_VERSION}. Update it."
        )
    if path.name != f"{block.cell.key}.json":
        raise OutputError(
            f"{path} holds another cell than its name says: expected {block.cell.key}.json. Delete it; the "
            "command that measured measures what is left."
        )
    return block


def read_blocks(run: Path) -> list[Block]:
    """Return the measurements of a run directory, in the order of their cells.

    Raises:
        OutputError: there is none, one is not as it was written, or they are of several devices.
    """
    paths = sorted((run / "cells").glob("*.json"))
    if not paths:
        raise OutputError(f"{run} holds no measurement (cells/*.json); make one with `rwkvclip-eval bench`.")
    blocks = sorted((read_block(path) for path in paths), key=lambda block: block.cell)
    devices = {block.device: block.cell.key for block in reversed(blocks)}
    if len(devices) > 1:
        told = name_some(f"{device} in {key}.json" for device, key in sorted(devices.items()))
        raise OutputError(
            f"{run / 'cells'}: expected cells of one device, got {told}. Keep those of one device and delete "
            "the others."
        )
    return blocks


def is_measurement(run: Path) -> bool:
    """Return whether a folder is a run directory of measurements."""
    return (run / "run.json").is_file() and any((run / "cells").glob("*.json"))
