"""The initial inverse Hessian of L-BFGS, taken from the Hessian of the loss itself.

In coordinates where the features' scatter is diagonal, each class' block of the Hessian,
    H_k = Σ_n p_nk (1 − p_nk) x_n x_nᵀ + λ I,
is diagonal at W = 0, and away from it couples the directions that matter. So it is taken whole in the leading
ones, those in which the features vary most (all, of few features), and its diagonal in the others (the
diagonal alone is the idea of EKFAC, George et al. 2018, arXiv:1806.03884). What couples classes is left to
L-BFGS or conjugate gradients, save one thing:
softmax does not see a change that all classes share, so only λ bends it and a step along it would be far too
long. The optimum has no such part; points start without one (`Solver.theta`), then gradients have none, and
steps are kept free of it.

Axes as in `objective.py`; L leading directions, the intercept among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_FLAT = 1e-8
"""Least share of the largest diagonal entry: float32 knows no smaller ones, and weight 1/0 must not occur."""

_RIDGE = 1e-5
"""Added to correlations in float32, whose rounding could make a matrix of them indefinite."""


@dataclass(frozen=True)
class Preconditioner:
    """Inverse Hessians of J strengths, approximately.

    Attributes:
        root: [J, D] square roots of the Hessian's diagonal.
        inverse: [J, K, L, L] float32, inverse correlations of the leading directions; None for none.
        num_classes: K.
        centred: whether what all classes share is left out of steps.
    """

    root: Tensor
    inverse: Tensor | None
    num_classes: int
    centred: bool

    def __call__(self, q: Tensor) -> Tensor:
        """Return H⁻¹ q [J, D], approximately, of `q` [J, D]."""
        result = self._without_mean(q) / self.root
        if self.inverse is not None:
            lead = result.view(len(q), -1, self.num_classes)[:, -self.inverse.shape[-1] :]
            columns = lead.transpose(1, 2).float()[..., None]
            lead.copy_((self.inverse @ columns)[..., 0].transpose(1, 2))
        result /= self.root
        return self._without_mean(result)

    def _without_mean(self, q: Tensor) -> Tensor:
        if not self.centred:
            return q
        cube = q.view(len(q), -1, self.num_classes)
        return (cube - cube.mean(-1, keepdim=True)).view(q.shape)

    def diagonal_only(self) -> Preconditioner:
        """Return the one without couplings, which is positive whatever rounding did to them."""
        return replace(self, inverse=None)

    def to(self, dtype: torch.dtype) -> Preconditioner:
        """Return the one that serves vectors in `dtype`."""
        return replace(self, root=self.root.to(dtype))

    def of(self, mask: Tensor) -> Preconditioner:
        """Return that of the strengths where `mask` [J] is true."""
        inverse = None if self.inverse is None else self.inverse[mask]
        return replace(self, root=self.root[mask], inverse=inverse)


def make_preconditioner(
    diagonal: Tensor,
    blocks: Tensor | None,
    l2: Tensor,
    *,
    num_classes: int,
    multilabel: bool,
    dtype: torch.dtype,
) -> Preconditioner:
    """Return the preconditioner of the Hessian whose loss part `Objective.curvature` gave.

    Args:
        diagonal: [J, D] float64; overwritten.
        blocks: [J, K, L, L] float32, of the leading directions; or None.
        l2: [J] float64.
        num_classes: K.
        multilabel: whether classes are independent problems.
        dtype: of the vectors it is to serve.
    """
    diagonal[:, :-num_classes] += l2[:, None]
    diagonal = torch.maximum(diagonal, _FLAT * diagonal.amax(1, keepdim=True))
    root = diagonal.sqrt()
    inverse = None
    if blocks is not None:
        size = blocks.shape[-1]
        scale = root.view(len(root), -1, num_classes)[:, -size:].transpose(1, 2).float()
        inverse = torch.empty_like(blocks)
        # One strength after the other: factors take a multiple of what is kept.
        for j, block in enumerate(blocks):
            inverse[j] = _inverse_correlations(block, scale[j])
    return Preconditioner(root.to(dtype), inverse, num_classes, centred=not multilabel)


def _inverse_correlations(blocks: Tensor, scale: Tensor) -> Tensor:
    """Return [K, L, L] of `blocks` [K, L, L] and the roots of the Hessian's diagonal, `scale` [K, L]."""
    # By one after the other: a product of scales could underflow.
    correlations = blocks / scale[:, :, None] / scale[:, None, :]
    correlations.diagonal(dim1=1, dim2=2).fill_(1 + _RIDGE)
    factor, info = torch.linalg.cholesky_ex(correlations)
    # Rounding beyond the ridge, or numbers beyond float32: such a class goes by its diagonal. CUDA reports no
    # failure where a matrix holds NaN.
    failed = (info > 0) | ~factor.isfinite().all(-1).all(-1)
    factor[failed] = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.cholesky_inverse(factor)
