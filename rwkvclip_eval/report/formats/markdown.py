"""The report as Markdown: the same tables as the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rwkvclip_eval.report.conformance import HEAD, RULE, summary
from rwkvclip_eval.report.coverage import coverage, cures, problems
from rwkvclip_eval.report.facts import (
    READING,
    duration_text,
    flatten,
    model_facts,
    protocol_texts,
)
from rwkvclip_eval.report.formats.accuracy_speed import accuracy_speed_markdown
from rwkvclip_eval.report.formats.markdown_text import escape_markdown, grid
from rwkvclip_eval.report.formats.paper_markdown import paper_markdown_parts
from rwkvclip_eval.report.paper_notes import reading
from rwkvclip_eval.report.plots.accuracy_speed import TABLE as SPEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed
    from rwkvclip_eval.report.conformance import Conformance
    from rwkvclip_eval.report.headline import Headline
    from rwkvclip_eval.report.loading import Entry, Loaded
    from rwkvclip_eval.report.paper_rows import PaperTable
    from rwkvclip_eval.report.plots.drawing import Plot
    from rwkvclip_eval.report.rows import Cell, Row
    from rwkvclip_eval.report.tables import Table


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "—"
    text = f"**{cell.text}**" if cell.best else cell.text
    text += f" ({cell.interval})" if cell.interval else ""
    text += f" ties {cell.ties}" if cell.ties else ""
    text += " older version" if cell.older else ""
    text += " untrained" if cell.value is not None and not cell.trained else ""
    return text + (f" incomplete, {cell.coverage}" if cell.missing and cell.value is not None else "")


def _markdown_table(rows: Sequence[Row], models: Sequence[str]) -> str:
    lines = [
        [
            escape_markdown(row.full_title) + " †" * bool(row.remark) + " ⚠" * bool(row.problem),
            escape_markdown(row.metric_text),
            *(_markdown_cell(row.cells.get(m)) for m in models),
        ]
        for row in rows
    ]
    return grid(lines, ["Dataset", "Metric", *map(escape_markdown, models)])


def markdown(
    loaded: Loaded,
    tables: Sequence[Table],
    headline: Headline,
    plots: Sequence[Plot],
    published: Sequence[PaperTable],
    conformance: Sequence[Conformance] = (),
    speeds: Sequence[AccuracySpeed] = (),
) -> str:
    """Return the report as Markdown, with its plots linked."""
    esc = escape_markdown
    names = list(dict.fromkeys(r.info.suite_name for r in loaded.runs if r.info)) or ["Results"]
    parts = [f"# {esc(' + '.join(names))}", esc(headline.sentence)]
    parts += ["\n".join(f"- {esc(c)}" for c in headline.caveats)] if headline.caveats else []
    columns = headline.columns
    if columns:
        head = ["Model", *(f"{esc(t.title)}: {esc(r.full_title)}, {esc(r.metric_text)}" for t, r in columns)]
        lines = [[esc(m), *(_markdown_cell(r.cells.get(m)) for _, r in columns)] for m in headline.models]
        parts.append(grid(lines, head))
        marked = any(c.best for _, r in columns for c in r.cells.values())
        bold = "Bold: the best trained model, its 95 % interval apart from those of all others. "
        parts.append(f"{bold * marked}In brackets: 95 % intervals.")
    protocols = protocol_texts(loaded.entries)
    for table in tables:
        parts += [f"## {esc(table.title)}", esc(table.description or protocols[table.protocol])]
        parts.append(_markdown_table((*table.rows, *table.averages), table.models))
        parts += _footnotes((*table.rows, *table.averages))
        parts += [esc(note) for note in table.notes]
        parts += [_picture(p) for p in plots if p.table == table.slug]
        if table.further:
            parts += ["### Further metrics", _markdown_table(table.further, table.models)]
            parts += _footnotes(table.further)
    parts += accuracy_speed_markdown(speeds)
    parts += [_picture(p) for p in plots if p.table == SPEED]
    training = [p for p in plots if not p.table]
    parts += ["## Training", *map(_picture, training)] if training else []
    if conformance:
        parts += ["## Conformance", esc(RULE), "\n".join(f"- {esc(t)}" for t in summary(conformance))]
        parts.append(grid([[esc(cell) for cell in one.cells] for one in conformance], [*map(esc, HEAD)]))
    if published:
        parts += ["## Beside published numbers", "\n".join(f"- {line}" for line in reading(published))]
    for each in published:
        parts += [f"### {esc(each.title)}", *paper_markdown_parts(each)]
    parts += _missing(loaded.entries)
    parts.append(_provenance(loaded))
    return "\n\n".join(parts) + "\n"


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """Return what the marks of a table's rows stand for."""
    esc = escape_markdown
    found = [f"† {esc(row.full_title)}: {esc(row.remark)}" for row in rows if row.remark]
    return found + [f"⚠ {esc(row.full_title)}: {esc(row.problem)}." for row in rows if row.problem]


def _missing(entries: Sequence[Entry]) -> list[str]:
    """Return what has no number: dataset × task, then the reasons; nothing where all have theirs."""
    esc = escape_markdown
    found = problems(entries)
    if not found:
        return []
    table = coverage(entries)
    cells_of = [[esc(dataset), *map(esc, cells)] for dataset, cells in table.rows.items()]
    lines = [
        [
            esc(p.dataset),
            esc(p.word),
            esc("; ".join(p.tasks)),
            esc(", ".join(p.models) or "all"),
            esc(p.reason),
        ]
        for p in found
    ]
    return [
        "## Without a number",
        grid(cells_of, ["Dataset", *map(esc, table.tasks)]),
        "\n".join(f"- {esc(text)}" for text in cures(entries)),
        grid(lines, ["Dataset", "What", "Tasks", "Models", "Why"]),
    ]


def _picture(plot: Plot) -> str:
    return f"![{escape_markdown(plot.title)}](plots/{plot.name}.png)"


def _provenance(loaded: Loaded) -> str:
    esc = escape_markdown
    parts = ["## Provenance", "\n".join(f"- {line}" for line in READING)]
    infos = {
        e.model: e.record.model_info
        for e in reversed(loaded.entries)
        if e.record.model_info.get("fingerprint")
    }
    facts = [[esc(name), *map(esc, values)] for name, values in model_facts(loaded.models, infos)]
    parts.append(grid(facts, ["Fact", *map(esc, loaded.models)]) if facts else "")
    for run in loaded.runs:
        parts.append(f"### {esc(run.name)}")
        if run.info is None:
            parts.append("No run.json: command and environment are unknown.")
            continue
        pairs = [
            ("command", run.info.command),
            ("suite SHA-256", run.info.suite_sha256),
            ("started", run.info.started_utc),
            ("duration", duration_text(run.info.duration_s)),
            *flatten(run.info.environment),
        ]
        parts.append("\n".join(f"- {esc(k)}: {esc(v)}" for k, v in pairs))
        # A fence longer than any in the text cannot be closed by it.
        fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", run.info.suite_text)), default=0))
        parts.append(f"{fence}yaml\n{run.info.suite_text.rstrip()}\n{fence}")
    return "\n\n".join(filter(None, parts))
