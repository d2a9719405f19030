"""Several runs of each method → what can be said of the methods: means, spread over seeds, a verdict.

The gate's rule (`compare.gate`) with the intervals of `compare.two_way`, the first method as the baseline of
every other: PASS, REGRESSION or INCONCLUSIVE as there. Two seeds of a method are weak evidence, from which no
verdict on methods follows.

Axes: K sets, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rwkvclip_eval.compare.by_image import RunsOfUnit, SetNumbers
from rwkvclip_eval.compare.gate import DEFAULT_RULE, EXIT_CODES, Rule, Verdict
from rwkvclip_eval.compare.group_published import beside_published
from rwkvclip_eval.compare.measured import Unknown
from rwkvclip_eval.compare.pairing import OtherNumber, check_same_number, require_units, require_value
from rwkvclip_eval.compare.significance import holm
from rwkvclip_eval.compare.tables import SamplesDiffer
from rwkvclip_eval.compare.two_way import mean_of, vary
from rwkvclip_eval.errors import OutputError, joined, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.by_image import ByImage
    from rwkvclip_eval.compare.gate import SetVerdict
    from rwkvclip_eval.compare.group_published import Printed
    from rwkvclip_eval.compare.group_runs import Group, Pairing
    from rwkvclip_eval.compare.pairing import Side, UnitKey
    from rwkvclip_eval.compare.two_way import Varied
    from rwkvclip_eval.records.published import PublishedRow

FEW_FOR_A_VERDICT = 3
"""Seeds of each method from which on there is a verdict."""

MethodVerdict = Verdict | Literal["WEAK EVIDENCE"]


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One set, or the mean over all, of two methods.

    Attributes:
        title: of the set, or what it is a mean over.
        unit: the set; None of the mean.
        metric: its title with the unit.
        baseline: [S] numbers of the first method's runs.
        candidate: [S] those of the other's.
        varied: their difference, and how it varies.
        worse: one-sided p that the other is worse, of a set by Holm; None of the mean.
        verdict: on a set; None of the mean, and where there is none.
    """

    title: str
    unit: UnitKey | None
    metric: str
    baseline: NDArray[np.float64]
    candidate: NDArray[np.float64]
    varied: Varied
    worse: float | None = None
    verdict: SetVerdict | None = None


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """One method beside the first.

    Attributes:
        baseline: the first.
        candidate: the other.
        pairing: what was taken for pairs, in words.
        verdict: see the top of this file.
        why: in words.
        rows: of each set.
        mean: of all sets.
    """

    baseline: Group
    candidate: Group
    pairing: str
    verdict: MethodVerdict
    why: str
    rows: tuple[MethodRow, ...]
    mean: MethodRow

    @property
    def exit_code(self) -> int:
        """Of a command that ends with this verdict."""
        return 3 if self.verdict == "WEAK EVIDENCE" else EXIT_CODES[self.verdict]

    @property
    def num_seeds(self) -> int:
        """Of the method with fewer."""
        return min(len(group.runs) for group in (self.baseline, self.candidate))


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """What is said of methods.

    Attributes:
        groups: the methods.
        rule: margin and level.
        comparisons: each method but the first beside it.
        published: published numbers of the methods.
        notes: what is not compared, and why.
    """

    groups: tuple[Group, ...]
    rule: Rule
    comparisons: tuple[MethodComparison, ...]
    published: tuple[Printed, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where a method regressed, 3 where one has no verdict, else 0."""
        codes = {one.exit_code for one in self.comparisons}
        return 1 if 1 in codes else max(codes)

    @property
    def stated(self) -> str:
        """The rule in two sentences."""
        level = f"{self.rule.level:g}"
        return (
            f"One-sided tests that a method is worse than {self.groups[0].name}, α = {self.rule.alpha:g} for "
            f"each method: {level} for the mean of {len(self.comparisons[0].rows)} sets, {level} for single "
            f"sets by Holm; margin {100 * self.rule.margin:g} points. Intervals are 95 %, over seeds and "
            "test images, with Satterthwaite's t."
        )


def compare_groups(
    groups: Sequence[Group],
    rule: Rule = DEFAULT_RULE,
    pairing: Pairing = "seed",
    published: Sequence[PublishedRow] = (),
) -> GroupResult:
    """Return what can be said of each method beside the first.

    Args:
        groups: two at least, each of two runs at least.
        rule: margin and level.
        pairing: which runs belong together.
        published: published numbers, of which those of the methods are shown.

    Raises:
        OutputError: runs lack units of the first one, were judged on other samples or otherwise, or their
            predictions are missing, damaged or not those of the records; no primary metric is left.
    """
    notes: list[str] = []
    sets = _numbers(groups, notes)
    comparisons = tuple(
        _beside(groups[0], groups[k], [(one, one.values[0], one.values[k]) for one in sets], rule, pairing)
        for k in range(1, len(groups))
    )
    return GroupResult(
        groups=tuple(groups),
        rule=rule,
        comparisons=comparisons,
        published=beside_published(groups, sets, published),
        notes=tuple(notes),
    )


def _numbers(groups: Sequence[Group], notes: list[str]) -> list[SetNumbers]:
    """Return the primary metrics of all runs; what is left out goes to `notes`."""
    sides = [run.side for group in groups for run in group.runs]
    first = sides[0]
    for side in sides[1:]:
        require_units(first, side)
    more = {unit: side for side in sides for unit in side.numbers if unit not in first.numbers}
    notes += [f"{unit.title}: left out, {first.path} lacks it" for unit in more]
    notes += [f"{unit.title}: left out, no number ({why})" for unit, why in first.absent.items()]
    found, problems = [], []
    for unit in first.numbers:
        try:
            found += _of_unit(unit, groups, sides, notes)
        except (SamplesDiffer, OtherNumber) as problem:
            problems.append(f"{unit.name}: {problem}")
    if problems:
        raise OutputError(
            f"The runs are not of the same: {joined(problems, '; ')}. Run all with the same suite, version "
            "and data."
        )
    if not found:
        raise OutputError(
            f"{first.path} has no primary metric to compare methods by, a fraction of which more is better"
            f"{': ' if notes else '.'}{name_some(notes)}"
        )
    return found


def _of_unit(
    unit: UnitKey, groups: Sequence[Group], sides: Sequence[Side], notes: list[str]
) -> list[SetNumbers]:
    first = sides[0]
    keys = [check_same_number(unit, first, side) for side in sides[1:]]
    by = "key" if set(keys) == {"key"} else "content_id"
    runs = RunsOfUnit(tuple(side.folders[unit] for side in sides), by)
    found = []
    for name, record in first.numbers[unit].items():
        metric = record.measure
        if not (record.primary and metric.unit == "fraction" and metric.better == "higher"):
            continue
        try:
            numbers = runs.numbers(name)
        except Unknown as unknown:
            notes.append(f"{unit.title}: {metric.title} left out ({unknown})")
            continue
        for side, number in zip(sides, numbers, strict=True):
            if name not in side.numbers[unit]:
                raise OtherNumber(f"{side.path} lacks {metric.title}")
            require_value(side.numbers[unit][name], number.value, side.folders[unit])
        ends = np.cumsum([len(group.runs) for group in groups])
        values = tuple(
            tuple(numbers[end - len(group.runs) : end]) for group, end in zip(groups, ends, strict=True)
        )
        subset = any(side.numbers[unit][name].subset for side in sides)
        one = SetNumbers(unit=unit, metric=metric, images=record.n or 0, values=values, subset=subset)
        found.append(one)
        notes += [f"{unit.title}: part of the split"] * subset
    return found


def _beside(
    baseline: Group,
    candidate: Group,
    sets: Sequence[tuple[SetNumbers, tuple[ByImage, ...], tuple[ByImage, ...]]],
    rule: Rule,
    pairing: Pairing,
) -> MethodComparison:
    order, said = candidate.paired_with(baseline, pairing)
    runs = range(len(candidate.runs)) if order is None else order
    rows = [
        MethodRow(
            title=one.unit.title,
            unit=one.unit,
            metric=one.metric.label,
            baseline=np.array([number.value for number in before]),
            candidate=np.array([after[k].value for k in runs]),
            varied=vary(before, [after[k] for k in runs], paired=order is not None),
        )
        for one, before, after in sets
    ]
    datasets = np.unique([one.unit.dataset for one, *_ in sets], return_inverse=True)[1].astype(np.int64)
    mean = MethodRow(
        title=f"mean of {len(rows)} sets",
        unit=None,
        metric="",
        baseline=np.mean([row.baseline for row in rows], axis=0),
        candidate=np.mean([row.candidate for row in rows], axis=0),
        varied=mean_of([row.varied for row in rows], datasets),
    )
    return _judged(baseline, candidate, said, rows, mean, rule)


def _judged(
    baseline: Group,
    candidate: Group,
    pairing: str,
    rows: Sequence[MethodRow],
    mean: MethodRow,
    rule: Rule,
) -> MethodComparison:
    adjusted = holm(np.array([row.varied.worse for row in rows]))
    weak = min(len(baseline.runs), len(candidate.runs)) < FEW_FOR_A_VERDICT
    told = []
    for row, p in zip(rows, adjusted, strict=True):
        value, reach = row.varied.value, row.varied.reach()
        regressed = p <= rule.level and value - reach <= -rule.margin
        verdict: SetVerdict = "unresolved"
        if regressed:
            verdict = "regressed"
        elif value - reach > -rule.margin:
            verdict = "worse within the margin" if value + reach < 0 else "not worse"
        told.append(MethodRow(**{**row.__dict__, "worse": float(p), "verdict": None if weak else verdict}))
    value, reach = mean.varied.value, mean.varied.reach()
    found, why = _verdict(value - reach, value + mean.varied.reach(rule.level), told, rule)
    said: MethodVerdict = found
    if weak:
        said = "WEAK EVIDENCE"
        why = (
            f"two seeds of a method do not tell how much seeds vary, so that there is no verdict on "
            f"methods; {FEW_FOR_A_VERDICT} seeds of each are the fewest for one, five are better"
        )
    return MethodComparison(
        baseline=baseline,
        candidate=candidate,
        pairing=pairing,
        verdict=said,
        why=why,
        rows=tuple(told),
        mean=mean,
    )


def _verdict(low: float, high: float, rows: Sequence[MethodRow], rule: Rule) -> tuple[Verdict, str]:
    """Return verdict and reason from the ends of the mean's interval, as `gate.judge` does."""
    regressed = [row.title for row in rows if row.verdict == "regressed"]
    reasons = [f"the mean is at least {_points(-high)} lower"] * (high < -rule.margin)
    reasons += [f"regressed: {', '.join(regressed)}"] * bool(regressed)
    if reasons:
        return "REGRESSION", "; ".join(reasons)
    if low > -rule.margin:
        least = f"at least {_points(low)} higher" if low > 0 else f"at most {_points(-low)} lower"
        return "PASS", f"the mean is {least}, and no set regressed"
    return (
        "INCONCLUSIVE",
        f"the interval of the mean, {100 * low:+.2f} to {100 * high:+.2f} points, holds the margin",
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f} points"
