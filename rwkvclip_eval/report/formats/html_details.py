"""How each number on the page was made, and what each run was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.facts import average_facts, duration_text, flatten, unit_facts, unit_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.loading import Entry, Loaded, Run
    from rwkvclip_eval.report.tables import Table


def popovers(
    loaded: Loaded, tables: Sequence[Table]
) -> tuple[list[dict[str, Any]], dict[tuple[object, str], str]]:
    """Return one popover per unit and per average, and where each number points."""
    found: list[dict[str, Any]] = []
    targets: dict[tuple[object, str], str] = {}
    ids: dict[tuple[str, str], str] = {}
    curves = {(curve.unit, curve.model): curve for curve in loaded.regularisation}
    units: dict[tuple[str, str], list[Entry]] = {}
    for entry in loaded.entries:
        units.setdefault((entry.record.unit, entry.model), []).append(entry)
    for table in tables:
        for row in (*table.rows, *table.further):
            for model, cell in row.cells.items():
                if cell.entry is None:
                    continue
                key = (cell.entry.record.unit, model)
                if key not in ids:
                    ids[key] = f"how-{len(found)}"
                    info = cell.entry.run.info
                    found.append(
                        {
                            "id": ids[key],
                            "title": f"{model} on {row.title}",
                            "metrics": unit_metrics(units[key]),
                            "command": info.command if info else "",
                            "facts": unit_facts(cell.entry, curves.get(key)),
                        }
                    )
                targets[row.key, model] = ids[key]
        for row in table.averages:
            for model, cell in row.cells.items():
                if cell.value is not None:
                    target = f"how-{len(found)}"
                    found.append(
                        {
                            "id": target,
                            "title": f"{model}: {row.title}, {table.title}",
                            "metrics": [],
                            "command": "",
                            "facts": average_facts(row, cell),
                        }
                    )
                    targets[row.key, model] = target
    return found, targets


def run_facts(run: Run) -> dict[str, Any]:
    """Return what a run was: its command, suite, machine and times."""
    info = run.info
    if info is None:
        return {"name": run.name, "facts": []}
    facts = [
        ("suite", info.suite_name),
        ("suite SHA-256", info.suite_sha256),
        ("models", ", ".join(info.models)),
        ("started", info.started_utc),
        ("duration", duration_text(info.duration_s)),
        ("commands that worked on it", str(info.num_commands)),
        *([("shard", info.shard)] if info.shard else []),
        *flatten(info.environment),
    ]
    return {
        "name": run.name,
        "command": info.command,
        "suite": info.suite_text,
        "started": info.started_utc,
        "duration": duration_text(info.duration_s),
        "facts": facts,
    }
