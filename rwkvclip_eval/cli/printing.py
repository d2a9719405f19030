"""What `run` prints: each unit as it ends, a table of the numbers, what a dry run found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval import console
from rwkvclip_eval.records.titles import TASK_TITLES
from rwkvclip_eval.report.wording import dataset_version
from rwkvclip_eval.run.workload import NO_DATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.plan.floors import Held
    from rwkvclip_eval.progress import Progress
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.run.dry_run import DryRun
    from rwkvclip_eval.run.options import RunContext
    from rwkvclip_eval.run.standing import Standing
    from rwkvclip_eval.run.suite_run import RunSummary
    from rwkvclip_eval.run.workload import Load

MOST_COLUMNS = 4
"""Models side by side in the table of numbers; with more, each number has a line."""


def follow(context: RunContext, progress: Progress) -> None:
    """Let `progress` show how a run goes on."""
    place = ""

    def standing(now: Standing) -> None:
        nonlocal place
        place = f"{now.unit}/{now.num_units}" if progress.shown else now.text
        progress.whole(now.text, now.share)

    def unit(name: str, outcome: str) -> None:
        progress.end()
        # Said once per dataset when the run began.
        if not outcome.startswith("missing_data"):
            progress.say(f"[{place}] {name}  {outcome}")

    context.on_standing = standing
    context.on_unit = unit
    context.on_progress = progress.update


def print_summary(summary: RunSummary) -> None:
    """Print the numbers, where the time went, and what has no number."""
    columns, rows = number_table(summary.records)
    if rows:
        console.table(columns, rows)
    total = summary.seconds["total"] or 1.0
    shares = ", ".join(
        f"{stage} {spent / total:.0%}" for stage, spent in summary.seconds.items() if stage != "total"
    )
    units = units_text(summary.num_run)
    lines = [f"{units} in {total:.1f} s ({shares}); {summary.num_skipped} were finished before."]
    lacking = {dataset_version(r): r.unit for r in summary.records if r.status == "missing_data"}
    if lacking:
        num_units = sum(r.status == "missing_data" for r in summary.records)
        lines.append(
            f"{units_text(num_units)} without data, of {len(lacking)} datasets; how to get them stands where "
            "the run began and in the report."
        )
    # Several protocols and models share a cause: it is said once.
    alike: dict[str, list[str]] = {}
    for record in summary.records:
        if record.status == "failed":
            alike.setdefault(record.reason, []).append(record.unit)
    for reason, failed in alike.items():
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        lines.append(f"{failed[0]}{others}: failed: {reason}")
    console.say("\n".join(lines))


def number_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the primary numbers with their 95 % intervals."""
    chosen = [r for r in records if r.primary and r.status == "ok" and r.value is not None]
    models = list(dict.fromkeys(r.model for r in chosen))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for r in chosen:
        split = "" if r.split == "test" else f" ({r.split})"
        subset = " · subset" if r.subset else ""
        task = f"{TASK_TITLES.get(r.task, r.task)} · {r.protocol}{subset}"
        row = rows.setdefault((task, f"{dataset_version(r)}{split}", r.measure.label), {})
        row[r.model] = _number(r)
    head = ["task", "dataset", "metric"]
    if len(models) <= MOST_COLUMNS:
        return [*head, *models], [[*key, *(row.get(m, "—") for m in models)] for key, row in rows.items()]
    return [*head, "model", "value"], [
        [*key, model, text] for key, row in rows.items() for model, text in row.items()
    ]


def _number(record: Record) -> str:
    text = record.measure.text(record.value)
    if record.ci_low is None or record.ci_high is None:
        return text
    low, high = record.measure.text(record.ci_low), record.measure.text(record.ci_high)
    return f"{text} [{low}, {high}]"


def print_held(found: Sequence[Held]) -> None:
    """Print numbers beside their floors, and which are below."""
    rows = []
    for one in found:
        r, metric = one.record, one.record.measure
        title = metric.label or one.floor.metric
        floor = f"{one.floor.floor:g}"
        dataset = f"{dataset_version(r)} ({r.protocol})" + (" · subset" if r.subset else "")
        number = _number(r) if one.state != "no number" else "—"
        rows.append([r.task, dataset, title, r.model, number, floor, one.verdict])
    console.table(["task", "dataset", "metric", "model", "value", "floor", "verdict"], rows)
    failed = sum(one.state == "fails" for one in found)
    console.say(f"Floors: {failed} of {len(found)} fail; the value counts, whatever its interval.")


def print_dry_run(found: DryRun) -> None:
    """Print what a run would do."""
    columns = ("model", "task", "dataset", "protocol", "images", "texts", "state")
    rows = [(load, _dry_row(load)) for load in found.loads]
    # Data that are not there are named below.
    brief = [row for load, row in rows if load.problem != NO_DATA]
    if rows:
        console.table(columns, [row for _, row in rows], brief=(columns, brief))
    console.say("\n".join(found.lines))


def _dry_row(load: Load) -> tuple[object, ...]:
    unit = load.unit
    dataset = f"{unit.dataset}@{unit.variant}" if unit.variant else unit.dataset
    return load.model, unit.task.name, dataset, unit.protocol.name, load.images, load.texts, load.state


def units_text(count: int) -> str:
    """Return `1 unit`, `2 units`."""
    return f"{count} unit" if count == 1 else f"{count} units"
