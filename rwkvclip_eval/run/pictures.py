"""Small pictures of single samples of a dataset that was evaluated, by their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.run.examples import thumbnail

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.records.schema import Record


def pictures(record: Record, keys: Collection[str], data_root: Path | None) -> dict[str, str]:
    """Return key → base64 JPEG of those samples that can be read.

    Args:
        record: of the split.
        keys: of the samples.
        data_root: folder of datasets.

    Raises:
        DataNotFound: the split is not there, or there is another copy than the record is of.
        UserError: it cannot be opened.
    """
    variant = None if record.variant in ("", "default") else record.variant
    try:
        ref = DatasetRef.model_validate({"name": record.dataset, "variant": variant, "split": record.split})
    except ValidationError as error:
        raise DataNotFound("its dataset was the suite's own, whose place is not known here") from error
    dataset = open_dataset(ref, data_root=data_root, offline=True)
    # A part of a split has a fingerprint of its own; its samples are told by their keys.
    if not record.subset and dataset.info.fingerprint != record.dataset_fingerprint:
        raise DataNotFound(f"the {record.dataset} there is another copy than the one that was evaluated")
    wanted = set(keys)
    rows = {key: row for row, key in enumerate(dataset.keys) if key in wanted}
    found = {key: _picture(dataset, rows[key]) for key in keys if key in rows}
    return {key: picture for key, picture in found.items() if picture}


def _picture(dataset: Dataset, row: int) -> str:
    """Return a picture, or nothing where the image cannot be read: a comparison goes without."""
    try:
        return thumbnail(dataset.image(row))
    except (DamagedData, OSError, ValueError):
        return ""
