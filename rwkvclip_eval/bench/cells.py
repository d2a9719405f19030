"""The grids: which cells are measured by default, and which of them a model is spared."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, shown
from rwkvclip_eval.records.efficiency import Cell
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOWERS = ("image", "text", "both", "train")
LARGEST_ON_CPU = 784
"""Patches of an image up to which the default grid goes on a CPU: 896 px at 32 px a patch, 448 at 16."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to measure.

    Attributes:
        towers: of `TOWERS`.
        precisions: `fp32`, `bf16`, `fp16`.
        batches: samples a call.
        sizes: (height, width) of images, px; the first is what `both` and `train` take.
        lengths: tokens of texts; `both` and `train` take 77, or the first where that is not among them.
        modes: whether compiled.
        train_batches: of training steps; all `batches` where empty.
        most_patches: an image cell of more is left out and said so; None for no limit.
    """

    towers: Sequence[str] = TOWERS
    precisions: Sequence[str] = ("fp32",)
    batches: Sequence[int] = (8,)
    sizes: Sequence[tuple[int, int]] = ((224, 224),)
    lengths: Sequence[int] = (77,)
    modes: Sequence[bool] = (False,)
    train_batches: Sequence[int] = ()
    most_patches: int | None = None

    def cells(self) -> list[Cell]:
        """Return the cells, towers in the order of `TOWERS`."""
        length = 77 if 77 in self.lengths else self.lengths[0]
        found: list[Cell] = []
        for precision, compiled in itertools.product(self.precisions, self.modes):
            how = {"precision": precision, "compiled": compiled}
            for tower in self.towers:
                batches = self.train_batches if tower == "train" and self.train_batches else self.batches
                for batch in batches:
                    base = Cell(tower=tower, batch=batch, **how)  # type: ignore[arg-type]  # checked where read
                    found += self._sized(base, length)
        return found

    def _sized(self, base: Cell, length: int) -> Iterable[Cell]:
        if base.tower == "image":
            return [dataclasses.replace(base, height=h, width=w) for h, w in self.sizes]
        if base.tower == "text":
            return [dataclasses.replace(base, tokens=tokens) for tokens in self.lengths]
        height, width = self.sizes[0]
        return [dataclasses.replace(base, height=height, width=width, tokens=length)]


GRIDS = {
    "quick": Grid(
        towers=("image", "text"),
        batches=(4,),
        sizes=((224, 224), (448, 448), (896, 896)),
        lengths=(16, 77, 256),
    ),
    "cpu": Grid(
        precisions=("fp32", "bf16"),
        batches=(1, 8, 32),
        sizes=((224, 224), (448, 448), (896, 896)),
        lengths=(16, 77, 256, 1024),
        train_batches=(32,),
        most_patches=LARGEST_ON_CPU,
    ),
    "gpu": Grid(
        precisions=("fp32", "bf16", "fp16"),
        batches=(1, 32, 256),
        sizes=((224, 224), (448, 448), (896, 896), (1792, 1792), (2048, 1024)),
        lengths=(16, 77, 256, 1024),
        modes=(False, True),
        train_batches=(256,),
    ),
}
"""Name → grid. `cpu` is the default on a CPU, `gpu` elsewhere."""


def default_grid(device: str, *, quick: bool) -> str:
    """Return the name of the grid that is measured where nothing else is said."""
    if quick:
        return "quick"
    return "cpu" if device.startswith("cpu") else "gpu"


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Return (height, width) of each of `224,448x896`.

    Raises:
        UserError: one is no size from 1 to 8192 px.
    """
    found = []
    for part in text.split(","):
        numbers = part.strip().lower().split("x")
        whole = [n for n in map(whole_number, numbers) if n is not None]
        if len(whole) != len(numbers) or len(whole) > 2 or not all(1 <= n <= 8192 for n in whole):
            raise UserError(
                f"--size {shown(part)}: expected 224, or height x width such as 448x896, up to 8192."
            )
        found.append((whole[0], whole[-1]))
    return found


def parse_numbers(text: str, option: str, most: int) -> list[int]:
    """Return the whole numbers of `1,8,32`.

    Raises:
        UserError: one is none from 1 to `most`.
    """
    found = []
    for part in text.split(","):
        number = whole_number(part)
        if number is None or not 1 <= number <= most:
            raise UserError(
                f"{option} {shown(part)}: expected whole numbers from 1 to {most}, such as 1,8,32."
            )
        found.append(number)
    return found
