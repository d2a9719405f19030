"""A comparison of speed as text: rows of a terminal's table, JSON, GitHub-flavoured Markdown, JUnit XML."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.compare.formats import FORMAT_VERSION, Case, dumped, junit, markdown, markdown_table
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from rwkvclip_eval.compare.formats import Outcome
    from rwkvclip_eval.compare.speed import SpeedComparison, SpeedRow
    from rwkvclip_eval.compare.speed_side import Line, SpeedSide
    from rwkvclip_eval.metrics.ratios import LogRatio, SpeedVerdict

COLUMNS = ("cell", "model", "baseline /s", "candidate /s", "ratio [95 %]", "verdict")
SIGNS: dict[SpeedVerdict, str] = {"FASTER": "✅", "SAME": "✅", "SLOWER": "❌", "AMBIGUOUS": "❔"}


def cells(row: SpeedRow) -> list[str]:
    """Return a row of `COLUMNS`."""
    rates = [_rate(line) for line in (row.baseline, row.candidate)]
    return [row.cell.label, row.baseline.model, *rates, in_words(row.ratio), row.verdict]


def _rate(line: Line) -> str:
    return "" if line.rate is None else f"{line.rate.value:.4g}"


def in_words(ratio: LogRatio | None) -> str:
    """Return a ratio with its 95 % interval, as change in per cent."""
    if ratio is None:
        return "no interval"
    low, high = ratio.ends()
    return f"{_percent(ratio.value)} [{_percent(low)}, {_percent(high)}]"


def summary(found: SpeedComparison) -> list[str]:
    """Return the verdict and what it rests on, a line each, the verdict first."""
    what = "samples a second" if found.of == "rate" else "the speed-up beside each run's last model"
    judged = sum(row.judged for row in found.rows)
    lines = [
        f"{found.verdict}: {found.why}.",
        f"Mean change of {what} over {judged} of {len(found.rows)} cells: {in_words(found.mean)}; margin "
        f"{100 * found.margin:g} %. Cells are SLOWER or FASTER by Holm's correction.",
        "Intervals are of repeats within each run; what changes between runs is in none of them: "
        "--repeat-baseline shows it.",
        *(f"{row.baseline.model}, {row.cell.label}: {row.why}." for row in found.rows if row.why),
        *found.notes,
    ]
    return lines


def as_json(found: SpeedComparison) -> str:
    """Return the whole comparison; ratios are the candidate's by the baseline's."""
    return dumped(content(found))


def content(found: SpeedComparison) -> dict[str, Any]:
    """Return what the JSON holds."""
    return {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "verdict": found.verdict,
        "why": found.why,
        "exit_code": found.exit_code,
        "of": found.of,
        "margin": found.margin,
        "mean": _ratio(found.mean),
        "baseline": _side(found.baseline),
        "candidate": _side(found.candidate),
        "rows": [_row(row) for row in found.rows],
        "notes": list(found.notes),
    }


def as_github(found: SpeedComparison) -> str:
    """Return GitHub-flavoured Markdown, for a pull request or a step's summary."""
    first, *others = summary(found)
    lines = [
        f"### {SIGNS[found.verdict]} {markdown(first)}",
        "",
        *markdown_table([cells(row) for row in found.rows], COLUMNS),
        "",
        *(f"- {markdown(line)}" for line in others),
    ]
    return "\n".join(lines) + "\n"


def as_junit(found: SpeedComparison) -> str:
    """Return JUnit XML: a test case for the mean, and one for each cell and model."""
    return junit(cases(found))


def cases(found: SpeedComparison) -> list[Case]:
    """Return the test cases of JUnit."""
    made = [_case("verdict", "all", "\n".join(summary(found)), found.verdict, found.why)]
    for row in found.rows:
        text = ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS[2:], cells(row)[2:], strict=True))
        made.append(_case(row.cell.label, row.baseline.model, text, row.verdict, row.why or text))
    return made


def _case(name: str, group: str, text: str, verdict: SpeedVerdict, why: str) -> Case:
    outcomes: dict[SpeedVerdict, Outcome] = {"SLOWER": "failed", "AMBIGUOUS": "skipped"}
    return Case(name, group, text, outcomes.get(verdict, "passed"), f"{verdict}: {why}")


def _row(row: SpeedRow) -> dict[str, Any]:
    return {
        "cell": dataclasses.asdict(row.cell),
        "label": row.cell.label,
        "model": row.baseline.model,
        "candidate_model": row.candidate.model,
        "baseline": _line(row.baseline),
        "candidate": _line(row.candidate),
        "ratio": _ratio(row.ratio),
        "verdict": row.verdict,
        "why": row.why,
    }


def _line(line: Line) -> dict[str, Any]:
    rate = line.rate
    told = {"samples_per_second": rate.value, "low": rate.low, "high": rate.high, "n": rate.n} if rate else {}
    # One repeat has no upper end, and JSON no infinity.
    told = {name: value for name, value in told.items() if value != float("inf")}
    return {**told, "noisy": line.noisy, "implementation": line.implementation}


def _ratio(ratio: LogRatio | None) -> dict[str, float] | None:
    if ratio is None:
        return None
    low, high = ratio.ends()
    return {"value": ratio.value, "low": low, "high": high}


def _side(side: SpeedSide) -> dict[str, Any]:
    return {"run": side.path.name, "models": side.models, **side.conditions}


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
