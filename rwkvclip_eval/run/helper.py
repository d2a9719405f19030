"""The other ranks of a run under `torchrun`: they encode their share of what rank 0 announces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.store import image_key
from rwkvclip_eval.plan.suite import LoadedSuite, load_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.run.options import load_model
from rwkvclip_eval.run.splits import Datasets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.features.torchrun import TorchrunEngine
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.options import RunOptions


def help_suite(
    suite: str | Path | LoadedSuite, models: Sequence[str], *, engine: TorchrunEngine, options: RunOptions
) -> int:
    """Encode this rank's share of whatever rank 0 announces; return the exit code it dismisses us with.

    Args:
        suite: as given to rank 0.
        models: as given to rank 0.
        engine: encodes with the other ranks.
        options: as given to rank 0, but for the device.

    Raises:
        UserError: bad input, another rank failed, or this one has other weights, data or files than rank 0.
    """
    import torch  # noqa: F401  # takes seconds; rank 0 reads the models meanwhile

    from rwkvclip_eval.encoders import expand_specs

    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    units = {unit.name(""): unit for unit in plan(loaded)}
    specs = {spec.name: spec for spec in expand_specs(models)}
    ranks = engine.ranks
    datasets, encoder, current = Datasets(options, loaded.base_dir), None, ""
    while job := ranks.next_job():
        if job.model not in specs or job.unit not in units:
            raise UserError(
                f"Rank {ranks.rank} knows no {job.model} × {job.unit}, which rank 0 works on: the suite or "
                "the checkpoint files changed meanwhile. Start the same command again."
            )
        if encoder is None or current != job.model:
            # The one before goes first: two may not fit into memory.
            encoder = None
            encoder, current = load_model(specs[job.model], options), job.model
        dataset = _split(datasets, units[job.unit], job.split)
        if image_key(encoder.info, dataset.info.fingerprint) != job.key:
            raise UserError(
                f"Rank {ranks.rank} finds other weights of {job.model} or other data of {dataset.info.name} "
                "than rank 0; all machines must see the same files."
            )
        if not Path(job.folder).is_dir():
            raise UserError(
                f"Rank {ranks.rank} does not see {job.folder}: give a feature store (--cache DIR) that all "
                "machines share."
            )
        engine.share(job, encoder, dataset)
    return ranks.exit_code


def _split(datasets: Datasets, unit: Unit, split: str) -> Dataset:
    """Return the unit's dataset, or the other split of it that its task learns from."""
    own = datasets.get(*unit.dataset_key)
    return own if own.info.split == split else datasets.get(*unit.dataset_key, split)
