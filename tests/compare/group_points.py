"""The situations in which the interval of two methods over seeds is simulated; see `coverage_simulation`."""

import itertools

import numpy as np
from coverage_simulation import Draw, Point
from scipy.special import ndtri
from seed_simulation import SEED_VARIANCES, seed_deviation

from rwkvclip_eval.compare.by_image import ByImage, varying
from rwkvclip_eval.compare.two_way import mean_of, vary
from rwkvclip_eval.metrics.intervals import Interval

SHARED = 0.5
"""Part of an image's hidden noise that all runs have alike; the rest is each run's own."""


def drawn_runs(generator, seeds, rates, deviations, common, paired, seed_effects=None):
    """Return hits [S, n] of both methods, made as in `seed_simulation`; `common` of each draw both have."""
    (n,) = rates[0].shape
    images = generator.standard_normal((1, n))
    most = max(seeds)
    both = generator.standard_normal((most, 1)), generator.standard_normal((most, n))
    effects = seed_effects or [generator.standard_normal((count, 1)) for count in seeds]
    found = []
    for count, rate, deviation, own_seed in zip(seeds, rates, deviations, effects, strict=True):
        own_rest = generator.standard_normal((count, n))
        of_seed, rest = own_seed, own_rest
        if paired:
            of_seed, rest = (
                np.sqrt(common) * one[:count] + np.sqrt(1 - common) * own
                for one, own in zip(both, (own_seed, own_rest), strict=True)
            )
        image = np.sqrt(common) * images + np.sqrt(1 - common) * generator.standard_normal((1, n))
        hidden = ndtri(rate) * np.sqrt(1 + deviation**2) + deviation * of_seed
        found.append(hidden + np.sqrt(SHARED) * image + np.sqrt(1 - SHARED) * rest)
    return found


def top1(hidden):
    hit = (hidden > 0).astype(float)
    return [ByImage(float(row.mean()), varying(row), len(row)) for row in hit]


def per_class(labels):
    counts = np.bincount(labels)
    images = len(counts) ** 2 / float((1 / counts).sum())

    def numbers(hidden):
        hit = (hidden > 0).astype(float)
        means = [np.bincount(labels, weights=row) / counts for row in hit]
        return [
            ByImage(float(m.mean()), varying(row, labels), images) for m, row in zip(means, hit, strict=True)
        ]

    return numbers


def methods(seeds, rates, seed_variance, *, common=0.8, paired=True, labels=None, sets=1, name=""):
    """A point of two methods with expected rates [n] each; several sets have their seeds in common."""
    before, after = (np.asarray(rate, float) for rate in rates)
    n = len(before)
    weights = np.full(n, 1 / n)
    if labels is not None:
        counts = np.bincount(labels)
        weights = 1 / (len(counts) * counts[labels])
    numbers = top1 if labels is None else per_class(labels)

    def near(generator):
        better = np.clip(after + generator.uniform(-1, 1) / n, 1e-9, 1 - 1e-9)
        return better, [seed_deviation(rate, weights, seed_variance) for rate in (before, better)]

    def draw(truth, generator):
        better, deviations = truth
        effects = [generator.standard_normal((count, 1)) for count in seeds]
        found = [
            vary(
                *map(
                    numbers,
                    drawn_runs(generator, seeds, (before, better), deviations, common, paired, effects),
                ),
                paired=paired,
            )
            for _ in range(sets)
        ]
        one = mean_of(found, np.arange(sets))
        reach = one.reach()
        interval = Interval(one.value - reach, one.value + reach, "two-way", one.conservative)
        return Draw(interval, one.value, float((weights * (better - before)).sum()))

    how = "paired" if paired else "unpaired"
    said = f"{seeds[0]} and {seeds[1]} seeds {how}, variance {seed_variance}, {common} common"
    return Point(f"{said}, {name or f'{n} images at {before.mean():.2f}'}", near, draw)


def constant(n, rate, better):
    return np.full(n, rate), np.full(n, better)


EVEN = constant(300, 0.7, 0.7)
GROUPS = [
    methods((seeds, seeds), EVEN, variance, paired=paired)
    for seeds, variance, paired in itertools.product((2, 3, 5, 10), SEED_VARIANCES, (True, False))
]
UNEVEN = np.repeat(np.arange(60), np.random.default_rng(3).integers(1, 51, 60))
CLASSES = np.random.default_rng(4).beta(3, 2, 60).clip(0.03, 0.97)[UNEVEN]
TINY = np.repeat(np.arange(12), [500] * 10 + [2, 2])
FURTHER = [
    *(
        methods(seeds, rates, variance, common=common, paired=paired)
        for seeds in ((2, 2), (3, 3), (5, 5))
        for rates in (constant(300, 0.7, 0.6), constant(1000, 0.98, 0.97), constant(100, 0.9, 0.9))
        for variance in SEED_VARIANCES
        for common, paired in ((0.95, True), (0.5, True), (0.95, False))
    ),
    *(
        methods(seeds, EVEN, variance, paired=False)
        for seeds in ((2, 3), (2, 5), (3, 5), (2, 10))
        for variance in SEED_VARIANCES
    ),
    *(
        methods((seeds, seeds), (rates, rates), variance, paired=paired, labels=labels, name=name)
        for seeds in (2, 3, 5)
        for name, labels, rates in (
            ("uneven classes", UNEVEN, CLASSES),
            ("ten large and two tiny classes", TINY, np.full(len(TINY), 0.9)),
            ("one image a class", np.arange(102), np.full(102, 0.6)),
        )
        for variance in SEED_VARIANCES
        for paired in (True, False)
    ),
    *(
        methods(
            (seeds, seeds), constant(100, 0.8, 0.8), variance, paired=paired, sets=4, name="4 sets of 100"
        )
        for seeds in (2, 3, 5)
        for variance in SEED_VARIANCES
        for paired in (True, False)
    ),
]
