"""A fitted classifier, and what it gives for features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from rwkvclip_eval.logistic.problem import blocks
from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rwkvclip_eval.logistic.certificate import Certificate
    from rwkvclip_eval.logistic.problem import Problem

Status = Literal["converged", "iteration_limit", "unattainable"]
"""How a strength ended: the gap is proven small; the iterations or the digits of float64 ran out; the same on
training data that are separated, so that the optimum lies far away and weakly determined. (`stopped_early`
stands in records of before version 7: a rule of thumb gave the strength up, at the score it had reached.)"""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One strength's classifier: logits are features @ weight + intercept.

    Attributes:
        l2: λ, multiplies ½ ‖W‖² against the summed cross entropy (scikit-learn's C is 1/λ).
        weight: [F, num_classes] float64 on the CPU, in the original feature coordinates; of two classes ∓w/2.
        intercept: [num_classes] float64; −inf for a class without training samples, whose probability at the
            infimum is 0 (multilabel: also +inf for a class that every sample has).
        objective: Σ CE + λ/2 ‖W‖² at this point, of two classes with the one column w.
        gap: proven upper bound of objective − optimum; inf where none could be proven.
        iterations: evaluations of objective and gradient from the start given; of Newton's method all passes
            over the data, products with the Hessian among them.
        status: how it ended.
    """

    l2: float
    weight: Tensor
    intercept: Tensor
    objective: float
    gap: float
    iterations: int
    status: Status


def assemble(
    problem: Problem,
    l2: float,
    weight: Tensor,
    intercept: Tensor,
    certificate: Certificate,
    iterations: int,
    status: Status,
) -> Solution:
    """Return the solution for all classes from weights [F, K] and intercept [K] of centred features."""
    full = torch.zeros(len(weight), problem.num_classes, dtype=torch.float64)
    problem.spread(weight.cpu(), full)
    offset = problem.certain.clone()
    problem.spread(intercept.cpu() - problem.shift @ weight.cpu(), offset)
    return Solution(
        l2=l2,
        weight=full,
        intercept=offset,
        objective=certificate.objective,
        gap=certificate.gap,
        iterations=iterations,
        status=status,
    )


def scores(
    features: NDArray[Any],
    solution: Solution,
    *,
    memory_budget: int = MEMORY_BUDGET,
    device: str | torch.device = "cpu",
) -> NDArray[np.float64]:
    """Return logits [n, num_classes] float64, computed by chunks of rows.

    Not float32: at strong λ what features add is far smaller than the last digit of the intercept there, and
    classes of equal intercepts would be tied.
    """
    weight, intercept = solution.weight.to(device), solution.intercept.to(device)
    num_features, num_classes = weight.shape
    result = torch.empty(len(features), num_classes, dtype=torch.float64)
    rows = max(1, min(memory_budget, 64 << 20) // (16 * (num_features + num_classes)))
    for part, block in blocks(features, rows):
        result[part] = torch.addmm(intercept, block.to(device).double(), weight).cpu()
    return result.numpy()
