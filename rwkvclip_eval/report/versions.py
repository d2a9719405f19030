"""Numbers of older task versions whose value, interval, or search for λ, is made otherwise today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import (
    MAP_11_POINT,
    MAP_AREA,
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    ROC_AUC,
    TOP1_PADDED,
)

if TYPE_CHECKING:
    from rwkvclip_eval.records.schema import Record

FIRST_VERSIONS = {
    "zero_shot_classification": 2,
    "zero_shot_retrieval": 2,
    "knn_probe": 3,
    "linear_probe": 7,
    "few_shot_linear_probe": 7,
}
"""Task → its first version with today's intervals, and, of linear probes, with today's search for λ."""

_OTHER_INTERVAL = {MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC, MAP_11_POINT, MAP_AREA}
"""Beside these, retrieval's and few-shot numbers."""
_FEW = 10
"""Of so few hits or misses, or fewer, the interval of a proportion is wider today."""


def what_changed(record: Record) -> str:
    """Return what of a number is made otherwise since its task version, in words; empty where nothing is."""
    first = FIRST_VERSIONS.get(record.task, 0)
    if record.status != "ok" or record.task_version >= first:
        return ""
    searched = "linear_probe" in record.task and not str(record.notes.get("validation")).startswith("none")
    # The padding of a whole set of 50,000 was counted for a part, too.
    padded = record.measure == TOP1_PADDED and bool(record.subset)
    changed = ["value"] if padded else ["interval"] if _has_other_interval(record) else []
    changed += ["search for λ"] if searched else []
    return f"{' and '.join(changed)} of before task version {first}" if changed else ""


def _has_other_interval(record: Record) -> bool:
    if record.ci_low is None or record.value is None:
        return False
    hits = (record.n or 0) * record.value
    metric = record.measure
    other = metric in _OTHER_INTERVAL or bool(metric.direction) or metric.shots is not None
    return other or 0 < min(hits, (record.n or 0) - hits) <= _FEW
