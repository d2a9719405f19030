"""The gate's verdict on a candidate: PASS, REGRESSION, INCONCLUSIVE or AMBIGUOUS.

One difference a set stands in, each of the same weight; the sets are held fixed. With margin m and level α:

    REGRESSION  the interval of the suite's mean difference lies below −m; or some set regressed: it is
                significantly worse after Holm's correction over all sets, and its interval reaches −m
    PASS        the interval of the mean lies above −m and no set regressed
    INCONCLUSIVE  neither
    AMBIGUOUS   a repeat of the baseline differs from it by as much as decides

A model beside itself (equal fingerprints, equal answers) is a PASS whatever the size of the sets: what cannot
differ on any images needs no interval.

Errors, as simulated in `tests/compare/test_gate_errors.py`: REGRESSION where nothing differs in at most α of
cases, of which each of its two clauses spends half, one-sided; PASS where the true mean difference is −m in
at most 2.5 %. A set whose interval is too wide for the margin is `unresolved`, and holds nothing up.

Numbers of one dataset come from the same images, so that their distances add as they are; those of different
datasets add as squares.

Axes: R repetitions, K sets, G datasets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from rwkvclip_eval.compare.significance import holm
from rwkvclip_eval.metrics.intervals import Z

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.difference import Difference

MARGIN = 0.005
ALPHA = 0.05

Verdict = Literal["PASS", "REGRESSION", "INCONCLUSIVE", "AMBIGUOUS"]
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 3, "AMBIGUOUS": 3}

SetVerdict = Literal["regressed", "not worse", "worse within the margin", "unresolved", "within the noise"]


class Rule(NamedTuple):
    """What a verdict is by.

    Attributes:
        margin: loss that is of no consequence, as a fraction.
        alpha: chance of REGRESSION where nothing differs, at most.
    """

    margin: float = MARGIN
    alpha: float = ALPHA

    @property
    def level(self) -> float:
        """One-sided level of each of the two clauses of REGRESSION."""
        return self.alpha / 2


DEFAULT_RULE = Rule()


@dataclass(frozen=True, kw_only=True)
class Gated:
    """One difference that the verdict is about.

    Attributes:
        name: of the set, as tables show it.
        dataset: what names its images; equal for numbers that share them.
        difference: candidate − baseline.
        repeat: of the baseline's repeat − baseline; None where there is none.
    """

    name: str
    dataset: str
    difference: Difference
    repeat: Difference | None = None

    @property
    def noise(self) -> float:
        """Difference that mere repetition makes: the one seen, or what as many flips may add up to."""
        if self.repeat is None:
            return 0.0
        flips = Z * math.sqrt(self.repeat.variance) if self.repeat.flips else 0.0
        return max(abs(self.repeat.value), flips)


class Found(NamedTuple):
    """What the rule finds in R repetitions.

    Attributes:
        regressed: [R, K] bool.
        mean_low: [R] lower end of the interval of the mean difference, half an image beyond the sets' own.
        mean_high: [R] its upper end, the same, one-sided at the clause's level.
        below: [R] bool, the whole interval lies below the margin.
        above: [R] bool, it lies above.
    """

    regressed: NDArray[np.bool_]
    mean_low: NDArray[np.float64]
    mean_high: NDArray[np.float64]
    below: NDArray[np.bool_]
    above: NDArray[np.bool_]

    @property
    def regression(self) -> NDArray[np.bool_]:
        """[R] bool."""
        return self.below | self.regressed.any(axis=1)

    @property
    def passed(self) -> NDArray[np.bool_]:
        """[R] bool."""
        return self.above & ~self.regressed.any(axis=1)


class Outcomes(NamedTuple):
    """Differences as drawn or observed.

    Attributes:
        value: [R, K].
        low: [R, K] lower end of its interval.
        high: [R, K] upper end.
        worse: [R, K] one-sided p that the candidate is worse.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    worse: NDArray[np.float64]


def apply(rule: Rule, outcomes: Outcomes, datasets: NDArray[np.int64], fewest: NDArray[np.float64]) -> Found:
    """Return what the rule finds.

    Args:
        rule: margin and level.
        outcomes: of the K sets.
        datasets: [K] number of each set's dataset.
        fewest: [K] images, see `Difference`.
    """
    from scipy import special

    num_sets = outcomes.value.shape[1]
    mean = outcomes.value.mean(axis=1)

    def reach(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        # Images are whole: without half of one, up to 2.7 % pass at a true loss of the margin.
        half = 0.5 * (distances**2 @ (1 / fewest)) / np.maximum((distances**2).sum(axis=1), 1e-300)
        found: NDArray[np.float64] = (together(distances, datasets) + half) / num_sets
        return found

    low = mean - reach(outcomes.value - outcomes.low)
    # The intervals' own level is 95 %; another one's distances are as those of a normal distribution.
    scale = -float(special.ndtri(rule.level)) / Z
    high = mean + scale * reach(outcomes.high - outcomes.value)
    regressed = (holm(outcomes.worse) <= rule.level) & (outcomes.low <= -rule.margin)
    return Found(regressed, low, high, below=high < -rule.margin, above=low > -rule.margin)


def together(distances: NDArray[np.float64], datasets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [R], the distance of a sum from [R, K] distances: see the top of this file."""
    members = np.zeros((len(datasets), int(datasets.max()) + 1))
    members[np.arange(len(datasets)), datasets] = 1
    total: NDArray[np.float64] = np.sqrt(((distances @ members) ** 2).sum(axis=1))
    return total


def numbered(sets: Sequence[Gated]) -> NDArray[np.int64]:
    """Return [K], the number of each set's dataset."""
    return np.unique([one.dataset for one in sets], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict with what it rests on.

    Attributes:
        verdict: see the top of this file.
        why: in words.
        mean: of the K differences.
        low: lower end of the mean's interval, 97.5 % one-sided.
        high: upper end, one-sided at `Rule.level`.
        noise: of the mean, see `Gated.noise`; None where it was not measured.
        sets: verdict on each set.
        adjusted: [K] one-sided p by Holm.
    """

    verdict: Verdict
    why: str
    mean: float
    low: float
    high: float
    noise: float | None
    sets: tuple[SetVerdict, ...]
    adjusted: NDArray[np.float64]

    @property
    def exit_code(self) -> int:
        """Of a command that ends with this verdict."""
        return EXIT_CODES[self.verdict]


def judge(sets: Sequence[Gated], rule: Rule = DEFAULT_RULE, *, one_model: bool = False) -> Judgement:
    """Return the verdict on `sets`, of which there is one at least, each with a significance.

    Args:
        sets: one difference each.
        rule: margin and level.
        one_model: baseline and candidate have the same fingerprint.
    """
    observed = np.array([one.difference[:3] for one in sets])
    worse = np.array([one.difference.significance.worse for one in sets if one.difference.significance])
    value, low, high = observed.T[:, None]
    outcomes = Outcomes(value, low, high, worse[None])
    found = apply(rule, outcomes, numbered(sets), np.array([one.difference.fewest for one in sets]))
    noise = np.array([one.noise for one in sets])
    measured = _noise_of_mean(sets, noise)
    mean_noise = measured or 0.0
    mean, lowest, highest = (float(x[0]) for x in (value.mean(axis=1), found.mean_low, found.mean_high))
    quiet = np.abs(observed[:, 0]) > noise
    regressed = found.regressed[0] & quiet
    verdicts = tuple(
        _on_set(one.difference, rule, bool(hit), bool(heard))
        for one, hit, heard in zip(sets, found.regressed[0], quiet, strict=True)
    )
    drowned = [one.name for one, hit in zip(sets, found.regressed[0] & ~quiet, strict=True) if hit]
    verdict: Verdict
    reasons = []
    if found.below[0] and abs(mean) > mean_noise:
        reasons.append(f"the mean is {_points(-mean)} lower, and at least {_points(-highest)}")
    if regressed.any():
        names = (one.name for one, hit in zip(sets, regressed, strict=True) if hit)
        reasons.append(f"regressed: {', '.join(names)}")
    if reasons:
        verdict, why = "REGRESSION", "; ".join(reasons)
    elif found.below[0] or drowned:
        what = ["the mean"] * bool(found.below[0]) + drowned
        verdict, why = "AMBIGUOUS", f"repeating the baseline alone moves as much: {', '.join(what)}"
    elif 0 < mean_noise >= rule.margin and lowest - mean_noise <= -rule.margin:
        verdict = "AMBIGUOUS"
        why = f"repeating the baseline moves the mean by up to {_points(mean_noise)}, no less than the margin"
    elif one_model and all(one.difference.is_none for one in sets):
        verdict, why = "PASS", "both runs are of one model, and it gave the same answers"
    elif found.above[0]:
        least = "not lower" if lowest >= 0 else f"at most {_points(-lowest)} lower"
        verdict, why = "PASS", f"the mean is {least}, and no set regressed"
    else:
        verdict = "INCONCLUSIVE"
        why = f"the interval of the mean, {100 * lowest:+.2f} to {_points(highest, '+')}, holds the margin"
    return Judgement(
        verdict=verdict,
        why=why,
        mean=mean,
        low=lowest,
        high=highest,
        noise=measured,
        sets=verdicts,
        adjusted=holm(worse),
    )


def _noise_of_mean(sets: Sequence[Gated], noise: NDArray[np.float64]) -> float | None:
    repeats = [one.repeat.value for one in sets if one.repeat is not None]
    if not repeats:
        return None
    flips = together(noise[None], numbered(sets)) / len(sets)
    return max(abs(math.fsum(repeats) / len(sets)), float(flips[0]))


def _on_set(difference: Difference, rule: Rule, regressed: bool, heard: bool) -> SetVerdict:
    if regressed:
        return "regressed" if heard else "within the noise"
    if difference.low > -rule.margin:
        return "worse within the margin" if difference.high < 0 else "not worse"
    return "unresolved"


def _points(fraction: float, sign: str = "") -> str:
    return f"{100 * fraction:{sign}.2f} points"
