"""Images that are read in strips of rows, so that none has to be in memory whole.

Axes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rwkvclip_models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

_AXES = "[3, height, width] or [B, 3, height, width]"


@dataclass(frozen=True, kw_only=True)
class PixelRows:
    """One image, read from top to bottom in strips of rows.

    Attributes:
        height: px.
        width: px.
        read: returns the rows from `top` up to `bottom`, both given, as a tensor or array of floats
            [3, bottom − top, width], normalised as `eval_transform` does.
    """

    height: int
    width: int
    read: Callable[[int, int], Any]

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise UserError(f"PixelRows expects {name} to be a whole number of at least 1, got {size!r}.")

    def strip(self, top: int, bottom: int, like: Tensor) -> Tensor:
        """Return the rows from `top` up to `bottom` [1, 3, bottom − top, width], on the device of `like`.

        They are in the dtype of `like` too.

        Raises:
            UserError: what `read` returns has another shape or is not of floats.
        """
        read = self.read(top, bottom)
        rows = read if isinstance(read, Tensor) else torch.from_numpy(np.array(read))
        wanted = [3, bottom - top, self.width]
        if list(rows.shape) != wanted:
            raise UserError(
                f"Expected rows {top} to {bottom} of the image as [3, {bottom - top}, {self.width}], got "
                f"{list(rows.shape)}. Put the colours first and give every row its whole width."
            )
        if not rows.is_floating_point():
            raise UserError(
                f"Expected pixels as floats that are normalised as eval_transform does, got {rows.dtype}. "
                "Give PixelRows with a `read` that normalises the rows it is asked for."
            )
        return rows.to(device=like.device, dtype=like.dtype)[None]


def images(pixels: Any) -> list[PixelRows]:
    """Return each image of an array or tensor, or the one that already is `PixelRows`.

    Args:
        pixels: `PixelRows`, or what has a shape [3, height, width] or [B, 3, height, width] and is indexed as
            NumPy arrays are: tensor, array, `np.memmap`, a dataset of HDF5 or Zarr. Only slices are read.

    Raises:
        UserError: it is something else.
    """
    if isinstance(pixels, PixelRows):
        return [pixels]
    shape = getattr(pixels, "shape", None)
    if shape is None:
        raise UserError(
            f"Expected pixels as PixelRows, tensor or array {_AXES}, got {type(pixels).__name__}."
        )
    if len(shape) not in (3, 4) or shape[-3] != 3 or min(shape[-2:]) < 1:
        raise UserError(f"Expected pixels {_AXES}, got {list(shape)}.")
    height, width = (int(size) for size in shape[-2:])

    def reader(*image: int) -> PixelRows:
        def read(top: int, bottom: int) -> Any:
            return pixels[(*image, slice(None), slice(top, bottom))]

        return PixelRows(height=height, width=width, read=read)

    return [reader()] if len(shape) == 3 else [reader(i) for i in range(shape[0])]
