"""Tasks: from features to metrics, predictions and intervals. `TASKS` holds them by record name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.registry import Registry
from rwkvclip_eval.tasks.few_shot import FewShotLinearProbe
from rwkvclip_eval.tasks.knn_probe import KnnProbe
from rwkvclip_eval.tasks.linear_probe import LinearProbe
from rwkvclip_eval.tasks.retrieval import ZeroShotRetrieval
from rwkvclip_eval.tasks.zero_shot import ZeroShotClassification

if TYPE_CHECKING:
    from rwkvclip_eval.tasks.base import Task

TASKS: Registry[Task] = Registry("task")
TASKS.register(ZeroShotClassification.name, ZeroShotClassification())
TASKS.register(ZeroShotRetrieval.name, ZeroShotRetrieval())
TASKS.register(LinearProbe.name, LinearProbe())
TASKS.register(FewShotLinearProbe.name, FewShotLinearProbe())
TASKS.register(KnnProbe.name, KnnProbe())
OWN_TASKS = frozenset(TASKS)
"""Names of the suite's own; others are of plugins."""

__all__ = ["OWN_TASKS", "TASKS"]
