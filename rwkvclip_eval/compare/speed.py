"""Two measurements of speed → a verdict on the candidate: FASTER, SLOWER, SAME or AMBIGUOUS.

The gate's rules (`gate.py`), on ratios of rates. With margin m (1.05 for 5 %) and level α:

    a cell    SAME where its 95 % interval lies within 1/m to m; SLOWER or FASTER where it does not and the
              difference is significant after Holm's correction over all cells, α/2 each way; else AMBIGUOUS
    all       SLOWER where a cell is, where the candidate lost a cell that the baseline has (it failed there,
              or set out to measure it and did not), or where the interval of the mean over the cells lies
              below 1/m; else SAME or FASTER by that interval

A cell that either run marked as noisy, or measured fewer than five times, is judged by none; where those are
more than the others there is no verdict. Repeats tell how much times vary within a run. What changes between
two runs (heat, neighbours) is in no interval: a repeat of the baseline shows it, and so do ratios to a model
that both runs measured in turns with the candidate (`of="speed-up"`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rwkvclip_eval.compare.significance import holm
from rwkvclip_eval.compare.speed_side import Line
from rwkvclip_eval.errors import OutputError, name_some
from rwkvclip_eval.metrics.ratios import (
    LEAST_REPEATS,
    LogRatio,
    SpeedVerdict,
    margin_of,
    mean_ratio,
    unpaired_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rwkvclip_eval.compare.speed_side import SpeedSide
    from rwkvclip_eval.metrics.ratios import Estimate
    from rwkvclip_eval.records.efficiency import Cell

EXIT_CODES: dict[SpeedVerdict, int] = {"FASTER": 0, "SAME": 0, "SLOWER": 1, "AMBIGUOUS": 3}
ALPHA = 0.05
Of = Literal["rate", "speed-up"]
NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One model in one cell of both runs.

    Attributes:
        cell: what was measured.
        baseline: of the one run.
        candidate: of the other.
        ratio: the candidate's rate by the baseline's; None where either has no interval.
        verdict: on it; AMBIGUOUS where it is not judged.
        why: it is not judged, or ambiguous; empty otherwise.
    """

    cell: Cell
    baseline: Line
    candidate: Line
    ratio: LogRatio | None
    verdict: SpeedVerdict
    why: str = ""

    @property
    def judged(self) -> bool:
        """Whether the verdict on all rests on it."""
        return self.ratio is not None and not self.why.startswith(NOT_JUDGED)


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """What is said of a candidate's speed.

    Attributes:
        baseline: the one.
        candidate: the other.
        of: what the ratios are of.
        margin: relative difference that is of no consequence, 0.05 for 5 %.
        verdict: on all.
        why: in words.
        mean: ratio over the cells judged; None where there is none.
        rows: every cell and model that both have a number of.
        notes: what differs between the runs, and what is not compared.
    """

    baseline: SpeedSide
    candidate: SpeedSide
    of: Of
    margin: float
    verdict: SpeedVerdict
    why: str
    mean: LogRatio | None
    rows: Sequence[SpeedRow]
    notes: Sequence[str]

    @property
    def exit_code(self) -> int:
        """0 FASTER or SAME, 1 SLOWER, 3 AMBIGUOUS."""
        return EXIT_CODES[self.verdict]


def compare_speed(
    baseline: SpeedSide,
    candidate: SpeedSide,
    repeat: SpeedSide | None = None,
    *,
    margin: float | None = None,
    of: Of = "rate",
) -> SpeedComparison:
    """Return what can be said of `candidate` beside `baseline`.

    Models go by their names; where each run holds one, by being that one.

    Args:
        baseline: what is compared with.
        candidate: what is judged.
        repeat: the baseline measured again: a difference no larger than its own is AMBIGUOUS.
        margin: relative difference that is of no consequence; 0.05 on a CPU, 0.03 elsewhere by default.
        of: rates, or the speed-ups beside the last model of each run.

    Raises:
        OutputError: they have no cell in common that both have numbers of, or their speed-ups are beside
            other models.
    """
    if margin is None:
        margin = margin_of(baseline.conditions["device"])
    pairs = _pairs(baseline, candidate)
    again = {(one.cell, one.model): other for one, other in _pairs(baseline, repeat)} if repeat else {}
    if of == "speed-up":
        _check_references(baseline, candidate)
        # The model that others are beside has none.
        pairs = [pair for pair in pairs if any(line.speed_up or line.rate is None for line in pair)]
    rows = _rows(pairs, again, margin, of)
    lost = [other for one, other in pairs if one.rate is not None and other.rate is None]
    if not rows and not lost:
        raise OutputError(
            f"{baseline.path} and {candidate.path} have no cell in common that both measured: "
            f"{name_some(_kinds(baseline))} against {name_some(_kinds(candidate))}. Measure both with the "
            "same models, --tower, --size, --tokens, --batch-size and --precision."
        )
    ratios = [row.ratio for row in rows if row.ratio is not None and row.judged]
    mean = mean_ratio(ratios) if ratios else None
    judged = [row.baseline for row in rows if row.judged]
    chances = [_chance(one, again.get((one.cell, one.model)), of) for one in judged]
    verdict, why = _verdict(rows, lost, mean, margin, sum(chances) / max(1, len(chances)))
    return SpeedComparison(
        baseline=baseline,
        candidate=candidate,
        of=of,
        margin=margin,
        verdict=verdict,
        why=why,
        mean=mean,
        rows=rows,
        notes=tuple(_notes(baseline, candidate, pairs)),
    )


def _check_references(baseline: SpeedSide, candidate: SpeedSide) -> None:
    """Check that speed-ups are beside the same model.

    Raises:
        OutputError: they are not.
    """
    first, second = (side.models[-1] for side in (baseline, candidate))
    if first != second:
        raise OutputError(
            f"{baseline.path} and {candidate.path} have speed-ups beside other models, {first} and {second}. "
            "Name the same model last in both, or compare --of rate."
        )


def _pairs(baseline: SpeedSide, candidate: SpeedSide) -> list[tuple[Line, Line]]:
    """Return what both sides say of each model in each cell that both name, or set out to measure."""
    one_each = len(baseline.models) == len(candidate.models) == 1
    other = {name: candidate.models[0] if one_each else name for name in baseline.models}
    measured = {cell for cell, _ in candidate.lines}
    found = []
    for (cell, model), line in baseline.lines.items():
        name = other[model]
        if (cell, name) in candidate.lines:
            found.append((line, candidate.lines[cell, name]))
        elif cell.key in candidate.planned and cell not in measured and name in candidate.models:
            found.append((line, _not_measured(line, name)))
    return found


def _not_measured(line: Line, model: str) -> Line:
    reason = "its run.json lists the cell, of which it holds no measurement"
    return Line(
        cell=line.cell,
        model=model,
        status="not_measured",
        rate=None,
        speed_up=None,
        noisy="",
        reason=reason,
        implementation="",
    )


def _rows(
    pairs: Sequence[tuple[Line, Line]],
    again: Mapping[tuple[Cell, str], Line],
    margin: float,
    of: Of,
) -> list[SpeedRow]:
    found = [(one, other, *_ratio(one, other, of)) for one, other in pairs if one.rate and other.rate]
    judged = [ratio for *_, ratio, why in found if ratio is not None and not why]
    slower, faster = (
        iter(holm(np.array([getattr(ratio, p) for ratio in judged], np.float64)))
        for p in ("p_below", "p_above")
    )
    rows = []
    for one, other, ratio, why in found:
        verdict: SpeedVerdict = "AMBIGUOUS"
        if ratio is not None and not why:
            verdict = _cell_verdict(ratio, float(next(slower)), float(next(faster)), margin)
            why = "" if verdict != "AMBIGUOUS" else "the interval holds 1 and reaches beyond the margin"
            chance = _chance(one, again.get((one.cell, one.model)), of)
            if verdict in ("SLOWER", "FASTER") and abs(ratio.mean) <= abs(chance):
                verdict, why = "AMBIGUOUS", f"the baseline's repeat differs by {_percent(chance)}"
        rows.append(
            SpeedRow(cell=one.cell, baseline=one, candidate=other, ratio=ratio, verdict=verdict, why=why)
        )
    return rows


def _ratio(one: Line, other: Line, of: Of) -> tuple[LogRatio | None, str]:
    """Return the ratio, and why it is not judged."""
    a, b = _estimate(one, of), _estimate(other, of)
    if a is None or b is None:
        return None, f"{NOT_JUDGED}: no {of}"
    noisy = [
        f"{side}: {line.noisy}" for side, line in (("baseline", one), ("candidate", other)) if line.noisy
    ]
    ratio = unpaired_ratio(b, a) if min(a.n, b.n) > 1 else None
    if noisy:
        return ratio, f"{NOT_JUDGED}, too noisy: {'; '.join(noisy)}"
    few = min(a.n, b.n) < LEAST_REPEATS
    return ratio, f"{NOT_JUDGED}: {min(a.n, b.n)} repeats; a verdict needs {LEAST_REPEATS}" if few else ""


def _estimate(line: Line, of: Of) -> Estimate | None:
    return line.rate if of == "rate" else line.speed_up


def _chance(one: Line, again: Line | None, of: Of) -> float:
    """Return the logarithm of the ratio of the baseline's repeat to it; 0 without one."""
    a, b = _estimate(one, of), _estimate(again, of) if again else None
    return 0.0 if a is None or b is None else math.log(b.value / a.value)


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):+.1f} %"


def _cell_verdict(ratio: LogRatio, slower: float, faster: float, margin: float) -> SpeedVerdict:
    low, high = ratio.ends()
    if low >= 1 / (1 + margin) and high <= 1 + margin:
        return "SAME"
    if slower <= ALPHA / 2:
        return "SLOWER"
    return "FASTER" if faster <= ALPHA / 2 else "AMBIGUOUS"


def _verdict(
    rows: Sequence[SpeedRow], lost: Sequence[Line], mean: LogRatio | None, margin: float, chance: float
) -> tuple[SpeedVerdict, str]:
    judged = [row for row in rows if row.judged]
    slow = [f"{row.baseline.model}, {row.cell.label}" for row in judged if row.verdict == "SLOWER"]
    if lost:
        told = [f"{line.model}, {line.cell.label} ({line.reason or line.status})" for line in lost]
        return "SLOWER", f"of what the baseline has, {_count(lost, 'cell')} lost: {name_some(told)}"
    if slow:
        return "SLOWER", f"slower in {len(slow)} of {_count(judged, 'cell')}: {name_some(slow)}"
    if mean is None or 2 * len(judged) < len(rows):
        why = name_some(dict.fromkeys(row.why for row in rows if not row.judged))
        return "AMBIGUOUS", f"{len(judged)} of {_count(rows, 'cell')} can be judged; {why}"
    low, high = mean.ends()
    if low >= 1 / (1 + margin) and high <= 1 + margin:
        return "SAME", "the interval of the mean lies within the margin, and no cell is slower"
    if abs(mean.mean) <= abs(chance):
        return "AMBIGUOUS", f"the mean of the baseline's repeat differs by {_percent(chance)}"
    if high < 1 / (1 + margin):
        return "SLOWER", "the interval of the mean lies below the margin"
    if low > 1:
        return "FASTER", "the interval of the mean lies above 1, and no cell is slower"
    return "AMBIGUOUS", "the interval of the mean reaches beyond the margin"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _kinds(side: SpeedSide) -> list[str]:
    return [f"{model}, {cell.label}" for cell, model in side.lines]


def _notes(baseline: SpeedSide, candidate: SpeedSide, pairs: Sequence[tuple[Line, Line]]) -> Iterator[str]:
    for name, value in baseline.conditions.items():
        other = candidate.conditions[name]
        if value != other:
            yield f"Not the same {name}: {value or 'unknown'} against {other or 'unknown'}."
    renamed = dict.fromkeys((one.model, other.model) for one, other in pairs if one.model != other.model)
    yield from (f"{one} is compared with {other}: each run holds one model." for one, other in renamed)
    changed: dict[str, list[str]] = {}
    for line, now in pairs:
        if line.implementation != now.implementation and line.rate and now.rate:
            how = f"{line.model}: {line.implementation or 'none'} against {now.implementation or 'none'}"
            changed.setdefault(how, []).append(line.cell.label)
    yield from (f"Other implementation in {name_some(cells)}. {how}." for how, cells in changed.items())
    both = [[pair[side] for pair in pairs] for side in range(2)]
    for side, common, said in zip((baseline, candidate), both, ("baseline", "candidate"), strict=True):
        named = {(line.cell, line.model) for line in common}
        own = [f"{model}, {cell.label}" for cell, model in side.lines if (cell, model) not in named]
        if own:
            yield f"Only the {said} has {_count(own, 'cell')}: {name_some(own)}."
    gained = [f"{one.model}, {one.cell.label}" for one, other in pairs if other.rate and not one.rate]
    if gained:
        yield f"The baseline has no number of {_count(gained, 'cell')}: {name_some(gained)}."
