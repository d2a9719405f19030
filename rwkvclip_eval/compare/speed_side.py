"""One side of a comparison of speed: what a run directory of `bench`, or the CSV of its report, says."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from rwkvclip_eval.errors import OutputError, name_some, shown
from rwkvclip_eval.metrics.ratios import Estimate, geometric_mean, paired_ratio
from rwkvclip_eval.records.efficiency import (
    CONDITIONS,
    Cell,
    CellStatus,
    Tower,
    conditions,
    is_measurement,
    read_blocks,
)
from rwkvclip_eval.records.reading import read_run_info
from rwkvclip_models.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.efficiency import Block, Measured

CSV_LIMIT_BYTES = 64 << 20
MAX_LINES = 50_000


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
    """

    path: Path
    lines: Mapping[tuple[Cell, str], Line]
    conditions: Mapping[str, str]

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
        return _side(path, lines, conditions(read_run_info(path / "run.json")))
    tables = [at for at in (path / "efficiency.csv", path / "report" / "efficiency.csv") if at.is_file()]
    if tables:
        return _from_csv(tables[0])
    raise OutputError(
        f"{path} holds no measurement of speed: expected a run directory of `rwkvclip-eval bench` or an "
        "efficiency.csv of its report."
    )


def _side(path: Path, lines: Sequence[Line], told: Mapping[str, str]) -> SpeedSide:
    return SpeedSide(path=path, lines={(line.cell, line.model): line for line in lines}, conditions=told)


def _lines(block: Block) -> list[Line]:
    last = block.models[-1] if block.models else None
    return [_line(block, measured, last) for measured in block.models]


def _line(block: Block, measured: Measured, last: Measured | None) -> Line:
    rate = speed_up = None
    if measured.status == "ok" and measured.repeats:
        rate = geometric_mean([block.cell.batch / seconds for seconds in measured.seconds])
        if last is not None and measured is not last and len(last.repeats) == len(measured.repeats):
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


def _from_csv(path: Path) -> SpeedSide:
    text = read_text(path, what="table of measurements", limit=CSV_LIMIT_BYTES, error=OutputError)
    found = []
    told: dict[str, list[str]] = {name: [] for name in CONDITIONS}
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise OutputError(f"{path} is not a CSV file ({error}).") from None
    if not rows or len(rows) > MAX_LINES:
        raise OutputError(f"{path} has {len(rows)} lines; expected 1 to {MAX_LINES}.")
    for number, row in enumerate(rows, start=2):
        try:
            found.append(_csv_line(row))
        except (KeyError, ValueError, TypeError) as error:
            lacks = isinstance(error, KeyError)
            why = f"there is no column {error}" if lacks else shown(str(error))
            raise OutputError(
                f"{path}:{number} is not a line of an efficiency.csv that `bench` writes: {why}."
            ) from None
        for name, values in told.items():
            values.append(row.get(name) or "")
    return _side(path, found, {name: name_some(dict.fromkeys(values)) for name, values in told.items()})


def _csv_line(row: Mapping[str, Any]) -> Line:
    """Return a line of the CSV.

    Raises:
        KeyError: a column lacks.
        ValueError: a value is none of its column.
    """
    if row["tower"] not in get_args(Tower) or row["status"] not in get_args(CellStatus):
        raise ValueError(f"{row['tower']!r}, {row['status']!r}")
    sizes = {name: int(row[f"{name}_px"]) for name in ("height", "width")}
    cell = Cell(
        tower=row["tower"],
        precision=row["precision"],
        batch=int(row["batch"]),
        tokens=int(row["tokens"]),
        compiled=row["compiled"] == "True",
        **sizes,
    )
    repeats = int(row["repeats"] or 0)
    return Line(
        cell=cell,
        # A sign before it keeps spreadsheets from taking it for a formula.
        model=row["model"].removeprefix("'"),
        status=row["status"],
        rate=_estimate(row, ("samples_per_second", "low", "high"), repeats),
        speed_up=_estimate(row, ("speed_up", "speed_up_low", "speed_up_high"), repeats),
        noisy=row["noisy"],
        reason=row["reason"],
        implementation=row["implementation"],
    )


def _estimate(row: Mapping[str, str], names: tuple[str, str, str], n: int) -> Estimate | None:
    if not row[names[0]]:
        return None
    value, low, high = (float(row[name]) for name in names)
    if not (0 <= low <= value <= high and 0 < value < math.inf and n > 0):
        raise ValueError(f"{names[0]} {value} within {low} to {high}, of {n} repeats")
    return Estimate(value=value, low=low, high=high, n=n)
