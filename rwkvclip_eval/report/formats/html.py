"""The HTML page: one file without network, scripts or fonts of its own, kept under a size."""

from __future__ import annotations

import base64
from collections import Counter
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report.conformance import HEAD, RULE, summary
from rwkvclip_eval.report.coverage import WHOLE, coverage, cures, problems
from rwkvclip_eval.report.facts import (
    READING,
    average_facts,
    duration_text,
    flatten,
    model_facts,
    protocol_texts,
    unit_facts,
    unit_metrics,
)
from rwkvclip_eval.report.formats.paper_html import paper_html
from rwkvclip_eval.report.plots.drawing import themed
from rwkvclip_eval.report.plots.style import model_colours
from rwkvclip_eval.report.series import find_series
from rwkvclip_eval.report.wording import dataset_title
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.conformance import Conformance
    from rwkvclip_eval.report.headline import Headline
    from rwkvclip_eval.report.loading import Entry, Example, Loaded, Run, ShownError
    from rwkvclip_eval.report.paper_rows import PaperTable
    from rwkvclip_eval.report.plots.drawing import Plot
    from rwkvclip_eval.report.rows import Row
    from rwkvclip_eval.report.tables import Table

MAX_PAGE_BYTES = 5_000_000
MAX_HEAD_COLUMNS = 7
"""Numbers side by side in a headline table: as many as a screen of 1400 pixels and a printed page hold."""
# What is given up, step by step, until the page fits: (queries per gallery, pictures per query, images got
# wrong per dataset and model, layouts of each plot, how each number was made).
_LEVELS = (
    (8, 6, 4, 2, True),
    (4, 5, 2, 2, True),
    (2, 5, 1, 1, True),
    (0, 0, 0, 1, True),
    (0, 0, 0, 0, True),
    (0, 0, 0, 0, False),
)
_MAX_WRONG = 240
"""Images got wrong on a page, but one of every dataset and model."""


def render_page(
    loaded: Loaded,
    tables: Sequence[Table],
    headline: Headline,
    plots: Sequence[Plot],
    published: Sequence[PaperTable],
    conformance: Sequence[Conformance] = (),
    max_bytes: int = MAX_PAGE_BYTES,
) -> str:
    """Return the page as HTML of at most `max_bytes` bytes in UTF-8.

    Raises:
        OutputError: the tables alone are larger.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = files("rwkvclip_eval.report.formats")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    content = _content(loaded, tables, headline, plots, published)
    content |= {"conformance": conformance, "conformance_head": HEAD, "conformance_rule": RULE}
    content["conformance_summary"] = summary(conformance)
    # The stylesheet is ours, and the paper's tables are escaped already; everything else is escaped here.
    content["style"] = Markup(here.joinpath("page.css").read_text(encoding="utf-8"))
    content["svg"] = lambda svg: base64.b64encode(themed(svg).encode()).decode()
    content["paper_tables"] = Markup(paper_html(published, content["colours"]))
    content["limit_mb"] = f"{max_bytes / 1e6:.3g}"
    popovers, targets = _popovers(loaded, tables)
    html = ""
    for queries, pictures, wrong, layouts, details in _LEVELS:
        gallery = _gallery(loaded, queries)
        errors = _errors(loaded, wrong)
        shown = sum(len(item["examples"]) for group in gallery for item in group["queries"])
        html = template.render(
            **content,
            gallery=gallery,
            errors=errors,
            errors_left_out=len(loaded.errors)
            - sum(len(own) for group in errors for _, own in group["models"]),
            per_query=pictures,
            examples_left_out=len(loaded.examples) - shown,
            too_large=(queries, pictures) != _LEVELS[0][:2],
            layouts=layouts,
            details=details,
            popovers=popovers if details else [],
            targets=targets if details else {},
            sections=_sections(tables, plots, gallery, errors, content),
        )
        if len(html.encode()) <= max_bytes:
            return html
    raise OutputError(
        f"The report's tables alone take {len(html.encode())} bytes, more than the {max_bytes} a page may "
        "have. Report fewer runs or models at a time; results.csv holds everything."
    )


def _popovers(
    loaded: Loaded, tables: Sequence[Table]
) -> tuple[list[dict[str, Any]], dict[tuple[object, str], str]]:
    """Return one popover per unit and per average, and where each number points."""
    popovers: list[dict[str, Any]] = []
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
                    ids[key] = f"how-{len(popovers)}"
                    info = cell.entry.run.info
                    popovers.append(
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
                    target = f"how-{len(popovers)}"
                    popovers.append(
                        {
                            "id": target,
                            "title": f"{model}: {row.title}, {table.title}",
                            "metrics": [],
                            "command": "",
                            "facts": average_facts(row, cell),
                        }
                    )
                    targets[row.key, model] = target
    return popovers, targets


def _content(
    loaded: Loaded,
    tables: Sequence[Table],
    headline: Headline,
    plots: Sequence[Plot],
    published: Sequence[PaperTable],
) -> dict[str, Any]:
    names = list(dict.fromkeys([*loaded.models, *(c.model for c in loaded.curves)]))
    titles = list(dict.fromkeys(run.info.suite_name for run in loaded.runs if run.info)) or ["Results"]
    infos = {
        e.model: e.record.model_info
        for e in reversed(loaded.entries)
        if e.record.model_info.get("fingerprint")
    }
    lines = {}
    for model in loaded.models:
        info = infos.get(model, {})
        size = f"{info['num_parameters'] / 1e6:.3g} M parameters" if info.get("num_parameters") else ""
        lines[model] = " · ".join(filter(None, (size, str(info.get("precision", "")))))
    return {
        "title": " + ".join(titles),
        "version": __version__,
        "headline": headline,
        "head_parts": _head_parts(headline.columns),
        "models": loaded.models,
        "head_models": headline.models,
        "model_line": lines,
        "untrained": {e.model for e in loaded.entries if not e.trained},
        "colours": model_colours(names, find_series(loaded.entries)),
        "tables": tables,
        "plots": plots,
        "published": published,
        "problems": problems(loaded.entries),
        "cures": cures(loaded.entries),
        "coverage": coverage(loaded.entries),
        "whole": WHOLE,
        "protocol_text": protocol_texts(loaded.entries),
        "reading": READING,
        "model_facts": model_facts(loaded.models, infos),
        "runs": [_run(run) for run in loaded.runs],
    }


def _head_parts(columns: Sequence[tuple[Table, Row]]) -> list[dict[str, Any]]:
    """Return the headline's columns in tables that a page is wide enough for; a task stays in one."""
    groups = [(table, [row for _, row in own]) for table, own in groupby(columns, key=lambda c: c[0])]
    parts: list[list[tuple[Table, list[Row]]]] = []
    for group in groups:
        wide = sum(len(rows) for _, rows in parts[-1]) + len(group[1]) > MAX_HEAD_COLUMNS if parts else True
        if wide:
            parts.append([])
        parts[-1].append(group)
    return [
        {
            "groups": [
                {"title": t.task_title, "protocol": t.protocol, "subset": t.subset, "span": len(rows)}
                for t, rows in part
            ],
            "columns": [{"row": row, "strip": _strips(row)} for _, rows in part for row in rows],
        }
        for part in parts
    ]


def _strips(row: Row) -> dict[str, tuple[str, str, str] | None]:
    """Return, per model, left edge, width and value of its interval on the column's common scale, in %.

    Untrained models would stretch the scale until nothing else could be told apart, and incomplete averages
    are compared with nothing; neither has a strip.
    """
    able = {model: c for model, c in row.cells.items() if c.rankable}
    ends = [x for c in able.values() for x in (c.low, c.high, c.value) if x is not None]
    span = (max(ends) - min(ends)) if ends else 0.0
    strips: dict[str, tuple[str, str, str] | None] = dict.fromkeys(row.cells)
    for model, c in able.items():
        if c.value is not None and c.low is not None and c.high is not None and span and len(able) > 1:
            places = [100 * (x - min(ends)) / span for x in (c.low, c.high, c.value)]
            strips[model] = (f"{places[0]:.1f}", f"{places[1] - places[0]:.1f}", f"{places[2]:.1f}")
    return strips


def _gallery(loaded: Loaded, queries: int) -> list[dict[str, Any]]:
    """Return examples by dataset, then query, models below each other; queries most models share first.

    Where several models have examples, a query that only one of them has compares nothing and is left out.
    """
    titles = {}
    for entry in loaded.entries:
        protocol = entry.record.protocol
        titles[entry.record.unit] = f"{dataset_title(entry)} ({protocol})"
    order = {model: i for i, model in enumerate(loaded.models)}
    ordered = sorted(loaded.examples, key=lambda e: (titles[e.unit], order[e.model]))
    groups = []
    for title, members in groupby(ordered, key=lambda e: titles[e.unit]):
        asked: dict[tuple[str, int], list[Example]] = {}
        for example in members:
            asked.setdefault((example.query, example.target), []).append(example)
        shared = sorted(asked.items(), key=lambda item: -len(item[1]))
        most = len(shared[0][1])
        items = [
            {"query": query, "examples": found}
            for (query, _), found in shared[:queries]
            if len(found) > 1 or most == 1
        ]
        if items:
            groups.append({"title": title, "queries": items})
    return groups


def _errors(loaded: Loaded, each: int) -> list[dict[str, Any]]:
    """Return images that were got wrong by dataset, models below each other, `each` of a model's at most."""
    titles = {e.record.unit: f"{dataset_title(e)} ({e.record.protocol})" for e in loaded.entries}
    groups: dict[str, dict[str, list[ShownError]]] = {}
    for wrong in loaded.errors:
        groups.setdefault(titles[wrong.unit], {}).setdefault(wrong.model, []).append(wrong)
    units = sum(map(len, groups.values()))
    each = min(each, max(1, _MAX_WRONG // max(1, units)))
    shown = [(title, [(m, own[:each]) for m, own in models.items()]) for title, models in groups.items()]
    return [{"title": title, "models": models} for title, models in shown] if each else []


def _run(run: Run) -> dict[str, Any]:
    info = run.info
    if info is None:
        return {"name": run.name, "facts": []}
    facts = [
        ("suite", f"{info.suite_name}, SHA-256 {info.suite_sha256}"),
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


def _sections(
    tables: Sequence[Table],
    plots: Sequence[Plot],
    gallery: Sequence[object],
    errors: Sequence[object],
    content: Mapping[str, Any],
) -> list[tuple[str, str]]:
    several = Counter(t.task for t in tables)
    named = [(t.slug, t.title if several[t.task] > 1 else t.task_title) for t in tables]
    rest = (
        ("training", "Training", any(not p.table for p in plots)),
        ("examples", "Example retrievals", bool(gallery)),
        ("errors", "Confident errors", bool(errors)),
        ("conformance", "Conformance", bool(content["conformance"])),
        ("published", "Published", bool(content["published"])),
        ("problems", "Without a number", bool(content["problems"])),
        ("provenance", "Provenance", True),
    )
    return [*named, *((anchor, name) for anchor, name, there in rest if there)]
