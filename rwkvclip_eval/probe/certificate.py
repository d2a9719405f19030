"""A proven upper bound of objective − optimum for logistic regression with an unpenalised intercept.

Weak duality. The Fenchel dual of Σ_n CE + λ/2 ‖W‖² is
    D(Q) = Σ_n H(q_n) − ‖Xᵀ(Q − Y)‖² / (2λ)
over probabilities Q [n, K] whose columns sum to the class counts n_k (that is where the unpenalised intercept
enters); H is the entropy. Every such Q gives D(Q) ≤ optimum, so objective − D(Q) bounds the gap whatever W,
b and Q are: nothing is assumed about convergence, and strong convexity, which the intercept does not have,
is not used.

The model's own probabilities P have column sums s_k ≠ n_k away from the intercept's optimum. They are
mended by
    Q = (1 − t) P + 1 uᵀ / n,   u_k = n_k − (1 − t) s_k,   t = the smallest that keeps u ≥ 0,
whose columns sum to n_k by construction. Entropy is concave, so
    Σ_n H(q_n) ≥ (1 − t) Σ_n H(p_n) + t n H(u / (t n)),
and Xᵀ 1 is known, so mending costs no further pass. Its price is of first order in s − n: `balance` therefore
minimises the intercept (Newton's method on K numbers) first. With `multilabel` the same holds per class for
probabilities in [0, 1] and binary entropies.

Rounding: all in float64. What sums of n and dot products of F terms can lose is added to the bound, with the
square-root law of independent roundings (Higham and Mary 2019, doi:10.1137/18M1226312) and a factor of 8.

Axes as in `problem.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_eval.probe.problem import Problem

_EPS = 8 * torch.finfo(torch.float64).eps
_NEGLIGIBLE = 1e-9
_MAX_NEWTON = 8


class Certificate(NamedTuple):
    """What was proven about one point.

    Attributes:
        objective: Σ CE + λ/2 ‖W‖², rounding error not included.
        gap: Upper bound of objective − optimum, never negative; inf if anything overflowed.
        relative: `gap` over the smaller of the objective and what the features gain over a constant: at
            strong λ the weights are tiny, and a gap that is small beside the objective would not even fix
            their signs. 0 where the gap is all rounding.
        separated: Every training sample (with multilabel: every label) is on its right side.
    """

    objective: float
    gap: float
    relative: float
    separated: bool


def balance(problem: Problem, weight: Tensor, intercept: Tensor, tolerance: float) -> Tensor:
    """Return the intercept [K] that is optimal for `weight` [F, K], to `tolerance` of the class counts.

    Both float64 on the device; the intercept belongs to centred features. The tolerance is a wish: what is
    missing, `certify` charges.
    """
    counts = problem.counts.to(problem.device)
    best, least = intercept, torch.inf
    for _ in range(_MAX_NEWTON):
        mass, curvature = _mass(problem, weight, intercept)
        excess = mass - counts
        worst = float((excess.abs() / counts).max())
        if not worst < least:
            return best
        best, least = intercept, worst
        if worst <= tolerance:
            break
        if problem.multilabel:
            step = excess / curvature.clamp_min(1e-300)
        else:
            # The curvature has the null vector 1 (softmax ignores it), which a rank-one term lifts.
            lifted = curvature + curvature.diagonal().mean() / len(counts)
            ridge = 1e-14 * curvature.diagonal().max() + 1e-300
            step = torch.linalg.solve(lifted + ridge * torch.eye(len(counts)).to(lifted), excess)
        if not bool(torch.isfinite(step).all()):
            break
        size = float(step.abs().max())
        intercept = intercept - step * min(1.0, 2.0 / max(size, 1e-300))
        # Newton's method squares the error: another pass would only confirm it.
        bend = curvature if problem.multilabel else curvature.diagonal()
        if size <= 0.1 and size**2 * float((bend / counts).max()) <= tolerance:
            return intercept
    return best


def _mass(problem: Problem, weight: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """Return P's column sums [K] and their derivative by the intercept ([K, K]; multilabel: diagonal [K])."""
    num_classes = problem.shape[2]
    mass = weight.new_zeros(num_classes)
    curvature = (
        weight.new_zeros(num_classes) if problem.multilabel else weight.new_zeros(num_classes, num_classes)
    )
    for _, rows in problem.chunks(problem.proof_rows, torch.float64):
        logits = torch.addmm(intercept, rows, weight)
        if problem.multilabel:
            p = logits.sigmoid_()
            curvature += (p * (1 - p)).sum(0)
        else:
            p = logits.softmax(1)
            curvature.addmm_(p.T, p, alpha=-1)
        mass += p.sum(0)
    return mass, curvature if problem.multilabel else curvature + mass.diag()


def certify(problem: Problem, weight: Tensor, intercept: Tensor, l2: float) -> Certificate:
    """Return the objective at `weight` [F, K], `intercept` [K] (of centred features) and a bound of its gap.

    Both float64 on the device. One pass over the data, two products in float64; the first call makes one
    more for the labels.
    """
    n, num_features, _ = problem.shape
    counts = problem.counts.to(problem.device)
    own, gradient = problem.label_product, torch.zeros_like(weight)
    mass, entropy = torch.zeros_like(intercept), torch.zeros_like(intercept)
    total = weight.new_zeros(num_features)
    loss, square, spread, wrong, largest = 0.0, 0.0, 0.0, 0, 0.0
    for part, rows in problem.chunks(problem.proof_rows, torch.float64):
        logits = torch.addmm(intercept, rows, weight)
        labels = problem.labels[part]
        if problem.multilabel:
            wrong += int(((logits > 0) != (labels > 0)).sum())
        else:
            wrong += int((logits.argmax(1) != labels).sum())
        largest = max(largest, float(logits.abs().max()))
        chunk_loss, residual = problem.loss_and_residual(logits[:, None, :], part)
        residual = residual[:, 0]
        loss += float(chunk_loss)
        if problem.multilabel:
            p = residual + labels.double()
            entropy += _entropy(p).sum(0) + _entropy(1 - p).sum(0)
        else:
            p = residual.scatter_add(1, labels[:, None], residual.new_ones(1, 1).expand(len(residual), 1))
            entropy += _entropy(p).sum(0)
        gradient.addmm_(rows.T, residual)
        mass += p.sum(0)
        total += rows.sum(0)
        norms = rows.square().sum(1)
        square += float(norms.sum())
        spread += float((norms * residual.square().sum(1)).sum())
    norm = float(weight.square().sum())
    objective = loss + l2 / 2 * norm
    share, mended = _mend(mass, counts, n, problem.multilabel)
    uniform = (counts - (1 - share) * mass).clamp_min(0)
    value = (1 - share) * entropy
    slope = (1 - share) * gradient - share * own + total[:, None] * (uniform / n)
    dual = float(value.sum()) + mended - float(slope.square().sum()) / (2 * l2)
    logit_error = (num_features**0.5 * square**0.5 * float(weight.norm(dim=0).max())) + n**0.5 * largest
    slope_error = _EPS * (num_features + n) ** 0.5 * (spread**0.5 + float((share * own).norm()))
    rounding = (
        _EPS * (logit_error + n**0.5 * (abs(loss) + float(entropy.sum())) + l2 * norm)
        + float(slope.norm()) * slope_error / l2
        + slope_error**2 / (2 * l2)
    )
    gap = max(objective - dual, 0.0) + rounding
    if gap != gap:
        return Certificate(objective, torch.inf, torch.inf, wrong == 0)
    scale = min(objective, max(l2 / 2 * norm, problem.null_objective - objective))
    all_rounding = gap <= min(2 * rounding, _NEGLIGIBLE * problem.null_objective)
    relative = 0.0 if all_rounding else gap / scale if scale > 0 else torch.inf
    return Certificate(objective, gap, relative, wrong == 0)


def _entropy(p: Tensor) -> Tensor:
    """−p ln p, elementwise; 0 at 0 and at what rounding pushed below it."""
    result: Tensor = torch.special.entr(p.clamp_min(0))
    return result


def _mend(mass: Tensor, counts: Tensor, n: int, multilabel: bool) -> tuple[Tensor, float]:
    """Return t ([]; multilabel: [K]) and the entropy that the mixed-in part t n · (u / (t n)) adds."""
    least = 1 - counts / mass.clamp_min(1e-300)
    if multilabel:
        least = torch.maximum(least, 1 - (n - counts) / (n - mass).clamp_min(1e-300))
    share = (least if multilabel else least.max()).clamp(0, 1)
    uniform = (counts - (1 - share) * mass).clamp_min(0)
    size = (share * n).clamp_min(1e-300)
    parts = _entropy((uniform / size).clamp_max(1))
    if multilabel:
        parts = parts + _entropy((1 - uniform / size).clamp(0, 1))
    return share, float((size * parts).sum())
