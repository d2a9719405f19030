"""The words of a report: titles of tasks, states, names of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.loading import Entry

TASK_TITLES = {
    "zero_shot_classification": "Zero-shot classification",
    "zero_shot_retrieval": "Zero-shot retrieval",
    "linear_probe": "Linear probe",
    "few_shot_linear_probe": "Few-shot linear probe",
    "knn_probe": "k-NN probe",
}
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
    """Return the dataset with its variant and, where it is not the test split, its split."""
    split = "" if entry.record.split in ("", "test") else f" ({entry.record.split})"
    return f"{dataset_version(entry.record)}{split}"
