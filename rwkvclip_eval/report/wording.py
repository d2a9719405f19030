"""The words of a report: states, names of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.loading import Entry

STATUS_WORDS = {
    "not_applicable": "n/a",
    "missing_data": "no data",
    "failed": "failed",
    "not_run": "not run",
}


def dataset_version(record: Record) -> str:
    """Return the dataset with its variant where that is not the default: `sun397@partition1`."""
    return record.dataset if record.variant in ("", "default") else f"{record.dataset}@{record.variant}"


def dataset_title(entry: Entry) -> str:
    """Return what the entry says it is shown as, else the dataset with its variant and an unusual split."""
    if entry.title:
        return entry.title
    split = "" if entry.record.split in ("", "test") else f" ({entry.record.split})"
    return f"{dataset_version(entry.record)}{split}"
