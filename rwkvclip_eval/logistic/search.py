"""The search for λ on a validation split, as CLIP does it (Radford et al. 2021, arXiv:2103.00020, A.3).

The grid has 97 points from 1e-6 to 1e6, eight a decade. Policy `clip` is the parametric binary search:
seven seeds, then twice as close around the best, until neighbours. Policy `grid` tries every point. Equal
scores: the larger λ.

Every strength that is tried is solved, to `SEARCH_GAP`: a score is a step function of the weights, and
nothing that is known before the optimum says on which side of it a strength will end. A gap moves the weights
by at most ‖ΔW‖ ≤ √(2 gap / λ), at this gap about 1e-5 of their length, so a score is that of the optimum but
for samples that lie as close to a boundary. A strength that could not be solved so far keeps the score where
it ended, and `Search.unsolved` counts it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from rwkvclip_eval.errors import ConfigError
from rwkvclip_eval.logistic.lbfgs import fit_lbfgs
from rwkvclip_eval.logistic.problem import check_pair
from rwkvclip_eval.logistic.solution import Solution, Status, scores
from rwkvclip_eval.logistic.solver import Solver
from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

SEARCH_GAP = 1e-10
"""Relative gap, as `Certificate` measures it, to which strengths are solved."""

ACCEPTABLE_GAP = 1e-7
"""Gap at which a strength counts as solved where float64 knows no better."""

GRID_STEPS = 96
SEED_STEPS = 16


def clip_grid() -> list[float]:
    """Return the 97 strengths 1e-6 … 1e6, ascending."""
    return [10.0 ** (step / 8 - 6) for step in range(GRID_STEPS + 1)]


@dataclass(frozen=True, kw_only=True)
class SearchPoint:
    """One strength of a search.

    Attributes:
        l2: as in `Solution`.
        score: on the validation split.
        objective: as in `Solution`.
        gap: as in `Solution`.
        iterations: as in `Solution`.
        status: as in `Solution`.
    """

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
        points: what was tried, by ascending λ.
        best: the point with the best score; among equals the one with the largest λ.
        at_edge: the best λ is the smallest or largest of the grid: the true peak may lie outside.
    """

    points: tuple[SearchPoint, ...]
    best: SearchPoint
    at_edge: bool

    @property
    def unsolved(self) -> int:
        """Strengths whose score is not known to be that of an optimum."""
        return sum(point.status != "converged" for point in self.points)


def search_l2(
    train_x: NDArray[Any],
    train_y: NDArray[np.integer[Any]],
    val_x: NDArray[Any],
    val_y: NDArray[np.integer[Any]],
    *,
    num_classes: int,
    metric: Callable[[NDArray[np.float64], NDArray[np.integer[Any]]], float],
    policy: Literal["clip", "grid"] = "clip",
    method: Literal["certified", "lbfgs"] = "certified",
    multilabel: bool = False,
    relative_gap: float = SEARCH_GAP,
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
        val_y: labels of `val_x`.
        num_classes: classes in all.
        metric: (scores [m, num_classes] float64, val_y) → score from 0 to 1, larger is better.
        policy: which points of the grid to try.
        method: optima with proven gaps, or CLIP's capped L-BFGS (`lbfgs.py`).
        multilabel: independent binary problems.
        relative_gap: as in `fit_logistic`.
        memory_budget: bytes for what is allocated beside the features.
        device: where products are computed.
        dtype: precision to begin in, as in `fit_logistic`.
        on_progress: called with (strengths settled, strengths in all or their upper bound).

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

    def settle(steps: Iterable[int]) -> None:
        steps = [step for step in steps if step not in tried]
        before = len(tried)
        report = (lambda done, _: on_progress(before + done, total)) if on_progress is not None else None
        strengths = [grid[step] for step in steps]
        if solver is None:
            solved = fit_lbfgs(train_x, train_y, strengths, on_progress=report, **common)
        else:
            solved = solver.fit(
                strengths,
                start=[_between(step, tried) for step in steps],
                relative_gap=relative_gap,
                acceptable_gap=ACCEPTABLE_GAP,
                on_progress=report,
            )
        for step, solution in zip(steps, solved, strict=True):
            logits = scores(val_x, solution, memory_budget=memory_budget, device=device)
            tried[step] = _point(solution, float(metric(logits, val_y))), solution

    # From the strongest on, each from the one before: from zero a weak one takes twice as long.
    for step in reversed(range(0, GRID_STEPS + 1, SEED_STEPS)):
        settle([step])
    if policy == "grid":
        settle(range(len(grid)))
    else:
        width = SEED_STEPS // 2
        while width:
            peak = _best(tried)
            settle(step for step in (peak - width, peak + width) if 0 <= step <= GRID_STEPS)
            width //= 2
    best = _best(tried)
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
    """Return a start for `step`: its nearest neighbours' solutions, mixed by their distance in log λ.

    That of the next stronger one alone where there is no weaker, and none for the strongest.
    """
    lower = max((other for other in tried if other < step), default=None)
    upper = min((other for other in tried if other > step), default=None)
    if upper is None:
        return None
    if lower is None:
        return tried[upper][1]
    share = (step - lower) / (upper - lower)
    low, high = tried[lower][1], tried[upper][1]
    return replace(
        low,
        weight=torch.lerp(low.weight, high.weight, share),
        intercept=torch.lerp(low.intercept, high.intercept, share),
    )
