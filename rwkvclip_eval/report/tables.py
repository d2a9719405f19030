"""Tables of models side by side: rows, averages, and the rules for what may be called best.

A table holds one task under one protocol, full splits and subsets apart, so that numbers that must not be
compared never share a column.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rwkvclip_eval.report.loading import Entry

TASK_TITLES = {
    "zero_shot_classification": "Zero-shot classification",
    "zero_shot_retrieval": "Zero-shot retrieval",
    "linear_probe": "Linear probe",
}
STATUS_WORDS = {
    "not_applicable": "n/a",
    "missing_data": "no data",
    "failed": "failed",
    "not_run": "not run",
}
AVERAGE_METHOD = (
    "combined from the datasets' intervals as of independent samples (MOVER: Zou & Donner, Stat. Med. 2008)"
)
PRIMARY_METRIC = "primary_metric_accuracy"
"""Metric of an average over every dataset's own primary metric."""
_METRIC_LABELS = {
    "top1_accuracy": "top-1",
    "top5_accuracy": "top-5",
    "mean_per_class_accuracy": "mean per class",
    "roc_auc": "ROC AUC",
    PRIMARY_METRIC: "primary metric of each",
}
_PERCENT = re.compile(r"accuracy|recall|auc|precision|_map|\bmap|f1")
_LOWER_IS_BETTER = re.compile(r"rank|loss|error|latency|seconds|bytes|memory")
_RECALL = re.compile(r"^(image|text)_retrieval_(.+)$")


def metric_label(metric: str) -> str:
    """Return how tables write `metric`; `text_retrieval_recall@1` is image→text R@1."""
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number (or the reason there is none) in a table."""

    metric: str
    status: str = "ok"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    trained: bool = True
    entry: Entry | None = None
    """The record behind it; None for averages and where nothing was run."""
    missing: tuple[str, ...] = ()
    """Datasets an average lacks; such an average is never ranked."""
    mark: Literal["", "best", "tie"] = ""
    clear: bool = False
    """Best, and its interval lies apart from that of every other model that can be ranked."""

    @property
    def text(self) -> str:
        """Return the number as shown, or the word for its absence."""
        if self.value is None:
            return STATUS_WORDS.get(self.status, "—")
        return format_value(self.metric, self.value)

    @property
    def interval(self) -> str:
        """Return the 95 % interval as shown, empty where there is none."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return f"{format_value(self.metric, self.low)}–{format_value(self.metric, self.high)}"

    @property
    def rankable(self) -> bool:
        """Return whether it may be called best."""
        return self.value is not None and self.trained and not self.missing


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dataset and metric (or an average) over all models of the table."""

    title: str
    metric: str
    cells: Mapping[str, Cell]
    scope: str
    """Slug of the table it is in."""
    kind: Literal["dataset", "average"] = "dataset"
    dataset: str = ""
    problem: str = ""
    """Why the numbers of this row must not be compared; such a row is never ranked."""
    datasets: tuple[str, ...] = ()
    """What an average is over."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what tells it apart from every other row of a report."""
        return self.scope, self.kind, self.title, self.metric

    @property
    def metric_text(self) -> str:
        """Return the metric with its unit."""
        return f"{metric_label(self.metric)}{', %' if is_percent(self.metric) else ''}" if self.metric else ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One task under one protocol, on full splits or on subsets."""

    task: str
    protocol: str
    subset: bool
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    averages: tuple[Row, ...]
    further: tuple[Row, ...]
    """Metrics that are not the primary ones."""
    notes: tuple[str, ...] = field(default=())

    @property
    def slug(self) -> str:
        """Return a name for files and anchors."""
        return _slug(self.task, self.protocol, self.subset)

    @property
    def task_title(self) -> str:
        """Return the task in words."""
        return TASK_TITLES.get(self.task, self.task.replace("_", " ").capitalize())

    @property
    def title(self) -> str:
        """Return the heading: task, protocol, and whether these are subsets."""
        return f"{self.task_title} · {self.protocol}{' · subset' if self.subset else ''}"


def _slug(task: str, protocol: str, subset: bool) -> str:
    name = "-".join((task, protocol, *(["subset"] if subset else [])))
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def build_tables(entries: Sequence[Entry]) -> list[Table]:
    """Return the tables of `entries`, by task, then protocol, full splits before subsets."""
    groups: dict[tuple[str, str, bool], list[Entry]] = {}
    for entry in entries:
        key = (entry.record.task, entry.record.protocol, _counts_as_subset(entry, entries))
        groups.setdefault(key, []).append(entry)
    order = {task: i for i, task in enumerate(TASK_TITLES)}
    keys = sorted(groups, key=lambda k: (order.get(k[0], len(order)), k[2]))
    models = list(dict.fromkeys(e.model for e in entries))
    known = {
        key[:2]: list(dict.fromkeys(dataset_title(e) for k in groups if k[:2] == key[:2] for e in groups[k]))
        for key in keys
    }
    return [_build(key, groups[key], models, known[key[:2]]) for key in keys]


def dataset_title(entry: Entry) -> str:
    """Return the dataset with its variant and, where it is not the test split, its split."""
    record = entry.record
    variant = "" if record.variant in ("", "default") else f"@{record.variant}"
    split = "" if record.split in ("", "test") else f" ({record.split})"
    return f"{record.dataset}{variant}{split}"


def _counts_as_subset(entry: Entry, entries: Iterable[Entry]) -> bool:
    """Return whether `entry` is of a subset; one without a number follows the rest of its run."""
    if entry.record.status == "ok":
        return entry.record.subset
    beside = [
        e.record.subset
        for e in entries
        if e.record.status == "ok"
        and e.run.path == entry.run.path
        and (e.record.task, e.record.protocol) == (entry.record.task, entry.record.protocol)
    ]
    return bool(beside) and all(beside)


def _build(
    key: tuple[str, str, bool], entries: list[Entry], all_models: Sequence[str], known: Sequence[str]
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
        metrics = list(dict.fromkeys(e.record.metric for e in group if e.record.status == "ok")) or [""]
        for metric in metrics:
            chosen = [e for e in group if e.record.metric == metric]
            main = not has_primary or any(e.record.primary for e in chosen) or "recall@" in metric
            (rows if main else further).append(_dataset_row(scope, title, metric, models, group))
    averages, notes = _averages(scope, rows, models, entries, known)
    return Table(
        task=key[0],
        protocol=key[1],
        subset=key[2],
        models=models,
        rows=tuple(rows),
        averages=averages,
        further=tuple(further),
        notes=notes,
    )


def _dataset_row(scope: str, title: str, metric: str, models: Sequence[str], group: Sequence[Entry]) -> Row:
    cells = {}
    for model in models:
        own = [e for e in group if e.model == model]
        ok = next((e for e in own if e.record.status == "ok" and e.record.metric == metric), None)
        none = next((e for e in own if e.record.status != "ok"), None)
        if ok is not None:
            r = ok.record
            cells[model] = Cell(
                metric=metric,
                value=r.value,
                low=r.ci_low,
                high=r.ci_high,
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
        problem=problem,
    )
    return mark_best(row)


def _incomparable(entries: Sequence[Entry]) -> str:
    problems = []
    for what, name in (
        ("task versions", "task_version"),
        ("dataset fingerprints", "dataset_fingerprint"),
        ("prompt hashes", "prompt_hash"),
        ("numbers of damaged images left out", "num_missing"),
    ):
        values = {e.model: str(getattr(e.record, name) or "none")[:8] for e in entries}
        if len(set(values.values())) > 1:
            problems.append(f"{what} differ ({', '.join(f'{m}: {v}' for m, v in values.items())})")
    return "; ".join(problems)


def restrict(row: Row, models: Collection[str]) -> Row:
    """Return `row` with the cells of `models` only, and the best of those marked."""
    cells = {m: dataclasses.replace(c, mark="", clear=False) for m, c in row.cells.items() if m in models}
    return mark_best(dataclasses.replace(row, cells=cells))


def mark_best(row: Row) -> Row:
    """Return `row` with its best cell marked, or its best cells where they tie at the precision shown.

    Untrained models and incomplete averages are never marked; nor is anything where fewer than two
    models can be ranked or the row's numbers must not be compared.
    """
    able = {m: c for m, c in row.cells.items() if c.rankable}
    if len(able) < 2 or row.problem:
        return row
    best = leaders(row)
    mark: Literal["best", "tie"] = "best" if len(best) == 1 else "tie"
    others = [c for m, c in able.items() if m not in best]
    cells = dict(row.cells)
    for m in best:
        clear = mark == "best" and all(intervals_apart(able[m], other) for other in others)
        cells[m] = dataclasses.replace(able[m], mark=mark, clear=clear)
    return dataclasses.replace(row, cells=cells)


def intervals_apart(first: Cell, second: Cell) -> bool | None:
    """Return whether the 95 % intervals do not overlap; None where one is missing."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.low > second.high or second.low > first.high


def leaders(row: Row) -> list[str]:
    """Return the models whose value is the best of the rankable ones at the precision shown."""
    values = {m: c.value for m, c in row.cells.items() if c.rankable and c.value is not None}
    if not values:
        return []
    best = min(values.values()) if lower_is_better(row.metric) else max(values.values())
    return [m for m, v in values.items() if format_value(row.metric, v) == format_value(row.metric, best)]


def _averages(
    scope: str, rows: Sequence[Row], models: Sequence[str], entries: Sequence[Entry], known: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Return the average rows and what to say about them.

    Where every dataset has one primary metric they are averaged together, as the field does; where there
    are several (recalls), each metric has its own average.
    """
    titles = [r.title for r in rows]
    apart = len(titles) > len(set(titles))
    names: dict[str, set[str]] = {}
    for entry in entries:
        names.setdefault(entry.record.dataset, set()).add(dataset_title(entry))
    several = {title for group in names.values() if len(group) > 1 for title in group}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.title not in several and is_percent(row.metric):
            groups.setdefault(row.metric if apart else "", []).append(row)
    expected = [t for t in known if t not in several]
    averages = []
    for metric, group in groups.items():
        if len(expected) < 2:
            continue
        cells = {m: _average_cell(group, m, expected, metric or group[0].metric) for m in models}
        flagged = [r.title for r in group if r.problem]
        averages.append(
            mark_best(
                Row(
                    scope=scope,
                    title=f"Average of {len(expected)}",
                    metric=metric or PRIMARY_METRIC,
                    cells=cells,
                    kind="average",
                    problem=f"not comparable on {', '.join(flagged)}" if flagged else "",
                    datasets=tuple(expected),
                )
            )
        )
    notes = []
    if several:
        notes.append(f"Left out of averages, because variants are never mixed: {', '.join(sorted(several))}.")
    return tuple(averages), tuple(notes)


def _average_cell(rows: Sequence[Row], model: str, expected: Sequence[str], metric: str) -> Cell:
    cells = {r.title: r.cells[model] for r in rows if r.cells[model].value is not None}
    missing = tuple(title for title in expected if title not in cells)
    values = [c.value for c in cells.values() if c.value is not None]
    if not values:
        return Cell(metric=metric, status="none", missing=missing)
    mean = math.fsum(values) / len(values)
    low = high = None
    bounds = [(c.value, c.low, c.high) for c in cells.values()]
    if all(lo is not None and hi is not None for _, lo, hi in bounds):
        below = math.sqrt(math.fsum((v - lo) ** 2 for v, lo, _ in bounds if v is not None and lo is not None))
        above = math.sqrt(math.fsum((hi - v) ** 2 for v, _, hi in bounds if v is not None and hi is not None))
        low, high = mean - below / len(values), mean + above / len(values)
    return Cell(
        metric=metric,
        value=mean,
        low=low,
        high=high,
        trained=all(c.trained for c in cells.values()),
        missing=missing,
    )
