"""Linear, few-shot and k-NN probes on scikit-learn's digits, against scikit-learn."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_eval.metrics.ranking import roc_auc
from rwkvclip_eval.metrics.seed_intervals import of_area_under_curve, of_mean_per_class
from rwkvclip_eval.protocols import CLIP_CERTIFIED, CLIP_LBFGS, KNN
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Compute, Features, Samples
from rwkvclip_eval.tasks.few_shot import _orders
from rwkvclip_eval.tasks.linear_probe import SCORES, fit, predict, search
from rwkvclip_eval.tasks.probe_data import probe_data
from rwkvclip_eval.tasks.probe_options import LogisticOptions


def digits(split, labels=None, metric="top1_accuracy", names=10, kind="classification", every=1):
    pixels, digit = load_digits(return_X_y=True)
    rows = np.arange(split == "test", len(digit), 2)[::every]
    x, y = (pixels[rows] / 16).astype(np.float32), digit[rows]
    info = DatasetInfo(
        name="digits",
        split=split,
        kind=kind,
        num_samples=len(y),
        fingerprint=split,
        class_names=tuple(map(str, range(names))),
        primary_metric=metric,
    )
    y = y if labels is None else labels(y)
    return Samples(info=info, keys=[f"{split}{row}" for row in rows], labels=y), Features(images={"probe": x})


def probe(name, protocol, **case):
    samples, features = digits("test", **case)
    features = dataclasses.replace(features, fit={"train": digits("train", **case)})
    return TASKS.get(name).score(samples, features, protocol), samples, features


def fixed(c, protocol=CLIP_CERTIFIED):
    return protocol.with_options({"C": c})


def value(result, name):
    return next(m.value for m in result.metrics if m.name == name)


@pytest.mark.parametrize("protocol", [CLIP_CERTIFIED, CLIP_LBFGS], ids=lambda p: p.name)
def test_a_fixed_strength_gives_the_accuracy_of_scikit_learn(protocol):
    result, samples, features = probe("linear_probe", fixed(0.316, protocol))
    (train, x), test_x = features.fit["train"], features.image_probe
    reference = LogisticRegression(C=0.316, solver="newton-cholesky", tol=1e-10).fit(
        x.image_probe.astype(np.float64), train.labels
    )
    right = (reference.predict(test_x) == samples.labels).mean()
    assert abs(value(result, "top1_accuracy") - right) <= 1.01 / len(test_x)
    assert result.notes["num_train"] + result.notes["num_val"] == len(train.labels)


def test_the_search_keeps_its_curve_and_the_strength_it_chose():
    result, *_ = probe("linear_probe", CLIP_CERTIFIED, every=2)
    curve = result.predictions["regularisation"].to_pandas()
    tried = curve[curve.stage == "search"]
    assert len(tried) >= 10
    assert tried.l2.is_monotonic_increasing
    best = tried[tried.score == tried.score.max()].l2.max()
    assert result.notes["l2"] == pytest.approx(best)
    assert curve.iloc[-1].stage == "final"
    assert curve.iloc[-1].score == pytest.approx(value(result, "top1_accuracy"))
    assert value(result, "top1_accuracy") > 0.9


def test_the_metric_of_the_dataset_chooses_the_strength():
    result, *_ = probe("linear_probe", fixed(1.0), metric="mean_per_class_accuracy", every=2)
    curve = result.predictions["regularisation"].to_pandas()
    assert curve.score[0] == pytest.approx(value(result, "mean_per_class_accuracy"))


def test_two_classes_give_the_area_under_the_roc_curve():
    case = {"labels": lambda y: (y > 4).astype(np.int64), "names": 2, "metric": "roc_auc", "every": 2}
    result, _samples, _ = probe("linear_probe", fixed(1.0), **case)
    assert 0.8 < value(result, "roc_auc") <= 1
    assert [m.name for m in result.metrics] == ["top1_accuracy", "mean_per_class_accuracy", "roc_auc"]
    assert result.metrics[-1].notes["chance"] == 0.5


def test_kinetics_metric_is_the_mean_of_top1_and_top5():
    result, *_ = probe("linear_probe", fixed(1.0), metric="mean_top1_top5_accuracy", every=2)
    mean = (value(result, "top1_accuracy") + value(result, "top5_accuracy")) / 2
    assert value(result, "mean_top1_top5_accuracy") == pytest.approx(mean)
    assert result.metrics[-1].notes["chance"] == pytest.approx((0.1 + 0.5) / 2)


def test_several_labels_an_image_are_independent_binary_problems():
    def labels(y):
        return np.stack([y < 5, y % 2 == 0], axis=1).astype(np.int64)

    metric = "mean_average_precision_11_point"
    result, _samples, features = probe(
        "linear_probe", fixed(1.0), labels=labels, names=2, kind="multilabel", metric=metric, every=2
    )
    (train, x), test_x = features.fit["train"], features.image_probe
    table = result.predictions["predictions"].to_pandas()
    scores = np.stack(table.scores)
    for k in range(2):
        reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
        reference.fit(x.image_probe.astype(np.float64), train.labels[:, k])
        assert np.abs(scores[:, k] - reference.decision_function(test_x)).max() < 0.02
    assert value(result, metric) > 0.8
    assert {m.notes["form"] for m in result.metrics} == {"11-point", "area"}
    # Half the images are positive; interpolation takes the best precision from each recall on.
    chance = {m.notes["form"]: m.notes["chance"] for m in result.metrics}
    assert chance["area"] == pytest.approx(0.5, abs=0.03)
    assert chance["area"] < chance["11-point"] < 0.6
    assert {(m.ci_resamples, m.ci_seed) for m in result.metrics} == {(1000, 0)}
    assert all("expected mAP" in m.ci_method for m in result.metrics)


def test_the_gap_noted_is_that_of_the_last_fit_in_the_table():
    result, _samples, _ = probe("linear_probe", fixed(1.0), every=8)
    (final,) = result.predictions["regularisation"].to_pylist()
    assert result.notes["gap"] == final["gap"] <= 1e-8 * result.notes["objective"]
    assert not [name for name in result.notes if "relative" in name]


def test_labels_that_are_left_open_are_left_out_of_scores_and_trained_as_absent():
    def labels(left_open):
        def of(y):
            marks = np.stack([y < 5, y % 2 == 0], axis=1).astype(np.int64)
            marks[3::7, 0] = left_open
            return marks

        return of

    case = {"names": 2, "kind": "multilabel", "metric": "mean_average_precision", "every": 2}
    result, samples, _ = probe("linear_probe", fixed(1.0), labels=labels(-1), **case)
    absent, *_ = probe("linear_probe", fixed(1.0), labels=labels(0), **case)
    one, other = (np.stack(r.predictions["predictions"].to_pandas().scores) for r in (result, absent))
    assert np.array_equal(one, other)
    known = samples.labels[:, 0] >= 0
    areas = [
        average_precision_score(samples.labels[known, 0], one[known, 0]),
        average_precision_score(samples.labels[:, 1], one[:, 1]),
    ]
    assert value(result, "mean_average_precision") == pytest.approx(np.mean(areas))
    assert value(absent, "mean_average_precision") != pytest.approx(np.mean(areas), abs=1e-3)
    (area,) = [m for m in result.metrics if m.name == "mean_average_precision"]
    assert area.ci_low < area.value < area.ci_high
    assert result.notes["left_open"] == "64 labels of test images left out of scores, 64 trained as absent"
    assert "left_open" not in absent.notes
    assert np.stack(result.predictions["predictions"].to_pandas().labels)[3, 0] == -1


def test_labels_that_are_left_open_do_not_choose_the_strength():
    metric = SCORES["mean_average_precision"]
    scores = np.array([[0.9], [0.8], [0.1]], np.float32)
    assert metric(scores, np.array([[-1], [1], [0]])) == 1.0
    assert metric(scores, np.array([[0], [1], [0]])) == 0.5

    def labels(y):
        return np.where((np.arange(len(y)) % 5 == 0)[:, None], -1, y[:, None] < [5, 3]).astype(np.int64)

    samples, features = digits("test", labels=labels, names=2, kind="multilabel", every=4)
    fit_data = {"train": digits("train", labels=labels, names=2, kind="multilabel", every=4)}
    features = dataclasses.replace(features, fit=fit_data)
    data = probe_data(samples, features, draw=(0.2, 0))
    found = search(data.train, data.val, data, metric, LogisticOptions(), Compute())
    best = predict(data.val.x, fit(data.train, found.best.l2, data, "certified", Compute()), Compute())
    assert (data.val.y < 0).any()
    assert found.best.score == pytest.approx(metric(best, data.val.y), abs=1e-9)
    assert metric(best, data.val.y) != pytest.approx(metric(best, data.val.targets), abs=1e-3)


def test_neighbours_vote_as_scikit_learn_with_the_same_weights():
    result, _samples, features = probe("knn_probe", KNN)
    train, x = features.fit["train"]
    reference = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(x.image_probe, train.labels)
    expected = reference.predict(features.image_probe)
    found = result.predictions["predictions"]["prediction"].to_numpy()
    assert (found == expected).mean() > 0.998
    assert value(result, "top1_accuracy") > 0.95
    assert result.metrics[0].notes["chance"] == 0.1


def test_the_bank_of_neighbours_is_said_with_its_official_validation_images():
    samples, features = digits("test", every=4)
    train, val = digits("train", every=4), digits("train", every=5)
    info = dataclasses.replace(val[0].info, split="val", fingerprint="val")
    val = dataclasses.replace(val[0], info=info), val[1]
    alone = dataclasses.replace(features, fit={"train": train})
    both = dataclasses.replace(features, fit={"train": train, "val": val})
    notes = [TASKS.get("knn_probe").score(samples, f, KNN).notes for f in (alone, both)]
    assert [n["bank"] for n in notes] == [
        "225 images of train",
        "225 images of train and 180 of the official validation split",
    ]
    assert [n["num_train"] for n in notes] == [225, 405]


def test_neighbours_are_the_same_in_small_memory():
    samples, features = digits("test")
    features = dataclasses.replace(features, fit={"train": digits("train")})
    small = dataclasses.replace(features, compute=Compute(memory_budget=100_000))
    task = TASKS.get("knn_probe")
    tables = [task.score(samples, f, KNN).predictions["predictions"] for f in (features, small)]
    assert tables[0]["prediction"].equals(tables[1]["prediction"])


def test_a_memory_budget_below_one_row_is_refused_with_the_figure_that_would_do():
    samples, features = digits("test")
    features = dataclasses.replace(
        features, fit={"train": digits("train")}, compute=Compute(memory_budget=100)
    )
    with pytest.raises(UserError, match=r"memory budget of 100 bytes is below the [\d,]+"):
        TASKS.get("knn_probe").score(samples, features, KNN)


def test_few_shots_give_a_mean_and_a_deviation_over_seeds():
    options = {"shots": (1, 4), "num_seeds": 2, "C": 1.0}
    result, _samples, _ = probe("few_shot_linear_probe", CLIP_CERTIFIED.with_options(options))
    rows = result.predictions["few_shot"].to_pandas()
    assert rows[["shots", "seed"]].values.tolist() == [[1, 0], [4, 0], [1, 1], [4, 1]]
    assert [m.name for m in result.metrics] == ["top1_accuracy_4_shot", "top1_accuracy_1_shot"]
    four = rows[rows.shots == 4].score
    assert result.metrics[0].value == pytest.approx(four.mean())
    assert result.metrics[0].notes["std"] == pytest.approx(four.std())
    assert result.metrics[0].value > result.metrics[1].value > 0.2
    assert {m.notes["chance"] for m in result.metrics} == {0.1}
    assert rows.unsolved.tolist() == [0, 0, 0, 0]


def test_a_few_shot_interval_holds_seeds_and_images_and_says_so():
    options = {"shots": (2,), "num_seeds": 3, "C": 1.0}
    result, *_ = probe("few_shot_linear_probe", CLIP_CERTIFIED.with_options(options), every=2)
    (metric,) = result.metrics
    notes = metric.notes
    assert metric.ci_method == "score interval over 3 seeds × test images"
    assert metric.ci_low < notes["images_low"] < metric.value < notes["images_high"] < metric.ci_high
    assert notes["seeds_se"] == pytest.approx(notes["std"] / 3**0.5)
    assert notes["interval_covers"] == (
        "draws of training images; draws of test images; not the model's own training"
    )


def test_one_seed_of_few_shots_has_a_value_and_no_interval():
    options = {"shots": (1,), "num_seeds": 1, "C": 1.0}
    result, *_ = probe("few_shot_linear_probe", CLIP_CERTIFIED.with_options(options), every=2)
    (metric,) = result.metrics
    assert (metric.ci_low, metric.ci_high, metric.ci_method) == (None, None, "")
    assert not {"std", "seeds_se", "interval_covers"} & set(metric.notes)
    assert len(result.predictions["predictions"]) == metric.n


def binary(y):
    return (y > 4).astype(np.int64)


@pytest.mark.parametrize(
    ("metric", "case", "again"),
    [
        ("top1_accuracy", {}, lambda t: (t.prediction == t.label).mean()),
        (
            "mean_per_class_accuracy",
            {},
            lambda t: (t.prediction == t.label).groupby(t.label).mean().mean(),
        ),
        ("mean_top1_top5_accuracy", {}, lambda t: ((t.prediction == t.label).mean() + t.hit_5.mean()) / 2),
        ("roc_auc", {"labels": binary, "names": 2}, lambda t: roc_auc_score(t.label, t.score)),
    ],
)
def test_predictions_of_each_seed_give_its_score_again(metric, case, again):
    options = {"shots": (1, 4), "num_seeds": 2, "seed": 5, "C": 1.0}
    result, samples, _ = probe(
        "few_shot_linear_probe", CLIP_CERTIFIED.with_options(options), metric=metric, every=4, **case
    )
    table = result.predictions["predictions"].to_pandas()
    rows = result.predictions["few_shot"].to_pandas().set_index(["shots", "seed"])
    assert len(table) == 4 * len(samples.keys)
    assert set(table.key) == set(samples.keys)
    for (shots, seed), own in table.groupby(["shots", "seed"]):
        assert own.label.tolist() == samples.labels.tolist()
        assert again(own) == pytest.approx(rows.score[shots, seed])
    assert {m.name for m in result.metrics} == {f"{metric}_1_shot", f"{metric}_4_shot"}
    assert all(m.ci_low < m.value < m.ci_high for m in result.metrics)


def test_few_shot_intervals_let_images_vary_within_their_class_or_kind():
    protocol = CLIP_CERTIFIED.with_options({"shots": (2,), "num_seeds": 3, "C": 1.0})
    cases = (
        ("mean_per_class_accuracy", {"labels": lambda y: np.minimum(y, 3), "names": 4}),
        ("roc_auc", {"labels": binary, "names": 2}),
    )
    for metric, case in cases:
        result, samples, _ = probe("few_shot_linear_probe", protocol, metric=metric, every=2, **case)
        table = result.predictions["predictions"].to_pandas()
        labels = samples.labels
        if metric == "roc_auc":
            scores = table.score.to_numpy().reshape(-1, 3).T
            parts = [roc_auc(own, labels == 1) for own in scores]
            fractions = np.zeros(scores.shape)
            fractions[:, labels == 1] = [part.per_positive for part in parts]
            fractions[:, labels == 0] = [part.per_negative for part in parts]
            expected = of_area_under_curve(fractions, labels == 1)
        else:
            hit = (table.prediction == table.label).to_numpy().reshape(-1, 3).T
            expected = of_mean_per_class(hit, labels)
        (found,) = result.metrics
        assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_few_shot_runs_of_two_models_pair_image_by_image_and_seed_by_seed():
    protocol = CLIP_CERTIFIED.with_options({"shots": (2,), "num_seeds": 3, "C": 1.0})
    samples, features = digits("test", every=4)
    train, x = digits("train", every=4)
    tables = []
    for width in (64, 32):
        cut = Features(images={"probe": x.image_probe[:, :width]})
        own = dataclasses.replace(
            features, images={"probe": features.image_probe[:, :width]}, fit={"train": (train, cut)}
        )
        result = TASKS.get("few_shot_linear_probe").score(samples, own, protocol)
        tables.append(result.predictions["predictions"].to_pandas())
    paired = tables[0].merge(tables[1], on=["key", "shots", "seed"], validate="one_to_one")
    assert len(paired) == len(tables[0]) == 3 * len(samples.keys)
    assert (paired.label_x == paired.label_y).all()


@pytest.mark.parametrize(("C", "at_edge"), [(None, 2), (1.0, 0)])
def test_seeds_whose_best_strength_ends_the_range_are_counted(C, at_edge):
    samples, features = digits("test", every=4)
    train, _ = digits("train", every=4)
    # Right at every strength, of which the largest is then taken.
    told = [
        Features(images={"probe": np.eye(10, dtype=np.float32)[split.labels]}) for split in (samples, train)
    ]
    features = dataclasses.replace(told[0], fit={"train": (train, told[1])})
    protocol = CLIP_CERTIFIED.with_options({"shots": (1, 2), "num_seeds": 2, "C": C})
    result = TASKS.get("few_shot_linear_probe").score(samples, features, protocol)
    rows = result.predictions["few_shot"].to_pandas()
    assert list(rows.columns) == ["shots", "seed", "l2", "at_edge", "unsolved", "status", "score"]
    assert set(rows.status) == {"converged"}
    assert rows.groupby("shots").at_edge.sum().tolist() == [at_edge] * 2
    assert [m.notes["l2_at_edge"] for m in result.metrics] == [at_edge] * 2


def test_a_few_shot_draw_is_that_of_its_own_seed_whichever_seed_comes_first():
    given = {}
    for seed, num_seeds in ((0, 2), (1, 1)):
        options = {"shots": (4,), "seed": seed, "num_seeds": num_seeds, "C": 1.0}
        result, *_ = probe("few_shot_linear_probe", CLIP_CERTIFIED.with_options(options), every=2)
        given[seed] = result.predictions["few_shot"].to_pylist()[-1]
    assert given[0] == given[1]


def test_few_shot_metrics_are_named_for_what_they_measure():
    options = CLIP_CERTIFIED.with_options({"shots": (1,), "num_seeds": 1, "C": 1.0})
    for wanted, given in (
        ("mean_per_class_accuracy", "mean_per_class_accuracy_1_shot"),
        ("roc_auc", "top1_accuracy_1_shot"),
    ):
        result, *_ = probe("few_shot_linear_probe", options, metric=wanted)
        assert [m.name for m in result.metrics] == [given]


def test_few_shots_are_standardised_by_themselves_whatever_else_the_training_split_holds():
    """Images that no draw takes have features of another scale; standardised or not, they must not matter."""
    options = {"shots": (2,), "num_seeds": 2, "standardize": True, "C": 1.0}
    protocol = CLIP_CERTIFIED.with_options(options)
    samples, features = digits("test", every=2)
    train, x = digits("train", every=2)
    fit = {"train": (train, x), "val": digits("val", every=2)}
    plain = TASKS.get("few_shot_linear_probe").score(
        samples, dataclasses.replace(features, fit=fit), protocol
    )
    drawn = {i for seed in (0, 1) for order in _orders(train.labels, seed) for i in order[:2].tolist()}
    others = np.setdiff1d(np.arange(len(train.labels)), sorted(drawn))
    scaled = x.image_probe.copy()
    scaled[others] = scaled[others] * 1e3 + 7
    fit["train"] = train, Features(images={"probe": scaled})
    changed = TASKS.get("few_shot_linear_probe").score(
        samples, dataclasses.replace(features, fit=fit), protocol
    )
    assert value(plain, "top1_accuracy_2_shot") > 0.3
    assert changed.predictions["few_shot"].equals(plain.predictions["few_shot"])


def test_neighbours_are_standardised_by_all_they_are_looked_for_among():
    result, samples, features = probe("knn_probe", KNN.with_options({"standardize": True, "k": 1}), every=2)
    train, x = features.fit["train"]
    mean, deviation = x.image_probe.mean(axis=0), x.image_probe.std(axis=0)
    deviation[deviation == 0] = 1
    reference = KNeighborsClassifier(1, metric="cosine").fit((x.image_probe - mean) / deviation, train.labels)
    expected = reference.predict((features.image_probe - mean) / deviation)
    assert (result.predictions["predictions"]["prediction"].to_numpy() == expected).mean() > 0.99
    assert len(samples.labels) == len(expected)


def test_more_shots_than_a_class_has_are_refused_by_name():
    protocol = CLIP_CERTIFIED.with_options({"shots": (1000,), "C": 1.0})
    with pytest.raises(DamagedData, match=r"class '\d' has \d+ training images, fewer than the 1000 shots"):
        probe("few_shot_linear_probe", protocol)


def test_a_record_names_no_option_that_had_no_part_in_it():
    searched, *_ = probe("linear_probe", CLIP_CERTIFIED, every=2)
    assert searched.notes["search"] == "clip" and searched.notes["seed"] == "0"
    still, *_ = probe("linear_probe", fixed(0.316))
    assert not {"search", "seed"} & set(still.notes)
