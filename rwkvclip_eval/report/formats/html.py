"""The HTML page: one file without network or fonts, whole without its script, kept under a size."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report.conformance import HEAD, RULE, summary
from rwkvclip_eval.report.coverage import WHOLE, coverage, cures, problems
from rwkvclip_eval.report.facts import READING, model_facts, protocol_texts
from rwkvclip_eval.report.first_screen import result_cards, short_sentence
from rwkvclip_eval.report.formats.accuracy_speed import READING as READING_OF_SPEED
from rwkvclip_eval.report.formats.accuracy_speed import section
from rwkvclip_eval.report.formats.html_details import popovers, run_facts
from rwkvclip_eval.report.formats.html_gallery import errors, gallery
from rwkvclip_eval.report.formats.html_grid import card_fields, overview_grid, table_fields, tints
from rwkvclip_eval.report.formats.paper_html import paper_html
from rwkvclip_eval.report.formats.paper_text import difference_text, half_text
from rwkvclip_eval.report.formats.templates import environment
from rwkvclip_eval.report.overview import overview
from rwkvclip_eval.report.plots.drawing import themed
from rwkvclip_eval.report.plots.style import model_colours
from rwkvclip_eval.report.series import find_series
from rwkvclip_eval.report.tables import TIES
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.report.accuracy_speed import AccuracySpeed
    from rwkvclip_eval.report.conformance import Conformance
    from rwkvclip_eval.report.headline import Headline
    from rwkvclip_eval.report.loading import Loaded
    from rwkvclip_eval.report.paper_rows import PaperTable
    from rwkvclip_eval.report.plots.drawing import Plot
    from rwkvclip_eval.report.tables import Table

MAX_PAGE_BYTES = 5_000_000
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


def render_page(
    loaded: Loaded,
    tables: Sequence[Table],
    headline: Headline,
    plots: Sequence[Plot],
    published: Sequence[PaperTable],
    conformance: Sequence[Conformance] = (),
    speeds: Sequence[AccuracySpeed] = (),
    max_bytes: int = MAX_PAGE_BYTES,
) -> str:
    """Return the page as HTML of at most `max_bytes` bytes in UTF-8.

    Raises:
        OutputError: the tables alone are larger.
    """
    template = environment().get_template("page.html.j2")
    content = _content(loaded, tables, headline, plots, published)
    content |= {"speed": section(speeds), "speed_reading": READING_OF_SPEED}
    content |= {"conformance": conformance, "conformance_head": HEAD, "conformance_rule": RULE}
    content["conformance_summary"] = summary(conformance)
    content["limit_mb"] = f"{max_bytes / 1e6:.3g}"
    details, targets = popovers(loaded, tables)
    html = ""
    for queries, pictures, wrong, layouts, how in _LEVELS:
        found = gallery(loaded, queries)
        mistaken = errors(loaded, wrong)
        shown = sum(len(item["examples"]) for group in found for item in group["queries"])
        html = template.render(
            **content,
            gallery=found,
            errors=mistaken,
            errors_left_out=len(loaded.errors)
            - sum(len(own) for group in mistaken for _, own in group["models"]),
            per_query=pictures,
            examples_left_out=len(loaded.examples) - shown,
            too_large=(queries, pictures) != _LEVELS[0][:2],
            layouts=layouts,
            details=how,
            popovers=details if how else [],
            targets=targets if how else {},
            sections=_sections(tables, plots, found, mistaken, content),
        )
        if len(html.encode()) <= max_bytes:
            return html
    raise OutputError(
        f"The report's tables alone take {len(html.encode())} bytes, more than the {max_bytes} a page may "
        "have. Report fewer runs or models at a time; results.csv holds everything."
    )


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
    lines = _model_lines(loaded.models, infos)
    colours = model_colours(names, find_series(loaded.entries))
    views = overview(headline.columns)
    cards = result_cards(views, tables, published, headline.models)
    first = [c for card in cards for c in card.row.cells.values()]
    first += [c for view in views for group in view.groups for row in group.rows for c in row.cells.values()]
    steps = {
        e.model: int(e.record.model_info["step"]) for e in loaded.entries if _has_step(e.record.model_info)
    }
    return {
        "title": " + ".join(titles),
        "version": __version__,
        "headline": headline,
        "sentence": short_sentence(headline, views, published),
        "bold": any(c.best for c in first),
        "tinted": any(tints(row) for view in views for group in view.groups for row in group.rows),
        "ties": TIES if any(c.ties for c in first) else "",
        "cards": [card_fields(card) for card in cards],
        "views": [{"under": v.under, "grid": overview_grid(v, headline.models, lines)} for v in views],
        "models": loaded.models,
        "head_models": headline.models,
        "untrained": {e.model for e in loaded.entries if not e.trained},
        "colours": colours,
        "tables": [table_fields(table, headline.models, steps) for table in tables],
        "plots": plots,
        "published": published,
        "problems": problems(loaded.entries),
        "cures": cures(loaded.entries),
        "coverage": coverage(loaded.entries),
        "whole": WHOLE,
        "protocol_text": protocol_texts(loaded.entries),
        "reading": READING,
        "model_facts": model_facts(loaded.models, infos),
        "runs": [run_facts(run) for run in loaded.runs],
        "delta": difference_text,
        "half": half_text,
        "svg": lambda svg: base64.b64encode(themed(svg).encode()).decode(),
        **_own_texts(),
        "paper_tables": _safe(paper_html(published, colours)),
    }


def _own_texts() -> dict[str, Any]:
    """Return stylesheet and script, which are ours, and what the page's policy knows the script by."""
    here = files("rwkvclip_eval.report.formats")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": _safe(style), "script": _safe(script), "script_hash": f"sha256-{digest}"}


def _safe(text: str) -> str:
    """Return a text that is ours, or escaped already; everything else is escaped where it is rendered."""
    from markupsafe import Markup

    return Markup(text)


def _has_step(info: Mapping[str, Any]) -> bool:
    return info.get("step") is not None


def _model_lines(models: Sequence[str], infos: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the size and precision of each model, in words."""
    lines = {}
    for model in models:
        info = infos.get(model, {})
        size = f"{info['num_parameters'] / 1e6:.3g} M parameters" if info.get("num_parameters") else ""
        lines[model] = " · ".join(filter(None, (size, str(info.get("precision", "")))))
    return lines


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
        ("speed", "Accuracy and speed", bool(content["speed"])),
        ("training", "Training", any(not p.table for p in plots)),
        ("examples", "Example retrievals", bool(gallery)),
        ("errors", "Confident errors", bool(errors)),
        ("conformance", "Conformance", bool(content["conformance"])),
        ("published", "Published", bool(content["published"])),
        ("problems", "Without a number", bool(content["problems"])),
        ("provenance", "Provenance", True),
    )
    return [*named, *((anchor, name) for anchor, name, there in rest if there)]
