"""The situations in which every paired interval is simulated; see `coverage_simulation`."""

import numpy as np
from coverage_simulation import Draw, Point
from interval_points import AIRCRAFT, CALTECH, DISTANCES, FREQUENT, RARE, SMALL
from scipy.stats import nbinom, norm
from seed_simulation import draw_pairs

from rwkvclip_eval.compare import paired
from rwkvclip_eval.metrics import ranking, seed_intervals

SHAPES = np.random.default_rng(5)
"""Of the points' own rates and captions an image."""


def drawn(difference, truth):
    return Draw(difference, difference.value, truth)


def flipped(generator, gain, loss):
    """Hits of two models, of which the second gains and loses each image with the rates given."""
    u, alike = generator.random(len(gain)), generator.random(len(gain)) < 0.6
    gained, lost = u < gain, u > 1 - loss
    return (alike & ~gained) | lost, (alike & ~lost) | gained


def rates_near(gain, loss, counts):
    """Truths within one image: of every class, or one over all classes."""

    def near(generator):
        size = len(counts) if generator.random() < 0.5 else 1
        up, down = (
            np.clip(rate + generator.uniform(-1, 1, size) / (counts if size > 1 else counts.sum()), 0, 1)
            for rate in (gain, loss)
        )
        total = np.maximum(up + down, 1)
        return up / total, down / total

    return near


# Top-k accuracy.


def top(n, gain, loss):
    counts = np.array([n])

    def draw(truth, generator):
        up, down = (np.full(n, rate) for rate in truth)
        return drawn(paired.hits(*flipped(generator, up, down)), float(truth[0] - truth[1]))

    near = rates_near(gain, loss, counts)
    return Point(f"{gain} gained, {loss} lost of {n}", lambda g: [x.item() for x in near(g)], draw)


HITS = [
    top(100, 0.0, 0.0),
    top(100, 0.0, 0.05),
    top(100, 0.1, 0.1),
    top(1000, 0.0, 0.01),
    top(1000, 0.005, 0.005),
    top(1000, 0.08, 0.12),
    top(20, 0.3, 0.3),
]
HITS_FURTHER = [
    top(n, total * (1 - share), total * share)
    for n in (20, 100, 1000, 10_000)
    for total in (0.01, 0.05, 0.2, 0.8)
    for share in (0.5, 0.75, 1.0)
]


# Mean per class accuracy.


def per_class(name, counts, gain, loss, at_most=0.97):
    counts, gain, loss = np.broadcast_arrays(np.asarray(counts), np.asarray(gain, float), loss)
    labels = np.repeat(np.arange(len(counts)), counts)

    def draw(truth, generator):
        up, down = (np.broadcast_to(rate, counts.shape) for rate in truth)
        found = paired.mean_per_class(*flipped(generator, up[labels], down[labels]), labels)
        return drawn(found, float(up.mean() - down.mean()))

    return Point(name, rates_near(gain, loss, counts), draw, at_most)


SPREAD = SHAPES.beta(0.5, 8, (2, 102))

PER_CLASS = [
    per_class("one image a class", np.ones(102, int), 0.1, 0.1),
    per_class("one to five images a class", SMALL, 0.1, 0.1),
    per_class("one to five images a class, only losses", SMALL, 0.0, 0.05),
    per_class("ten large and two tiny classes", [500] * 10 + [2, 2], 0.02, 0.02),
    per_class("caltech101 as it is", CALTECH, 0.02, 0.03),
    per_class("aircraft", AIRCRAFT, 0.025, 0.025),
    per_class("pets", np.full(37, 99), 0.03, 0.05),
    per_class("pets, all losses in one class", np.full(37, 99), 0.0, np.eye(37)[0] * 0.5),
    per_class("nothing changes", np.full(37, 99), 0.0, 0.0),
    per_class("changes differ between classes", np.full(102, 30), SPREAD[0], SPREAD[1]),
]
PER_CLASS_FURTHER = [
    per_class("one image a class, half change", np.ones(102, int), 0.25, 0.25),
    per_class("two images a class", np.full(102, 2), 0.05, 0.1),
    per_class("one to five images a class, spread", SMALL, SPREAD[0], SPREAD[1]),
    per_class("two large classes and one of five", [5, 500, 500], 0.1, 0.1),
    per_class("one image beside large classes", [500] * 10 + [1], 0.01, 0.01),
    per_class("ten classes of twenty", np.full(10, 20), 0.1, 0.2),
    per_class("ten classes of twenty, rarely", np.full(10, 20), 0.005, 0.005),
    per_class("caltech101, one in a hundred", CALTECH, 0.005, 0.005),
    per_class("caltech101, spread", CALTECH, SPREAD[0], SPREAD[1]),
    per_class("aircraft, one in a hundred", AIRCRAFT, 0.005, 0.005),
    per_class("aircraft, one in five", AIRCRAFT, 0.1, 0.1),
    per_class("two classes", np.full(2, 50), 0.05, 0.1),
    per_class("half the classes gain, half lose", np.full(102, 20), [0.1, 0.0] * 51, [0.0, 0.1] * 51),
]


# Recalls.


def captions(num_images, gain, loss, form, counts=5):
    """Captions of an image that change independently, all together, or where the image is a restless one."""
    owner = np.repeat(np.arange(num_images), counts)

    def draw(truth, generator):
        up, down = (float(x[0]) for x in truth)
        if form == "few together":
            # A tenth of what changes are images all of whose captions do.
            single = 0.9 / (1 - 0.1 * (up + down))
            whole, rest = (
                flipped(generator, np.full(size, up * part), np.full(size, down * part))
                for size, part in ((num_images, 0.1), (len(owner), single))
            )
            switched = (whole[0] != whole[1])[owner]
            before, after = (np.where(switched, w[owner], r) for w, r in zip(whole, rest, strict=True))
        elif form == "together":
            before, after = (
                x[owner] for x in flipped(generator, np.full(num_images, up), np.full(num_images, down))
            )
        else:
            share = 1.0 if form == "alone" else min(1.0, 2 * (up + down))
            restless = generator.random(num_images) < share
            each = restless[owner] / max(share, 1e-9)
            before, after = flipped(generator, up * each, down * each)
        return drawn(paired.recall(before, after, owner), up - down)

    ragged = "" if np.isscalar(counts) else ", ragged"
    name = f"{gain} gained, {loss} lost of {num_images} images{ragged}, {form}"
    return Point(name, rates_near(gain, loss, np.array([num_images])), draw)


RECALLS = [
    captions(100, 0.05, 0.05, "alone"),
    captions(100, 0.0, 0.05, "together"),
    captions(300, 0.05, 0.1, "restless"),
    captions(1000, 0.02, 0.03, "alone"),
    captions(1000, 0.05, 0.05, "together"),
    captions(300, 0.03, 0.03, "restless", SHAPES.integers(1, 11, 300)),
    captions(200, 0.1, 0.1, "alone", 1),
    captions(456, 0.0005, 0.0005, "alone"),
]
RECALLS_FURTHER = [
    captions(n, rate * (1 - share), rate * share, form)
    for n in (100, 1000)
    for rate in (0.01, 0.05, 0.2)
    for share in (0.5, 1.0)
    for form in ("alone", "together", "restless")
]
RECALLS_FURTHER += [
    captions(n, rate * (1 - share), rate * share, form)
    for n in (200, 456)
    for rate in (0.0005, 0.002, 0.01, 0.03)
    for share in (0.5, 1.0)
    for form in ("alone", "few together")
]


# Median ranks.


def medians(num_images, num_captions, scale, factor, common):
    """Ranks 1 + Poisson(μ), μ of a gamma distribution that both models share in part."""
    owner = np.repeat(np.arange(num_images), num_captions)

    def draw(truth, generator):
        shape, sizes = 0.7, (num_images, len(owner))
        both = generator.gamma(shape * common, 1, sizes[0])[owner] if common else 0.0
        own = [generator.gamma(shape * (1 - common), 1, sizes[1]) if common < 1 else 0.0 for _ in range(2)]
        scales = truth, truth * factor
        ranks = [1 + generator.poisson((both + x) * s) for x, s in zip(own, scales, strict=True)]
        found = paired.median_rank(*ranks, owner, 100_000)
        true = [nbinom.ppf(0.5, shape, 1 / (1 + s)) for s in scales]
        return drawn(found, true[1] - true[0])

    name = f"{num_images} images of {num_captions}, ranks about {scale} and {factor} times, {common} common"
    return Point(name, lambda g: scale * g.uniform(0.8, 1.25), draw)


MEDIANS = [
    medians(200, 1, 40, 1.0, 0.5),
    medians(100, 5, 40, 1.2, 0.8),
    medians(100, 5, 400, 1.0, 0.0),
]
MEDIANS_FURTHER = [
    medians(1000, 1, 400, 1.1, 0.9),
    medians(1000, 5, 40, 1.5, 0.5),
    medians(30, 5, 40, 1.0, 0.5),
    medians(300, 1, 4, 1.0, 0.5),
]


# Means of top-1 and top-5.


def means_of_two(n, gain, loss, both):
    """Steps of ½, or of 1 in a share `both` of them."""

    def draw(truth, generator):
        up, down = (float(x[0]) for x in truth)
        u = generator.random(n)
        size = np.where(generator.random(n) < both, 1.0, 0.5)
        # Where it steps by one it starts from the other end, elsewhere from either.
        start = np.where(size == 1, 0.0, generator.choice([0.0, 0.5], n))
        step = np.where(u < up, size, np.where(u > 1 - down, -size, 0.0))
        before = np.where(step < 0, 1 - start, start)
        return drawn(paired.mean_of(before, before + step), (up - down) * (0.5 + 0.5 * both))

    name = f"{gain} gained, {loss} lost of {n}, {both} by one"
    return Point(name, rates_near(gain, loss, np.array([n])), draw)


MEANS = [
    means_of_two(100, 0.1, 0.1, 0.5),
    means_of_two(100, 0.0, 0.0, 0.5),
    means_of_two(1000, 0.01, 0.02, 0.2),
    means_of_two(1000, 0.1, 0.1, 0.5),
]
MEANS_FURTHER = [
    means_of_two(n, rate * (1 - share), rate * share, both)
    for n in (50, 1000)
    for rate in (0.02, 0.2)
    for share in (0.5, 1.0)
    for both in (0.0, 0.5)
]


# ROC AUC.


def areas(num_positives, num_negatives, value, step, common):
    """Normal scores of both models, correlated by `common`; the candidate's area is `step` larger."""

    def near(generator):
        room = min(1 / num_positives, 1 / num_negatives, (1 - value - max(0, step)) / 2)
        return value + generator.uniform(-1, 1) * room

    def draw(truth, generator):
        positive = np.arange(num_positives + num_negatives) < num_positives
        both = generator.standard_normal(len(positive)) * np.sqrt(common)
        parts = []
        for area in (truth, truth + step):
            scores = both + generator.standard_normal(len(positive)) * np.sqrt(1 - common)
            scores[positive] += norm.ppf(area) * np.sqrt(2)
            parts.append(ranking.roc_auc(scores, positive)[1:])
        return drawn(paired.area_under_curve(*parts), step)

    return Point(f"{value} and {step} of {num_positives} and {num_negatives}, {common} common", near, draw)


AREAS = [
    areas(10, 100, 0.8, 0.0, 0.5),
    areas(30, 300, 0.9, -0.05, 0.9),
    areas(100, 100, 0.7, 0.0, 0.99),
    areas(100, 1000, 0.95, 0.02, 0.5),
    areas(250, 250, 0.6, -0.02, 0.9),
]
AREAS_FURTHER = [
    areas(positives, negatives, value, step, common)
    for positives, negatives in ((10, 30), (30, 300), (250, 250))
    for value, step in ((0.6, 0.0), (0.9, -0.1), (0.98, 0.01))
    for common in (0.0, 0.5, 0.95)
]


# Mean average precision.


def mean_ap(name, num_images, shares, step, common, *, num_resamples=100, num_expected=300):
    """Twenty labels with normal scores, correlated by `common`; the truth is of so many images."""

    def test_set(generator, shift):
        positive = generator.random((num_images, len(shares))) < shares
        both = generator.standard_normal(positive.shape) * np.sqrt(common)
        scores = [
            both
            + generator.standard_normal(positive.shape) * np.sqrt(1 - common)
            + positive * (DISTANCES + shift + more)
            for more in (0.0, step)
        ]
        return positive, scores

    def evaluate(positive, scores, label, weights=None):
        curve = ranking.precision_recall(scores[:, label], positive[:, label], weights)
        return ranking.eleven_point_average_precision(curve)

    def value(positive, scores):
        there = np.flatnonzero(positive.any(axis=0))
        return float(np.mean([evaluate(positive, scores, label)[0] for label in there]))

    def near(generator):
        shift = -1 + generator.uniform(-0.2, 0.2)
        found = []
        for _ in range(num_expected if step else 0):
            positive, scores = test_set(generator, shift)
            found.append(value(positive, scores[1]) - value(positive, scores[0]))
        return shift, float(np.mean(found)) if step else 0.0

    def draw(truth, generator):
        positive, scores = test_set(generator, truth[0])
        models = [lambda label, weights, s=s: evaluate(positive, s, label, weights) for s in scores]
        found = paired.mean_over_labels(
            *models, positive.sum(axis=0), num_images, num_resamples=num_resamples
        )
        assert abs(found.value - (value(positive, scores[1]) - value(positive, scores[0]))) < 1e-9
        return drawn(found, truth[1])

    return Point(f"mAP of {num_images}, {name}, {step} better, {common} common", near, draw)


PRECISIONS = [mean_ap("frequent labels", 79, FREQUENT, 0.0, 0.5)]
PRECISIONS_FURTHER = [
    mean_ap(name, n, shares, step, common)
    for name, shares in (("frequent labels", FREQUENT), ("rare labels", RARE))
    for step in (0.0, -0.3)
    for common in (0.5, 0.95)
    for n in (79, 300)
]


# Few-shot: means over seeds.


def seeds(num_seeds, rates, seed_variance, common, metric="top1", labels=None):
    """Seeds of two models on the same images; see `seed_simulation.draw_pairs`."""
    accuracies, better = rates
    labels = np.zeros(len(accuracies), np.int64) if labels is None else labels
    counts = np.bincount(labels)
    weights = 1 / (len(counts) * counts[labels])

    def of(values):
        if metric == "top1":
            return seed_intervals.of_mean(values)
        return seed_intervals.of_mean_per_class(values, labels)

    def draw(truth, generator):
        before, after = draw_pairs(
            generator, num_seeds, accuracies, truth, seed_variance, common=common, weights=weights
        )
        value = float(((after.astype(float) - before) * weights).sum(axis=1).mean())
        found = paired.over_seeds(before, after, of, value, float(len(accuracies)))
        return drawn(found, float((weights * (truth - accuracies)).sum()))

    def near(generator):
        return np.clip(better + generator.uniform(-1, 1) / len(better), 0, 1)

    name = f"{num_seeds} seeds, {metric}, {len(accuracies)} images at {accuracies.mean():.2f}"
    return Point(f"{name}, variance {seed_variance}, {common} common", near, draw)


def constant(n, rate, better):
    return np.full(n, rate), np.full(n, better)


SEEDS = [
    seeds(3, constant(300, 0.7, 0.7), 1, 0.8),
    seeds(2, constant(300, 0.7, 0.65), 0, 0.8),
    seeds(5, constant(100, 0.9, 0.9), 1, 0.5),
]
UNEVEN = np.random.default_rng(3).integers(1, 51, 60)
CLASS_RATES = np.random.default_rng(4).beta(3, 2, 60).clip(0.03, 0.97)
BY_CLASS = np.repeat(np.arange(60), UNEVEN)
SEEDS_FURTHER = [
    *(
        seeds(num_seeds, (CLASS_RATES[BY_CLASS],) * 2, variance, 0.8, "mean per class", BY_CLASS)
        for num_seeds in (2, 3, 5)
        for variance in (0, 1)
    ),
    *(seeds(num_seeds, constant(300, 0.7, 0.68), 1, 0.8) for num_seeds in (3, 10)),
]
SEEDS_FURTHER += [
    seeds(num_seeds, constant(n, rate, better), variance, common)
    for num_seeds in (2, 3, 5)
    for n in (100, 500)
    for rate, better in ((0.7, 0.7), (0.95, 0.93))
    for variance in (0, 1, 4)
    for common in (0.5, 0.95)
]

POINTS = {
    "hits": HITS,
    "mean_per_class": PER_CLASS,
    "recall": RECALLS,
    "median_rank": MEDIANS,
    "mean_of": MEANS,
    "area_under_curve": AREAS,
    "over_seeds": SEEDS,
}
"""Function that makes a paired interval → where every run of the tests simulates it; mAP takes longer."""
FURTHER = {
    "hits": HITS_FURTHER,
    "mean_per_class": PER_CLASS_FURTHER,
    "recall": RECALLS_FURTHER,
    "median_rank": MEDIANS_FURTHER,
    "mean_of": MEANS_FURTHER,
    "area_under_curve": AREAS_FURTHER,
    "over_seeds": SEEDS_FURTHER,
}
