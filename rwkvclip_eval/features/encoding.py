"""Turns splits and texts into arrays, batch by batch, in parts that fit GPU memory.

Axes: b samples of a batch, L context (tokens).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.encoders.protocol import named_images
from rwkvclip_eval.errors import EncodingFailed, UserError, name_some, users_code
from rwkvclip_eval.features.decoding import decoded_batches, explained_death

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.features.context import Context
    from rwkvclip_eval.features.options import EncodeOptions
    from rwkvclip_eval.features.partial_entry import PartialEntry


def encode_batches(
    encoder: Encoder,
    dataset: Dataset,
    batches: list[range],
    writer: PartialEntry,
    options: EncodeOptions,
    context: Context,
    on_rows: Callable[[int], object],
) -> None:
    """Encode `batches` of `dataset` and put each on disk; `on_rows` is told how many rows then are.

    Raises:
        OutputError: the store cannot be written.
        EncodingFailed: an image's embedding is not finite, and the text names it; one does not fit into GPU
            memory; or a worker was killed.
        UserError: the encoder is at fault whatever the image.
    """
    timings, encode = context.timings, InParts(encoder.encode_image, context, "Images")
    explained = explained_death() if options.num_workers else contextlib.nullcontext()
    # Closed, so that after a failure no workers stay beside those of the next split.
    with (
        contextlib.closing(decoded_batches(encoder, dataset, batches, options.num_workers)) as decoded,
        explained,
    ):
        while True:
            with timings.stage("decode"), users_code(f"Reading {dataset.info.name}"):
                batch = next(decoded, None)
            if batch is None:
                return
            rows, pixels, damaged = batch
            present = [i for i in rows if i not in damaged]
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            if present:
                with timings.stage("encode"):
                    parts = encode(pixels, [dataset.keys[i] for i in present])
                    arrays = joined_arrays([named_images(part) for part in parts])
            writer.write(rows, present, arrays, damaged)
            timings.images += len(rows)
            on_rows(len(rows))


class InParts:
    """Encodes a batch whole, or in parts where GPU memory does not hold it; remembers the size that fits.

    Args:
        encode: pixels or texts → what the encoder gives.
        context: told when parts become smaller.
        what: the samples in the plural, for messages.
    """

    def __init__(self, encode: Callable[[Any], Any], context: Context, what: str) -> None:
        self._encode, self._context, self._what = encode, context, what
        self._most: int | None = None

    def __call__(self, batch: Any, names: Sequence[str]) -> list[Any]:
        """Return the parts' results in order; `names` is what messages call the samples of `batch`.

        Raises:
            EncodingFailed: one sample alone is too large, or one's embedding is not finite, which is named.
            UserError: the encoder is at fault whatever the sample.
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
                    raise EncodingFailed(
                        "One sample does not fit into GPU memory; use another device."
                    ) from error
            # Outside the handler, whose exception still holds the tensors.
            torch.cuda.empty_cache()
            self._most = (size + 1) // 2
            self._context.on_message(f"Out of GPU memory: going on with batches of {self._most}.")

    def _part(self, part: Any, names: Sequence[str]) -> Any:
        try:
            return self._encode(part)
        except UserError as error:
            rows = getattr(error, "rows", None)
            if not rows:
                raise
            raise EncodingFailed(f"{error} {self._what}: {name_some(names[row] for row in rows)}.") from error


def by_token_count(batches: list[Any]) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Return batches of the same sizes in which texts of like length stand together, and their order.

    Encoders that cut the padding of a batch then have the least left to compute. A text's count is what
    stands before the tail of its last token repeated, which in the short ones is padding.

    Args:
        batches: tokens [b, L] int64; of several L, as of tokenizers that pad to a batch, the order stays.

    Returns:
        The batches, and for each row of them, all in a row, its place in those given.
    """
    import torch

    total = sum(map(len, batches))
    if len({batch.shape[1] for batch in batches}) != 1:
        return batches, np.arange(total)
    tokens = torch.cat(batches)
    before_tail = tokens != tokens[:, -1:]
    counts = (before_tail * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(dim=1)
    order = counts.argsort(stable=True)
    return list(torch.split(tokens[order], [len(batch) for batch in batches])), order.cpu().numpy()


def joined_arrays(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return name → the parts' tensors as one float32 array in main memory."""
    return {name: np.concatenate([as_array(part[name]) for part in parts]) for name in parts[0]}


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as a float32 array in main memory."""
    return np.asarray(tensor.detach().float().cpu().numpy())
