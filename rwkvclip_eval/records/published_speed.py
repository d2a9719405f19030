"""Speeds that others published: rows of `reports/published/speed/`, each with its source. Needs no torch."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from rwkvclip_models.files import read_text
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    from rwkvclip_eval.records.efficiency import Cell

LIMIT_BYTES = 1 << 20

Word = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(gt=0, lt=1e9)]


class _Row(BaseModel):
    """A row of text: numbers and flags are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatorSpeed(_Row):
    """Time of somebody's operator on one shape."""

    implementation: Word = Field(description="as its source calls it")
    device: Word = Field(description="hardware")
    dtype: Word = Field(description="of the operands, without `torch.`")
    shape: Word = Field(description="B × T × H × N")
    directions: int = Field(ge=1, le=2, description="1: causal; 2: both, as Bi-WKV")
    what: Word = Field(alias="pass", description="`forward` or `forward + backward`")
    ms: Positive = Field(description="milliseconds")
    source: Word = Field(description="where it is printed")

    @property
    def label(self) -> str:
        """The row in words."""
        how = "one direction" if self.directions == 1 else "both directions"
        return (
            f"{self.implementation}, {self.dtype}, {self.shape}, {self.what}: {self.ms:g} ms, {how}, "
            f"{self.device} ({self.source})"
        )


class TowerSpeed(_Row):
    """Throughput of an image tower."""

    model: Word = Field(description="name of its spec here")
    device: Word = Field(description="hardware")
    precision: Word = Field(description="`amp`: half, of either form")
    compiled: bool = Field(description="by torch.compile")
    height: int = Field(ge=1, le=65_536, description="px")
    width: int = Field(ge=1, le=65_536, description="px")
    images_per_second: Positive = Field(description="at the batch that its source chose")
    source: Word = Field(description="where it is printed")

    @property
    def label(self) -> str:
        """The row in words."""
        return (
            f"{self.model}, {self.height}×{self.width} px, {self.precision}"
            f"{', compiled' if self.compiled else ''}: {self.images_per_second:,.0f} images/s on "
            f"{self.device} ({self.source})"
        )


Row = TypeVar("Row", bound=_Row)


def _rows(name: str, kind: type[Row]) -> list[Row]:
    path = resource_dir("published") / "speed" / name
    text = read_text(path, limit=LIMIT_BYTES, what="table of published speeds")
    return [kind.model_validate(row) for row in csv.DictReader(io.StringIO(text))]


def operator_speeds(shape: str, dtype: str, what: str) -> list[OperatorSpeed]:
    """Return what was published of operators on exactly this shape, dtype and pass."""
    return [
        row
        for row in _rows("operators.csv", OperatorSpeed)
        if (row.shape, row.dtype, row.what) == (shape, dtype, what)
    ]


def tower_speeds(model: str, cell: Cell) -> list[TowerSpeed]:
    """Return what was published of a model's image tower in exactly such a cell; batches are the sources'.

    Args:
        model: name of its spec.
        cell: measured; autocast to either half precision is what tables call amp.
    """
    if cell.tower != "image" or cell.precision == "fp32":
        return []
    wanted = (model, cell.height, cell.width, cell.compiled)
    rows = _rows("towers.csv", TowerSpeed)
    return [row for row in rows if (row.model, row.height, row.width, row.compiled) == wanted]
