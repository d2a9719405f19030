"""Grids of cells to measure, as suites write them down and the command line narrows them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rwkvclip_eval.records.efficiency import Batch, Cell, Precision, Tower
from rwkvclip_eval.schema import Strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Mode = Literal["eager", "compiled"]
GridName = Literal["quick", "cpu", "gpu"]
Px = Annotated[int, Field(ge=1, le=8192)]
Length = Annotated[int, Field(ge=1, le=65_536)]
TRAINED_TOKENS = 77


class Grid(Strict):
    """What to measure: every combination of what is listed."""

    towers: tuple[Tower, ...] = Field(("image", "text", "both", "train"), min_length=1, max_length=4)
    precisions: tuple[Precision, ...] = Field(("fp32",), min_length=1, max_length=3)
    batches: tuple[Batch, ...] = Field((8,), min_length=1, max_length=100, description="samples a call")
    sizes: tuple[tuple[Px, Px], ...] = Field(
        ((224, 224),),
        min_length=1,
        max_length=100,
        description="[height, width] of images, px; the first is what 'both' and 'train' take",
    )
    lengths: tuple[Length, ...] = Field(
        (TRAINED_TOKENS,),
        min_length=1,
        max_length=100,
        description="tokens of texts; 'both' and 'train' take 77, or the first where that is not among them",
    )
    modes: tuple[Mode, ...] = Field(("eager",), min_length=1, max_length=2)

    def cells(self) -> Iterator[Cell]:
        """Yield the cells: precision by precision, tower by tower."""
        length = TRAINED_TOKENS if TRAINED_TOKENS in self.lengths else self.lengths[0]
        pair = [(*self.sizes[0], length)]
        inputs: Mapping[str, Sequence[tuple[int, int, int]]] = {
            "image": [(height, width, 0) for height, width in self.sizes],
            "text": [(0, 0, tokens) for tokens in self.lengths],
        }
        for precision, mode, tower in itertools.product(self.precisions, self.modes, self.towers):
            for batch, (height, width, tokens) in itertools.product(self.batches, inputs.get(tower, pair)):
                yield Cell(
                    tower=tower,
                    precision=precision,
                    batch=batch,
                    height=height,
                    width=width,
                    tokens=tokens,
                    compiled=mode == "compiled",
                )


class Grids(Strict):
    """What a measurement is of by default."""

    parts: tuple[Grid, ...] = Field(min_length=1, max_length=100, description="grids, one after the other")
    most_patches: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="image cells of more patches an image are left out for that model, and said so",
    )
    most_positions: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="cells of more patches, or tokens, a batch are left out for that model, and said so",
    )

    def cells(self) -> list[Cell]:
        """Return the cells of all parts, each once."""
        return list(dict.fromkeys(cell for part in self.parts for cell in part.cells()))
