"""Orthonormal directions in which the features' scatter is diagonal, down to those that hardly vary.

An eigenvalue of a matrix in float64 is known to its last digits of the *largest* one: beside a column that
varies by 1e4, one that varies by 1e-4 has an eigenvalue of 1e-16 of it, below all digits, though it may tell
the classes apart. So directions are taken level by level: those whose eigenvalues have digits are kept, and
the scatter of the features in what is left, summed anew, has digits again, for its largest is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_eval.logistic.problem import Problem

_RESOLVED = 1e-10
"""Share of a level's largest eigenvalue above which one has enough digits to be kept."""

_NULL = 1e-28
"""Share of all variation below which a direction is rounding of products in float64 (squared)."""


def make_basis(problem: Problem) -> Tensor:
    """Return orthonormal directions [F, R], float64 on the device, by ascending variation of the features.

    Directions in which the features do not vary are left out: the optimal W has no part in them.
    """
    levels: list[Tensor] = []
    rest, total = None, 0.0
    while rest is None or rest.shape[1]:
        eigenvalues, rotation = torch.linalg.eigh(_scatter(problem, rest))
        largest = float(eigenvalues[-1])
        if rest is None:
            total = float(eigenvalues.sum())
        elif largest <= _NULL * total:
            break
        kept = eigenvalues > max(_RESOLVED * largest, _NULL * total)
        # Of features that are all constant, one direction.
        kept[-1] = True
        directions = rotation if rest is None else rest @ rotation
        levels.insert(0, directions[:, kept])
        rest = directions[:, ~kept]
    return torch.cat(levels, 1).contiguous()


def _scatter(problem: Problem, directions: Tensor | None) -> Tensor:
    """Return Σ_n z zᵀ of z = x `directions`, the centred features turned; without them of x itself."""
    width = problem.shape[1] if directions is None else directions.shape[1]
    scatter = torch.zeros(width, width, dtype=torch.float64, device=problem.device)
    for _, block in problem.chunks(problem.proof_rows, torch.float64):
        turned = block if directions is None else block @ directions
        scatter.addmm_(turned.T, turned)
    return scatter
