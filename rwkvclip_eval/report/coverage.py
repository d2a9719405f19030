"""What a report has numbers of: dataset × task, and why a number is missing, once per dataset and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.titles import TASK_TITLES
from rwkvclip_eval.report.wording import STATUS_WORDS, dataset_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.loading import Entry

WHOLE = "✓"
_CURES = {
    "missing_data": (
        "No data: bring them under --data-root (rwkvclip-eval data list --suite SUITE --data-root DATA says "
        "what is there and how to get the rest), then run the same command again; what is finished is kept."
    ),
    "failed": "Failed: mend the cause, then run the same command again; what is finished is kept.",
    "not_applicable": "n/a: nothing to mend, the model does not offer what the task needs.",
}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which datasets have numbers for which task.

    Attributes:
        tasks: column titles.
        rows: dataset → a cell per task: `✓` where all models and protocols have theirs, `3 of 4` where some
            do, the reason in a word where none has, empty where it was not asked for.
    """

    tasks: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What has no number for one reason.

    Attributes:
        dataset: with its variant.
        word: what happened, in a word.
        reason: in full.
        tasks: titles with their protocols.
        models: those concerned; empty where it is all of the report's.
    """

    dataset: str
    word: str
    reason: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]


def coverage(entries: Sequence[Entry]) -> Coverage:
    """Return which datasets have numbers for which task."""
    order = {task: i for i, task in enumerate(TASK_TITLES)}
    tasks = sorted(
        dict.fromkeys(e.record.task for e in entries), key=lambda task: order.get(task, len(order))
    )
    units: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for e in entries:
        own = units.setdefault((dataset_title(e), e.record.task), {})
        own[e.record.unit, e.model] = e.record.status
    datasets = dict.fromkeys(dataset for dataset, _ in units)
    rows = {
        dataset: tuple(_cell(list(units.get((dataset, task), {}).values())) for task in tasks)
        for dataset in datasets
    }
    return Coverage(tasks=tuple(TASK_TITLES.get(t, t.replace("_", " ")) for t in tasks), rows=rows)


def _cell(statuses: Sequence[str]) -> str:
    num_ok = statuses.count("ok")
    if num_ok == len(statuses):
        return WHOLE if statuses else ""
    if num_ok:
        return f"{num_ok} of {len(statuses)}"
    return ", ".join(dict.fromkeys(STATUS_WORDS.get(status, status) for status in statuses))


def problems(entries: Sequence[Entry]) -> list[Problem]:
    """Return what has no number and why; models, tasks and protocols that share the reason share the line."""
    all_models = list(dict.fromkeys(e.model for e in entries))
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for e in entries:
        if e.record.status != "ok":
            key = (dataset_title(e), e.record.status, e.record.reason or "no reason was recorded")
            groups.setdefault(key, []).append(e)
    found = []
    for (dataset, status, reason), own in groups.items():
        protocols: dict[str, dict[str, None]] = {}
        for e in own:
            title = TASK_TITLES.get(e.record.task, e.record.task.replace("_", " "))
            protocols.setdefault(title, {})[e.record.protocol] = None
        models = tuple(dict.fromkeys(e.model for e in own))
        found.append(
            Problem(
                dataset=dataset,
                word=STATUS_WORDS.get(status, status),
                reason=reason,
                tasks=tuple(f"{title} ({', '.join(names)})" for title, names in protocols.items()),
                models=() if len(models) == len(all_models) else models,
            )
        )
    return found


def cures(entries: Sequence[Entry]) -> list[str]:
    """Return what to do about each kind of problem there is."""
    statuses: dict[str, None] = dict.fromkeys(e.record.status for e in entries)
    return [text for status, text in _CURES.items() if status in statuses]
