"""Who encodes: an `Engine` fills an unfinished entry of the store. `LocalEngine` is one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rwkvclip_eval.encoders.protocol import named_texts
from rwkvclip_eval.features.context import Context
from rwkvclip_eval.features.encoding import InParts, by_token_count, encode_batches, joined_arrays
from rwkvclip_eval.features.options import EncodeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.features.partial_entry import PartialEntry


class Engine(Protocol):
    """Encodes into entries of the feature store, which knows nothing of how.

    Attributes:
        options: how to encode.
        context: of the run.
        num_processes: that encode together.
    """

    options: EncodeOptions
    context: Context
    num_processes: int

    def work_on(self, model: str, unit: str) -> None:
        """Take notice of the unit whose features will be asked for, for processes that must find its data."""
        ...

    def encode(self, entry: PartialEntry, encoder: Encoder, split: Dataset) -> None:
        """Encode what the entry does not hold yet of a split.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: see `encode_batches`; what is encoded by then is kept.
        """
        ...

    def encode_texts(
        self, entry: PartialEntry, encoder: Encoder, texts: Sequence[str]
    ) -> np.ndarray[Any, Any]:
        """Encode what the entry does not hold yet of texts; return [m] int64, the row of each.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: a text's embedding is not finite, and is named, or GPU memory does not hold it.
        """
        ...


class LocalEngine:
    """Encodes in this process."""

    num_processes = 1

    def __init__(self, options: EncodeOptions | None = None, context: Context | None = None) -> None:
        self.options = options or EncodeOptions()
        self.context = context or Context()

    def work_on(self, model: str, unit: str) -> None:
        """Do nothing: nobody else has to find the data."""

    def encode(self, entry: PartialEntry, encoder: Encoder, split: Dataset) -> None:
        """Encode what the entry does not hold yet of a split; see `Engine`."""
        starts = entry.begin(self.options.batch_size)
        progress = self._progress(entry, encoder, split)
        progress(0)
        if starts:
            self._encode(entry, encoder, split, starts, progress)

    def _encode(
        self,
        entry: PartialEntry,
        encoder: Encoder,
        split: Dataset,
        starts: list[int],
        progress: Callable[[int], None],
    ) -> None:
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done)

        batches = entry.batches(starts)
        encode_batches(encoder, split, batches, entry, self.options, self.context, count)

    def _progress(self, entry: PartialEntry, encoder: Encoder, split: Dataset) -> Callable[[int], None]:
        """Return what tells how many rows are on disk, given how many came since."""
        before, what = entry.num_done, f"{encoder.info.name} · {split.info.name}"
        return lambda rows: self.context.on_progress(before + rows, entry.total, what)

    def encode_texts(
        self, entry: PartialEntry, encoder: Encoder, texts: Sequence[str]
    ) -> np.ndarray[Any, Any]:
        """Encode what the entry does not hold yet of texts; see `Engine`."""
        entry.begin(self.options.batch_size)
        timings, total = self.context.timings, len(texts)
        encode = InParts(encoder.encode_text, self.context, "Texts")
        size = entry.batch_size or total
        with timings.stage("encode"):
            batches, order = by_token_count(
                [encoder.tokenize(texts[i : i + size]) for i in range(0, total, size)]
            )
        for rows in entry.batches(range(0, total, size)):
            if rows.start not in entry.done:
                batch = [texts[i] for i in order[rows.start : rows.stop]]
                with timings.stage("encode"):
                    parts = encode(batches[rows.start // size], [repr(text) for text in batch])
                    arrays = joined_arrays([named_texts(part) for part in parts])
                timings.texts += len(batch)
                entry.write(rows, list(rows), arrays, {})
            self.context.on_progress(rows.stop, total, f"{encoder.info.name} · texts")
        return np.argsort(order).astype(np.int64)
