"""The situations in which every interval the product prints is simulated; see `coverage_simulation`."""

import numpy as np
from coverage_simulation import Draw, Point
from scipy.stats import nbinom, norm

from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.metrics import ranking

SHAPES = np.random.default_rng(5)
"""Of the points' own class sizes and accuracies."""


# Mean per class accuracy.


def accuracies_near(base, counts):
    """Truths within one image: of every class, or one image over all classes."""

    def near(generator):
        if generator.random() < 0.5:
            return np.clip(base + generator.uniform(-1, 1, len(counts)) / counts, 0, 1)
        step = generator.uniform(-1, 1)
        room = counts * (1 - base if step > 0 else base)
        if not room.any():
            step, room = -step, counts * (base if step > 0 else 1 - base)
        return np.clip(base + step * room / room.sum() / counts, 0, 1)

    return near


def per_class(name, counts, base, at_most=0.97):
    counts, base = np.broadcast_arrays(np.asarray(counts), np.asarray(base, float))
    labels = np.repeat(np.arange(len(counts)), counts)

    def draw(truth, generator):
        hit = generator.random(len(labels)) < truth[labels]
        value = (np.bincount(labels, weights=hit) / counts).mean()
        return Draw(statistics.mean_per_class(hit, labels), value, truth.mean())

    return Point(name, accuracies_near(base, counts), draw, at_most)


def spread_rates(mean, concentration, num_classes):
    return SHAPES.beta(mean * concentration, (1 - mean) * concentration, num_classes)


SMALL = SHAPES.integers(1, 6, 102)
CALTECH = np.minimum(SHAPES.lognormal(np.log(20), 1.1, 102).astype(int) + 1, 770)
FLOWERS = SHAPES.integers(20, 239, 102)
AIRCRAFT = np.repeat([33, 34], [67, 33])
HALF = np.repeat([1.0, 0.0], [51, 51])

PER_CLASS = [
    per_class("one image a class", np.ones(102, int), 0.5),
    per_class("one image a class, spread", np.ones(102, int), spread_rates(0.8, 1, 102)),
    per_class("one to five images a class", SMALL, 0.5),
    per_class("one to five images a class, spread", SMALL, spread_rates(0.7, 1.5, 102)),
    per_class("ten large and two tiny classes", [500] * 10 + [2, 2], [0.9] * 10 + [0.8, 0.5]),
    per_class("ten large classes and two images", [500] * 10 + [1, 1], [0.9] * 10 + [0.9, 0.9]),
    per_class("caltech101 at 30 a class", np.full(102, 30), spread_rates(0.95, 3, 102)),
    per_class("caltech101 as it is", CALTECH, spread_rates(0.9, 3, 102)),
    per_class("flowers", FLOWERS, spread_rates(0.66, 1.2, 102), at_most=0.96),
    per_class("flowers, a good model", FLOWERS, spread_rates(0.93, 4, 102), at_most=0.96),
    per_class("aircraft", AIRCRAFT, spread_rates(0.2, 1.5, 100), at_most=0.96),
    per_class("pets", np.full(37, 99), spread_rates(0.88, 6, 37), at_most=0.96),
    per_class("all hits in one class", np.full(37, 99), np.eye(37)[0]),
    per_class("all hits in one class of few", np.full(10, 20), np.eye(10)[0]),
    per_class("all hits", np.full(37, 99), 1.0),
    per_class("no hits", np.full(37, 99), 0.0),
    per_class("all hits, one to five images a class", SMALL, 1.0),
    per_class("half the classes perfect, half at 0", np.full(102, 20), HALF),
]
PER_CLASS_FURTHER = [
    per_class("one image a class, nearly all hits", np.ones(102, int), 0.98),
    per_class("two images a class", np.full(102, 2), 0.8),
    per_class("three images a class", np.full(20, 3), 0.5),
    per_class("four images a class", np.full(20, 4), 0.8),
    per_class("five images a class", np.full(20, 5), spread_rates(0.5, 1.2, 20)),
    per_class("six images a class", np.full(102, 6), spread_rates(0.95, 1.2, 102)),
    per_class("half perfect, half at 0, tiny", SMALL, HALF),
    per_class("one image beside large classes", [500] * 10 + [1], [0.9] * 10 + [0.8]),
    per_class("three images beside large classes", [500] * 10 + [3], [0.98] * 10 + [0.1]),
    per_class("ten large classes and two of five", [500] * 10 + [5, 5], [0.9] * 10 + [0.95, 0.95]),
    per_class("two large classes and one of five", [5, 500, 500], [0.8, 0.6, 0.9]),
    per_class("two classes", np.full(2, 50), 0.5),
    per_class("five classes of eight", np.full(5, 8), 0.8),
    per_class("ten classes of twenty", np.full(10, 20), 0.5),
    per_class("caltech101 at 30 a class, weak", np.full(102, 30), spread_rates(0.6, 2, 102)),
    per_class("aircraft, weak", AIRCRAFT, spread_rates(0.04, 1, 100)),
]


# Proportions and recalls.


def proportion(n, rate):
    def draw(truth, generator):
        hits = generator.binomial(n, truth)
        return Draw(statistics.wilson(hits, n), hits / n, truth)

    return Point(f"{rate} of {n}", lambda g: np.clip(rate + g.uniform(-1, 1) / n, 0, 1), draw)


def captions(num_images, rate, correlation, counts=5):
    """Captions, five an image, whose hits correlate within it (Beta-binomial)."""
    owner = np.repeat(np.arange(num_images), counts)

    def near(generator):
        # One image, or half the way to 1 where that is nearer.
        return rate + generator.uniform(-1, 1) * min(1 / num_images, (1 - rate) / 2)

    def draw(truth, generator):
        if correlation == 0:
            each = np.full(num_images, truth)
        elif correlation == 1:
            each = (generator.random(num_images) < truth).astype(float)
        else:
            total = 1 / correlation - 1
            each = generator.beta(truth * total, (1 - truth) * total, num_images)
        hit = generator.random(len(owner)) < each[owner]
        return Draw(statistics.recall(hit, owner), hit.mean(), truth)

    ragged = "" if np.isscalar(counts) else ", ragged"
    return Point(f"{rate} of {num_images} images{ragged}, correlation {correlation}", near, draw)


PROPORTIONS = [proportion(n, rate) for n in (100, 1000) for rate in (0.0, 0.5, 0.9, 0.995)]
RECALLS = [
    captions(100, 0.5, 0.3),
    captions(100, 0.98, 0.3),
    captions(100, 0.995, 1),
    captions(1000, 0.5, 0),
    captions(1000, 0.9, 1),
    captions(1000, 0.98, 0.3),
    captions(1000, 0.995, 0.6),
]
RECALLS_FURTHER = [
    captions(300, 0.9, 0.5, SHAPES.integers(1, 11, 300)),
    *(
        captions(n, rate, correlation)
        for n in (100, 1000, 5000)
        for rate in (0.5, 0.9, 0.98, 0.995)
        for correlation in (0, 0.1, 0.3, 0.6, 1)
    ),
]


# Median ranks.


def median(num_images, num_captions, scale, *, together):
    """Ranks 1 + Poisson(μ), μ of a gamma distribution: one per image, or one per caption."""
    owner = np.repeat(np.arange(num_images), num_captions)

    def draw(truth, generator):
        size = num_images if together else len(owner)
        rate = generator.gamma(0.7, truth, size)
        ranks = 1 + generator.poisson(rate[owner] if together else rate)
        interval = statistics.median_rank(ranks, owner, 100_000)
        # The smallest rank that half of all queries reach.
        return Draw(interval, float(np.median(ranks)), 1 + nbinom.ppf(0.5, 0.7, 1 / (1 + truth)))

    name = f"{num_images} images of {num_captions}, ranks about {scale}, {'hard together' * together}"
    return Point(name, lambda g: scale * g.uniform(0.8, 1.25), draw)


MEDIANS = [
    median(200, 1, 40, together=False),
    median(100, 5, 40, together=True),
    median(100, 5, 400, together=True),
]
MEDIANS_FURTHER = [
    median(1000, 1, 400, together=False),
    median(1000, 5, 40, together=True),
    median(1000, 5, 400, together=False),
    median(30, 5, 40, together=True),
]


# Means of top-1 and top-5.


def mean_of_two(n, top1, top5):
    def near(generator):
        high = np.clip(top5 + generator.uniform(-1, 1) / n, 0, 1)
        return np.clip(top1 + generator.uniform(-1, 1) / n, 0, high), high

    def draw(truth, generator):
        u = generator.random(n)
        values = ((u < truth[0]) + (u < truth[1]).astype(float)) / 2
        return Draw(statistics.mean_of(values), values.mean(), (truth[0] + truth[1]) / 2)

    return Point(f"{top1} and {top5} of {n}", near, draw)


MEANS = [
    mean_of_two(100, 0.5, 0.8),
    mean_of_two(1000, 0.95, 0.995),
    mean_of_two(100, 0.0, 1.0),
    mean_of_two(100, 1.0, 1.0),
]
MEANS_FURTHER = [
    mean_of_two(n, *rates) for n in (20, 50, 1000) for rates in ((0.5, 0.95), (0.9, 0.99), (0.02, 0.06))
]


# ROC AUC.


def auc(num_positives, num_negatives, value, sd=1.0):
    """Normal scores, those of positives with standard deviation `sd`."""

    def near(generator):
        step = min(1 / num_positives, 1 / num_negatives, (1 - value) / 2)
        return value + generator.uniform(-1, 1) * step

    def draw(truth, generator):
        positive = np.arange(num_positives + num_negatives) < num_positives
        scores = generator.standard_normal(len(positive))
        scores[positive] = scores[positive] * sd + norm.ppf(truth) * np.hypot(1, sd)
        area = ranking.roc_auc(scores, positive)
        return Draw(statistics.area_under_curve(area.per_positive, area.per_negative), area.value, truth)

    return Point(f"{value} of {num_positives} and {num_negatives}, sd {sd}", near, draw)


AREAS = [
    auc(5, 20, 0.9),
    auc(5, 20, 0.999),
    auc(10, 1000, 0.95),
    auc(30, 300, 0.7),
    auc(100, 1000, 0.5),
    auc(100, 100, 0.99),
    auc(30, 300, 0.9, sd=2.0),
]
AREAS_FURTHER = [
    auc(num_positives, num_negatives, value, sd)
    for num_positives in (5, 10, 30, 100)
    for num_negatives in (20, 300, 3000)
    for value, sd in ((0.5, 1), (0.7, 1), (0.9, 1), (0.95, 1), (0.99, 1), (0.999, 1), (0.9, 2), (0.9, 0.5))
]


# Mean average precision.

FORMS = {"11-point": ranking.eleven_point_average_precision, "area": ranking.average_precision}
FREQUENT = np.array([0.06] * 18 + [0.4, 0.15])
RARE = np.array([0.015] * 10 + [0.05] * 6 + [0.3] * 4)
DISTANCES = np.random.default_rng(3).normal(2, 0.5, 20)
"""Of the mean score of each label's positives from that of its negatives."""


def mean_ap(name, num_images, shares, shift, form, *, num_resamples=100, num_expected=200):
    """Twenty labels with normal scores; the truth is the expected mAP of so many images."""

    def test_set(distances, generator):
        positive = generator.random((num_images, len(shares))) < shares
        return generator.standard_normal(positive.shape) + positive * distances, positive

    def evaluate(scores, positive, label, weights=None):
        curve = ranking.precision_recall(scores[:, label], positive[:, label], weights)
        return FORMS[form](curve)

    def value(scores, positive):
        there = np.flatnonzero(positive.any(axis=0))
        return float(np.mean([evaluate(scores, positive, label)[0] for label in there]))

    def near(generator):
        distances = DISTANCES + shift + generator.uniform(-0.2, 0.2)
        expected = np.mean([value(*test_set(distances, generator)) for _ in range(num_expected)])
        return distances, expected

    def draw(truth, generator):
        distances, expected = truth
        scores, positive = test_set(distances, generator)
        interval = statistics.mean_over_labels(
            lambda label, weights: evaluate(scores, positive, label, weights),
            positive.sum(axis=0),
            num_images,
            num_resamples=num_resamples,
        )
        return Draw(interval, value(scores, positive), expected)

    return Point(f"{form} mAP of {num_images}, {name} at {2 + shift:.1f}", near, draw)


PRECISIONS = [
    mean_ap("frequent labels", 79, FREQUENT, -1.9, "11-point"),
    mean_ap("rare labels", 79, RARE, 0.0, "area"),
]
PRECISIONS_FURTHER = [
    mean_ap(name, n, shares, shift, form, num_expected=600)
    for name, shares in (("frequent labels", FREQUENT), ("rare labels", RARE))
    for shift in (-1.9, 0.0, 1.5)
    for form in FORMS
    for n in (79, 300)
]
PRECISIONS_LARGE = [
    mean_ap("frequent labels", 1000, FREQUENT, -1.0, "area", num_expected=400),
    mean_ap("rare labels", 1000, RARE, 0.0, "11-point", num_expected=400),
    mean_ap("rare labels", 5000, RARE, 0.0, "11-point", num_expected=300),
]


# Averages over datasets.


def averaged(name, sizes, rates):
    sizes, rates = np.asarray(sizes), np.asarray(rates, float)

    def draw(truth, generator):
        hits = generator.binomial(sizes, truth)
        each = [statistics.wilson(h, n) for h, n in zip(hits, sizes, strict=True)]
        values = hits / sizes
        parts = [statistics.Part(v, i.low, i.high) for v, i in zip(values, each, strict=True)]
        marked = any(i.conservative for i in each)
        return Draw(statistics.average(parts)._replace(conservative=marked), values.mean(), truth.mean())

    return Point(name, accuracies_near(rates, sizes), draw)


AVERAGES = [
    averaged("average of two", [100, 1000], [0.5, 0.9]),
    averaged(
        "average of eleven", [25250, 10000, 10000, 19850, 8041, 3333, 1880, 3669, 6085, 6149, 50000], 0.4
    ),
    averaged("average with perfect sets", [79, 200, 1000, 500], [1.0, 0.99, 0.6, 0.0]),
]

POINTS = {
    "mean_per_class": PER_CLASS,
    "wilson": PROPORTIONS,
    "recall": RECALLS,
    "median_rank": MEDIANS,
    "mean_of": MEANS,
    "area_under_curve": AREAS,
    "average": AVERAGES,
}
"""Function that makes an interval → where it is simulated at every run of the tests; mAP takes longer."""
FURTHER = {
    "mean_per_class": PER_CLASS_FURTHER,
    "recall": RECALLS_FURTHER,
    "median_rank": MEDIANS_FURTHER,
    "mean_of": MEANS_FURTHER,
    "area_under_curve": AREAS_FURTHER,
}
