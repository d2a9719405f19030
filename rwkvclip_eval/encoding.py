"""Turns splits and texts into arrays, batch by batch: decoding in workers, in parts that fit GPU memory.

Axes: b samples of a batch, H W image height and width (px).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import name_some
from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_eval.plugins import load_plugin, loaded_plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder


@dataclass
class Timings:
    """Wall seconds the caller waited for each stage."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    images: int = 0
    texts: int = 0


@dataclass
class EncodeOptions:
    """How to encode; none of it changes the features beyond rounding.

    Attributes:
        batch_size: images per forward pass; halved, and said so, when GPU memory runs out.
        num_workers: decoding processes; 0 decodes in this one.
        on_progress: called with (done, total, what).
        on_message: called with texts a user should read.
    """

    batch_size: int = 64
    num_workers: int = 0
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None
    on_message: Callable[[str], None] = lambda text: None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            UserError: the batch size is below 1, or the number of workers below 0.
        """
        if self.batch_size < 1 or self.num_workers < 0:
            raise UserError(
                f"The batch size must be at least 1 and the number of workers at least 0, not "
                f"{self.batch_size} and {self.num_workers}."
            )


class _Decoder:
    """Map-style dataset for the loader: preprocesses in the worker, returns the reason where it cannot."""

    def __init__(self, dataset: Dataset, preprocess: Callable[[Any], Any]) -> None:
        self.dataset, self.preprocess = dataset, preprocess

    def __getstate__(self) -> tuple[list[Path], bytes]:
        # A worker that is spawned (on macOS) must run the plugins before it knows the classes they define.
        return loaded_plugins(), pickle.dumps((self.dataset, self.preprocess))

    def __setstate__(self, state: tuple[list[Path], bytes]) -> None:
        plugins, content = state
        for path in plugins:
            load_plugin(path)
        self.dataset, self.preprocess = pickle.loads(content)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        try:
            return index, self.preprocess(self.dataset.image(index)), ""
        except DamagedData as error:
            return index, None, str(error)


def _as_list(samples: list[Any]) -> list[Any]:
    return samples


def decoded_batches(
    encoder: Encoder, dataset: Dataset, batches: list[range], num_workers: int
) -> Iterator[tuple[range, Any, dict[int, str]]]:
    """Yield (rows, pixels [b, 3, H, W] float32 of the images that could be decoded, row → reason)."""
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Decoder(dataset, encoder.preprocess),  # type: ignore[arg-type]  # map-style by protocol
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges serve as lists of indices
        num_workers=num_workers,
        collate_fn=_as_list,
        prefetch_factor=2 if num_workers else None,
        # Without one of its own it draws from the global generator, which a training loop around it uses.
        generator=torch.Generator(),
    )
    for rows, samples in zip(batches, loader, strict=True):
        tensors = [pixels for _, pixels, _ in samples if pixels is not None]
        damaged = {index: reason for index, pixels, reason in samples if pixels is None}
        yield rows, torch.stack(tensors) if tensors else None, damaged


class InParts:
    """Encodes a batch whole, or in parts where GPU memory does not hold it; remembers the size that fits.

    Args:
        encode: pixels or texts → what the encoder gives.
        options: told when parts become smaller.
        what: the samples in the plural, for messages.
    """

    def __init__(self, encode: Callable[[Any], Any], options: EncodeOptions, what: str) -> None:
        self._encode, self._options, self._what = encode, options, what
        self._most: int | None = None

    def __call__(self, batch: Any, names: Sequence[str]) -> list[Any]:
        """Return the parts' results in order; `names` is what messages call the samples of `batch`.

        Raises:
            UserError: one sample alone is too large, or one's embedding is not finite, which is named.
        """
        import torch

        while True:
            size = min(self._most or len(batch), len(batch))
            try:
                return [
                    self._part(batch[start : start + size], names[start : start + size])
                    for start in range(0, len(batch), size)
                ]
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    raise UserError("One sample does not fit into GPU memory; use another device.") from error
            # Outside the handler, whose exception still holds the tensors.
            torch.cuda.empty_cache()
            self._most = (size + 1) // 2
            self._options.on_message(f"Out of GPU memory: going on with batches of {self._most}.")

    def _part(self, part: Any, names: Sequence[str]) -> Any:
        try:
            return self._encode(part)
        except UserError as error:
            rows = getattr(error, "rows", None)
            if not rows:
                raise
            raise UserError(f"{error} {self._what}: {name_some(names[row] for row in rows)}.") from error


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as a float32 array in main memory."""
    return np.asarray(tensor.detach().float().cpu().numpy())
