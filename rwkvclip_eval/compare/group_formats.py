"""A comparison of methods as text: rows of a terminal's table, JSON, GitHub-flavoured Markdown, JUnit XML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.compare.formats import (
    SIGNS,
    Case,
    Outcome,
    junit,
    markdown,
    markdown_table,
    meanings,
    p_value,
    points,
    side_facts,
    verdict_case,
)
from rwkvclip_eval.compare.group_published import NO_WIN
from rwkvclip_eval.printable import printable_json
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rwkvclip_eval.compare.group_published import Printed
    from rwkvclip_eval.compare.groups import GroupResult, MethodComparison, MethodRow
    from rwkvclip_eval.compare.two_way import Varied

FORMAT_VERSION = 2
"""Of the JSON. Since 2 `set` is a title, and rows have task, dataset, variant, split and protocol, too."""


def columns(one: MethodComparison) -> tuple[str, ...]:
    """Return the heads of a comparison's table."""
    names = (f"{group.name} ±SD" for group in (one.baseline, one.candidate))
    return ("set", "metric", *names, "Δ [95 %]", "p (Holm)", "verdict")


def rows(one: MethodComparison) -> list[list[str]]:
    """Return the rows of `columns`, the mean over all sets last: per cent, differences in points."""
    return [_cells(row) for row in (*one.rows, one.mean)]


def _cells(row: MethodRow) -> list[str]:
    return [
        row.title,
        row.metric,
        mean_and_deviation(row.baseline),
        mean_and_deviation(row.candidate),
        _difference(row.varied),
        "" if row.worse is None else p_value(row.worse),
        row.verdict or "",
    ]


def _difference(varied: Varied) -> str:
    value, reach = varied.value, varied.reach()
    wide = " (conservative)" if varied.conservative else ""
    return f"{points(value)} [{points(value - reach)}, {points(value + reach)}]{wide}"


def mean_and_deviation(values: NDArray[Any]) -> str:
    """Return the mean of fractions over seeds with their standard deviation, in per cent."""
    return f"{100 * values.mean():.1f} ±{100 * values.std(ddof=1):.1f}"


PUBLISHED_COLUMNS = ("method", "set", "metric", "mean ±SD", "published", "Δ [95 %]", "source")


def published_rows(result: GroupResult) -> list[list[str]]:
    """Return the rows of `PUBLISHED_COLUMNS`."""
    return [
        [
            one.group,
            one.title,
            one.metric,
            mean_and_deviation(one.values),
            f"{one.row.text} ({one.row.who})",
            _difference(one.varied),
            one.row.where_from,
        ]
        for one in result.published
    ]


def headline(one: MethodComparison) -> str:
    """Return the verdict on one method in a sentence."""
    return f"{one.verdict} of {one.candidate.name} beside {one.baseline.name}: {one.why}."


def summary(result: GroupResult) -> list[str]:
    """Return the verdicts and what they rest on, a line each, verdicts first."""
    lines = [headline(one) for one in result.comparisons]
    lines += list(dict.fromkeys(one.pairing for one in result.comparisons))
    lines.append(result.stated)
    lines += meanings({row.verdict for one in result.comparisons for row in one.rows}, result.rule)
    for group in result.groups:
        told = ", ".join(run.label for run in group.runs)
        lines.append(f"{group.name}: {len(group.runs)} seeds: {told}.")
    lines += [NO_WIN] * bool(result.published)
    return [*lines, *result.notes]


def as_json(result: GroupResult) -> str:
    """Return the whole comparison; values are fractions."""
    content = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "exit_code": result.exit_code,
        "rule": {**result.rule._asdict(), "stated": result.stated},
        "groups": [
            {
                "name": group.name,
                "runs": [
                    {**side_facts(run.side), "seed": run.seed, "seed_told_by": run.told_by}
                    for run in group.runs
                ],
            }
            for group in result.groups
        ],
        "comparisons": [
            {
                "baseline": one.baseline.name,
                "candidate": one.candidate.name,
                "verdict": one.verdict,
                "why": one.why,
                "pairing": one.pairing,
                "rows": [_row(row) for row in one.rows],
                "mean": _row(one.mean),
            }
            for one in result.comparisons
        ],
        "published": [_printed(one) for one in result.published],
        "notes": list(result.notes),
    }
    return json.dumps(printable_json(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: MethodRow) -> dict[str, Any]:
    return {
        "set": row.title,
        **(row.unit._asdict() if row.unit else {}),
        "metric": row.metric,
        "baseline": _values(row.baseline),
        "candidate": _values(row.candidate),
        "difference": _varied(row.varied),
        "p_worse": row.varied.worse,
        "p_holm": row.worse,
        "verdict": row.verdict,
    }


def _printed(one: Printed) -> dict[str, Any]:
    return {
        "method": one.group,
        "set": one.title,
        "metric": one.metric,
        "ours": _values(one.values),
        "published": one.row.model_dump(),
        "difference": _varied(one.varied),
    }


def _values(values: NDArray[Any]) -> dict[str, Any]:
    return {"values": values.tolist(), "mean": float(values.mean()), "sd": float(values.std(ddof=1))}


def _varied(varied: Varied) -> dict[str, Any]:
    reach = varied.reach()
    return {
        "value": varied.value,
        "low": varied.value - reach,
        "high": varied.value + reach,
        "conservative": varied.conservative,
        "variance": varied.variance,
        "by_images": varied.by_images,
        "degrees_of_freedom": varied.freedom,
    }


def as_github(result: GroupResult) -> str:
    """Return GitHub-flavoured Markdown, for a pull request or a step's summary."""
    lines = []
    for one in result.comparisons:
        lines += [f"### {SIGNS.get(one.verdict, '❔')} {markdown(headline(one))}", ""]
        lines += [*markdown_table(rows(one), columns(one)), ""]
    lines += [f"- {markdown(line)}" for line in summary(result)[len(result.comparisons) :]]
    if result.published:
        lines += ["", "<details><summary>Beside published numbers</summary>", ""]
        lines += [*markdown_table(published_rows(result), PUBLISHED_COLUMNS), "", "</details>"]
    return "\n".join(lines) + "\n"


def as_junit(result: GroupResult) -> str:
    """Return JUnit XML: for each method a test case for the suite's mean, and one for each set."""
    cases = []
    for one in result.comparisons:
        name = f"{one.candidate.name} beside {one.baseline.name}"
        cases.append(verdict_case(one.verdict, one.why, summary(result), f"{name}: verdict"))
        for row in one.rows:
            told = zip(columns(one)[2:], _cells(row)[2:], strict=True)
            text = ", ".join(f"{head} {cell}" for head, cell in told)
            outcome: Outcome = "failed" if row.verdict == "regressed" else "passed"
            if row.verdict is None:
                outcome = "skipped"
            group = row.unit.name if row.unit else "suite"
            cases.append(Case(f"{name}: {row.title}", group, text, outcome))
    return junit(cases)
