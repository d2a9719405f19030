"""Tables of models side by side: rows, averages, and the rules for what may be called best.

A table holds one task under one protocol, full splits and subsets apart, so that numbers that must not be
compared never share a column.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import NONE
from rwkvclip_eval.records.titles import TASK_TITLES, task_title
from rwkvclip_eval.report.averages import build_averages
from rwkvclip_eval.report.rows import Cell, Row, mark_best
from rwkvclip_eval.report.series import find_series
from rwkvclip_eval.report.versions import what_changed
from rwkvclip_eval.report.wording import dataset_title, dataset_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.records.schema import Average, Record
    from rwkvclip_eval.report.loading import Entry


@dataclass(frozen=True, kw_only=True)
class Table:
    """One task under one protocol, on full splits or on subsets.

    Attributes:
        task: name of the task.
        protocol: name of the protocol.
        subset: whether its numbers are of subsets.
        models: column titles.
        rows: the primary metric of each dataset, recalls at every k and accuracies at every number of shots.
        averages: means over datasets.
        further: other metrics of the datasets.
        notes: sentences below the table.
        description: what a plugin says of its task; empty for the suite's own, which the protocol describes.
    """

    task: str
    protocol: str
    subset: bool
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    averages: tuple[Row, ...]
    further: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    description: str = ""

    @property
    def slug(self) -> str:
        """Return a name for files and anchors."""
        return _slug(self.task, self.protocol, self.subset)

    @property
    def task_title(self) -> str:
        """Return the task in words."""
        return task_title(self.task)

    @property
    def title(self) -> str:
        """Return the heading: task, protocol, and whether these are subsets."""
        return f"{self.task_title} · {self.protocol}{' · subset' if self.subset else ''}"


def _slug(task: str, protocol: str, subset: bool) -> str:
    name = "-".join((task, protocol, *(["subset"] if subset else [])))
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def build_tables(entries: Sequence[Entry], averages: Sequence[Average] = ()) -> list[Table]:
    """Return the tables of `entries`, by task, then protocol, full splits before subsets.

    Args:
        entries: the numbers.
        averages: those that suites name; a table for which there are none averages all its datasets.
    """
    tellers = _subset_tellers(entries)
    groups: dict[tuple[str, str, bool], list[Entry]] = {}
    for entry in entries:
        key = (entry.record.task, entry.record.protocol, _counts_as_subset(entry, tellers))
        groups.setdefault(key, []).append(entry)
    order = {task: i for i, task in enumerate(TASK_TITLES)}
    keys = sorted(groups, key=lambda k: (order.get(k[0], len(order)), k[2]))
    models = list(dict.fromkeys(e.model for e in entries))
    known = {
        key[:2]: list(dict.fromkeys(dataset_title(e) for k in groups if k[:2] == key[:2] for e in groups[k]))
        for key in keys
    }
    series = find_series(entries)
    return [
        _build(
            key,
            groups[key],
            models,
            known[key[:2]],
            [a for a in averages if (a.task, a.protocol) == key[:2]],
            series,
        )
        for key in keys
    ]


def _subset_tellers(entries: Iterable[Entry]) -> dict[tuple[Path, str, str], list[bool]]:
    """Return whether each number of a run's task under a protocol is of a subset."""
    found: dict[tuple[Path, str, str], list[bool]] = {}
    for entry in entries:
        if entry.record.status == "ok":
            found.setdefault(_run_part(entry), []).append(entry.record.subset)
    return found


def _run_part(entry: Entry) -> tuple[Path, str, str]:
    return entry.run.path, entry.record.task, entry.record.protocol


def _counts_as_subset(entry: Entry, tellers: Mapping[tuple[Path, str, str], Sequence[bool]]) -> bool:
    """Return whether `entry` is of a subset; one without a number follows the rest of its run."""
    if entry.record.status == "ok":
        return entry.record.subset
    beside = tellers.get(_run_part(entry), ())
    return bool(beside) and all(beside)


def _build(
    key: tuple[str, str, bool],
    entries: list[Entry],
    all_models: Sequence[str],
    known: Sequence[str],
    named: Sequence[Average],
    series: Mapping[str, str],
) -> Table:
    models = tuple(m for m in all_models if any(e.model == m for e in entries))
    scope = _slug(*key)
    by_dataset: dict[str, list[Entry]] = {}
    for entry in entries:
        by_dataset.setdefault(dataset_title(entry), []).append(entry)
    rows: list[Row] = []
    further: list[Row] = []
    for title, group in by_dataset.items():
        has_primary = any(e.record.primary for e in group)
        metrics = {e.record.metric: e.record.measure for e in group if e.record.status == "ok"}
        for metric in metrics.values() or [NONE]:
            chosen = [e for e in group if e.record.metric == metric.name]
            primary = not has_primary or any(e.record.primary for e in chosen)
            main = primary or metric.k is not None or metric.shots is not None
            row = _dataset_row(scope, title, metric, models, group, primary, series)
            if main and all(r.title != title for r in rows):
                row = dataclasses.replace(row, remark=remark(entry.record for entry in group))
            (rows if main else further).append(row)
    averages, notes = build_averages(scope, rows, further, models, known, named)
    return Table(
        task=key[0],
        protocol=key[1],
        subset=key[2],
        models=models,
        rows=tuple(rows),
        averages=averages,
        further=tuple(further),
        description=next((e.record.task_description for e in entries if e.record.task_description), ""),
        notes=(
            *notes,
            *_conservative_note(entries),
            *_older_note(entries),
            *_edge_note(entries),
            *_copy_note(entries),
            *_tie_note((*rows, *averages, *further)),
        ),
    )


def remark(records: Iterable[Record]) -> str:
    """Return how a protocol's numbers on a dataset differ from what it follows, and whose images vote."""
    said: dict[str, None] = {}
    for record in records:
        notes = record.notes
        if notes.get("differences"):
            said[str(notes["differences"])] = None
        if notes.get("bank"):
            said[f"Neighbours: {notes['bank']}."] = None
    return " ".join(said)


TIES = (
    "“ties”: logits cut to integers are often equal, and which class then counts is the ranking's choice, "
    "not the model's; the number could be any in the range, which is more than its 95 % interval tells."
)
"""What stands beside a number, explained."""


def _tie_note(rows: Iterable[Row]) -> list[str]:
    """Return what “ties” beside a number means, where it stands beside one."""
    if not any(cell.ties for row in rows for cell in row.cells.values()):
        return []
    return [TIES]


def _chance(record: Record) -> float | None:
    """Return the better of guessing at random and of one answer for all, as far as the task told them."""
    levels = [_note(record, name) for name in ("chance", "majority")]
    return record.measure.best(level for level in levels if level is not None)


def _note(record: Record, name: str) -> float | None:
    value = record.notes.get(name)
    return float(value) if isinstance(value, int | float) else None


def _conservative_note(entries: Iterable[Entry]) -> list[str]:
    """Return which intervals cover more than they say."""
    numbers: dict[str, None] = {}
    for e in entries:
        if e.record.ci_conservative:
            numbers[f"{dataset_title(e)} {e.record.measure.title} ({e.model})"] = None
    if not numbers:
        return []
    return [
        "Conservative intervals, which cover more than 95 % because few images decide the number: "
        f"{', '.join(numbers)}."
    ]


def _older_note(entries: Iterable[Entry]) -> list[str]:
    """Return which numbers are marked as of an older version, and what that means."""
    older = dict.fromkeys(f"{dataset_title(e)} ({e.model})" for e in entries if what_changed(e.record))
    if not older:
        return []
    return [
        "“older version”: an earlier task version made its interval, which can be too narrow where few "
        "images decide the number, or searched its λ, where it could pass the best one over, or counted the "
        f"padding of a whole set for a part; no lead is claimed from it: {', '.join(older)}. Running the "
        "suite again uses the stored features."
    ]


def _edge_note(entries: Iterable[Entry]) -> list[str]:
    """Return a warning where the best regularisation strength is the first or last of those searched."""
    at_edge = dict.fromkeys(
        f"{dataset_title(e)} ({e.model})" for e in entries if e.record.notes.get("l2_at_edge")
    )
    if not at_edge:
        return []
    return [
        f"The best λ lies at the edge of the range searched, so a better one may lie outside: "
        f"{', '.join(at_edge)}."
    ]


def _copy_note(entries: Iterable[Entry]) -> list[str]:
    """Return a warning where a number is of what was left of a set when someone fetched it."""
    own = dict.fromkeys(dataset_title(e) for e in entries if e.record.own_copy)
    if not own:
        return []
    return [
        f"The web loses images of {', '.join(own)}, so that no two copies agree: compare only numbers of one "
        "copy, which its fingerprint tells."
    ]


def _dataset_row(
    scope: str,
    title: str,
    metric: Metric,
    models: Sequence[str],
    group: Sequence[Entry],
    primary: bool,
    series: Mapping[str, str],
) -> Row:
    cells = {}
    for model in models:
        own = [e for e in group if e.model == model]
        ok = next((e for e in own if e.record.status == "ok" and e.record.metric == metric.name), None)
        none = next((e for e in own if e.record.status != "ok"), None)
        if ok is not None:
            r = ok.record
            cells[model] = Cell(
                metric=metric,
                value=r.value,
                low=r.ci_low,
                high=r.ci_high,
                chance=_chance(r),
                ties_low=_note(r, "ties_worst"),
                ties_high=_note(r, "ties_best"),
                conservative=r.ci_conservative,
                older=what_changed(r),
                trained=ok.trained,
                entry=ok,
            )
        else:
            cells[model] = Cell(metric=metric, status=none.record.status if none else "not_run", entry=none)
    problem = _incomparable([c.entry for c in cells.values() if c.value is not None and c.entry is not None])
    row = Row(
        scope=scope,
        title=title,
        metric=metric,
        cells=cells,
        dataset=group[0].record.dataset,
        version=dataset_version(group[0].record),
        primary=primary,
        problem=problem,
        series=series,
    )
    return mark_best(row)


def _incomparable(entries: Sequence[Entry]) -> str:
    problems = []
    for what, name in (
        ("task versions", "task_version"),
        ("dataset fingerprints", "dataset_fingerprint"),
        ("fingerprints of the training data", "fit_fingerprint"),
        ("prompt hashes", "prompt_hash"),
        ("numbers of damaged images left out", "num_missing"),
    ):
        values = {e.model: str(getattr(e.record, name) or "none")[:8] for e in entries}
        if len(set(values.values())) > 1:
            problems.append(f"{what} differ ({', '.join(f'{m}: {v}' for m, v in values.items())})")
    return "; ".join(problems)
