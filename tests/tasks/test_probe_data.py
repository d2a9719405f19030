"""Splits of a probe: draws, scaling and refusals."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_eval.protocols import CLIP_CERTIFIED, CLIP_LBFGS, KNN
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Features, Samples
from rwkvclip_eval.tasks.probe_data import draw_validation, probe_data

DRAW = (0.2, 0)


def split(labels, split="test", *, names=("a", "b"), kind="classification", features=None):
    labels = np.asarray(labels)
    info = DatasetInfo(
        name="mine",
        split=split,
        kind=kind,
        num_samples=len(labels),
        fingerprint=f"of {split}",
        class_names=tuple(names),
    )
    x = np.arange(len(labels) * 2, dtype=np.float32).reshape(-1, 2) if features is None else features
    keys = [f"{split}{i}" for i in range(len(labels))]
    return Samples(info=info, keys=keys, labels=labels), Features(images={"probe": x})


def case(train, test=(0, 1), val=None, **options):
    fit = {"train": split(train, "train", **options)}
    if val is not None:
        fit["val"] = split(val, "val", **options)
    samples, features = split(test, **options)
    return samples, dataclasses.replace(features, fit=fit)


def test_a_fifth_of_every_class_is_drawn_and_one_sample_stays():
    labels = np.array([0] * 10 + [1] * 5 + [2] * 2 + [3])
    rest, drawn = draw_validation(labels, 0.2, seed=0)
    assert np.bincount(labels[drawn], minlength=4).tolist() == [2, 1, 1, 0]
    assert sorted([*rest, *drawn]) == list(range(len(labels)))


def test_the_draw_depends_on_the_seed_alone():
    labels = np.repeat([0, 1], 50)
    assert draw_validation(labels, 0.2, 3)[1].tolist() == draw_validation(labels, 0.2, 3)[1].tolist()
    assert draw_validation(labels, 0.2, 3)[1].tolist() != draw_validation(labels, 0.2, 4)[1].tolist()


def test_the_official_validation_split_is_used_where_there_is_one():
    data = probe_data(*case([0, 1, 0, 1], val=[1, 0, 0]), draw=DRAW)
    assert (len(data.train.y), len(data.val.y)) == (4, 3)
    assert data.validation == "official validation split"


def test_a_drawn_validation_split_is_named_with_its_seed():
    data = probe_data(*case([0, 1] * 10), draw=(0.2, 7))
    assert (len(data.train.y), len(data.val.y)) == (16, 4)
    assert data.validation == "20% of train, stratified, seed 7"


def test_standardising_uses_the_statistics_of_the_training_part():
    data = probe_data(*case([0, 1] * 10), draw=DRAW, standardize=True)
    assert np.abs(data.train.x.mean(axis=0)).max() < 1e-5
    assert np.abs(data.train.x.std(axis=0) - 1).max() < 1e-5
    assert np.abs(data.test.x.mean(axis=0)).max() > 0.5


def test_normalised_features_have_unit_length():
    data = probe_data(*case([0, 1] * 10), draw=DRAW, normalize=True)
    assert np.allclose(np.linalg.norm(data.test.x, axis=1), 1)


def test_options_stand_in_the_protocol_name():
    task = TASKS.get("few_shot_linear_probe")
    changed = task.under(CLIP_CERTIFIED, {"shots": [1, 2], "C": 0.316})
    assert changed.name == "clip-certified (C=0.316, shots=1+2)"
    options = task.Options.of(changed)
    assert options.C == 0.316 and options.shots == (1, 2)
    assert task.under(CLIP_CERTIFIED, None) is CLIP_CERTIFIED
    assert task.under(CLIP_CERTIFIED, {"shots": [1, 2, 4, 8, 16]}) is CLIP_CERTIFIED


@pytest.mark.parametrize(
    ("name", "protocol", "options", "said"),
    [
        (
            "linear_probe",
            CLIP_CERTIFIED,
            {"seed": 1, "validation_fraction": 0.3, "standardize": True, "normalize": True, "search": "grid"},
            "search=grid, normalize=True, standardize=True, validation_fraction=0.3, seed=1",
        ),
        (
            "few_shot_linear_probe",
            CLIP_LBFGS,
            {"num_seeds": 5, "shots": [4], "seed": 2, "normalize": True, "C": 2},
            "C=2.0, normalize=True, seed=2, shots=4, num_seeds=5",
        ),
        ("knn_probe", KNN, {"temperature": 1, "k": 3, "standardize": True, "normalize": False}, None),
    ],
)
def test_the_protocol_name_lists_options_in_the_order_it_always_had(name, protocol, options, said):
    said = said or "standardize=True, k=3, temperature=1.0"
    changed = TASKS.get(name).under(protocol, options)
    assert changed.name == f"{protocol.name} ({said})"
    assert {**protocol.options} == {k: v for k, v in changed.options.items() if k == "method"}


def test_options_of_a_protocol_that_do_not_fit_are_said_by_its_name():
    wrong = dataclasses.replace(CLIP_CERTIFIED, options={"method": "sgd"})
    with pytest.raises(UserError, match="The protocol clip-certified: method: Input should be 'certified'"):
        TASKS.get("linear_probe").Options.of(wrong)
    # What a task does not read has no part in its numbers.
    assert TASKS.get("knn_probe").Options.of(wrong).k == 20


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (case([0, 0, 0]), r"mine/train: 1 classes without a training image: b. Complete"),
        (case([0, 2]), r"mine/train: 1 labels name no class; sample 'train1' has label 2, expected 0 to 1"),
        (case([0, 0], test=(0,), names=("only",)), "has 1 class; a probe needs at least two"),
        (case([0, 1] * 4, val=[]), "mine/val holds no samples to score"),
        (case([0, 1]), "no class has the two training images"),
        (case([[1, 0], [1, 0]], [[1, 0]], kind="multilabel"), "2 labels that no training image has, or all"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_by_name(given, said):
    with pytest.raises(DamagedData, match=said):
        probe_data(*given, draw=DRAW)


@pytest.mark.parametrize("lacking", ["test", "val"])
def test_a_split_of_one_class_has_no_area_under_the_roc_curve(lacking):
    given = case([0, 1] * 4, **{"test": (0, 1), "val": [0, 1]} | {lacking: [1, 1]})
    samples, features = with_info(given, "test", primary_metric="roc_auc")
    with pytest.raises(DamagedData, match=f"mine/{lacking} shows one of the two classes alone"):
        probe_data(samples, features, draw=DRAW)


def test_without_need_of_it_no_validation_split_is_drawn():
    data = probe_data(*case([0, 1] * 4), draw=None)
    assert (data.train.y.tolist(), len(data.val.y)) == ([0, 1] * 4, 0)


@pytest.mark.parametrize(
    ("labels", "kind"), [([0, 1] * 8, "classification"), ([[0, 1], [1, 0], [1, -1]], "multilabel")]
)
def test_a_budget_is_checked_for_labels_of_either_kind(labels, kind):
    train, _ = split(labels, "train", kind=kind)
    task = TASKS.get("linear_probe")
    task.check_budget({"train": train}, CLIP_CERTIFIED, 640, 2**30)
    with pytest.raises(UserError, match="smallest that works"):
        task.check_budget({"train": train}, CLIP_CERTIFIED, 640, 2**20)


def test_a_feature_that_is_not_finite_is_named():
    samples, features = case([0, 1] * 4)
    features.fit["train"][1].image_probe[3, 1] = np.nan
    with pytest.raises(DamagedData, match=r"1 probe features of mine/train hold NaN or infinity: train3"):
        probe_data(samples, features, draw=DRAW)


def with_info(given, split, **changes):
    """Return samples and features with other facts about one split."""
    samples, features = given
    if split == "test":
        return dataclasses.replace(samples, info=dataclasses.replace(samples.info, **changes)), features
    one, own = features.fit[split]
    one = dataclasses.replace(one, info=dataclasses.replace(one.info, **changes))
    return samples, dataclasses.replace(features, fit={**features.fit, split: (one, own)})


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("train", "val"), ("val", "test")])
def test_two_splits_of_the_same_samples_are_refused(first, second):
    given = with_info(case([0, 1] * 4, val=[0, 1]), second, fingerprint=f"of {first}")
    with pytest.raises(DamagedData, match=f"{first} and {second} hold the same samples"):
        probe_data(*given, draw=DRAW)


def test_a_split_that_is_learned_from_is_not_judged_where_a_limit_leaves_fewer_of_it():
    samples, features = case([0, 1] * 4)
    fewer = dataclasses.replace(samples.info, split="train", fingerprint="of fewer of train")
    with pytest.raises(DamagedData, match="train and train hold the same samples"):
        probe_data(dataclasses.replace(samples, info=fewer), features, draw=DRAW)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "c"), r"\(2 and 3\): only test has 'b'\. Give"),
        (("a", "b", "d"), r"only {0} has 'd'; only test has 'c'"),
        (("b", "a", "c"), r"the same classes in another order"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_splits_that_number_their_classes_differently_are_refused(split, names, said):
    given = case([0, 1, 2] * 4, val=[0, 1, 2], names=("a", "b", "c"))
    given = with_info(given, split, class_names=names)
    with pytest.raises(DamagedData, match=f"mine: {split} and test .*{said.format(split)}"):
        probe_data(*given, draw=DRAW)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 1.0), ({"normalize": True}, 2.0), ({"standardize": True}, 2.0)],
    ids=["plain", "normalised", "standardised"],
)
def test_features_are_copied_once_and_scaled_ones_twice(monkeypatch, official, options, most):
    # Chunks have a size of their own, so they count for little beside features larger than these.
    monkeypatch.setattr("rwkvclip_eval.metrics.chunks.CHUNK_ELEMENTS", 1 << 15)
    labels = np.arange(12_000) % 2
    x = np.random.default_rng(0).standard_normal((12_000, 256), dtype=np.float32)
    val = labels[:3000] if official else None
    samples, features = case(labels, labels[:3000], val)
    fit = {s: (g, Features(images={"probe": x[: len(g.labels)]})) for s, (g, _) in features.fit.items()}
    features = dataclasses.replace(features, images={"probe": x[:3000]}, fit=fit)
    size = 3000 * x[0].nbytes + sum(given.image_probe.nbytes for _, given in fit.values())
    tracemalloc.start()
    data = probe_data(samples, features, draw=DRAW, **options)
    stays, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stays < 1.1 * size and peak < (most + 0.1) * size
    assert data.train.x.base is not None and data.val.x.base is not None
    assert len(data.train.y) + len(data.val.y) == len(data.learned.y)
