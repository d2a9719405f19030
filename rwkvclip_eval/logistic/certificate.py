"""A proven upper bound of objective − optimum for logistic regression with an unpenalised intercept.

Weak duality. The Fenchel dual of Σ_n CE + λ/2 ‖W‖² is
    D(Q) = Σ_n H(q_n) − ‖S‖² / (2λ),   S = Xᵀ(Q − Y),
over probabilities Q [n, K] whose columns sum to the class counts n_k (that is where the unpenalised intercept
enters); H is the entropy. Every such Q gives D(Q) ≤ optimum, so objective − D(Q) bounds the gap whatever W,
b and Q are: nothing is assumed about convergence, and strong convexity, which the intercept does not have,
is not used.

The model's own probabilities P, of residual R = P − Y, have column sums s_k = n_k + e_k with an excess e away
from the intercept's optimum. They are mended by
    Q = (1 − t) P + 1 uᵀ / n,   u_k = n_k − (1 − t) s_k = t s_k − e_k,   t large enough for u ≥ 0,
whose columns sum to n_k by construction. Entropy is concave, so
    Σ_n H(q_n) ≥ (1 − t) Σ_n H(p_n) + t n H(u / (t n)),
and Xᵀ 1 is known, so mending costs no further pass. Its price is of first order in e: `balance` therefore
minimises the intercept (Newton's method on K numbers) first. With `multilabel` the same holds per class for
probabilities in [0, 1] and binary entropies.

Objective and dual agree in nearly all digits, so they are never subtracted. For P = softmax of the logits Z,
Σ H(p_n) = Σ CE − ⟨R, Z⟩ and ⟨R, Z⟩ = ⟨Xᵀ R, W⟩ + b·e; what is left of the difference is
    ‖λ W + S‖² / (2λ) + t (Σ CE + ⟨XᵀY, W⟩) − ⟨Xᵀ1 uᵀ/n, W⟩ + (1 − t) b·e − t n H(u / (t n)),
the squared gradient over 2λ (with R in place of S) where the intercept is optimal.

Rounding, all in float64: what sums of n terms can lose is added, with the square-root law of independent
roundings (Higham and Mary 2019, doi:10.1137/18M1226312) and a factor of 8. An error δ of the logits moves
the difference above by at most Σ ‖r_n‖₁ δ_n², for it is a Bregman divergence. The returned gap also covers
what the objective's own sum has lost, Σ ‖r_n‖₁ δ_n among it, so that objective − gap is a lower bound of the
optimum as the two are printed.

Axes as in `problem.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rwkvclip_eval.logistic.problem import Problem

_EPS = 8 * torch.finfo(torch.float64).eps
_MAX_NEWTON = 8

NO_GAIN = 1e-12
"""Share of the constant's objective below which what the features gain is not told from nothing."""


class Certificate(NamedTuple):
    """What was proven about one point.

    Attributes:
        objective: Σ CE + λ/2 ‖W‖² as computed.
        gap: upper bound of objective − optimum, never negative; inf if anything overflowed.
        relative: the gap without what the objective's own sum has lost, over the smaller of the objective
            and what the features gain over a constant: at strong λ the weights are tiny, and a gap that is
            small beside the objective would not even fix their signs.
        separated: every training sample (with multilabel: every label) is on its right side.
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
        excess, curvature = _excess(problem, weight, intercept)
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


def _excess(problem: Problem, weight: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """Return P's column sums less the counts [K] and their derivative by the intercept.

    The derivative is [K, K]; with `multilabel` its diagonal [K].
    """
    num_classes = problem.shape[2]
    excess, diagonal = torch.zeros_like(intercept), torch.zeros_like(intercept)
    curvature = weight.new_zeros(num_classes, num_classes)
    for part, rows in problem.chunks(problem.proof_rows, torch.float64):
        logits = torch.addmm(intercept, rows, weight)
        residual = problem.losses_and_residual(logits[:, None, :], part)[1][:, 0]
        excess += residual.sum(0)
        size = residual.abs()
        # p (1 − p), of which one is |p − y|: the difference of sums of p and p² would lose it.
        diagonal += (size * (1 - size)).sum(0)
        if not problem.multilabel:
            p = residual.scatter_add(1, problem.labels[part, None], residual.new_ones(len(residual), 1))
            curvature.addmm_(p.T, p, alpha=-1)
    if problem.multilabel:
        return excess, diagonal
    curvature.diagonal().copy_(diagonal)
    return excess, curvature


def certify(problem: Problem, weight: Tensor, intercept: Tensor, l2: float) -> Certificate:
    """Return the objective at `weight` [F, K], `intercept` [K] (of centred features) and a bound of its gap.

    Both float64 on the device. One pass over the data, two products in float64; the first call makes one
    more for the labels.
    """
    n, num_features, num_classes = problem.shape
    own, gradient = problem.label_product, torch.zeros_like(weight)
    excess, square = torch.zeros_like(intercept), torch.zeros_like(intercept)
    loss = torch.zeros_like(intercept if problem.multilabel else intercept[0])
    total = weight.new_zeros(num_features)
    spread, first, second, wrong = 0.0, 0.0, 0.0, 0
    longest = float(weight.norm(dim=0).max())
    for part, rows in problem.chunks(problem.proof_rows, torch.float64):
        logits = torch.addmm(intercept, rows, weight)
        norms = rows.square().sum(1)
        noise = _EPS * (num_features**0.5 * longest * norms.sqrt() + logits.abs().amax(1))
        if not problem.multilabel:
            wrong += int((logits.argmax(1) != problem.labels[part]).sum())
        losses, residual = problem.losses_and_residual(logits[:, None, :], part)
        residual = residual[:, 0]
        if problem.multilabel:
            wrong += int((residual.abs() >= 0.5).sum())
        loss += losses[:, 0].sum(0)
        gradient.addmm_(rows.T, residual)
        excess += residual.sum(0)
        squares = residual.square()
        square += squares.sum(0)
        spread += float((norms * squares.sum(1)).sum())
        moved = noise * residual.abs().sum(1)
        first, second = first + float(moved.sum()), second + float((noise * moved).sum())
        total += rows.sum(0)
    penalty = l2 / 2 * float(weight.square().sum())
    objective = float(loss.sum()) + penalty
    digit = _EPS * (n + num_classes) ** 0.5
    unsure = digit * square.sqrt()
    axis = 0 if problem.multilabel else (0, 1)
    advantage = loss - problem.null_losses.to(loss) + (own * weight).sum(axis)
    share, mixed_in = _mend(problem, excess, unsure, advantage.maximum(digit * loss))
    taken, mean = share * own, total[:, None] * (mixed_in / n)
    offset = intercept if problem.multilabel else intercept - intercept.mean()
    size = share * n
    rest = [mixed_in / size, 1 - mixed_in / size] if problem.multilabel else [mixed_in / size]
    price = [
        share * loss,
        (taken * weight).sum(0),
        -(mean * weight).sum(0),
        (1 - share) * offset * excess,
        *(-size * torch.special.entr(part.clamp(0, 1)) for part in rest),
    ]
    # Divided before it is squared: λ may be so weak that squares vanish.
    root = (2 * l2) ** 0.5
    pull = float(((l2 * weight + (1 - share) * gradient - taken + mean) / root).norm())
    slope_error = digit * (spread**0.5 + float(taken.norm())) / root
    rounding = (2 * pull + slope_error) * slope_error + second
    rounding += digit * sum(float(term.abs().sum()) for term in price)
    # What an error of the excess adds to the price: its derivative, and half of the second one, by u.
    slope = offset - rest[0].log() + (rest[1].log() if problem.multilabel else 0)
    slope = slope if problem.multilabel else slope - slope.mean()
    rounding += float((unsure * slope.abs() + sum(unsure.square() / (size * part) for part in rest)).sum())
    gap = max(pull**2 + sum(float(term.sum()) for term in price), 0.0) + rounding
    if gap != gap:
        return Certificate(objective, torch.inf, torch.inf, wrong == 0)
    constant = problem.null_objective
    scale = min(objective, max(penalty, constant - objective, NO_GAIN * constant))
    relative = gap / scale if scale > 0 else torch.inf
    lost = first + _EPS * (n**0.5 * float(loss.sum()) + penalty)
    return Certificate(objective, gap + lost, relative, wrong == 0)


def _mend(problem: Problem, excess: Tensor, unsure: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """Return t ([]; multilabel: [K]) and u [K] of the `excess` [K], which is known to ± `unsure` [K].

    Any t that keeps u ≥ 0 proves something. Its price is about t A + B / t: A is the `advantage` of the
    constant over the model, B = Σ e² / 2 s what the entropy of u loses to that of the class counts, and
    rounding's part.
    """
    n, counts = problem.shape[0], problem.counts.to(problem.device)
    mass = counts + excess
    least = (excess + 2 * unsure) / mass.clamp_min(1e-300)
    bend = (excess.square() / 2 + unsure.square()) / mass.clamp_min(1e-300)
    if problem.multilabel:
        rest = (n - mass).clamp_min(1e-300)
        least = least.maximum((2 * unsure - excess) / rest)
        bend = bend + (excess.square() / 2 + unsure.square()) / rest
    else:
        least, bend = least.max(), bend.sum()
    share = least.maximum((bend / advantage).sqrt()).clamp(1e-300, 1)
    mixed_in = (share * mass - excess).clamp_min(0)
    return share, mixed_in.minimum(share * n) if problem.multilabel else mixed_in
