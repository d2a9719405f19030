"""A search chooses as one whose every strength is solved exactly, where n is near F and classes are many."""

import numpy as np
import pytest
import torch
from hard_problems import Exact, accuracy, lost, problem
from sklearn.linear_model import LogisticRegression

from rwkvclip_eval.logistic import clip_grid, fit_logistic, scores, search_l2, solver


def check(given, dtype, policy="clip"):
    *splits, classes = given
    found = search_l2(*splits, num_classes=classes, metric=accuracy, dtype=dtype, policy=policy)
    exact = Exact(*given)
    assert lost(found, exact, policy) <= 1
    assert found.unsolved == 0
    for point in found.points:
        step = round(8 * (np.log10(point.l2) + 6))
        if step in exact.known:
            assert abs(point.score - exact.known[step]) * len(splits[3]) <= 1.001
    return exact


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 30))]
)
def test_the_chosen_strength_is_within_one_sample_of_the_best(seed):
    check(problem(seed, most_features=80, most_samples=400), torch.float64 if seed % 2 else torch.float32)


def test_a_weak_strength_that_needs_hundreds_of_steps_is_not_judged_before_its_optimum():
    # At λ = 1e-6 the optimum is right on nearly all samples, and what float32 stops at on about half.
    rng = np.random.default_rng(0)
    means = rng.standard_normal((37, 96))
    y, vy = np.append(np.arange(37), rng.integers(0, 37, 59)), rng.integers(0, 37, 1000)
    x, vx = ((means[k] + 0.4 * rng.standard_normal((len(k), 96))).astype(np.float32) for k in (y, vy))
    found = search_l2(x, y, vx, vy, num_classes=37, metric=accuracy)
    exact = Exact(x, y, vx, vy, 37)
    for point in found.points:
        assert abs(point.score - exact.at(round(8 * (np.log10(point.l2) + 6)))) <= 0.0011
    assert lost(found, exact) <= 1


def test_strong_strengths_are_scored_by_what_features_add_however_little_it_is():
    # As small as features of unit length, classes of equal size: beside intercepts float32 sees no logits.
    rng = np.random.default_rng(3)
    means = 0.2 * rng.standard_normal((10, 64))
    y, vy = np.arange(60) % 10, rng.integers(0, 10, 300)
    x, vx = ((0.02 * (means[k] + rng.standard_normal((len(k), 64)))).astype(np.float32) for k in (y, vy))
    found = search_l2(x, y, vx, vy, num_classes=10, metric=accuracy)
    strongest = found.points[-1]
    [solution] = fit_logistic(x, y, [strongest.l2], num_classes=10, relative_gap=1e-10, dtype=torch.float64)
    logits = vx.astype(np.longdouble) @ solution.weight.numpy().astype(np.longdouble)
    exact = accuracy(logits + solution.intercept.numpy(), vy)
    assert strongest.score == exact
    # Without the features there would be one answer for all.
    assert exact > np.bincount(vy).max() / len(vy) + 0.05


def test_contradictory_samples_at_weak_strengths_are_solved_by_newtons_steps():
    rng = np.random.default_rng(8)
    y = np.append(np.arange(100), rng.integers(0, 100, 60))
    x = (0.35 * rng.standard_normal((160, 8))).astype(np.float32)
    # Half of the samples are there twice, under two labels.
    x[80:] = x[:80]
    [solution] = fit_logistic(x, y, [1e-6], num_classes=100, relative_gap=1e-10)
    assert solution.status == "converged"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "newton", lambda objective, theta, l2, **_: theta)
        patch.setattr(solver, "follow", lambda objective, theta, l2, origin, **_: theta)
        [without] = fit_logistic(x, y, [1e-6], num_classes=100, relative_gap=1e-10)
    assert without.status == "iteration_limit"
    assert without.objective > solution.objective
    assert without.objective - without.gap <= solution.objective


def few_shot_digits(shots, seed):
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    # Pairs of digits: a hundred classes.
    first, second = rng.integers(0, len(digits.data), (2, 6000))
    x = np.concatenate([digits.data[first], digits.data[second]], 1).astype(np.float32)
    return few_shot(x, 10 * digits.target[first] + digits.target[second], shots, seed)


def few_shot(x, y, shots, seed, most_validation=500):
    """`shots` samples of each class to learn from, others to choose λ by."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    names, y = np.unique(y, return_inverse=True)
    learned = np.concatenate([order[y[order] == k][:shots] for k in range(len(names))])
    rest = np.setdiff1d(order, learned)[:most_validation]
    return x[learned], y[learned], x[rest], y[rest], len(names)


@pytest.mark.parametrize("shots", [1, 2])
def test_few_shot_draws_of_real_digits_are_searched_exactly(shots):
    check(few_shot_digits(shots, 0), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 400, 25))
def test_on_300_random_problems_the_chosen_strength_is_within_one_sample_of_the_best(start):
    for seed in range(start, start + 25):
        # One in six by every point of the grid.
        policy = "grid" if seed % 6 == 0 else "clip"
        check(problem(seed), torch.float64 if seed % 2 else torch.float32, policy)


@pytest.mark.slow
@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_all_few_shot_draws_of_real_digits_are_searched_exactly(shots):
    for seed in range(3):
        check(few_shot_digits(shots, seed), torch.float32)


@pytest.mark.slow
def test_the_reference_scores_as_scikit_learn_does():
    compared = 0
    for seed in range(30):
        given = x, y, vx, vy, _ = problem(seed, most_features=64, most_samples=300)
        exact = Exact(*given)
        for step in (16, 32, 48, 64):
            model = LogisticRegression(C=1 / clip_grid()[step], tol=1e-9, max_iter=20_000)
            model.fit(x.astype(np.float64), y)
            if model.n_iter_[0] == 20_000:
                continue
            theirs, score = model.predict(vx.astype(np.float64)), exact.at(step)
            ours = scores(vx, exact.solutions[step]).argmax(1)
            compared += 1
            assert (theirs != ours).sum() <= 1
            assert abs(score - (theirs == vy).mean()) * len(vy) <= 1.001
    assert compared >= 100


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("model", ["rwkv-clip-b32=random:0", "clip-vit-b32=random:0", "trained nano"])
@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet"])
def test_few_shot_draws_of_features_of_towers_on_real_images_are_searched_exactly(
    model, name, image_features, trained_nano
):
    x, y = image_features(trained_nano if model == "trained nano" else model, name)
    for shots in (1, 2, 4):
        check(few_shot(x, y, shots, seed=0), torch.float32)
