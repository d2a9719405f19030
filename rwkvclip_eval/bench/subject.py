"""A model as something to be timed: calls of its towers on inputs of a cell's sizes, and their FLOPs.

Axes: B batch, H W image height and width (px), L tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rwkvclip_eval.bench.parts import shares_of
from rwkvclip_eval.bench.training import TrainingStep
from rwkvclip_eval.encoders.arithmetic import arithmetic
from rwkvclip_eval.encoders.towers import towers_of
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.records.efficiency import Cell

    Call = Callable[[], object]

_LONG_TEXT = "a photo of two cats and a dog on a wooden table near the window " * 100
"""Of more tokens than any model takes."""


class Subject:
    """A loaded model whose towers can be called on random inputs of any size that it takes.

    Args:
        encoder: of a model whose towers are torch modules.

    Raises:
        UserError: they are not.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.info = encoder.info
        self.towers = towers_of(encoder)
        self._device = torch.device(encoder.info.device)

    @property
    def patch_px(self) -> int | None:
        """Side of a patch of the image tower, px: the stride of its one convolution; None of other kinds."""
        strides = [m.stride[0] for m in self.towers.module.modules() if isinstance(m, torch.nn.Conv2d)]
        return strides[0] if len(strides) == 1 else None

    def call(self, cell: Cell) -> Call:
        """Return what does a cell's work once; sizes other than the model's own are for speed only.

        Raises:
            UserError: the model takes no such input.
        """
        pixels, tokens = self._inputs(cell)
        if cell.tower == "train":
            return TrainingStep(self.towers, pixels, tokens, cell.precision)
        image, text = self.towers.image, self.towers.text
        if cell.compiled:
            image = torch.compile(image, dynamic=False)
            text = torch.compile(text, dynamic=False) if text is not None else None

        def forward() -> None:
            with torch.inference_mode(), arithmetic(self._device, cell.precision):
                if cell.height:
                    image(pixels)
                if cell.tokens and text is not None:
                    text(tokens)

        return forward

    def drop_weights(self) -> None:
        """Keep shapes alone: from now on FLOPs can be counted, in no time, and nothing computed."""
        self.towers.module.to("meta")
        self._device = torch.device("meta")

    def count_flops(self, cell: Cell) -> int:
        """Return the FLOPs of a call: those of one sample times the batch, and the loss' products.

        Twice the multiply-adds of matrix products, convolutions, attention and Bi-WKV. Attention is counted
        in the form that writes its scores, which does the work that all forms do; its mask saves nothing.

        Raises:
            UserError: the model takes no such input.
        """
        single = dataclasses.replace(cell, batch=1, compiled=False)
        if cell.tower != "train":
            return cell.batch * _counted(self.call(single))
        pixels, tokens = self._inputs(single)
        step = TrainingStep(self.towers, pixels, tokens, cell.precision)
        # torch declares no types for it.
        with_loss = _counted(lambda: step.loss().backward())  # type: ignore[no-untyped-call]
        # Logits of B × B and their two gradients.
        products = 3 * 2 * self.info.embed_dim
        return cell.batch * (with_loss - products) + products * cell.batch**2

    def flops_by_part(self, cell: Cell) -> dict[str, int]:
        """Return part → FLOPs of a forward call, counted as `count_flops` does; they sum to it.

        Raises:
            UserError: the model takes no such input.
        """
        call = self.call(dataclasses.replace(cell, batch=1, compiled=False))
        with _counting() as counter:
            shares = shares_of(call, self.towers.module, counter.get_total_flops)
        return {name: cell.batch * int(flops) for name, flops in shares.items()}

    def _inputs(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Return random pixels [B, 3, H, W] and tokens [B, L], after the towers were made to take them."""
        own = self.info.image_size_px
        wanted = (cell.height, cell.width) if cell.height else own
        length = cell.tokens or self.info.context_length or 0
        if cell.tokens and not self.info.has_text:
            raise UserError(f"{self.info.name} has no text tower.")
        if (wanted, length) != (own, self.info.context_length or 0) or self.towers.take_sizes is not None:
            if self.towers.take_sizes is None:
                raise UserError(
                    f"{self.info.name} takes images of {own[0]}×{own[1]} px and "
                    f"{self.info.context_length or 0} tokens alone."
                )
            self.towers.take_sizes(wanted, length)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(cell.batch if cell.height else 0, 3, *wanted, generator=generator)
        tokens = self._text_of(length).repeat(cell.batch if cell.tokens else 0, 1)
        return pixels.to(self._device), tokens.to(self._device)

    def _text_of(self, length: int) -> Tensor:
        """Return [1, L] ids of a text that fills L tokens: towers that stop at its end read all."""
        if not length or self.towers.tokenize is None:
            return torch.zeros(1, 0, dtype=torch.int64)
        full = self.towers.tokenize([_LONG_TEXT])[0]
        words = full[:-1].repeat(-(-length // max(len(full) - 1, 1)))[: length - 1]
        return torch.cat([words, full[-1:]])[None]


def _counted(call: Call) -> int:
    with _counting() as counter:
        call()
    return int(counter.get_total_flops())


@contextlib.contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
