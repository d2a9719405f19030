"""CLIP's whole search for λ and final fit: against scikit-learn's L-BFGS, and at ImageNet's size on a GPU."""

import functools
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from side_by_side import in_words, ratio
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from rwkvclip_eval.bench.clock import in_turns
from rwkvclip_eval.logistic import clip_grid, fit_logistic, scores, search_l2, solver
from rwkvclip_eval.logistic.objective import LEAD, plan

SHAPES = [(8000, 640, 100), (2400, 64, 200)]
"""Samples, features, classes: L-BFGS begins the first, Newton's method the second (a small model's probe)."""

LIMIT = 1 / 8
IMAGENET = (1_281_167, 640, 1000)
IMAGENET_BUDGET = 24 << 30
IMAGENET_MINUTES = 15


def synthetic(sizes, num_features, num_classes, seed=0):
    """Splits whose classes overlap: Gaussians with a decaying spectrum, rotated, off the origin.

    Class means decay faster than the noise, as in features of images: weak λ then fits the noise of the
    training split, and the peak lies inside the grid.
    """
    rng = np.random.default_rng(seed)
    order = 1 + np.arange(num_features)
    turn = np.linalg.qr(rng.standard_normal((num_features, num_features)))[0]
    means = rng.standard_normal((num_classes, num_features)) * order**-0.5
    splits = []
    for size in sizes:
        labels = rng.integers(0, num_classes, size)
        features = (means[labels] + rng.standard_normal((size, num_features))) * order**-0.5
        splits.append(((features @ turn + 0.5).astype(np.float32), labels))
    return splits


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def joined(a, b):
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])


def ours(train, validation, test, num_classes):
    """Selected λ, test accuracy, and the search."""
    found = search_l2(*train, *validation, num_classes=num_classes, metric=accuracy)
    [final] = fit_logistic(
        *joined(train, validation), [found.best.l2], num_classes=num_classes, relative_gap=1e-8
    )
    return found.best.l2, accuracy(scores(test[0], final), test[1]), found


def scikit_learn(train, validation, test, num_classes):
    """Selected λ, test accuracy, iterations: the same search, each fit warm from its nearest neighbour."""
    grid, fitted, iterations = clip_grid(), {}, []
    train, validation, test = ((x.astype(np.float64), y) for x, y in (train, validation, test))

    def fit(data, step):
        model = LogisticRegression(C=1 / grid[step], tol=1e-7, max_iter=1000, warm_start=True)
        if fitted:
            nearest = fitted[min(fitted, key=lambda other: abs(other - step))][1]
            model.classes_ = nearest.classes_
            model.coef_, model.intercept_ = nearest.coef_.copy(), nearest.intercept_.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(*data)
        iterations.append(int(model.n_iter_[0]))
        return model

    def settle(steps):
        for step in sorted(set(steps) - set(fitted), reverse=True):
            model = fit(train, step)
            fitted[step] = accuracy(model.decision_function(validation[0]), validation[1]), model

    def peak():
        return max(fitted, key=lambda step: (fitted[step][0], step))

    settle(range(0, 97, 16))
    for width in (8, 4, 2, 1):
        middle = peak()
        settle(step for step in (middle - width, middle + width) if 0 <= step <= 96)
    final = fit(joined(train, validation), peak())
    return grid[peak()], accuracy(final.decision_function(test[0]), test[1]), sum(iterations)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_clip_sweep_takes_at_most_an_eighth_of_scikit_learns_time(shape, benchmark, capsys):
    n, num_features, num_classes = shape
    train, validation, test = synthetic((n, n // 2, n // 2), num_features, num_classes)

    def timed(sweep):
        start = time.perf_counter()
        result = sweep(train, validation, test, num_classes)
        return time.perf_counter() - start, *result

    with threadpool_limits(torch.get_num_threads()):
        our_s, our_l2, our_accuracy, found = benchmark.pedantic(timed, args=(ours,), rounds=1)
        their_s, their_l2, their_accuracy, iterations = timed(scikit_learn)
    statuses = [point.status for point in found.points]
    benchmark.extra_info.update(ratio=our_s / their_s, threads=torch.get_num_threads())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{n} × {num_features} × {num_classes}, {len(statuses)} strengths and the final fit, "
            f"{torch.get_num_threads()} threads\n"
            f"ours: {our_s:.1f} s, λ {our_l2:.4g}, test accuracy {our_accuracy:.4%} "
            f"({ {status: statuses.count(status) for status in sorted(set(statuses))} })\n"
            f"scikit-learn L-BFGS, float64, tol 1e-7, warm: {their_s:.1f} s, λ {their_l2:.4g}, "
            f"test accuracy {their_accuracy:.4%} ({iterations} iterations)\n"
            f"ratio {our_s / their_s:.4f} (1/{their_s / our_s:.1f})\n"
        )
    assert our_l2 == their_l2
    assert abs(our_accuracy - their_accuracy) * len(test[1]) <= 1 + 1e-9
    assert our_s <= LIMIT * their_s


@pytest.mark.slow
def test_digits_of_float64_beside_anchors_take_less_time_than_float64_products(
    monkeypatch, benchmark, capsys
):
    """Weak strengths on few samples of many classes: float32 is used up, the optimum far away."""
    [(x, y)] = synthetic((2400,), 768, 200)
    anchored = {"float64 products": False, "beside anchors": True}
    iterations = {}

    def solve(name):
        choose = lambda *given: replace(plan(*given), anchored=anchored[name])  # noqa: E731  # local shorthand
        monkeypatch.setattr(solver, "plan", choose)
        solved = fit_logistic(x, y, [1e-4, 1e-3], num_classes=200, relative_gap=1e-12, max_iterations=500)
        iterations[name] = [solution.iterations for solution in solved]

    calls = {name: functools.partial(solve, name) for name in anchored}
    seconds = benchmark.pedantic(in_turns, args=(calls, 3), rounds=1)
    median = ratio(seconds, "beside anchors", "float64 products")[1]
    benchmark.extra_info.update(ratio=median, threads=torch.get_num_threads())
    with capsys.disabled():
        title = f"2,400 × 768 × 200, λ 1e-4 and 1e-3, iterations {iterations}"
        sys.stdout.write(in_words(title, seconds, "float64 products"))
    assert median < 1


@pytest.mark.slow
@pytest.mark.parametrize("num_features", [64, 768])
def test_coupled_directions_take_less_time_than_the_diagonal_alone(
    num_features, monkeypatch, benchmark, capsys
):
    """Few samples of many classes, as the searches of small sets meet them."""
    [(x, y)] = synthetic((2400,), num_features, 200)
    leads = {"diagonal alone": 0, f"{LEAD} directions coupled": min(LEAD, num_features) + 1}
    iterations = {}

    def solve(name):
        monkeypatch.setattr(solver, "plan", lambda *given: replace(plan(*given), lead=leads[name]))
        solved = fit_logistic(x, y, [1e-2, 1.0], num_classes=200)
        iterations[name] = [(solution.iterations, solution.status) for solution in solved]

    calls = {name: functools.partial(solve, name) for name in leads}
    seconds = benchmark.pedantic(in_turns, args=(calls, 3), rounds=1)
    median = ratio(seconds, *reversed(leads))[1]
    benchmark.extra_info.update(ratio=median, threads=torch.get_num_threads())
    with capsys.disabled():
        title = f"2,400 × {num_features} × 200, λ 1e-2 and 1, iterations {iterations}"
        sys.stdout.write(in_words(title, seconds, "diagonal alone"))
    assert median < 1


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_an_imagenet_sized_sweep_takes_minutes_within_its_memory_budget_on_a_gpu(benchmark, capsys):
    n, num_features, num_classes = IMAGENET
    train, validation = synthetic((n, 50_000), num_features, num_classes)
    torch.cuda.reset_peak_memory_stats()

    def sweep():
        start = time.perf_counter()
        found = search_l2(
            *train,
            *validation,
            num_classes=num_classes,
            metric=accuracy,
            memory_budget=IMAGENET_BUDGET,
            device="cuda",
        )
        searched = time.perf_counter()
        [final] = fit_logistic(
            *joined(train, validation),
            [found.best.l2],
            num_classes=num_classes,
            relative_gap=1e-8,
            memory_budget=IMAGENET_BUDGET,
            device="cuda",
        )
        return searched - start, time.perf_counter() - searched, found, final

    search_s, fit_s, found, final = benchmark.pedantic(sweep, rounds=1)
    peak = torch.cuda.max_memory_allocated()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{n} × {num_features} × {num_classes} on {torch.cuda.get_device_name()}: "
            f"search {search_s:.0f} s, last fit {fit_s:.0f} s, peak {peak / 2**30:.1f} GiB of a budget of "
            f"{IMAGENET_BUDGET / 2**30:.0f} GiB\n"
        )
        for point in found.points:
            sys.stdout.write(
                f"λ {point.l2:.3g}: {point.score:.4%}, relative gap {point.gap / point.objective:.1e}, "
                f"{point.iterations} iterations, {point.status}\n"
            )
    assert peak <= IMAGENET_BUDGET
    assert found.best.status == final.status == "converged"
    assert not found.at_edge
    assert search_s + fit_s <= 60 * IMAGENET_MINUTES
