"""The batched solver against scikit-learn in float64, and what it proves about itself."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from rwkvclip_eval.errors import ConfigError, DamagedData
from rwkvclip_eval.logistic import Solver, check_budget, clip_grid, fit_logistic, scores
from rwkvclip_eval.logistic.certificate import certify
from rwkvclip_eval.logistic.objective import plan
from rwkvclip_eval.logistic.problem import make_problem

GRID = [10.0**k for k in range(-6, 7, 2)]
ROUNDING = 1e-11


def clusters(n, num_features, num_classes, *, overlap=2.0, seed=0, weights=None, test=400):
    """Overlapping Gaussian classes with a decaying spectrum, away from the origin: train and test."""
    rng = np.random.default_rng(seed)
    spectrum = 2 * (1 + np.arange(num_features)) ** -0.5
    means = rng.standard_normal((num_classes, num_features)) / overlap
    labels = rng.choice(num_classes, n + test, p=weights)
    # Every class occurs, so that the reference knows them all.
    labels[:num_classes] = np.arange(num_classes)
    features = (means[labels] + rng.standard_normal((n + test, num_features))) * spectrum + 0.7
    return features[:n], labels[:n], features[n:], labels[n:]


def collinear(n, num_features, num_classes):
    x, y, tx, ty = clusters(n, num_features - 3, num_classes)
    widen = lambda a: np.column_stack([a, a[:, 0], a[:, 1] - 2 * a[:, 2], np.full(len(a), 5.0)])  # noqa: E731  (local shorthand)
    return widen(x), y, widen(tx), ty


PROBLEMS = {
    "two classes": lambda: clusters(300, 6, 2),
    "three classes": lambda: clusters(400, 10, 3),
    "ten classes": lambda: clusters(500, 12, 10, overlap=4),
    "forty classes": lambda: clusters(600, 20, 40),
    "fewer samples than features": lambda: clusters(30, 60, 3),
    "collinear and constant features": lambda: collinear(300, 11, 4),
    "unbalanced classes": lambda: clusters(800, 8, 4, weights=[0.9, 0.07, 0.02, 0.01]),
    "separable": lambda: clusters(120, 10, 3, overlap=0.2),
    "features of very different scales": lambda: tuple(
        a * np.logspace(-3, 2, 8) if a.ndim == 2 else a for a in clusters(400, 8, 3)
    ),
}


def objective(features, labels, weight, intercept, l2):
    # Of two classes scikit-learn's W is one column, w; the symmetric pair ∓w/2 has half of its norm.
    penalty = np.diff(weight, axis=1) if weight.shape[1] == 2 else weight
    logits = features @ weight + intercept
    top = logits.max(1)
    losses = np.log(np.exp(logits - top[:, None]).sum(1)) + top - logits[np.arange(len(labels)), labels]
    return losses.sum() + l2 / 2 * (penalty**2).sum()


def reference(features, labels, l2):
    """Weights, intercept and whether scikit-learn says it converged."""
    model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    fine = not any(issubclass(w.category, ConvergenceWarning) or "Hessian" in str(w.message) for w in caught)
    weight, intercept = model.coef_.T, model.intercept_
    if weight.shape[1] == 1:
        weight, intercept = weight * [[-0.5, 0.5]], intercept * [-0.5, 0.5]
    return weight, intercept, model, fine


def assert_like_scikit_learn(name, dtype, every):
    """Compare at one strength in `every` of CLIP's grid, both ends among them."""
    x, y, test_x, test_y = (a.astype(dtype) if a.dtype.kind == "f" else a for a in PROBLEMS[name]())
    classes = int(y.max()) + 1
    x64, compared = x.astype(np.float64), 0
    # Of forty classes each takes half a second: seven of them.
    grid = clip_grid()[::every] if classes < 40 else GRID
    for solution in fit_logistic(x, y, grid, num_classes=classes):
        ours = objective(x64, y, solution.weight.numpy(), solution.intercept.numpy(), solution.l2)
        assert ours == pytest.approx(solution.objective, rel=1e-9)
        if solution.status == "converged":
            assert solution.gap <= 1e-6 * solution.objective + ROUNDING
        weight, intercept, model, fine = reference(x64, y, solution.l2)
        if not fine:
            continue
        compared += 1
        best = objective(x64, y, weight, intercept, solution.l2)
        assert ours - best <= solution.gap + ROUNDING * best
        if solution.status == "converged":
            assert best >= ours - solution.gap - ROUNDING * best
            right = (scores(test_x, solution).argmax(1) == test_y).sum()
            assert abs(right - (model.predict(test_x.astype(np.float64)) == test_y).sum()) <= 1
    assert compared >= 0.7 * len(grid)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optima_and_accuracies_are_those_of_scikit_learn(name, dtype):
    assert_like_scikit_learn(name, dtype, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optima_and_accuracies_are_those_of_scikit_learn_at_every_strength(name, dtype):
    assert_like_scikit_learn(name, dtype, 1)


def test_every_strength_with_an_attainable_optimum_converges():
    x, y, *_ = clusters(500, 12, 10, overlap=4)
    assert {s.status for s in fit_logistic(x, y, GRID, num_classes=10)} == {"converged"}


def test_real_digits_converge_at_every_strength_of_the_grid():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.data[:700].astype(np.float32), digits.target[:700]
    for solution in fit_logistic(x, y, GRID, num_classes=10):
        assert solution.status == "converged"
        assert solution.iterations < 600
        assert solution.gap <= 3e-6 * solution.objective


def l_bfgs(features, labels, num_classes, l2):
    """Weights and intercept where plain L-BFGS stops from zero, and its own gradient there, recomputed.

    It minimises the mean over the samples, as scikit-learn's does.
    """
    from scipy.optimize import minimize

    n, rows, own = len(labels), np.arange(len(labels)), np.column_stack([features, np.ones(len(labels))])

    def loss(vector):
        cube = vector.reshape(-1, num_classes)
        logits = own @ cube
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        total = p.sum(1, keepdims=True)
        value = (np.log(total) + top).sum() - logits[rows, labels].sum()
        residual = p / total
        residual[rows, labels] -= 1
        gradient = own.T @ residual
        gradient[:-1] += l2 * cube[:-1]
        return (value + l2 / 2 * (cube[:-1] ** 2).sum()) / n, gradient.ravel() / n

    given = {"maxiter": 5000, "maxfun": 10000, "maxcor": 30, "ftol": 0, "gtol": 5e-9}
    start = np.zeros((features.shape[1] + 1) * num_classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=given)
    cube = found.x.reshape(-1, num_classes)
    return cube[:-1], cube[-1], np.abs(loss(found.x)[1]).max()


@pytest.mark.parametrize(
    ("n", "num_features", "num_classes", "grid"),
    [
        (600, 40, 100, [1e2]),
        pytest.param(600, 40, 100, [1e-2, 1e-1, 1.0, 1e3], marks=pytest.mark.slow),
        (2000, 5, 1000, [1e2]),
        pytest.param(2000, 5, 1000, [1e-1, 1.0, 1e1, 1e3], marks=pytest.mark.slow),
    ],
)
def test_beyond_newtons_reach_optima_and_accuracies_are_those_of_l_bfgs(n, num_features, num_classes, grid):
    x, y, test_x, test_y = clusters(n, num_features, num_classes, test=2000)
    for solution in fit_logistic(x, y, grid, num_classes=num_classes):
        weight, intercept, slope = l_bfgs(x, y, num_classes, solution.l2)
        assert slope <= 1e-8
        assert solution.status == "converged"
        ours = objective(x, y, solution.weight.numpy(), solution.intercept.numpy(), solution.l2)
        assert ours == pytest.approx(solution.objective, rel=1e-9)
        best = objective(x, y, weight, intercept, solution.l2)
        assert ours - best <= solution.gap + ROUNDING * best
        right = (scores(test_x, solution).argmax(1) == test_y).sum()
        assert abs(right - ((test_x @ weight + intercept).argmax(1) == test_y).sum()) <= 1


@pytest.mark.parametrize(("classes", "multilabel"), [(5, False), (5, True), (2, False)])
def test_the_certificate_holds_when_only_the_intercept_is_wrong(classes, multilabel):
    x, y, *_ = clusters(400, 10, classes, overlap=4)
    labels = np.eye(classes, dtype=np.int64)[y] if multilabel else y
    common = {"num_classes": classes, "multilabel": multilabel}
    problem = make_problem(x, labels, memory_budget=1 << 28, device="cpu", **common)
    rng = np.random.default_rng(0)
    for solution in fit_logistic(x, labels, clip_grid(), relative_gap=1e-9, **common):
        weight = problem.gather(solution.weight)
        centred = problem.gather(solution.intercept) + problem.shift @ weight
        for size in [1e-6, 1e-3, 0.1, 1, 10]:
            moved = centred + size * torch.from_numpy(rng.standard_normal(len(centred)))
            proven = certify(problem, weight, moved, solution.l2)
            assert proven.gap >= proven.objective - solution.objective
            assert proven.objective > solution.objective - solution.gap


@pytest.mark.parametrize("l2", GRID)
def test_the_certificate_holds_at_random_points(l2):
    x, y, *_ = clusters(200, 6, 4)
    problem = make_problem(x, y, num_classes=4, multilabel=False, memory_budget=1 << 28, device="cpu")
    [best] = fit_logistic(x, y, [l2], num_classes=4, relative_gap=1e-9)
    rng = torch.Generator().manual_seed(0)
    for size in [1e-8, 1e-4, 1e-1, 3.0]:
        weight = best.weight + size * torch.randn(6, 4, generator=rng, dtype=torch.float64)
        intercept = best.intercept + problem.shift @ weight
        proven = certify(problem, weight, intercept, l2)
        assert proven.gap >= proven.objective - best.objective


def test_chunks_and_groups_of_strengths_change_nothing():
    x, y, *_ = clusters(8000, 20, 12, overlap=4)
    whole = fit_logistic(x, y, GRID, num_classes=12)
    small = fit_logistic(x, y, GRID, num_classes=12, memory_budget=750_000)
    solver = Solver(x, y, num_classes=12, memory_budget=750_000)
    division = solver.objective(torch.float32, 1)
    assert division.rows < 1000
    assert division._resident is None
    for a, b in zip(whole, small, strict=True):
        assert abs(a.objective - b.objective) <= a.gap + b.gap
        assert b.status == "converged"


def test_a_memory_mapped_array_gives_the_same(tmp_path):
    x, y, *_ = clusters(300, 8, 3)
    path = tmp_path / "x.npy"
    np.save(path, x.astype(np.float32))
    [mapped] = fit_logistic(np.load(path, mmap_mode="r"), y, [1.0], num_classes=3)
    [plain] = fit_logistic(np.load(path), y, [1.0], num_classes=3)
    assert torch.equal(mapped.weight, plain.weight)


def test_strengths_come_back_in_the_order_asked_for():
    x, y, *_ = clusters(200, 5, 3)
    assert [s.l2 for s in fit_logistic(x, y, [1e2, 1e-2, 1.0], num_classes=3)] == [1e2, 1e-2, 1.0]


def test_a_start_at_the_optimum_needs_no_iteration():
    x, y, *_ = clusters(200, 5, 3)
    [first] = fit_logistic(x, y, [1.0], num_classes=3)
    [again] = fit_logistic(x, y, [1.0], num_classes=3, start=[first])
    assert again.iterations == 0
    assert again.status == "converged"


def test_multilabel_is_one_binary_problem_per_class():
    x, y, test_x, _ = clusters(400, 8, 4)
    labels = np.stack([y == 0, y >= 2, np.arange(400) % 3 == 0], 1).astype(np.int64)
    for solution in fit_logistic(x, labels, GRID, num_classes=3, multilabel=True):
        best = 0.0
        logits = scores(test_x, solution)
        for k in range(3):
            model = LogisticRegression(C=1 / solution.l2, solver="newton-cholesky", tol=1e-12, max_iter=1000)
            model.fit(x, labels[:, k])
            z = x @ model.coef_[0] + model.intercept_[0]
            best += np.logaddexp(0, z).sum() - z @ labels[:, k] + solution.l2 / 2 * (model.coef_**2).sum()
            assert ((logits[:, k] > 0) != model.predict(test_x)).sum() <= 1
        assert solution.status == "converged"
        assert -ROUNDING * best <= solution.objective - best <= solution.gap + ROUNDING * best


@pytest.mark.parametrize("l2", [1e-2, 1.0, 1e2])
def test_two_classes_are_weighed_against_lambda_as_scikit_learns_single_vector(l2):
    x, y, test_x, _ = clusters(300, 6, 2)
    model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12).fit(x, y)
    own = np.logaddexp(0, (1 - 2 * y) * model.decision_function(x)).sum() + l2 / 2 * (model.coef_**2).sum()
    for labels, classes in ((y, 2), (np.array([1, 3])[y], 5)):
        [solution] = fit_logistic(x, labels, [l2], num_classes=classes, relative_gap=1e-10)
        assert solution.objective == pytest.approx(own, rel=1e-9)
        first, second = sorted(set(labels))
        logits = scores(test_x, solution)
        difference = logits[:, second] - logits[:, first]
        assert np.allclose(difference, model.decision_function(test_x), atol=1e-4)
        assert set(logits.argmax(1)) <= {first, second}


def test_a_start_of_two_classes_is_taken_up_where_it_ended():
    x, y, *_ = clusters(300, 6, 2)
    [first] = fit_logistic(x, y, [1.0], num_classes=2)
    [again] = fit_logistic(x, y, [1.0], num_classes=2, start=[first])
    assert again.iterations == 0
    assert again.objective == pytest.approx(first.objective, rel=1e-12)


def test_a_class_absent_from_training_is_never_predicted_and_changes_nothing_else():
    x, y, test_x, _ = clusters(300, 8, 3)
    gap = np.array([0, 2, 3])[y]
    [with_gap] = fit_logistic(x, gap, [1.0], num_classes=5)
    [without] = fit_logistic(x, y, [1.0], num_classes=3)
    assert torch.equal(with_gap.weight[:, [0, 2, 3]], without.weight)
    assert with_gap.intercept[[1, 4]].tolist() == [-np.inf, -np.inf]
    logits = scores(test_x, with_gap)
    assert not np.isnan(logits).any()
    assert set(logits.argmax(1)) <= {0, 2, 3}


def test_multilabel_classes_that_are_always_or_never_there_get_infinite_intercepts():
    x, y, *_ = clusters(300, 8, 3)
    labels = np.stack([y == 0, y >= 0, y < 0], 1).astype(np.int64)
    [solution] = fit_logistic(x, labels, [1.0], num_classes=3, multilabel=True)
    assert solution.intercept[1:].tolist() == [np.inf, -np.inf]
    assert solution.status == "converged"


def test_unattainable_optima_are_named_and_the_others_are_solved():
    x, y, *_ = clusters(60, 20, 3, overlap=0.05)
    weak, strong = fit_logistic(x, y, [1e-300, 1.0], num_classes=3, max_iterations=60)
    assert weak.status == "unattainable"
    assert strong.status == "converged"
    # However small an objective is, its gap is measured against it: squares that underflow prove nothing.
    for l2 in (1e-300, 1e-200, 1e-100):
        [weak] = fit_logistic(x, y, [l2], num_classes=3)
        assert weak.status == "unattainable"
        assert weak.gap >= 0.9 * weak.objective > 0


def test_running_out_of_iterations_is_named_and_the_gap_is_still_proven():
    x, y, *_ = clusters(400, 10, 5, overlap=4)
    [best] = fit_logistic(x, y, [1e-3], num_classes=5)
    [short] = fit_logistic(x, y, [1e-3], num_classes=5, max_iterations=3)
    assert short.status == "iteration_limit"
    assert short.iterations == 3
    assert short.gap >= short.objective - best.objective > 0


@pytest.mark.parametrize("l2", [1e4, 1e6])
def test_strong_strengths_are_solved_to_the_direction_of_their_tiny_weights(l2):
    x, y, *_ = clusters(400, 10, 5, overlap=4)
    [solution] = fit_logistic(x / 10, y, [l2], num_classes=5)
    [exact] = fit_logistic(x / 10, y, [l2], num_classes=5, relative_gap=1e-12, dtype=torch.float64)
    assert solution.status == "converged"
    assert (solution.weight - exact.weight).norm() <= 2e-3 * exact.weight.norm()


def test_constant_features_converge_to_the_frequencies_of_the_classes():
    y = np.array([0, 0, 0, 1])
    [solution] = fit_logistic(np.full((4, 3), 2.0), y, [1.0], num_classes=2)
    assert solution.status == "converged"
    assert (solution.intercept[0] - solution.intercept[1]).exp() == pytest.approx(3.0)
    assert solution.objective == pytest.approx(4 * np.log(4) - 3 * np.log(3))


def test_progress_ends_at_the_number_of_strengths():
    x, y, *_ = clusters(200, 5, 3)
    seen = []
    fit_logistic(x, y, GRID, num_classes=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(GRID), len(GRID))
    assert seen == sorted(seen)


def damaged(change):
    x, y, *_ = clusters(50, 4, 3)
    return change(x, y)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x, y: (np.where(x == x[7, 2], np.nan, x), y), "sample 7 hold NaN"),
        (lambda x, y: (x, y + 1), "0 … 2, but reach from 1 to 3"),
        (lambda x, y: (x, y - 1), "from -1 to 1"),
        (lambda x, y: (x, y * 0 + 2), "All 50 training samples belong to class 2"),
        (lambda x, y: (x[:0], y[:0]), "training split is empty"),
        (lambda x, y: (x, y[:-1]), r"shape \[50\], not \[49\]"),
        (lambda x, y: (x.astype(np.float16), y), "float32 or float64"),
    ],
)
def test_damaged_data_are_named(change, text):
    x, y = damaged(change)
    with pytest.raises(DamagedData, match=text):
        fit_logistic(x, y, [1.0], num_classes=3)


def test_multilabel_without_anything_to_learn_is_named():
    x = clusters(50, 4, 3)[0]
    with pytest.raises(DamagedData, match="both positive and negative"):
        fit_logistic(x, np.ones((50, 2), np.int64), [1.0], num_classes=2, multilabel=True)


def test_the_smallest_memory_budget_is_named_and_works():
    x, y, *_ = clusters(500, 30, 20)
    with pytest.raises(ConfigError, match="smallest that works is") as error:
        fit_logistic(x, y, [1.0], num_classes=20, memory_budget=1000)
    enough = float(str(error.value).split("works is ")[1].split(" MiB")[0])
    [solution] = fit_logistic(x, y, [1.0], num_classes=20, memory_budget=int(enough * 2**20))
    assert solution.status == "converged"


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_strengths_must_be_positive_and_finite(l2):
    x, y, *_ = clusters(50, 4, 3)
    with pytest.raises(ConfigError, match="positive and finite"):
        fit_logistic(x, y, [l2], num_classes=3)


@pytest.mark.gpu
@pytest.mark.parametrize("multilabel", [False, True], ids=["multinomial", "multilabel"])
def test_gpu_and_cpu_agree_within_their_gaps(multilabel):
    x, y, *_ = clusters(2000, 30, 10, overlap=4)
    if multilabel:
        y = np.eye(10, dtype=np.int64)[y] | np.eye(10, dtype=np.int64)[(y * 7 + 1) % 10]
    common = {"num_classes": 10, "multilabel": multilabel}
    cpu = fit_logistic(x, y, GRID, **common)
    for a, b in zip(cpu, fit_logistic(x, y, GRID, **common, device="cuda"), strict=True):
        assert abs(a.objective - b.objective) <= a.gap + b.gap
        assert b.status == "converged"


def test_an_accelerator_holds_the_features_only_where_the_solver_still_fits():
    # The device without memory stands for an accelerator: only sizes count here.
    x, y = np.zeros((4000, 8), np.float32), np.arange(4000) % 2
    common = {"num_classes": 2, "multilabel": False, "device": "meta"}
    smallest = make_problem(x, y, memory_budget=0, **common).smallest_budget
    check_budget(y, 8, num_classes=2, memory_budget=smallest)
    least = max(smallest + x.nbytes, 4 * x.nbytes)
    for budget, held in ((smallest, False), (least - 1, False), (least, True)):
        problem = make_problem(x, y, memory_budget=budget, **common)
        assert (problem.held is not None) == held
        assert plan(problem, 1, torch.float64).strengths == 1
