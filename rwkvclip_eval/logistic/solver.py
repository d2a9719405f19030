"""Multinomial and multilabel logistic regression for many strengths, ended by a certificate.

`fit_logistic` minimises Σ CE + λ/2 ‖W‖² with an unpenalised intercept; of two classes W is one column, as in
scikit-learn (see `problem.py`). Points and products are float32, and go on in float64 (on a CPU beside
anchors, `objective.py`) where float32 cannot reach the wanted gap (weak λ). Of few features, on a CPU,
Newton's method (`newton.py`) takes the place of float32. A strength counts as converged only when
`certificate.py` has proven its gap on the very numbers that are returned.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rwkvclip_eval.errors import ConfigError
from rwkvclip_eval.logistic.basis import make_basis
from rwkvclip_eval.logistic.certificate import balance, certify
from rwkvclip_eval.logistic.descent import descend
from rwkvclip_eval.logistic.newton import MAX_PASSES, follow, newton
from rwkvclip_eval.logistic.objective import WHOLE, Objective, plan
from rwkvclip_eval.logistic.problem import make_problem
from rwkvclip_eval.logistic.solution import Solution, Status, assemble
from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from rwkvclip_eval.logistic.certificate import Certificate


RELATIVE_GAP = 1e-6
MAX_ITERATIONS = 2000

_NEWTONS_LEAST = 100
"""Iterations below which Newton's method, which spends them by the dozen, is not begun with."""

_WAY = 1e12
"""Falls of λ that Newton's method follows; what lies beyond is out of float64's reach."""


class Solver:
    """Training data prepared once, for several calls of `fit` (the rounds of a search).

    Args: as `fit_logistic`.
    """

    def __init__(
        self,
        features: NDArray[Any],
        labels: NDArray[np.integer[Any]],
        *,
        num_classes: int,
        multilabel: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.problem = make_problem(
            features,
            labels,
            num_classes=num_classes,
            multilabel=multilabel,
            memory_budget=memory_budget,
            device=device,
        )
        self.dtype = dtype
        plan(self.problem, 1, torch.float64)
        self.basis = make_basis(self.problem)
        self.passes: dict[torch.dtype, int] = {torch.float32: 0, torch.float64: 0}
        self._objective: tuple[torch.dtype, int, Objective] | None = None

    def fit(
        self,
        l2: Sequence[float],
        *,
        start: Sequence[Solution | None] | None = None,
        relative_gap: float = RELATIVE_GAP,
        max_iterations: int = MAX_ITERATIONS,
        on_progress: Callable[[int, int], None] | None = None,
        acceptable_gap: float = 0.0,
    ) -> list[Solution]:
        """Solve for every strength of `l2`; see `fit_logistic`.

        A strength that stays above `relative_gap` but below `acceptable_gap` counts as converged as well.
        """
        for value in l2:
            if not 0 < value < float("inf"):
                raise ConfigError(f"A regularisation strength must be positive and finite, not {value}.")
        starts = list(start) if start is not None else [None] * len(l2)
        solved: list[Solution] = []
        while len(solved) < len(l2):
            done = len(solved)
            size = plan(self.problem, len(l2) - done, self.dtype).strengths
            group = _Group(self, l2[done : done + size], relative_gap, acceptable_gap)
            group.report = (lambda k, d=done: on_progress(d + k, len(l2))) if on_progress else None
            group.solve(starts[done : done + size], max_iterations)
            solved += group.finished()
        return solved

    def objective(self, dtype: torch.dtype, count: int) -> Objective:
        """Return the objective in `dtype` for up to `count` strengths; one precision is held at a time."""
        if self._objective is None or self._objective[0] != dtype or self._objective[1] < count:
            self._objective = None
            self._objective = (
                dtype,
                count,
                Objective(self.problem, self.basis, dtype, plan(self.problem, count, dtype)),
            )
        return self._objective[2]

    def theta(self, start: Solution | None) -> Tensor:
        """Return `start` as a point [D] float64 in rotated coordinates; without it W = 0, log odds."""
        problem = self.problem
        n, _, num_classes = problem.shape
        point = torch.zeros(self.basis.shape[1] + 1, num_classes, dtype=torch.float64)
        if start is None:
            frequency = problem.counts / n
            point[-1] = frequency.logit() if problem.multilabel else frequency.log()
        else:
            weight = problem.gather(start.weight)
            point[:-1] = self.basis.cpu().T @ weight
            point[-1] = problem.gather(start.intercept) + problem.shift @ weight
        return self.exact(point.to(problem.device).view(-1))

    def origin(self, start: Solution | None) -> float:
        """Return the strength of `start`; without it the one that bends as much as the loss does at W = 0."""
        if start is not None:
            return start.l2
        objective, num_classes = self.objective(torch.float64, 1), self.problem.shape[2]
        return float(objective.curvature(self.theta(None)[None], 0)[0][:, :-num_classes].max())

    def prove(self, theta: Tensor, l2: float, wanted: float) -> tuple[Certificate, Tensor, Tensor]:
        """Balance the intercept at `theta` [D], certify; return weight [F, K] and intercept [K] as well.

        The intercept is balanced well enough for a relative gap of `wanted`.
        """
        weight, intercept = self.split(theta)
        share = min(1.0, l2 / 2 * float(weight.square().sum()) / self.problem.shape[0])
        intercept = balance(self.problem, weight, intercept, max(0.01 * wanted * share, 1e-15))
        return certify(self.problem, weight, intercept, l2), weight, intercept

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight [F, K] and intercept [K], both float64, of the point `theta` [D]."""
        point = self.exact(theta).view(-1, self.problem.shape[2])
        return self.basis @ point[:-1], point[-1]

    def exact(self, theta: Tensor) -> Tensor:
        """Return `theta` [D] in float64, without the weights that all classes share.

        They cost λ and change nothing. Steps keep free of them but for rounding, which float32 adds up.
        """
        point = theta.double()
        if self.problem.multilabel:
            return point
        cube = point.view(-1, self.problem.shape[2]).clone()
        cube[:-1] -= cube[:-1].mean(1, keepdim=True)
        return cube.view(-1)


class _Group:
    """Strengths that are solved together: first in the solver's precision, what is left over in float64."""

    def __init__(
        self, solver: Solver, l2: Sequence[float], relative_gap: float, acceptable_gap: float
    ) -> None:
        self.solver, self.l2 = solver, l2
        self.relative_gap, self.acceptable_gap = relative_gap, acceptable_gap
        self.solutions: list[Solution | None] = [None] * len(l2)
        self.settled = [False] * len(l2)
        self.relative = [float("inf")] * len(l2)
        self.report: Callable[[int], None] | None = None

    def solve(self, starts: Sequence[Solution | None], max_iterations: int) -> None:
        # Weights of a far weaker strength are saturated where this one bends: zero is the better start.
        starts = [
            None if start is not None and start.l2 < 1e-3 * l2 else start
            for start, l2 in zip(starts, self.l2, strict=True)
        ]
        points = [self.solver.theta(start) for start in starts]
        spent = [0] * len(self.l2)
        precisions = dict.fromkeys((self.solver.dtype, torch.float64))
        if self._newton_first(max_iterations):
            del precisions[torch.float32]
            for i, start in enumerate(starts):
                origin = self.solver.origin(start)
                if origin <= _WAY * self.l2[i]:
                    self._newton(i, points, spent, max_iterations // 2, origin)
        for dtype in precisions:
            open_ = [i for i, done in enumerate(self.settled) if not done and spent[i] < max_iterations]
            size = plan(self.solver.problem, len(open_), dtype).strengths if open_ else 1
            for first in range(0, len(open_), size):
                part = open_[first : first + size]
                self._descend(part, dtype, points, spent, max_iterations)
        for i, done in enumerate(self.settled):
            if not done and spent[i] < max_iterations:
                self._newton(i, points, spent, MAX_PASSES)
        for i, done in enumerate(self.settled):
            if not done:
                certificate, weight, intercept = self.solver.prove(points[i], self.l2[i], self.relative_gap)
                status: Status = "unattainable" if certificate.separated else "iteration_limit"
                good_enough = max(self.relative_gap, self.acceptable_gap)
                if min(self.relative[i], certificate.relative) <= good_enough:
                    status = "converged"
                self._keep(i, certificate, weight, intercept, spent[i], status)

    def _descend(
        self, part: list[int], dtype: torch.dtype, points: list[Tensor], spent: list[int], max_iterations: int
    ) -> None:
        before = [spent[i] for i in part]

        def check(j: int, theta: Tensor, estimate: float, iterations: int) -> float | None:
            i = part[j]
            certificate, weight, intercept = self.solver.prove(theta, self.l2[i], self.relative_gap)
            self._keep(i, certificate, weight, intercept, before[j] + iterations, "converged")
            relative = certificate.relative
            if relative <= self.relative_gap:
                self.settled[i] = True
                return None
            # An estimate far below what float64 proves is float32's rounding.
            if dtype != torch.float64 and relative > 10 * estimate:
                return None
            return min(self.relative_gap / 2, estimate / 4)

        objective = self.solver.objective(dtype, len(part))
        passes = objective.passes
        final, iterations = descend(
            objective,
            torch.stack([points[i] for i in part]).to(dtype),
            torch.tensor([self.l2[i] for i in part], dtype=torch.float64, device=self.solver.problem.device),
            trigger=[self.relative_gap / 2] * len(part),
            max_iterations=[max_iterations - spent[i] for i in part],
            check=check,
            on_iteration=self._on_iteration,
        )
        self.solver.passes[dtype] += objective.passes - passes
        for j, i in enumerate(part):
            points[i], spent[i] = self.solver.exact(final[j]), before[j] + iterations[j]

    def _newton_first(self, max_iterations: int) -> bool:
        """Whether Newton's method takes the place of float32: few features, and the memory for it."""
        solver = self.solver
        return (
            solver.dtype == torch.float32
            and max_iterations >= _NEWTONS_LEAST
            and solver.problem.shape[1] <= WHOLE
            and self._probabilities_fit()
            and solver.objective(torch.float64, 1).whole
        )

    def _probabilities_fit(self) -> bool:
        n, _, num_classes = self.solver.problem.shape
        return 8 * n * num_classes <= self.solver.problem.memory_budget // 4

    def _newton(
        self,
        i: int,
        points: list[Tensor],
        spent: list[int],
        max_passes: int,
        origin: float | None = None,
    ) -> None:
        """Solve one strength by Newton's method, if its probabilities fit the memory.

        From `origin` on, the strength that its point belongs to, where one is given.
        """
        if not self._probabilities_fit():
            return
        objective, before = self.solver.objective(torch.float64, 1), spent[i]
        passes = objective.passes

        def solved(theta: Tensor) -> bool:
            certificate, weight, intercept = self.solver.prove(theta, self.l2[i], self.relative_gap)
            # As of L-BFGS, the evaluation of the start is none.
            iterations = before + objective.passes - passes - 1
            self._keep(i, certificate, weight, intercept, iterations, "converged")
            self.settled[i] = certificate.relative <= self.relative_gap
            self._on_iteration()
            return self.settled[i]

        way: Callable[..., Tensor] = newton if origin is None else partial(follow, origin=origin)
        end = way(
            objective,
            points[i],
            self.l2[i],
            relative_gap=self.relative_gap,
            solved=solved,
            max_passes=max_passes,
        )
        points[i], spent[i] = self.solver.exact(end), before + objective.passes - passes - 1
        self.solver.passes[torch.float64] += objective.passes - passes

    def _on_iteration(self) -> None:
        if self.report is not None:
            self.report(sum(self.settled))

    def _keep(
        self,
        i: int,
        certificate: Certificate,
        weight: Tensor,
        intercept: Tensor,
        iterations: int,
        status: Status,
    ) -> None:
        previous = self.solutions[i]
        self.relative[i] = min(self.relative[i], certificate.relative)
        solution = assemble(
            self.solver.problem, self.l2[i], weight, intercept, certificate, iterations, status
        )
        if previous is not None and previous.gap < certificate.gap:
            solution = replace(previous, iterations=iterations, status=status)
        self.solutions[i] = solution

    def finished(self) -> list[Solution]:
        return [solution for solution in self.solutions if solution is not None]


def fit_logistic(
    features: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    l2: Sequence[float],
    *,
    num_classes: int,
    multilabel: bool = False,
    relative_gap: float = RELATIVE_GAP,
    max_iterations: int = MAX_ITERATIONS,
    memory_budget: int = MEMORY_BUDGET,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    start: Sequence[Solution | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Solution]:
    """Minimise Σ CE + λ/2 ‖W‖² for every λ of `l2`, all in one batch where memory allows.

    Args:
        features: [n, F] float32 or float64, possibly memory-mapped; used as they are.
        labels: [n] int64 class indices, or [n, num_classes] 0/1 with `multilabel`.
        l2: strengths λ, any order.
        num_classes: classes in all; those without samples get the intercept −inf.
        multilabel: `num_classes` independent binary problems; objective and gap are their sums.
        relative_gap: A strength is converged when its proven gap is at most this share of its objective and
            of what the features gain over a constant, or when it is nothing but float64's own rounding.
        max_iterations: evaluations after which a strength is given up.
        memory_budget: bytes for everything the solver allocates beside `features`, and the returned
            solutions.
        device: where products are computed.
        dtype: precision to begin in: float32 goes over to float64 when its digits are used up.
        start: where to start per strength, for example solutions of other strengths.
        on_progress: called with (strengths settled, strengths in all) after every iteration.

    Returns:
        One solution per strength, in the order of `l2`.

    Raises:
        DamagedData: Data that cannot be fitted; see `make_problem`.
        ConfigError: A strength that is not positive, or a memory budget that is too small.
    """
    solver = Solver(
        features,
        labels,
        num_classes=num_classes,
        multilabel=multilabel,
        memory_budget=memory_budget,
        device=device,
        dtype=dtype,
    )
    return solver.fit(
        l2, start=start, relative_gap=relative_gap, max_iterations=max_iterations, on_progress=on_progress
    )


def check_budget(
    labels: NDArray[np.integer[Any]],
    num_features: int,
    *,
    num_classes: int,
    multilabel: bool = False,
    memory_budget: int = MEMORY_BUDGET,
) -> None:
    """Refuse a memory budget too small for even one strength; arguments as `fit_logistic`.

    Raises:
        DamagedData: Labels that cannot be learned.
        ConfigError: The budget is too small; the text says what would do.
    """
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "multilabel": multilabel,
        "memory_budget": memory_budget,
    }
    problem = make_problem(np.zeros((len(labels), 1), np.float32), labels, device="cpu", **given)
    # Only the shape counts.
    wide = np.broadcast_to(np.float32(0), (len(labels), num_features))
    plan(replace(problem, features=wide), 1, torch.float64)
