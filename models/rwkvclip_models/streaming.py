"""The image tower in its recurrent form: chunk by chunk, with memory that does not grow with the image.

RWKV-CLIP (https://arxiv.org/abs/2406.06973) takes over from RWKV that a model trained in parallel runs as a
recurrence, whose state has a fixed size. Bi-WKV looks both ways, so that a layer takes two passes: one from
the last token to the first leaves what later tokens add, the other adds what earlier tokens do. What is
computed is what the parallel form (`image_tower.py`) computes; sums are taken in another order.

A chunk is a strip of whole rows of the patch grid. Token shift looks one row up and down, so that a strip is
read with a halo of one row on each side.

Axes: T patches, C width, H heads, N head width, h × w the patch grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_models.errors import UserError
from rwkvclip_models.image_tower import ImageBlock
from rwkvclip_models.ops import Shift, bi_wkv6
from rwkvclip_models.ops.blocked import without_autocast
from rwkvclip_models.ops.carried import carried
from rwkvclip_models.pixel_rows import PixelRows, images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rwkvclip_models.image_tower import ImageTower
    from rwkvclip_models.model import RWKVCLIP

CHUNK_TOKENS = 1024
"""Tokens of a strip, its halo included, where the caller names no number of rows."""

CUBIC = -0.75
"""Keys' parameter of torch's bicubic interpolation."""


def encode_image_streaming(model: RWKVCLIP, pixels: Any, *, rows_per_chunk: int | None = None) -> Tensor:
    """Return un-normalised embeddings [B, C], as `model.encode_image` does, of images of any size.

    Images go one after the other. Each takes two arrays [T, C], the second in float32 where the first is in
    half precision, and what a strip takes: rows_per_chunk + 2 rows of w tokens, and their pixels. A strip
    takes the same however many there are. Receptance, key, value and decay of each token are computed twice.
    Forward hooks of the blocks do not run.

    Args:
        model: in evaluation mode.
        pixels: `PixelRows`, or a tensor or array [3, height, width] (then B = 1) or [B, 3, height, width] of
            floats normalised as `eval_transform` does, of which slices of rows are read: an `np.memmap` stays
            on disk.
        rows_per_chunk: rows of the patch grid in a strip, at least 1; the default keeps a strip with its halo
            within `CHUNK_TOKENS` as long as three rows fit there.

    Raises:
        UserError: gradients are enabled, the model is in training mode, pixels of another form, or an
            impossible rows_per_chunk.
    """
    if torch.is_grad_enabled():
        raise UserError(
            "encode_image_streaming keeps nothing for gradients, and they are enabled. Call it under "
            "torch.inference_mode() or torch.no_grad(); to train, call model.encode_image."
        )
    tower = model.image_model
    if tower.training:
        raise UserError("encode_image_streaming expects a model in evaluation mode. Call model.eval() first.")
    if rows_per_chunk is not None and (type(rows_per_chunk) is not int or rows_per_chunk < 1):
        raise UserError(f"rows_per_chunk is a whole number of at least 1, or None, got {rows_per_chunk!r}.")
    found = [_encode(tower, image, rows_per_chunk) for image in images(pixels)]
    return torch.cat(found) if found else tower.pos_embed.new_empty(0, tower.pos_embed.shape[-1])


@dataclass(frozen=True)
class _Chunk:
    """A strip of the patch grid.

    Attributes:
        rows: of the strip, without its halo.
        tokens: of the strip, in the sequence.
        around: tokens of the strip and its halo, in the sequence.
        inside: tokens of the strip, within those with the halo.
        grid: rows and columns, those of the halo included.
    """

    rows: range
    tokens: slice
    around: slice
    inside: slice
    grid: tuple[int, int]


@dataclass(frozen=True)
class _Strips:
    """How a patch grid is cut.

    Attributes:
        rows: of the grid.
        columns: of the grid.
        height: rows of a strip; the last may have fewer.
    """

    rows: int
    columns: int
    height: int

    @classmethod
    def of(cls, grid: tuple[int, int], rows_per_chunk: int | None) -> _Strips:
        """Return strips of as many rows, or of as many as fit `CHUNK_TOKENS`."""
        rows, columns = grid
        fitting = rows if rows * columns <= CHUNK_TOKENS else max(1, CHUNK_TOKENS // columns - 2)
        return cls(rows, columns, fitting if rows_per_chunk is None else rows_per_chunk)

    def __iter__(self) -> Iterator[_Chunk]:
        """Yield the strips from top to bottom."""
        return map(self._chunk, range(0, self.rows, self.height))

    def __reversed__(self) -> Iterator[_Chunk]:
        """Yield the strips from bottom to top."""
        return map(self._chunk, reversed(range(0, self.rows, self.height)))

    def _chunk(self, top: int) -> _Chunk:
        bottom = min(top + self.height, self.rows)
        first, last = max(top - 1, 0), min(bottom + 1, self.rows)

        def tokens(start: int, stop: int) -> slice:
            return slice(start * self.columns, stop * self.columns)

        return _Chunk(
            rows=range(top, bottom),
            tokens=tokens(top, bottom),
            around=tokens(first, last),
            inside=tokens(top - first, bottom - first),
            grid=(last - first, self.columns),
        )


def _encode(tower: ImageTower, image: PixelRows, rows_per_chunk: int | None) -> Tensor:
    """Return the embedding [1, C] of one image."""
    patch = tower.patch_embed.patch_size
    grid = -(-image.height // patch), -(-image.width // patch)
    strips = _Strips.of(grid, rows_per_chunk)
    x = _embedded(tower, image, strips)
    # Holds what later tokens add to y, then the tokens between the two halves of a block.
    between = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for block in tower.layers:
        assert isinstance(block, ImageBlock)
        _run_block(block, x, between, strips)
    total = torch.zeros(1, x.shape[-1], dtype=torch.float64)
    for chunk in strips:
        normed = tower.ln1(x[:, chunk.tokens])
        total += normed.sum(dim=1, dtype=between.dtype).cpu()
    return (total / x.shape[1]).to(normed.dtype).to(x.device)


def _embedded(tower: ImageTower, image: PixelRows, strips: _Strips) -> Tensor:
    """Return the tokens [1, T, C] that the first block adds to."""
    patch = tower.patch_embed.patch_size
    positions = _Positions(tower, (strips.rows, strips.columns))
    first = tower.layers[0]
    assert isinstance(first, ImageBlock)

    def embed(chunk: _Chunk) -> Tensor:
        bottom = min(chunk.rows.stop * patch, image.height)
        pixels = image.strip(chunk.rows.start * patch, bottom, tower.pos_embed)
        patches = tower.patch_embed(pixels).flatten(2).transpose(1, 2) + positions.of(chunk.rows)
        embedded: Tensor = patches if first.ln0 is None else first.ln0(patches)
        return embedded

    x: Tensor | None = None
    for chunk in strips:
        tokens = embed(chunk)
        if x is None:
            x = tokens.new_empty(1, strips.rows * strips.columns, tokens.shape[-1])
        x[:, chunk.tokens] = tokens
    assert x is not None
    return x


def _run_block(block: ImageBlock, x: Tensor, between: Tensor, strips: _Strips) -> None:
    """Replace the tokens x [1, T, C] by those after a block; overwrites `between` [1, T, C]."""
    state = _empty_state(block, between)
    for chunk in reversed(strips):
        state = _leave_future(block, x, between, chunk, state)
    state = _empty_state(block, between)
    for chunk in strips:
        state = _mix_space(block, x, between, chunk, state)
    for chunk in strips:
        _mix_channels(block, x, between, chunk)


def _empty_state(block: ImageBlock, like: Tensor) -> Tensor:
    heads, width = block.att.time_faaaa.shape
    return like.new_zeros(1, heads, width, width)


def _leave_future(block: ImageBlock, x: Tensor, future: Tensor, chunk: _Chunk, state: Tensor) -> Tensor:
    """Write to `future` what later strips add to y of this one; return the state after it."""
    lerps = _lerps(block, x, chunk, "wkvr")
    r, k, v, w = block.att.operands(*lerps)
    del lerps
    added, state = carried(r, k, v, w, state, reverse=True)
    future[:, chunk.tokens] = added.flatten(2)
    return state


def _mix_space(block: ImageBlock, x: Tensor, between: Tensor, chunk: _Chunk, state: Tensor) -> Tensor:
    """Replace what later strips add to y by the tokens after the spatial mix; return the state after it."""
    *lerps, x_g = _lerps(block, x, chunk, "wkvrg")
    r, k, v, w = block.att.operands(*lerps)
    gate = block.att.gate_of(x_g)
    del lerps, x_g
    past, state = carried(r, k, v, w, state, reverse=False)
    with without_autocast(r):
        r_, k_, v_ = (z.to(w.dtype) for z in (r, k, v))
        y = bi_wkv6(r_, k_, v_, w, block.att.bonus(w), implementation=block.att.implementation)
    y = y.add_(past).add_(between[:, chunk.tokens].view_as(y)).to(r.dtype)
    between[:, chunk.tokens] = x[:, chunk.tokens] + block.att.output_of(y, gate)
    return state


def _mix_channels(block: ImageBlock, x: Tensor, between: Tensor, chunk: _Chunk) -> None:
    """Write the tokens after the channel mix to x."""
    z = block.ln2(between[:, chunk.around].to(x.dtype))
    x_k, x_r = block.ffn.lerps(z, _shift(block, chunk))[:, :, chunk.inside]
    x[:, chunk.tokens] = block.ffn.output_of(x_k, x_r, between[:, chunk.tokens].to(x.dtype))


def _lerps(block: ImageBlock, x: Tensor, chunk: _Chunk, mixes: str) -> Tensor:
    """Return the lerps of the normed tokens of a strip [K, 1, T, C]."""
    z = block.ln1(x[:, chunk.around])
    return block.att.lerps(z, _shift(block, chunk), mixes)[:, :, chunk.inside]


def _shift(block: ImageBlock, chunk: _Chunk) -> Shift:
    return Shift(*chunk.grid, block.heads, 4)


class _Positions:
    """The tower's position embeddings for the strips of a grid."""

    def __init__(self, tower: ImageTower, grid: tuple[int, int]) -> None:
        self.table = torch.unflatten(tower.pos_embed[0], 0, tower.grid)
        self.rows, self.columns = grid
        self.by_column: Tensor | None = None
        if grid != tower.grid:
            self.by_column = bicubic_weights(range(self.columns), tower.grid[1], self.columns, self.table)

    def of(self, rows: range) -> Tensor:
        """Return those of some rows [1, T, C], as interpolating the whole table gives them."""
        if self.by_column is None:
            return self.table[rows.start : rows.stop].flatten(0, 1)[None]
        by_row = bicubic_weights(rows, self.table.shape[0], self.rows, self.table)
        with without_autocast(self.table):
            across = torch.tensordot(by_row, self.table.to(by_row.dtype), dims=1)
            made: Tensor = (self.by_column @ across).flatten(0, 1)[None]
        return made.to(self.table.dtype)


def bicubic_weights(places: range, source: int, target: int, like: Tensor) -> Tensor:
    """Return the weights [len(places), source] of bicubic interpolation of one axis.

    They are those of `torch.nn.functional.interpolate` with align_corners=False: of four neighbours, and the
    outermost are repeated beyond the edge.

    Args:
        places: on the axis that is made.
        source: length of the axis that there is.
        target: length of the axis that is made.
        like: a tensor for device and dtype; float32 at least.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    place = torch.arange(places.start, places.stop, device=like.device, dtype=exact)
    place = (place + 0.5) * (source / target) - 0.5
    first = place.floor()
    neighbours = torch.arange(-1, 3, device=like.device)
    distance = (neighbours - (place - first)[:, None]).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance.square() + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    taps = (first.long()[:, None] + neighbours).clamp(0, source - 1)
    weights = torch.zeros(len(places), source, device=like.device, dtype=exact)
    return weights.scatter_add_(1, taps, torch.where(distance <= 1, near, far))
