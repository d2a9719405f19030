"""The words of a report: titles of tasks, labels of metrics, numbers as tables show them."""

from __future__ import annotations

import re
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
PRIMARY_METRIC = "primary_metric_accuracy"
"""Metric of an average over every dataset's own primary metric."""
_METRIC_LABELS = {
    "top1_accuracy": "top-1",
    "top5_accuracy": "top-5",
    "mean_per_class_accuracy": "mean per class",
    "roc_auc": "ROC AUC",
    "mean_average_precision_11_point": "11-point mAP",
    "mean_average_precision": "mAP (area)",
    "mean_top1_top5_accuracy": "mean of top-1 and top-5",
    PRIMARY_METRIC: "primary metric of each",
}
_PERCENT = re.compile(r"accuracy|recall|auc|precision|_map|\bmap|f1")
_LOWER_IS_BETTER = re.compile(r"rank|loss|error|latency|seconds|bytes|memory")
_RECALL = re.compile(r"^(image|text)_retrieval_(.+)$")
_SHOTS = re.compile(r"^(.+)_([1-9]\d{0,8})_shot$")


def metric_label(metric: str) -> str:
    """Return how tables write `metric`; `text_retrieval_recall@1` is image→text R@1."""
    if match := _SHOTS.match(metric):
        return f"{metric_label(match[1])}, {match[2]}-shot"
    if match := _RECALL.match(metric):
        direction = "text→image" if match[1] == "image" else "image→text"
        return f"{direction} {match[2].replace('recall', 'R').replace('_', ' ')}"
    return _METRIC_LABELS.get(metric, metric.replace("_", " "))


def is_percent(metric: str) -> bool:
    """Return whether `metric` is a fraction that tables write as per cent."""
    return bool(_PERCENT.search(metric))


def lower_is_better(metric: str) -> bool:
    """Return whether a smaller value is the better one."""
    return bool(_LOWER_IS_BETTER.search(metric))


def format_value(metric: str, value: float | None) -> str:
    """Return `value` as tables show it: per cent with one decimal, other numbers with four digits."""
    if value is None:
        return "—"
    return f"{100 * value:.1f}" if is_percent(metric) else f"{value:.4g}"


def num_shots(metric: str) -> int | None:
    """Return the training images per class that `metric` is named for; None where it is for none."""
    match = _SHOTS.match(metric)
    return int(match[2]) if match else None


def dataset_version(record: Record) -> str:
    """Return the dataset with its variant where that is not the default: `sun397@partition1`."""
    return record.dataset if record.variant in ("", "default") else f"{record.dataset}@{record.variant}"


def dataset_title(entry: Entry) -> str:
    """Return the dataset with its variant and, where it is not the test split, its split."""
    split = "" if entry.record.split in ("", "test") else f" ({entry.record.split})"
    return f"{dataset_version(entry.record)}{split}"
