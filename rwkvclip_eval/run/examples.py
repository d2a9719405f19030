"""What a run adds to a task's result from the images: content ids beside the keys, thumbnails of examples."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.content import content_ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.features.context import Context
    from rwkvclip_eval.tasks.base import TaskResult

THUMBNAIL_PX = 160
"""Longer side, at most."""


def with_content(
    tables: Mapping[str, pa.Table], dataset: Dataset, cache_dir: Path | None, context: Context
) -> dict[str, pa.Table]:
    """Return the tables, those of samples with a column `content_id` behind their `key`."""
    import pyarrow as pa

    found = dict(tables)
    told = [name for name, table in found.items() if {"key", "content_id"} & {*table.column_names} == {"key"}]
    if not told:
        return found
    what = f"{dataset.info.name} · content ids"
    with context.timings.stage("load"):
        ids = content_ids(dataset, cache_dir, lambda d, n: context.on_progress(d, n, what))
    if unknown := ids.count(None):
        context.on_message(f"{unknown} images of {dataset.info.name} cannot be read now: no content id.")
    by_key = dict(zip(dataset.keys, ids, strict=True))
    for name in told:
        column = pa.array([by_key.get(key) for key in found[name]["key"].to_pylist()], pa.string())
        place = found[name].column_names.index("key") + 1
        found[name] = found[name].add_column(place, "content_id", column)
    return found


def thumbnail(image: Image) -> str:
    """Return a small JPEG of an image as base64."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def gallery(dataset: Dataset, kept: np.ndarray[Any, Any], result: TaskResult) -> dict[str, Any] | None:
    """Return the task's examples with thumbnails of what they show; None where it has none."""
    if not (result.examples or result.errors):
        return None
    thumbnails: dict[str, str] = {}
    shown = {i for e in result.examples for i in (e.target, *e.retrieved)}
    for index in sorted(shown | {e.image for e in result.errors}):
        thumbnails[str(index)] = thumbnail(dataset.image(int(kept[index])))
    examples = [
        {
            "query": e.query,
            "target": int(e.target),
            "retrieved": [int(i) for i in e.retrieved],
            "scores": [float(s) for s in e.scores],
        }
        for e in result.examples
    ]
    errors = [dataclasses.asdict(e) for e in result.errors]
    return {"examples": examples, "errors": errors, "thumbnails": thumbnails}
