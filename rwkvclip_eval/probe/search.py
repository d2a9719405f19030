"""The search for λ on a validation split, as CLIP does it (Radford et al. 2021, arXiv:2103.00020, A.3).

The grid has 97 points from 1e-6 to 1e6, eight a decade. Policy `clip` is the parametric binary search:
seven seeds, then twice as close around the best, until neighbours. Policy `grid` tries every point. Equal
scores: the larger λ.

A score is a step function of the weights: a validation sample near a boundary may fall on either side
before the optimum is reached. So strengths that may win are solved to `CONTENDER_GAP` (`RELATIVE_GAP` is
good enough where more is out of reach). The others are `stopped_early`, at one of the rough gaps of
`SLACK` or where float32 did not solve them, when their score there is worse than the best so far by the
slack or more. This is a rule of thumb: a proven gap bounds how far the weights can still move,
‖ΔW‖ ≤ √(2 gap / λ), but not what that does to a score; on the problems of `tests/probe/test_search.py` the
score there differs from that at the optimum by less than a third of the slack. The score kept for such a
strength is the one where it stopped. It neither steers the search nor wins it: a peak that was stopped
early is solved before anything follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from rwkvclip_eval.errors import ConfigError
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.probe.lbfgs import fit_lbfgs
from rwkvclip_eval.probe.logistic import RELATIVE_GAP, Solver
from rwkvclip_eval.probe.problem import check_pair
from rwkvclip_eval.probe.solution import Solution, Status, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

CONTENDER_GAP = 1e-8
SLACK = {1e-2: 0.035, 1e-3: 0.015, 1e-4: 0.008, 1e-5: 0.004}
"""Proven relative gap (as in `Certificate`) → distance from the best score, of scores from 0 to 1."""

SLACK_AFTER_FLOAT32 = 0.075
"""The same whatever the gap, where float32 did not solve a strength."""

GRID_STEPS = 96
SEED_STEPS = 16


def clip_grid() -> list[float]:
    """Return the 97 strengths 1e-6 … 1e6, ascending."""
    return [10.0 ** (step / 8 - 6) for step in range(GRID_STEPS + 1)]


def slack(relative: float, best: float, num_val: int) -> float:
    """Return how far below the `best` score a strength is given up at a proven gap of `relative`.

    At most half the best score, for low scores move less; at least three validation samples.
    """
    widest = min((SLACK[gap] for gap in SLACK if relative <= gap), default=SLACK_AFTER_FLOAT32)
    return max(min(widest, best / 2), 3 / num_val)


@dataclass(frozen=True, kw_only=True)
class SearchPoint:
    """One strength of a search: `score` on the validation split, the rest as in `Solution`."""

    l2: float
    score: float
    objective: float
    gap: float
    iterations: int
    status: Status


@dataclass(frozen=True, kw_only=True)
class Search:
    """A finished search.

    Attributes:
        points: What was tried, by ascending λ.
        best: The point with the best score; among equals the one with the largest λ.
        at_edge: The best λ is the smallest or largest of the grid: the true peak may lie outside.
    """

    points: tuple[SearchPoint, ...]
    best: SearchPoint
    at_edge: bool


def search_l2(
    train_x: NDArray[Any],
    train_y: NDArray[np.integer[Any]],
    val_x: NDArray[Any],
    val_y: NDArray[np.integer[Any]],
    *,
    num_classes: int,
    metric: Callable[[NDArray[np.float32], NDArray[np.integer[Any]]], float],
    policy: Literal["clip", "grid"] = "clip",
    method: Literal["certified", "lbfgs"] = "certified",
    multilabel: bool = False,
    relative_gap: float = CONTENDER_GAP,
    memory_budget: int = MEMORY_BUDGET,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_progress: Callable[[int, int], None] | None = None,
) -> Search:
    """Find the λ of the grid with the best score on the validation split.

    Args:
        train_x: [n, F] features to fit.
        train_y: [n] classes, or [n, num_classes] 0/1 with `multilabel`.
        val_x: [m, F] features to score.
        val_y: Labels of `val_x`.
        num_classes: Classes in all.
        metric: (scores [m, num_classes] float32, val_y) → score from 0 to 1, larger is better.
        policy: Which points of the grid to try.
        method: Optima with proven gaps, or CLIP's capped L-BFGS (`lbfgs.py`).
        multilabel: Independent binary problems.
        relative_gap: As in `fit_logistic`, for strengths that may win.
        memory_budget: Bytes for what is allocated beside the features.
        device: Where products are computed.
        dtype: Precision to begin in, as in `fit_logistic`.
        on_progress: Called with (strengths settled, strengths in all or their upper bound).

    Raises:
        DamagedData: An empty split, labels outside the range, and what `fit_logistic` raises.
        ConfigError: An unknown policy or method, or a memory budget that is too small.
    """
    if policy not in ("clip", "grid") or method not in ("certified", "lbfgs"):
        raise ConfigError(
            f"Expected policy 'clip' or 'grid' and method 'certified' or 'lbfgs', "
            f"not {policy!r} and {method!r}."
        )
    check_pair(val_x, val_y, num_classes=num_classes, multilabel=multilabel, split="validation")
    common: dict[str, Any] = {
        "num_classes": num_classes,
        "multilabel": multilabel,
        "memory_budget": memory_budget,
        "device": device,
    }
    grid = clip_grid()
    solver = Solver(train_x, train_y, dtype=dtype, **common) if method == "certified" else None
    tried: dict[int, tuple[SearchPoint, Solution]] = {}
    total = len(grid) if policy == "grid" else _clip_total()

    def score(solution: Solution) -> float:
        return float(metric(scores(val_x, solution, memory_budget=memory_budget, device=device), val_y))

    latest: dict[float, float] = {}

    def hopeless(solution: Solution, relative: float) -> bool:
        """Of an unproven point: whether a proof matters, since it falls behind or leads."""
        own = score(solution)
        proven = solution.gap < float("inf")
        if proven:
            latest[solution.l2] = own
        best = max(latest.values(), default=0.0)
        leads = own > best and not proven
        return leads or own <= best - slack(relative, best, len(val_x))

    def settle(steps: Iterable[int]) -> None:
        steps = [step for step in steps if step not in tried]
        before = len(tried)
        report = (lambda done, _: on_progress(before + done, total)) if on_progress is not None else None
        strengths = [grid[step] for step in steps]
        if solver is None:
            solved = fit_lbfgs(train_x, train_y, strengths, on_progress=report, **common)
        else:
            start = [_between(step, tried) for step in steps]
            solved = solver.fit(
                strengths,
                start=start,
                relative_gap=relative_gap,
                acceptable_gap=RELATIVE_GAP,
                rough_gaps=sorted(SLACK, reverse=True),
                enough=hopeless,
                on_progress=report,
            )
        for step, solution in zip(steps, solved, strict=True):
            keep(step, solution)

    def keep(step: int, solution: Solution) -> None:
        latest[solution.l2] = score(solution)
        tried[step] = _point(solution, latest[solution.l2]), solution

    def solved_peak() -> int:
        while tried[peak := _best(tried)][0].status == "stopped_early":
            assert solver is not None, "only the certified solver stops early"
            early = tried[peak][1]
            (solution,) = solver.fit(
                [early.l2], start=[early], relative_gap=relative_gap, acceptable_gap=RELATIVE_GAP
            )
            keep(peak, replace(solution, iterations=early.iterations + solution.iterations))
        return peak

    seeds = range(0, GRID_STEPS + 1, SEED_STEPS)
    settle(seeds)
    if policy == "grid":
        settle(range(len(grid)))
    else:
        width = SEED_STEPS // 2
        while width:
            peak = solved_peak()
            settle(step for step in (peak - width, peak + width) if 0 <= step <= GRID_STEPS)
            width //= 2
    best = solved_peak()
    return Search(
        points=tuple(tried[step][0] for step in sorted(tried)),
        best=tried[best][0],
        at_edge=best in (0, GRID_STEPS),
    )


def _clip_total() -> int:
    """Most strengths that the binary search tries."""
    return GRID_STEPS // SEED_STEPS + 1 + 2 * (SEED_STEPS.bit_length() - 1)


def _best(tried: dict[int, tuple[SearchPoint, Solution]]) -> int:
    return max(tried, key=lambda step: (tried[step][0].score, step))


def _point(solution: Solution, score: float) -> SearchPoint:
    return SearchPoint(
        l2=solution.l2,
        score=score,
        objective=solution.objective,
        gap=solution.gap,
        iterations=solution.iterations,
        status=solution.status,
    )


def _between(step: int, tried: dict[int, tuple[SearchPoint, Solution]]) -> Solution | None:
    """Return a start for `step`: its nearest neighbours' solutions, mixed by their distance in log λ."""
    lower = max((other for other in tried if other < step), default=None)
    upper = min((other for other in tried if other > step), default=None)
    if lower is None or upper is None:
        return None
    share = (step - lower) / (upper - lower)
    low, high = tried[lower][1], tried[upper][1]
    return replace(
        low,
        weight=torch.lerp(low.weight, high.weight, share),
        intercept=torch.lerp(low.intercept, high.intercept, share),
    )
