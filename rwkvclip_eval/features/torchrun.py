"""The engine of several processes, as `torchrun` starts them: each encodes a share of every split."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import EncodingFailed
from rwkvclip_eval.features.encoding import encode_batches
from rwkvclip_eval.features.engine import LocalEngine
from rwkvclip_eval.features.partial_entry import PartialEntry
from rwkvclip_eval.features.ranks import TorchrunRanks

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.features.context import Context
    from rwkvclip_eval.features.options import EncodeOptions
    from rwkvclip_eval.features.ranks import Job, Ranks


class TorchrunEngine(LocalEngine):
    """Encodes with all ranks: rank 0 by `encode`, each other one by `share` of what rank 0 announces.

    Args:
        ranks: of the run.
        options: how to encode.
        context: of the run, in this process.
    """

    def __init__(
        self, ranks: TorchrunRanks, options: EncodeOptions | None = None, context: Context | None = None
    ) -> None:
        super().__init__(options, context)
        self.ranks, self.num_processes = ranks, ranks.size

    def work_on(self, model: str, unit: str) -> None:
        """Say by which unit the others find the data of the jobs to come."""
        self.ranks.working_on = (model, unit)

    def _encode(
        self,
        entry: PartialEntry,
        encoder: Encoder,
        split: Dataset,
        starts: list[int],
        progress: Callable[[int], None],
    ) -> None:
        ranks, timings = self.ranks, self.context.timings
        mine = ranks.announce(
            split=split.info.split,
            key=entry.key,
            folder=str(entry.folder.resolve()),
            batch_size=entry.batch_size or 0,
            starts=starts,
        )
        batches = entry.batches(rows.start for rows in mine)
        try:
            encode_batches(
                encoder,
                split,
                batches,
                entry,
                self.options,
                self.context,
                lambda rows: progress(ranks.count(rows)),
            )
        except EncodingFailed:
            # The others still write to this entry: no job may follow before they have ended this one.
            with timings.stage("encode"), contextlib.suppress(EncodingFailed):
                ranks.gather(progress)
            raise
        with timings.stage("encode"):
            entry.missing |= ranks.gather(progress)

    def share(self, job: Job, encoder: Encoder, split: Dataset) -> None:
        """Encode this rank's share of a job, and tell rank 0 that it is on disk, or why it cannot be.

        Raises:
            OutputError: the store cannot be written.
        """
        shapes = encoder.info.image_shapes
        entry = PartialEntry(Path(job.folder), len(split), shapes, self.ranks.rank)
        batches = [range(rows.start, min(rows.stop, len(split))) for rows in self.ranks.share(job)]
        failure = ""
        try:
            encode_batches(encoder, split, batches, entry, self.options, self.context, self.ranks.count)
        except EncodingFailed as error:
            failure = str(error)
        self.ranks.answer(entry.missing, failure)


def engine_of(ranks: Ranks, options: EncodeOptions, context: Context) -> LocalEngine:
    """Return what encodes for these ranks."""
    if isinstance(ranks, TorchrunRanks):
        return TorchrunEngine(ranks, options, context)
    return LocalEngine(options, context)
