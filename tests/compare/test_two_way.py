"""Variances of a difference of methods, by hand and beside the two-way analysis of variance."""

import numpy as np
import pytest
from scipy.stats import t as student
from small_runs import LABELS, Run

from rwkvclip_eval.compare import paired
from rwkvclip_eval.compare.by_image import ByImage, RunsOfUnit, varying
from rwkvclip_eval.compare.two_way import mean_of, vary
from rwkvclip_eval.metrics import intervals
from rwkvclip_eval.records.metrics import MAP_11_POINT, MEAN_PER_CLASS, ROC_AUC, TOP1, TOP5, recall
from rwkvclip_eval.records.reading import read_records


def runs_of(hits):
    return [ByImage(float(row.mean()), varying(row.astype(float)), row.size) for row in hits]


def drawn(num_seeds=4, n=2000, seed=0):
    generator = np.random.default_rng(seed)
    easy = generator.normal(0.5, 1, n)
    hits = [
        easy + generator.normal(0, 0.2, (num_seeds, 1)) + generator.normal(0, 1, (num_seeds, n)) > 0
        for _ in range(2)
    ]
    return hits


def test_the_parts_are_those_of_the_two_way_analysis_of_variance():
    before, after = drawn()
    found = vary(runs_of(before), runs_of(after), paired=True)
    steps = after.astype(float) - before
    num_seeds, n = steps.shape
    rows, columns = steps.mean(axis=1, keepdims=True), steps.mean(axis=0, keepdims=True)
    rest = ((steps - rows - columns + steps.mean()) ** 2).sum() / ((num_seeds - 1) * (n - 1))
    of_seeds = rows.var(ddof=1)
    assert of_seeds > rest / n
    shared = columns.var(ddof=1) / n - rest / n / num_seeds
    variance = of_seeds / num_seeds + shared
    assert found.value == pytest.approx(steps.mean())
    assert found.variance == pytest.approx(variance, rel=0.01)
    freedom = variance**2 / ((of_seeds / num_seeds) ** 2 / (num_seeds - 1) + shared**2 / (n - 1))
    assert found.freedom == pytest.approx(freedom, rel=0.02)
    assert found.reach() == pytest.approx(student.ppf(0.975, found.freedom) * found.variance**0.5)
    assert found.worse == pytest.approx(student.cdf(found.value / found.variance**0.5, found.freedom))


def test_unpaired_methods_have_the_seeds_variance_of_both():
    before, after = drawn(3)[0], drawn(5)[1]
    found = vary(runs_of(before), runs_of(after), paired=False)
    assert [len(one.values) for one in found.draws] == [3, 5]
    at_least = before.mean(axis=1).var(ddof=1) / 3 + after.mean(axis=1).var(ddof=1) / 5
    assert found.variance >= at_least
    assert found.freedom > 2


def test_pairs_of_like_seeds_are_told_apart_better_than_unpaired_ones():
    generator = np.random.default_rng(3)
    hidden = generator.normal(0.5, 1, (5, 1000)) + np.array([-0.4, -0.2, 0, 0.2, 0.4])[:, None]
    sides = runs_of(hidden > 0), runs_of(hidden > 0.02)
    assert vary(*sides, paired=True).reach() < vary(*sides, paired=False).reach() / 4


def test_seeds_that_agree_by_chance_are_taken_to_vary_as_their_images_make_them():
    half = np.arange(300) < 150
    found = vary(runs_of(np.zeros((2, 300), bool)), runs_of(np.stack([half, ~half])), paired=True)
    assert np.ptp(found.draws[0].values) == 0
    # Each image is hit by one of two seeds: none is easier than another, and all variance is a run's own.
    assert found.variance == pytest.approx(0.25 / 300 / 2 * 2, rel=0.02)


def test_methods_that_never_differ_leave_an_interval_all_the_same():
    same = runs_of(np.ones((3, 50), bool))
    found = vary(same, same, paired=True)
    assert (found.value, found.worse) == (0, 0.5)
    assert 0.2 / 50 < found.reach() < 2 / 50


def test_seeds_go_up_and_down_together_on_all_sets_and_images_do_not():
    before, after = drawn(4)
    one = vary(runs_of(before), runs_of(after), paired=True)
    alike = mean_of([one, one], np.array([0, 0]))
    assert (alike.value, alike.variance) == (pytest.approx(one.value), pytest.approx(one.variance))
    apart = mean_of([one, one], np.array([0, 1]))
    assert apart.by_images == pytest.approx(one.by_images / 2)
    assert apart.draws[0].own == pytest.approx(one.draws[0].own / 2)
    assert apart.draws[0].values == pytest.approx(one.draws[0].values)


def test_recalls_of_captions_vary_as_their_images_do():
    owner = np.repeat(np.arange(200), 5)
    hit = np.random.default_rng(0).random(200)[owner] > np.random.default_rng(1).random(1000)
    from rwkvclip_eval.compare.by_image import _recall

    found = _recall(hit, owner)
    low, high, *_ = intervals.recall(hit, owner)
    assert found.value == hit.mean()
    assert 1.96 * float(found.parts @ found.parts) ** 0.5 == pytest.approx((high - low) / 2, rel=0.03)


def test_classes_of_one_image_vary_as_images_do():
    hit = (np.random.default_rng(0).random(200) < 0.7).astype(float)
    classes, images = varying(hit, np.arange(200)), varying(hit)
    assert float(classes @ classes) == pytest.approx(float(images @ images), rel=0.01)


def test_small_classes_count_as_much_as_in_the_interval_of_one_model():
    labels = np.repeat(np.arange(30), 4)
    hit = np.random.default_rng(0).random(120) < 0.7
    parts = varying(hit.astype(float), labels)
    low, high, *_ = intervals.mean_per_class(hit, labels)
    assert 1.96 * float(parts @ parts) ** 0.5 == pytest.approx((high - low) / 2, rel=0.15)


@pytest.mark.parametrize(
    ("add", "metrics"),
    [
        ("zero_shot", (TOP1, TOP5, MEAN_PER_CLASS)),
        ("retrieval", (recall("image", 1), recall("text", 5))),
        ("binary", (TOP1, ROC_AUC)),
        ("multilabel", (MAP_11_POINT,)),
    ],
)
def test_every_metric_comes_out_as_recorded_and_pairs_as_two_runs_do(tmp_path, monkeypatch, add, metrics):
    monkeypatch.setattr("rwkvclip_eval.compare.by_image.NUM_RESAMPLES", 200)
    places, values = [], []
    for name, change in (("one", {}), ("two", {"worse": 1} if add == "retrieval" else {"noise": 0.5})):
        run = Run(tmp_path / name)
        change = {"flip": 0.2} if (add, name) == ("zero_shot", "two") else change
        places.append(getattr(run, add)(**change))
        values.append({record.metric: record.value for record in read_records(run.write() / "results.jsonl")})
    for metric in metrics:
        found = RunsOfUnit(tuple(places), "key").numbers(metric.name)
        assert [one.value for one in found] == pytest.approx([side[metric.name] for side in values], abs=1e-9)
        step = found[1].parts - found[0].parts
        assert float(step @ step) > 0


def test_hits_of_two_runs_differ_by_as_much_as_in_a_pair():
    generator = np.random.default_rng(0)
    before, after = generator.random((2, 500)) < 0.8
    one, other = runs_of(np.stack([before, after]))
    step = other.parts - one.parts
    assert float(step @ step) == pytest.approx(paired.hits(before, after).variance, rel=0.02)


def test_tables_in_other_orders_are_brought_into_one(tmp_path):
    order = np.random.default_rng(0).permutation(len(LABELS))
    places = []
    for name, chosen in (("one", None), ("two", order), ("three", order[::-1])):
        run = Run(tmp_path / name)
        places.append(run.zero_shot(order=chosen))
    one, two, three = RunsOfUnit(tuple(places), "key").numbers(TOP1.name)
    assert one.value == two.value
    assert np.array_equal(one.parts, two.parts)
    assert np.array_equal(one.parts, three.parts)
