"""The features behind a run's numbers, found in the store by the run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.entry import DamagedEntry
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.records.reading import read_results, run_dirs


def load_features(
    run: str | Path, model: str, dataset: str, *, cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return the stored features behind a run's numbers.

    Args:
        run: run directory.
        model: display name.
        dataset: record name.
        cache_dir: feature store; `default_cache_dir()` by default.

    Returns:
        `keys` (n sample keys), `embedding` [n, D] float32 of unit norm, `probe` [n, F] float32 (both mapped
        from disk), `missing` (index → reason).

    Raises:
        UserError: the run has no such model and dataset, or its features are no longer stored.
    """
    records = [r for d in run_dirs(Path(run)) for r in read_results(d)]
    keys = {r.feature_key for r in records if (r.model, r.dataset) == (model, dataset) and r.feature_key}
    if not keys:
        there = ", ".join(sorted({f"{r.model} × {r.dataset}" for r in records})) or "none"
        raise UserError(f"{run} has no features of {model} × {dataset}. There are: {there}.")
    if len(keys) > 1:
        raise UserError(
            f"{run} holds several variants of {dataset}; their features must be read one run at a time."
        )
    root = Path(cache_dir) if cache_dir else default_cache_dir()
    entry = FeatureStore(root).find(keys.pop())
    if entry is None:
        raise UserError(
            f"The features of {model} × {dataset} are not in {root}: cleared, damaged, or the run kept none."
        )
    try:
        names = entry.keys()
    except DamagedEntry as error:
        raise UserError(
            f"{entry.folder}: {error}. Clear it (rwkvclip-eval cache clear) and run again."
        ) from error
    embedding, probe = entry.arrays["embedding"], entry.arrays["probe"]
    return {"keys": names, "embedding": embedding, "probe": probe, "missing": entry.meta.missing}
