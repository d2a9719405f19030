"""The page of a comparison: one file without network or scripts, kept under a size."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.compare import formats, speed_formats
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.printable import one_line
from rwkvclip_eval.report.comparison_pictures import SHOWN, shown_flips
from rwkvclip_eval.report.differences import Delta
from rwkvclip_eval.report.formats.html import MAX_PAGE_BYTES
from rwkvclip_eval.report.formats.templates import environment
from rwkvclip_eval.report.plots.differences import forest
from rwkvclip_eval.report.plots.drawing import themed
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from markupsafe import Markup

    from rwkvclip_eval.compare.pairing import Side
    from rwkvclip_eval.compare.result import Result, Row
    from rwkvclip_eval.compare.speed import SpeedComparison
    from rwkvclip_eval.report.comparison_pictures import Pictures
    from rwkvclip_eval.report.plots.drawing import Plot

_LEVELS = (SHOWN, 4, 2, 1, 0)
"""Samples gained and lost that are shown of a set, fewer until the page fits."""
MAX_CLASSES = 5
"""Classes that are shown of a set."""
_OPEN = 3
"""Sets whose flips, and notes, that are not folded."""
_SIDE_FACTS = ("spec", "fingerprint", "checkpoint_sha256", "precision", "batch_size", "implementation")


def comparison_page(
    result: Result,
    pictures: Pictures,
    max_bytes: int = MAX_PAGE_BYTES,
    speed: SpeedComparison | None = None,
) -> str:
    """Return a comparison as HTML of at most `max_bytes` bytes in UTF-8.

    Args:
        result: what is said.
        pictures: of samples that flipped.
        max_bytes: fewer samples are shown until it fits.
        speed: a comparison of both sides' speed, to stand in a section of its own.

    Raises:
        OutputError: the tables alone are larger.
    """
    template = environment().get_template("comparison.html.j2")
    content = _content(result) | {"style": style(), "speed": _speed(speed) if speed else None}
    html = ""
    for most in _LEVELS:
        html = template.render(**content, flips=_flips(result, pictures, most), most=most)
        if len(html.encode()) <= max_bytes:
            return html
    raise OutputError(
        f"The tables of this comparison take {len(html.encode())} bytes, more than the {max_bytes} a page "
        "may have; --format json holds everything."
    )


def style() -> Markup:
    """Return the style sheets of comparisons' pages, which are ours: everything else is escaped."""
    from markupsafe import Markup

    here = files("rwkvclip_eval.report.formats")
    sheets = (here.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in ("page", "comparison"))
    return Markup("".join(sheets))


def _content(result: Result) -> dict[str, Any]:
    judged, comparison = result.judgement, result.comparison
    gated = [row for row in result.rows if row.verdict]
    plot = _plot(result, gated)
    return {
        "version": __version__,
        "verdict": judged.verdict,
        "why": judged.why,
        "stated": result.stated,
        "scope": result.scope,
        "rates": formats.rates_lines(result),
        "meanings": formats.meanings({row.verdict for row in gated}, result.rule),
        "margin": f"{100 * result.rule.margin:g}",
        "mean": formats.points(judged.mean),
        "ends": (formats.points(judged.low), formats.points(judged.high)),
        "noise": _noise(result),
        "sides": [("Baseline", _side(comparison.baseline)), ("Candidate", _side(comparison.candidate))],
        "columns": formats.COLUMNS,
        "sets": [_set(row) for row in gated],
        "further": [formats.further_cells(row) for row in result.rows if not row.verdict],
        "plot": plot,
        "svgs": svgs(plot),
        "classes": [
            {"title": row.compared.unit.title, "classes": row.compared.found.classes[:MAX_CLASSES]}
            for row in gated
            if row.compared.found.classes
        ],
        "notes": comparison.notes,
        "open_sets": _OPEN,
    }


def _speed(found: SpeedComparison) -> dict[str, Any]:
    first, *others = speed_formats.summary(found)
    return {
        "verdict": found.verdict,
        "first": first,
        "others": others,
        "columns": speed_formats.COLUMNS,
        "rows": [speed_formats.cells(row) for row in found.rows],
    }


def _set(row: Row) -> dict[str, Any]:
    return {
        "title": row.compared.unit.title,
        "cells": formats.cells(row)[1:],
        "n": row.compared.n,
        "verdict": row.verdict,
        "notes": row.compared.notes,
    }


def _noise(result: Result) -> str:
    noise = result.judgement.noise
    return "not measured" if noise is None else f"{100 * noise:.2f}"


def _side(side: Side) -> dict[str, Any]:
    info = side.any_record.model_info
    facts = [(name.replace("_", " "), one_line(str(info[name]))) for name in _SIDE_FACTS if info.get(name)]
    run, model = one_line(side.path.name), one_line(side.model)
    return {"run": run, "model": model, "step": _step(info), "facts": facts}


def _step(info: Mapping[str, Any]) -> str:
    """Return which checkpoint of its training it is; empty where nothing says."""
    if info.get("step") is None:
        return ""
    return one_line(f"{info.get('step_unit') or 'step'} {info['step']}")


def _plot(result: Result, gated: list[Row]) -> Plot:
    import matplotlib as mpl

    parts = []
    # The gate takes no row without a difference.
    for row in sorted(gated, key=lambda row: -row.compared.found.difference.value):  # type: ignore[union-attr]
        difference = row.compared.found.difference
        assert difference is not None
        parts.append(
            Delta(
                title=row.compared.unit.title,
                value=difference.value,
                low=difference.low,
                high=difference.high,
                paired=True,
            )
        )
    judged = result.judgement
    mean = Delta(
        title=f"mean of {len(parts)}", value=judged.mean, low=judged.low, high=judged.high, paired=True
    )
    sides = result.comparison.candidate, result.comparison.baseline
    names = [f"{one_line(side.model)} of {one_line(side.path.name)}" for side in sides]
    # A `$` in a name is no mathematics.
    with mpl.rc_context({"text.parse_math": False}):
        return forest(
            parts,
            mean,
            *names,
            name="differences",
            title="Differences, the largest gain first; dashed: the margin",
            margin=result.rule.margin,
        )


def svgs(plot: Plot) -> list[str]:
    """Return a drawing as wide as two columns and as one, SVG in base64."""
    return [base64.b64encode(themed(one.svg).encode()).decode() for one in (plot.wide, plot.narrow)]


def _flips(result: Result, pictures: Pictures, most: int) -> list[dict[str, Any]]:
    found = []
    for row in (row for row in result.rows if row.verdict):
        unit, difference = row.compared.unit, row.compared.found.difference
        shown = shown_flips(row, most)
        if not any(shown) or difference is None:
            continue
        groups = [
            ("lost", "Only the baseline has these right", difference.lost, shown[1]),
            ("gained", "Only the candidate has these right", difference.gained, shown[0]),
        ]
        found.append(
            {
                "title": unit.title,
                "absent": pictures.absent.get(unit, ""),
                "groups": [
                    {
                        "kind": kind,
                        "what": what,
                        "count": count,
                        "flips": [
                            {
                                "key": one_line(flip.key),
                                "target": flip.target,
                                "baseline": flip.baseline,
                                "candidate": flip.candidate,
                                "picture": pictures.found.get((unit, flip.key), ""),
                            }
                            for flip in flips
                        ],
                    }
                    for kind, what, count, flips in groups
                    if flips
                ],
            }
        )
    return found
