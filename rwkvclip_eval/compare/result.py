"""Two runs → everything that a comparison says: differences, verdict, what could have been seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.compare import power
from rwkvclip_eval.compare.gate import DEFAULT_RULE, Gated, Rule, judge
from rwkvclip_eval.compare.pairing import compare
from rwkvclip_eval.compare.significance import benjamini_hochberg
from rwkvclip_eval.errors import OutputError

if TYPE_CHECKING:
    from rwkvclip_eval.compare.gate import Judgement, SetVerdict
    from rwkvclip_eval.compare.pairing import Compared, Comparison, Side
    from rwkvclip_eval.compare.power import Rates


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one unit, with what the comparison makes of it.

    Attributes:
        compared: both values and their difference.
        verdict: on a set that the gate is about; None for other numbers.
        adjusted: its one-sided p by Holm; None for other numbers.
        detectable: smallest loss of this set alone that would be found; None where none would.
        false_discovery: two-sided mid-p by Benjamini and Hochberg over all rows; None where there is no test.
    """

    compared: Compared
    verdict: SetVerdict | None
    adjusted: float | None
    detectable: float | None
    false_discovery: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is said of a candidate.

    Attributes:
        comparison: what was paired, and what was not.
        rule: margin and level.
        judgement: the verdict.
        rates: errors and power of the rule on these sets.
        rows: those of the gate first.
    """

    comparison: Comparison
    rule: Rule
    judgement: Judgement
    rates: Rates
    rows: tuple[Row, ...]

    @property
    def scope(self) -> str:
        """What the verdict is about, and what it is not."""
        return (
            "These checkpoints were compared, not methods: another seed or order of data would differ, too."
        )

    @property
    def stated(self) -> str:
        """The rule in one sentence."""
        rule, num = self.rule, sum(row.verdict is not None for row in self.rows)
        return (
            f"One-sided tests that the candidate is worse, α = {rule.alpha:g}: {rule.level:g} for the mean "
            f"of {num} sets, {rule.level:g} for single sets by Holm; margin {100 * rule.margin:g} points."
        )


def compare_runs(
    baseline: Side,
    candidate: Side,
    repeat: Side | None = None,
    rule: Rule = DEFAULT_RULE,
) -> Result:
    """Return what can be said of `candidate` beside `baseline`.

    Args:
        baseline: what is compared with.
        candidate: what is judged.
        repeat: the baseline's checkpoint again, at another batch size or precision.
        rule: margin and level.

    Raises:
        OutputError: see `pairing.compare`; or no primary metric can be judged.
    """
    comparison = compare(baseline, candidate, repeat)
    about = [row for row in comparison.rows if _is_gated(row)]
    if not about:
        raise OutputError(
            f"{baseline.path} has no primary metric to judge by: the gate is about fractions of which more "
            "is better, of more than one seed."
        )
    sets = [_gated(row) for row in about]
    judgement = judge(sets, rule, one_model=_one_model(baseline, candidate))
    rates = power.rates(sets, rule)
    losses = power.detectable(sets, rule)
    tested = [row for row in comparison.rows if _mid(row) is not None]
    discovered = benjamini_hochberg(np.array([_mid(row) for row in tested], np.float64))
    found = {id(row): float(q) for row, q in zip(tested, discovered, strict=True)}
    rows = [
        Row(
            compared=row,
            verdict=judgement.sets[k],
            adjusted=float(judgement.adjusted[k]),
            detectable=losses[k],
            false_discovery=found.get(id(row)),
        )
        for k, row in enumerate(about)
    ]
    rows += [
        Row(compared=row, verdict=None, adjusted=None, detectable=None, false_discovery=found.get(id(row)))
        for row in comparison.rows
        if not _is_gated(row)
    ]
    return Result(comparison=comparison, rule=rule, judgement=judgement, rates=rates, rows=tuple(rows))


def _one_model(baseline: Side, candidate: Side) -> bool:
    found = {
        str(record.model_info.get("fingerprint") or "")
        for side in (baseline, candidate)
        for records in side.numbers.values()
        for record in records.values()
    }
    return len(found) == 1 and found != {""}


def _is_gated(row: Compared) -> bool:
    fraction = row.metric.unit == "fraction" and row.metric.better == "higher"
    return row.primary and fraction and _mid(row) is not None


def _mid(row: Compared) -> float | None:
    difference = row.found.difference
    return difference.significance.mid if difference and difference.significance else None


def _gated(row: Compared) -> Gated:
    assert row.found.difference is not None
    return Gated(
        name=row.unit.title,
        # Variants and splits of one dataset may share images.
        dataset=row.unit.dataset,
        difference=row.found.difference,
        repeat=row.repeat.difference if row.repeat else None,
    )
