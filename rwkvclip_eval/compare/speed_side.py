"""One side of a comparison of speed: what a run directory of `bench`, or the CSV of its report, says."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from rwkvclip_eval.errors import OutputError, joined, name_some
from rwkvclip_eval.metrics.ratios import Estimate, geometric_mean, paired_ratio
from rwkvclip_eval.printable import unreadable
from rwkvclip_eval.records.conditions import CONDITIONS, conditions
from rwkvclip_eval.records.efficiency import (
    Batch,
    Cell,
    CellStatus,
    Name,
    Precision,
    Side,
    Tower,
    checked_cell,
    is_measurement,
    read_blocks,
)
from rwkvclip_eval.records.reading import read_run_info
from rwkvclip_eval.records.schema import Count
from rwkvclip_eval.schema import empty_or_readable, misfits, plain_number, whole_number
from rwkvclip_models.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.efficiency import Block, Measured
    from rwkvclip_eval.records.schema import RunInfo

CSV_LIMIT_BYTES = 64 << 20
MAX_LINES = 50_000
MOST = 1e18
"""Of a rate, or of one by another; the least is one by it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one model did in one cell.

    Attributes:
        cell: what was measured.
        model: display name.
        status: as `Measured.status`.
        rate: samples a second; None where there is no number.
        speed_up: the last model's time by this one's; None where there is none.
        noisy: why the times are not to be trusted; empty where they are.
        reason: why there is no number.
        implementation: what ran of Bi-WKV or attention.
    """

    cell: Cell
    model: str
    status: str
    rate: Estimate | None
    speed_up: Estimate | None
    noisy: str
    reason: str
    implementation: str


@dataclass(frozen=True, kw_only=True)
class SpeedSide:
    """A measurement.

    Attributes:
        path: run directory or CSV file.
        lines: cell and model → what came out.
        conditions: of `CONDITIONS`, what it was made on and with; a CSV says them in each line.
        planned: keys of the cells that it set out to measure; none of a CSV, which does not say.
    """

    path: Path
    lines: Mapping[tuple[Cell, str], Line]
    conditions: Mapping[str, str]
    planned: frozenset[str] = frozenset()

    @property
    def models(self) -> list[str]:
        """Names, each once."""
        return list(dict.fromkeys(model for _, model in self.lines))


def read_speed_side(path: Path) -> SpeedSide:
    """Return what a run directory of `bench`, a folder with its `efficiency.csv`, or such a file says.

    Raises:
        OutputError: it is none of them, or damaged.
    """
    if path.is_file():
        return _from_csv(path)
    if is_measurement(path):
        lines = [line for block in read_blocks(path) for line in _lines(block)]
        info = read_run_info(path / "run.json")
        return _side(path, lines, conditions(info), _planned(path, info))
    if (path / "run.json").is_file():
        raise OutputError(
            f"{path} is a run directory that holds no measured cell (cells/*.json). Measure again, or name "
            "the efficiency.csv of its report."
        )
    tables = [at for at in (path / "efficiency.csv", path / "report" / "efficiency.csv") if at.is_file()]
    if tables:
        return _from_csv(tables[0])
    raise OutputError(
        f"{path} holds no measurement of speed: expected a run directory of `rwkvclip-eval bench` or an "
        "efficiency.csv of its report."
    )


def _side(
    path: Path, lines: Sequence[Line], told: Mapping[str, str], planned: frozenset[str] = frozenset()
) -> SpeedSide:
    named = {(line.cell, line.model): line for line in lines}
    return SpeedSide(path=path, lines=named, conditions=told, planned=planned)


def _planned(run: Path, info: RunInfo) -> frozenset[str]:
    listed = info.identity.get("cells", [])
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise OutputError(f"{run / 'run.json'}: identity.cells: expected a list of texts. Measure again.")
    return frozenset(listed)


def _lines(block: Block) -> list[Line]:
    return [_line(block, measured, block.models[-1]) for measured in block.models]


def _line(block: Block, measured: Measured, last: Measured) -> Line:
    rate = speed_up = None
    if measured.status == "ok" and measured.repeats:
        rate = geometric_mean(measured.rates(block.cell))
        if measured is not last and len(last.repeats) == len(measured.repeats):
            speed_up = paired_ratio(last.seconds, measured.seconds)
    return Line(
        cell=block.cell,
        model=measured.model,
        status=measured.status,
        rate=rate,
        speed_up=speed_up,
        noisy=block.noisy,
        reason=measured.reason,
        implementation=measured.implementation,
    )


def _digits(text: object) -> int:
    number = whole_number(text) if isinstance(text, str) and text.strip() == text else None
    if number is None:
        raise ValueError("expected a whole number in the digits 0 to 9")
    return number


def _quantity(text: object) -> float | None:
    """Return the number of a field, None where it is empty."""
    try:
        return plain_number(text) if isinstance(text, str) and text else None
    except ValueError:
        raise ValueError("expected a number in the digits 0 to 9, or nothing") from None


Readable = Annotated[str, AfterValidator(empty_or_readable)]
Quantity = Annotated[float | None, BeforeValidator(_quantity)]
# A sign before it keeps spreadsheets from taking it for a formula.
ModelName = Annotated[Name, BeforeValidator(lambda text: text and text.removeprefix("'"))]


class _Row(BaseModel):
    """A line of an efficiency.csv, of which the columns that nothing here reads are left out."""

    model_config = ConfigDict(frozen=True, strict=True)

    model: ModelName
    tower: Tower
    height_px: Annotated[Side, BeforeValidator(_digits)]
    width_px: Annotated[Side, BeforeValidator(_digits)]
    tokens: Annotated[Side, BeforeValidator(_digits)]
    batch: Annotated[Batch, BeforeValidator(_digits)]
    precision: Precision
    compiled: Literal["True", "False"]
    status: CellStatus
    samples_per_second: Quantity
    low: Quantity
    high: Quantity
    repeats: Annotated[Count, BeforeValidator(_digits)]
    speed_up: Quantity
    speed_up_low: Quantity
    speed_up_high: Quantity
    noisy: Readable
    reason: Readable
    implementation: Readable

    @property
    def cell(self) -> Cell:
        """What was measured."""
        return Cell(
            tower=self.tower,
            precision=self.precision,
            batch=self.batch,
            height=self.height_px,
            width=self.width_px,
            tokens=self.tokens,
            compiled=self.compiled == "True",
        )

    @property
    def rate(self) -> Estimate | None:
        """Samples a second."""
        return self._estimate("samples_per_second", "low", "high")

    @property
    def ratio(self) -> Estimate | None:
        """The last model's time by this one's."""
        return self._estimate("speed_up", "speed_up_low", "speed_up_high")

    def _estimate(self, *names: str) -> Estimate | None:
        given = [getattr(self, name) for name in names]
        if all(number is None for number in given):
            return None
        if None in given:
            raise ValueError(f"expected all of {', '.join(names)} or none")
        value, low, high = given
        # One repeat has an interval from 0 to infinity.
        known = self.repeats == 1 or (low > 0 and high < math.inf)
        if not (known and 1 / MOST <= value <= MOST and 0 <= low <= value <= high):
            raise ValueError(
                f"{names[0]} {value} within {low} to {high} cannot be, of {self.repeats} repeats"
            )
        return Estimate(value=value, low=low, high=high, n=self.repeats)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        checked_cell(self.cell)
        rate, ratio = self.rate, self.ratio
        if self.status != "ok" and (rate or ratio or self.repeats):
            raise ValueError(f"status {self.status} stands beside numbers or repeats, which only ok has")
        if (rate is None) != (self.repeats == 0) or (ratio is not None and rate is None):
            raise ValueError(f"{self.repeats} repeats stand beside samples_per_second {rate and rate.value}")
        return self


def _from_csv(path: Path) -> SpeedSide:
    text = read_text(path, what="table of measurements", limit=CSV_LIMIT_BYTES, error=OutputError)
    found: dict[tuple[Cell, str], int] = {}
    lines = []
    told: dict[str, list[str]] = {name: [] for name in CONDITIONS}
    for number, row in enumerate(_rows(path, text), start=2):
        try:
            line = _csv_line(row)
            for name, values in told.items():
                values.append(row.get(name) or "")
                if values[-1] and (why := unreadable(values[-1])):
                    raise ValueError(f"{name}: expected a text that can be read; it {why}")
        except ValueError as error:
            why = joined(misfits(error), "; ") if isinstance(error, ValidationError) else str(error)
            raise OutputError(
                f"{path}:{number} is not a line of an efficiency.csv that `bench` writes: {why}."
            ) from None
        if (first := found.setdefault((line.cell, line.model), number)) != number:
            raise OutputError(
                f"{path}:{number} is of {name_some([line.model])}, {line.cell.label}, as line {first} is: "
                "expected each model once in each cell. Keep one of them."
            )
        lines.append(line)
    return _side(path, lines, {name: name_some(dict.fromkeys(values)) for name, values in told.items()})


def _rows(path: Path, text: str) -> list[dict[str, Any]]:
    """Return the lines of a CSV, column → field, where it has every column once."""
    try:
        reader = csv.DictReader(io.StringIO(text))
        rows, head = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise OutputError(f"{path} is not a CSV file ({error}).") from None
    absent = [name for name in _Row.model_fields if name not in head]
    lacking = [f"it lacks {name_some(absent)}"] if absent else []
    twice = [
        f"the column {name_some([name])} occurs twice" for name in dict.fromkeys(head) if head.count(name) > 1
    ]
    if wrong := lacking + twice:
        raise OutputError(
            f"{path}:1 is not the head of an efficiency.csv that `bench` writes: {joined(wrong, '; ')}."
        )
    if not rows or len(rows) > MAX_LINES:
        raise OutputError(f"{path} has {len(rows)} lines; expected 1 to {MAX_LINES}.")
    return rows


def _csv_line(row: Mapping[str, Any]) -> Line:
    """Return a line of the CSV.

    Raises:
        ValueError: a value is none of its column, or does not agree with another.
    """
    if None in row:
        raise ValueError("it has more fields than the head")
    read = _Row.model_validate(row)
    return Line(
        cell=read.cell,
        model=read.model,
        status=read.status,
        rate=read.rate,
        speed_up=read.ratio,
        noisy=read.noisy,
        reason=read.reason,
        implementation=read.implementation,
    )
