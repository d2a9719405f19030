"""The page of methods over seeds: one file without network or scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.compare import group_formats as formats
from rwkvclip_eval.compare.formats import meanings, points
from rwkvclip_eval.compare.group_published import NO_WIN
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.printable import one_line
from rwkvclip_eval.report.comparison import style, svgs
from rwkvclip_eval.report.differences import Delta
from rwkvclip_eval.report.formats.html import MAX_PAGE_BYTES
from rwkvclip_eval.report.formats.templates import environment
from rwkvclip_eval.report.plots.differences import forest
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from rwkvclip_eval.compare.group_runs import Group
    from rwkvclip_eval.compare.groups import GroupResult, MethodComparison, MethodRow
    from rwkvclip_eval.report.plots.drawing import Plot

_RUN_FACTS = ("spec", "fingerprint", "precision")


def group_page(result: GroupResult, max_bytes: int = MAX_PAGE_BYTES) -> str:
    """Return a comparison of methods as HTML.

    Args:
        result: what is said.
        max_bytes: that it may have, in UTF-8.

    Raises:
        OutputError: it is larger.
    """
    template = environment().get_template("group.html.j2")
    html = template.render(
        version=__version__,
        style=style(),
        stated=result.stated,
        meanings=meanings({row.verdict for one in result.comparisons for row in one.rows}, result.rule),
        names=[group.name for group in result.groups],
        methods=[_method(one, result.rule.margin, number) for number, one in enumerate(result.comparisons)],
        margin=f"{100 * result.rule.margin:g}",
        groups=[_group(group) for group in result.groups],
        published_columns=formats.PUBLISHED_COLUMNS,
        published=formats.published_rows(result),
        no_win=NO_WIN,
        notes=result.notes,
    )
    if len(html.encode()) > max_bytes:
        raise OutputError(
            f"The tables of this comparison take {len(html.encode())} bytes, more than the {max_bytes} a "
            "page may have; --format json holds everything."
        )
    return html


def _method(one: MethodComparison, margin: float, number: int) -> dict[str, Any]:
    plot = _plot(one, margin, number)
    means = (one.baseline, one.mean.baseline), (one.candidate, one.mean.candidate)
    varied, reach = one.mean.varied, one.mean.varied.reach()
    return {
        "verdict": one.verdict,
        "kind": one.verdict.partition(" ")[0],
        "name": f"{one.candidate.name} beside {one.baseline.name}",
        "why": one.why,
        "pairing": one.pairing,
        "delta": points(varied.value),
        "ends": (points(varied.value - reach), points(varied.value + reach)),
        "conservative": varied.conservative,
        "means": [
            {"name": group.name, "value": formats.mean_and_deviation(numbers), "seeds": len(group.runs)}
            for group, numbers in means
        ],
        "columns": formats.columns(one),
        "rows": formats.rows(one),
        "plot": plot,
        "svgs": svgs(plot),
    }


def _plot(one: MethodComparison, margin: float, number: int) -> Plot:
    import matplotlib as mpl

    paired = len(one.mean.varied.draws) == 1
    rows = sorted(one.rows, key=lambda row: -row.varied.value)
    *parts, mean = [_delta(row, paired) for row in (*rows, one.mean)]
    how = "paired by seed" if paired else "not paired"
    # A `$` in a name is no mathematics.
    with mpl.rc_context({"text.parse_math": False}):
        return forest(
            parts,
            mean,
            one_line(one.candidate.name),
            one_line(one.baseline.name),
            name=f"methods-{number}",
            title=f"Differences of means over seeds, {how}, the largest gain first; dashed: the margin",
            margin=margin,
        )


def _delta(row: MethodRow, paired: bool) -> Delta:
    value, reach = row.varied.value, row.varied.reach()
    return Delta(title=row.title, value=value, low=value - reach, high=value + reach, paired=paired)


def _group(group: Group) -> dict[str, Any]:
    runs = []
    for run in group.runs:
        info = run.side.any_record.model_info
        facts = [one_line(str(info.get(name) or "unknown")) for name in _RUN_FACTS]
        runs.append([run.label, run.told_by or "nobody", *facts])
    return {"name": group.name, "columns": ("run", "seed told by", *_RUN_FACTS), "runs": runs}
