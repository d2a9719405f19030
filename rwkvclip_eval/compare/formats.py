"""A comparison as text: rows of a terminal's table, JSON, GitHub-flavoured Markdown, JUnit XML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rwkvclip_eval.printable import one_line, printable, printable_json
from rwkvclip_eval.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rwkvclip_eval.compare.gate import Judgement, Rule, SetVerdict
    from rwkvclip_eval.compare.pairing import Side
    from rwkvclip_eval.compare.result import Result, Row
    from rwkvclip_eval.records.metrics import Metric

FORMAT_VERSION = 2
"""Of the JSON. Since 2 `mean.noise` is null where it was not measured; in 1 it was 0.0 then, too."""
COLUMNS = ("set", "metric", "baseline", "candidate", "Δ [95 %]", "flips", "p (Holm)", "detectable", "verdict")
FURTHER_COLUMNS = (*COLUMNS[:6], "q (Benjamini–Hochberg)")
READING = (
    "flips: samples that only the candidate (+) or only the baseline (−) has right; detectable: the smallest "
    "loss of the set alone that the rule would find, in points."
)
_MEANINGS: dict[SetVerdict, str] = {
    "regressed": "worse beyond chance (p by Holm), and its interval reaches a loss of {margin} points; the "
    "loss itself may be smaller",
    "unresolved": "its interval reaches a loss of {margin} points, but that it is worse is not shown: too "
    "few images to tell, which blocks nothing by itself",
    "worse within the margin": "worse by its interval, which reaches no loss of {margin} points",
    "not worse": "not shown to be worse, and its interval reaches no loss of {margin} points",
    "within the noise": "worse, but repeating the baseline alone moves it as much",
}
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>()#|~$@&"})
SIGNS = {"PASS": "✅", "REGRESSION": "❌"}
"""Of verdicts; `❔` of all others."""


def cells(row: Row) -> list[str]:
    """Return a row of `COLUMNS`: fractions in per cent, their differences in points."""
    compared, metric = row.compared, row.compared.metric
    found = compared.found
    interval = "no interval"
    if difference := found.difference:
        low, high = (_change(metric, end) for end in (difference.low, difference.high))
        wide = " (conservative)" if difference.conservative else ""
        interval = f"{_change(metric, difference.value)} [{low}, {high}]{wide}"
    return [
        compared.unit.title,
        metric.label,
        metric.text(found.baseline),
        metric.text(found.candidate),
        interval,
        flips(row),
        "" if row.adjusted is None else p_value(row.adjusted, drawn=_is_least(row, "worse")),
        _loss(row.detectable) if row.verdict else "",
        row.verdict or "",
    ]


def flips(row: Row) -> str:
    """Return how many samples were gained and lost; nothing where the number is no mean of hits."""
    difference = row.compared.found.difference
    if difference is None or not (difference.flips or difference.gained or difference.lost):
        return ""
    return f"+{difference.gained} −{difference.lost}"


def further_cells(row: Row) -> list[str]:
    """Return a row of `FURTHER_COLUMNS`."""
    q = "" if row.false_discovery is None else p_value(row.false_discovery, drawn=_is_least(row, "mid"))
    return [*cells(row)[:6], q]


def _is_least(row: Row, which: Literal["worse", "mid"]) -> bool:
    """Whether a p value is the smallest that its draws can show."""
    difference = row.compared.found.difference
    significance = difference.significance if difference else None
    return significance is not None and getattr(significance, which) <= significance.least


def summary(result: Result) -> list[str]:
    """Return the verdict and what it rests on, a line each, the verdict first."""
    judged = result.judgement
    lines = [
        f"{judged.verdict}: {judged.why}.",
        f"Mean difference {points(judged.mean)} points, interval [{points(judged.low)}, "
        f"{points(judged.high)}].{_noise(judged)}",
        result.stated,
        READING,
        *meanings({row.verdict for row in result.rows}, result.rule),
        *rates_lines(result),
        result.scope,
    ]
    return [*lines, *beside(result), *result.comparison.notes]


def _noise(judged: Judgement) -> str:
    if judged.noise is None:
        return ""
    within = ", within which the difference lies" if 0 < judged.noise >= abs(judged.mean) else ""
    return f" Noise {100 * judged.noise:.2f}{within}."


def meanings(verdicts: Collection[str | None], rule: Rule) -> list[str]:
    """Return what the verdicts on sets that stand in a table mean, a line; nothing where there are none."""
    margin = f"{100 * rule.margin:g}"
    told = [f"{name}: {text.format(margin=margin)}" for name, text in _MEANINGS.items() if name in verdicts]
    return [f"Of a set, {'; '.join(told)}."] if told else []


def rates_lines(result: Result) -> list[str]:
    """Return how often the rule errs on these sets, and what it finds, a line each."""
    rates = result.rates
    return [
        f"On these sets: REGRESSION where nothing differs in {_share(rates.false_alarms)}, PASS there in "
        f"{_share(rates.passes)}, PASS where every set lost the margin in {_share(rates.wrong_passes)}.",
        "No loss of all sets alike would be found."
        if rates.detectable is None
        else f"A loss of {_loss(rates.detectable)} points on every set is found in {_share(rates.power)}.",
    ]


def beside(result: Result) -> list[str]:
    """Return what to know of the sets that the verdict is about, a line each, naming the sets."""
    sets: dict[str, list[str]] = {}
    for row in (row for row in result.rows if row.verdict):
        for note in row.compared.notes:
            sets.setdefault(note, []).append(row.compared.unit.title)
    return [f"{note}: {', '.join(titles)}." for note, titles in sets.items()]


def as_json(result: Result) -> str:
    """Return the whole comparison; values are fractions (ranks for median ranks)."""
    return dumped(content(result))


def dumped(content: Mapping[str, Any]) -> str:
    """Return JSON whose texts hold nothing that a terminal would take for a command."""
    return json.dumps(printable_json(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def content(result: Result) -> dict[str, Any]:
    """Return what the JSON holds."""
    judged, comparison = result.judgement, result.comparison
    return {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "verdict": judged.verdict,
        "why": judged.why,
        "exit_code": judged.exit_code,
        "rule": {**result.rule._asdict(), "stated": result.stated},
        "mean": {"value": judged.mean, "low": judged.low, "high": judged.high, "noise": judged.noise},
        "rates": result.rates._asdict(),
        "baseline": side_facts(comparison.baseline),
        "candidate": side_facts(comparison.candidate),
        "rows": [_row(row) for row in result.rows],
        "notes": list(comparison.notes),
    }


def as_github(result: Result) -> str:
    """Return GitHub-flavoured Markdown, for a pull request or a step's summary."""
    (first, *others) = summary(result)
    gated = [row for row in result.rows if row.verdict]
    lines = [
        f"### {SIGNS.get(result.judgement.verdict, '❔')} {markdown(first)}",
        "",
        *markdown_table([cells(row) for row in gated]),
        "",
        *(f"- {markdown(line)}" for line in others),
    ]
    further = [row for row in result.rows if not row.verdict]
    if further:
        lines += ["", "<details><summary>Further metrics, exploratory</summary>", ""]
        lines += [*markdown_table([further_cells(row) for row in further], FURTHER_COLUMNS), "", "</details>"]
    return "\n".join(lines) + "\n"


def as_junit(result: Result) -> str:
    """Return JUnit XML: a test case for the suite's mean, and one for each set."""
    return junit(cases(result))


def cases(result: Result) -> list[Case]:
    """Return the test cases of JUnit."""
    judged = result.judgement
    found = [verdict_case(judged.verdict, judged.why, summary(result))]
    for row in (row for row in result.rows if row.verdict):
        unit = row.compared.unit
        text = ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS[2:], cells(row)[2:], strict=True))
        outcome: Outcome = "failed" if row.verdict == "regressed" else "passed"
        found.append(Case(f"{unit.title}, {row.compared.metric.title}", unit.name, text, outcome))
    return found


Outcome = Literal["passed", "failed", "skipped"]


class Case(NamedTuple):
    """A test case of JUnit.

    Attributes:
        name: of the case.
        group: what it belongs to.
        text: all that is said of it.
        outcome: how it went.
        why: where it did not pass; `text` by default.
    """

    name: str
    group: str
    text: str
    outcome: Outcome
    why: str = ""


def verdict_case(verdict: str, why: str, lines: Sequence[str], name: str = "verdict") -> Case:
    """Return the case of a verdict, which REGRESSION fails, and all but PASS skip."""
    outcome: Outcome = "failed" if verdict == "REGRESSION" else "passed" if verdict == "PASS" else "skipped"
    return Case(name, "suite", "\n".join(lines), outcome, f"{verdict}: {why}")


def junit(cases: Sequence[Case]) -> str:
    """Return JUnit XML of `cases`."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite("rwkvclip-eval compare")
    for one in cases:
        made = TestCase(printable(one.name), classname=printable(one.group))
        if one.outcome != "passed":
            problem = Failure if one.outcome == "failed" else Skipped
            made.result = [problem(printable(one.why or one.text))]
        # No XML may hold what `printable` takes out.
        made.system_out = printable(one.text)
        suite.add_testcase(made)
    document = JUnitXml()
    document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]  # the library has half its types
    found: bytes = document.tostring()  # type: ignore[no-untyped-call]  # as above
    # The library writes the declaration where lxml is installed, and none elsewhere.
    text = found.decode().strip()
    head = "" if text.startswith("<?xml") else '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{head}{text}\n"


def _row(row: Row) -> dict[str, Any]:
    compared = row.compared
    found, repeat = compared.found, compared.repeat
    content: dict[str, Any] = {
        **compared.unit._asdict(),
        "metric": compared.metric.name,
        "title": compared.metric.title,
        "unit": compared.metric.unit,
        "better": compared.metric.better,
        "primary": compared.primary,
        "n": compared.n,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "verdict": row.verdict,
        "p_holm": row.adjusted,
        "detectable": row.detectable,
        "q_benjamini_hochberg": row.false_discovery,
        "repeat": repeat.candidate if repeat else None,
        "notes": list(compared.notes),
    }
    if found.difference:
        told = found.difference._asdict()
        significance = told.pop("significance")
        content["difference"] = told | {"discordance": found.difference.discordance}
        content["p"] = significance._asdict() if significance else None
    if found.flipped:
        content["flipped"] = {
            name: [flip.key for flip in flips] for name, flips in found.flipped._asdict().items()
        }
    if found.classes:
        content["classes"] = [moved._asdict() for moved in found.classes]
    if compared.repeated:
        content["repeated"] = compared.repeated._asdict()
    return content


def side_facts(side: Side) -> dict[str, Any]:
    """Return what the JSON says of one model of one run."""
    info = side.any_record.model_info
    told = {name: info.get(name) for name in ("spec", "fingerprint", "checkpoint_sha256", "precision")}
    return {"run": side.path.name, "model": side.model, **told}


def markdown_table(rows: list[list[str]], head: tuple[str, ...] = COLUMNS) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def markdown(text: str) -> str:
    """Return `text` without signs that Markdown or HTML would take for its own."""
    return one_line(text).translate(_MARKDOWN)


def _change(metric: Metric, value: float) -> str:
    return points(value) if metric.in_percent else f"{value:+.4g}"


def points(value: float) -> str:
    """Return a fraction in points, with its sign."""
    return f"{100 * value:+.2f}"


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def p_value(value: float, *, drawn: bool = False) -> str:
    """Return a p value, small ones by their size.

    Args:
        value: in [0, 1].
        drawn: it is the smallest that its draws can show, so that the true one is smaller.
    """
    text = f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
    return f"< {text}" if drawn else text
