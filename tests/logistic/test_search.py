"""The search for λ against an exhaustive one, and CLIP's capped L-BFGS against scipy on the plain formula."""

import numpy as np
import pytest
import torch

from rwkvclip_eval.errors import ConfigError, DamagedData
from rwkvclip_eval.logistic import clip_grid, fit_lbfgs, fit_logistic, scores, search_l2
from rwkvclip_eval.logistic.search import ACCEPTABLE_GAP, SEARCH_GAP
from rwkvclip_eval.logistic.solver import Solver


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def splits(n=240, num_features=12, num_classes=4, validation=160, seed=3):
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((num_classes, num_features)) / 2.5
    labels = rng.integers(0, num_classes, n + validation)
    features = (means[labels] + rng.standard_normal((n + validation, num_features))).astype(np.float32)
    return features[:n], labels[:n], features[n:], labels[n:]


def test_the_grid_has_97_points_eight_a_decade_from_1e_6_to_1e6():
    grid = clip_grid()
    assert len(grid) == 97
    assert (grid[0], grid[48], grid[96]) == pytest.approx((1e-6, 1.0, 1e6))
    assert np.allclose(np.diff(np.log10(grid)), 1 / 8)


def tried(found):
    return [round(8 * (np.log10(point.l2) + 6)) for point in found.points]


def test_clip_starts_with_seven_seeds_and_halves_the_interval_around_the_peak():
    x, y, vx, vy = splits()
    # A made-up score with its peak at grid point 43: the search must land there whatever the data.
    peak = 43

    def metric(logits, labels):
        step = 8 * (np.log10(strength[id(logits)]) + 6)
        return -abs(step - peak)

    strength = {}
    import rwkvclip_eval.logistic.search as module

    original = module.scores

    def remember(features, solution, **options):
        logits = original(features, solution, **options)
        strength[id(logits)] = solution.l2
        kept.append(logits)
        return logits

    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "scores", remember)
        found = search_l2(x, y, vx, vy, num_classes=4, metric=metric)
    # 48 wins the seeds; then 40 beats 48 and 56; 36 and 44; 42 and 46; 43 and 45.
    assert tried(found) == [0, 16, 32, 36, 40, 42, 43, 44, 45, 46, 48, 56, 64, 80, 96]
    assert found.best.l2 == pytest.approx(clip_grid()[43])
    assert not found.at_edge


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_finds_what_independent_full_solves_select(seed):
    x, y, vx, vy = splits(seed=seed)
    grid = clip_grid()
    solver = Solver(x, y, num_classes=4)
    full = [accuracy(scores(vx, s), vy) for s in solver.fit(grid, relative_gap=1e-10)]
    found = search_l2(x, y, vx, vy, num_classes=4, metric=accuracy, policy="grid")
    best = max(range(97), key=lambda i: (full[i], i))
    assert len(found.points) == 97
    assert [p.l2 for p in found.points] == grid
    assert found.best.l2 == grid[best]
    assert found.best.score == full[best]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_binary_search_follows_the_scores_of_full_solves(seed):
    x, y, vx, vy = splits(seed=seed)
    grid = clip_grid()
    full = [accuracy(scores(vx, s), vy) for s in fit_logistic(x, y, grid, num_classes=4, relative_gap=1e-10)]
    known = set(range(0, 97, 16))
    for width in (8, 4, 2, 1):
        peak = max(known, key=lambda i: (full[i], i))
        known |= {i for i in (peak - width, peak + width) if 0 <= i <= 96}
    found = search_l2(x, y, vx, vy, num_classes=4, metric=accuracy)
    assert tried(found) == sorted(known)
    assert found.best.l2 == grid[max(known, key=lambda i: (full[i], i))]


def digits(num_classes):
    """Real features: scanned digits (scikit-learn's), or pairs of them, whose classes are the 100 pairs."""
    from sklearn.datasets import load_digits

    found, rng = load_digits(), np.random.default_rng(0)
    x, y = found.data.astype(np.float32), found.target
    if num_classes == 100:
        first, second = rng.integers(0, len(x), (2, 3000))
        x, y = np.concatenate([x[first], x[second]], 1), 10 * y[first] + y[second]
    order = rng.permutation(len(x))
    half = 600 if num_classes == 10 else 800
    train, validation = order[:half], order[half : 2 * half]
    return x[train], y[train], x[validation], y[validation]


@pytest.mark.parametrize("num_classes", [10, 100])
def test_on_real_features_every_strength_is_solved_and_scores_as_its_optimum(num_classes):
    x, y, vx, vy = digits(num_classes)
    found = search_l2(x, y, vx, vy, num_classes=num_classes, metric=accuracy)
    assert found.unsolved == 0
    # Cold and in float64: nothing in common with the search but the problem.
    full = fit_logistic(
        x, y, [p.l2 for p in found.points], num_classes=num_classes, relative_gap=1e-11, dtype=torch.float64
    )
    for point, solution in zip(found.points, full, strict=True):
        assert point.gap <= SEARCH_GAP * point.objective
        assert point.score == accuracy(scores(vx, solution), vy)


def test_a_strength_that_could_not_be_solved_is_counted_and_keeps_its_status(monkeypatch):
    x, y, vx, vy = splits()
    original = Solver.fit

    def short(self, l2, **options):
        return original(self, l2, **options | {"max_iterations": 2 if l2[0] < 1e-3 else 2000})

    monkeypatch.setattr(Solver, "fit", short)
    found = search_l2(x, y, vx, vy, num_classes=4, metric=accuracy)
    left = [point for point in found.points if point.status != "converged"]
    assert {point.l2 for point in left} == {clip_grid()[0], clip_grid()[16]}
    assert found.unsolved == 2
    assert all(point.gap > ACCEPTABLE_GAP * point.objective for point in left)


def test_equal_scores_go_to_the_larger_strength_and_the_edge_is_flagged():
    x, y, vx, vy = splits()
    found = search_l2(x, y, vx, vy, num_classes=4, metric=lambda logits, labels: 0.5)
    assert found.best.l2 == pytest.approx(1e6)
    assert found.at_edge
    # From the upper edge only the lower neighbours remain.
    assert tried(found) == [0, 16, 32, 48, 64, 80, 88, 92, 94, 95, 96]


def test_progress_never_passes_its_total():
    x, y, vx, vy = splits()
    seen = []
    search_l2(
        x,
        y,
        vx,
        vy,
        num_classes=4,
        metric=accuracy,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert max(done for done, _ in seen) <= seen[0][1] == 15
    assert seen == sorted(seen)


def test_an_empty_validation_split_and_wrong_labels_are_named():
    x, y, vx, vy = splits()
    with pytest.raises(DamagedData, match="validation split is empty"):
        search_l2(x, y, vx[:0], vy[:0], num_classes=4, metric=accuracy)
    with pytest.raises(DamagedData, match="validation split should lie in 0 … 3"):
        search_l2(x, y, vx, vy + 1, num_classes=4, metric=accuracy)


def test_an_unknown_policy_is_named():
    x, y, vx, vy = splits()
    with pytest.raises(ConfigError, match="'bisect'"):
        search_l2(x, y, vx, vy, num_classes=4, metric=accuracy, policy="bisect")


def summed_loss(x, y, l2):
    def loss(vector):
        cube = vector.reshape(-1, y.max() + 1)
        logits = x @ cube[:-1] + cube[-1]
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        total = p.sum(1, keepdims=True)
        value = (np.log(total) + top).sum() - logits[np.arange(len(y)), y].sum()
        residual = p / total
        residual[np.arange(len(y)), y] -= 1
        gradient = np.vstack([x.T @ residual + l2 * cube[:-1], residual.sum(0)])
        return value + l2 / 2 * (cube[:-1] ** 2).sum(), gradient.ravel()

    return loss


def test_lbfgs_takes_the_path_of_scipy_on_the_summed_loss():
    from scipy.optimize import minimize

    x, y, *_ = splits()
    x = x.astype(np.float64)
    for solution in fit_lbfgs(x, y, [1e-3, 1.0, 1e3], num_classes=4):
        found = minimize(
            summed_loss(x, y, solution.l2),
            np.zeros(13 * 4),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "gtol": 1e-4},
        )
        # Roundings differ, and L-BFGS amplifies them: the ends agree to what its stopping rule leaves open.
        assert solution.objective == pytest.approx(found.fun, rel=1e-6)
        assert abs(solution.iterations - found.nit) <= 0.15 * found.nit + 2
        assert solution.status == "converged"


def logistic_loss(x, y, l2):
    def loss(vector):
        logits = x @ vector[:-1] + vector[-1]
        residual = 1 / (1 + np.exp(-logits)) - y
        value = np.logaddexp(0, (1 - 2 * y) * logits).sum() + l2 / 2 * (vector[:-1] ** 2).sum()
        return value, np.append(x.T @ residual + l2 * vector[:-1], residual.sum())

    return loss


def single_runs(x, columns, l2):
    """What scipy's L-BFGS-B gives for every 0/1 column of its own, as scikit-learn of 2021 called it."""
    from scipy.optimize import minimize

    options = {"maxiter": 1000, "gtol": 1e-4}
    return [
        minimize(logistic_loss(x, y, l2), np.zeros(13), jac=True, method="L-BFGS-B", options=options)
        for y in columns.T
    ]


@pytest.mark.parametrize("l2", [1e-3, 1.0, 1e3])
def test_lbfgs_of_two_classes_takes_the_path_of_one_vector(l2):
    x, y, *_ = splits(num_classes=2)
    x = x.astype(np.float64)
    [found] = single_runs(x, y[:, None], l2)
    [solution] = fit_lbfgs(x, y, [l2], num_classes=2)
    assert solution.objective == pytest.approx(found.fun, rel=1e-7)
    assert solution.iterations == found.nit
    assert np.allclose((solution.weight[:, 1] - solution.weight[:, 0]).numpy(), found.x[:-1], atol=1e-4)


def test_lbfgs_runs_on_every_label_of_an_image_by_itself():
    x, y, *_ = splits()
    x, labels = x.astype(np.float64), np.stack([y == 0, y >= 2, np.arange(len(y)) % 9 == 0], 1).astype(int)
    found = single_runs(x, labels, 1e-2)
    [solution] = fit_lbfgs(x, labels, [1e-2], num_classes=3, multilabel=True)
    assert solution.iterations == max(one.nit for one in found)
    assert len({one.nit for one in found}) > 1
    assert solution.objective == pytest.approx(sum(one.fun for one in found), rel=1e-7)
    assert np.allclose(solution.weight.numpy(), np.stack([one.x[:-1] for one in found], 1), atol=1e-4)
    [capped] = fit_lbfgs(x, labels, [1e-2], num_classes=3, multilabel=True, max_iterations=3)
    assert (capped.status, capped.iterations) == ("iteration_limit", 3)


def test_an_abnormal_end_of_lbfgs_is_not_called_converged(monkeypatch):
    import scipy.optimize

    def abnormal(fun, x0, **options):
        return scipy.optimize.OptimizeResult(x=x0, nit=2, status=2, fun=fun(x0)[0])

    monkeypatch.setattr(scipy.optimize, "minimize", abnormal)
    x, y, *_ = splits()
    assert fit_lbfgs(x, y, [1.0], num_classes=4)[0].status == "iteration_limit"


def test_the_gap_of_capped_lbfgs_is_proven_too():
    x, y, *_ = splits()
    [best] = fit_logistic(x, y, [1e-2], num_classes=4, relative_gap=1e-9)
    [capped] = fit_lbfgs(x, y, [1e-2], num_classes=4, max_iterations=5)
    assert capped.status == "iteration_limit"
    assert capped.iterations == 5
    assert capped.gap >= capped.objective - best.objective > 0


def test_both_methods_find_the_same_peak_where_it_is_well_determined():
    x, y, vx, vy = splits()

    def likelihood(logits, labels):
        top = logits.max(1, keepdims=True)
        normal = (top + np.log(np.exp(logits - top).sum(1, keepdims=True)))[:, 0]
        return float((logits[np.arange(len(labels)), labels] - normal).mean())

    ours = search_l2(x, y, vx, vy, num_classes=4, metric=likelihood)
    clips = search_l2(x, y, vx, vy, num_classes=4, metric=likelihood, method="lbfgs")
    assert ours.best.l2 == clips.best.l2
    assert ours.best.score == pytest.approx(clips.best.score, abs=1e-4)
