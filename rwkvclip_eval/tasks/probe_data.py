"""What a probe learns from and is judged on: checked arrays of the training, validation and test split.

Axes: n samples, F probe features, K classes or labels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import DamagedData, name_some
from rwkvclip_eval.metrics.chunks import row_chunks
from rwkvclip_eval.tasks.base import Task
from rwkvclip_eval.tasks.classification import checked_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.tasks.base import Features, Need, Samples


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One split.

    Attributes:
        x: [n, F] float32 features.
        y: [n] int64 class ids, or [n, K] 0/1 for multilabel, −1 where scores leave the image out.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]

    @property
    def targets(self) -> NDArray[Any]:
        """`y` as it is trained on: what is left open counts as absent (as in arXiv 1905.01235)."""
        return self.y if self.y.ndim == 1 else np.maximum(self.y, 0)

    def rows(self, index: NDArray[np.int64] | slice) -> Labelled:
        """Return the samples `index`, of a slice without a copy."""
        return Labelled(x=self.x[index], y=self.y[index])


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """The three splits, features as the options want them.

    Attributes:
        learned: training samples, then those of validation: one array, since a copy of all features counts.
        num_train: how many of them are for training.
        test: judged once.
        num_classes: K.
        multilabel: whether labels are K yes/no answers.
        validation: where `val` comes from, in words.
        train_fingerprint: of the training split as opened.
    """

    learned: Labelled
    num_train: int
    test: Labelled
    num_classes: int
    multilabel: bool
    validation: str
    train_fingerprint: str

    @property
    def train(self) -> Labelled:
        """What is learned from while the strength is chosen: without the validation samples."""
        return self.learned.rows(slice(self.num_train))

    @property
    def val(self) -> Labelled:
        """What the strength is chosen on: official where the data have it, else drawn from train."""
        return self.learned.rows(slice(self.num_train, None))


class ProbeTask(Task):
    """What all probes share: they read probe features alone and learn from splits they are not judged on."""

    needs: frozenset[Need] = frozenset({"probe"})
    fit_splits = ("train", "val")
    keeps_budget = True

    def check(self, samples: Samples, fit: Mapping[str, Samples], protocol: Protocol) -> None:
        """Refuse, before any encoding, what cannot be learned from; see `check_labels`."""
        check_labels(samples, fit)


def check_labels(samples: Samples, fit: Mapping[str, Samples]) -> None:
    """Refuse splits that a probe cannot learn from; needs no features, so it comes before any encoding.

    Args:
        samples: the split it is judged on.
        fit: split → samples it learns from, `train` among them.

    Raises:
        DamagedData: a split is empty, a class has no training image, there is one class only, a label names
            no class, two splits are the same samples, or they do not have the same classes.
    """
    info, train = samples.info, fit["train"]
    num_classes = len(info.class_names)
    if num_classes < 2 and info.kind != "multilabel":
        raise DamagedData(f"{info.name} has {num_classes} class; a probe needs at least two.")
    for (first, one), (second, other) in itertools.combinations([*fit.items(), (info.split, samples)], 2):
        # Two limits of one split share samples under two fingerprints.
        if first == second or one.info.fingerprint == other.info.fingerprint:
            raise DamagedData(
                f"{info.name}: {first} and {second} hold the same samples; a probe would be judged, or its "
                "strength chosen, on what it learned. If the suite names a source with one split, name the "
                "data folder instead."
            )
    for name, given in fit.items():
        _require_same_classes(given.info, info, name)
    for split in (samples, *fit.values()):
        labels = _labels(split)
        if info.primary_metric == "roc_auc" and num_classes == 2 and len(np.unique(labels)) < 2:
            raise DamagedData(
                f"{info.name}/{split.info.split} shows one of the two classes alone; ROC AUC needs both. "
                "Complete that split, or name another metric."
            )
    _require_every_class(_labels(train), train)


def probe_data(
    samples: Samples,
    features: Features,
    *,
    draw: tuple[float, int] | None = None,
    normalize: bool = False,
    standardize: bool = False,
) -> ProbeData:
    """Return what a probe works on.

    Args:
        samples: the split it is judged on.
        features: its features, and the splits it learns from.
        draw: share of `train` and seed of the validation split that is drawn where there is no official one;
            without it, there is an empty one then, for a probe that chooses nothing, or by draws of its own.
        normalize: scale every feature vector to unit length.
        standardize: by the statistics of `train`; a probe that learns from something else takes those of
            that, see `standardized`.

    Raises:
        DamagedData: a feature is not finite, or see `check_labels`.
    """
    info = samples.info
    check_labels(samples, {split: given for split, (given, _) in features.fit.items()})
    train_samples, train_features = features.fit["train"]
    test = _labelled(samples, features)
    learned = _labelled(train_samples, train_features)
    num_train = len(learned.y)
    if "val" in features.fit:
        val = _labelled(*features.fit["val"])
        learned = Labelled(x=np.concatenate([learned.x, val.x]), y=np.concatenate([learned.y, val.y]))
        said = "official validation split"
    elif draw is None:
        said = "none: no strength is chosen on it"
    else:
        rest, drawn = draw_validation(learned.y, *draw)
        if not len(drawn):
            raise DamagedData(
                f"{info.name}: no class has the two training images that a validation split needs; "
                "give a fixed strength (options: {C: …}) or more data."
            )
        learned, num_train = learned.rows(np.concatenate([rest, drawn])), len(rest)
        said = f"{draw[0]:.0%} of train, stratified, seed {draw[1]}"
    if normalize:
        learned, test = normalized(learned), normalized(test)
    if standardize:
        learned, test = standardized([learned, test], num_train)
    return ProbeData(
        learned=learned,
        num_train=num_train,
        test=test,
        num_classes=len(info.class_names),
        multilabel=info.kind == "multilabel",
        validation=said,
        train_fingerprint=train_samples.info.fingerprint,
    )


def _labelled(samples: Samples, features: Features) -> Labelled:
    x = np.asarray(features.image_probe)
    finite = np.isfinite(x.sum(axis=1, dtype=np.float64))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        names = name_some(samples.keys[i] for i in bad.tolist())
        raise DamagedData(
            f"{len(bad)} probe features of {samples.info.name}/{samples.info.split} hold NaN or infinity: "
            f"{names}. The model's weights or the precision are at fault."
        )
    return Labelled(x=x, y=_labels(samples))


def _labels(samples: Samples) -> NDArray[Any]:
    """Return [n] class ids, or [n, K] 0, 1 and −1 for multilabel."""
    if samples.info.kind != "multilabel":
        return checked_labels(samples)
    assert samples.labels is not None
    if not len(samples.labels):
        raise DamagedData(f"{samples.info.name}/{samples.info.split} holds no samples to score.")
    return np.asarray(samples.labels)


def _require_same_classes(learned: DatasetInfo, judged: DatasetInfo, split: str) -> None:
    """Refuse splits that number their classes differently: label 1 of one would be another class's."""
    ours, theirs = judged.class_names, learned.class_names
    if ours == theirs:
        return
    only = [
        f"only {where} has {name_some(repr(name) for name in names)}"
        for where, names in (
            (split, sorted(set(theirs) - set(ours))),
            (judged.split, sorted(set(ours) - set(theirs))),
        )
        if names
    ]
    said = "; ".join(only) or "they name the same classes in another order"
    raise DamagedData(
        f"{judged.name}: {split} and {judged.split} do not have the same classes ({len(theirs)} and "
        f"{len(ours)}): {said}. Give every split a folder for every class, or labels that one list numbers."
    )


def _require_every_class(labels: NDArray[Any], samples: Samples) -> None:
    names = samples.info.class_names
    if labels.ndim == 2:
        lacking = np.flatnonzero(~(labels == 1).any(axis=0) | (labels == 1).all(axis=0))
        what = "labels that no training image has, or all have"
    else:
        lacking = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
        what = "classes without a training image"
    if len(lacking):
        raise DamagedData(
            f"{samples.info.name}/{samples.info.split}: {len(lacking)} {what}: "
            f"{name_some(names[i] for i in lacking)}. Complete the training split."
        )


def draw_validation(
    labels: NDArray[Any], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sorted indices of the samples that stay and of those drawn, `fraction` of every class.

    A class keeps at least one sample; one that has two or more gives at least one. Multilabel samples are
    drawn from all alike.

    Args:
        labels: [n] int64, or [n, K] for multilabel.
        fraction: drawn, in (0, 1).
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    groups = [np.arange(len(labels))] if labels.ndim == 2 else by_class(labels)
    drawn = []
    for group in groups:
        count = min(len(group) - 1, max(1, round(fraction * len(group))))
        drawn.append(generator.permutation(group)[:count])
    chosen = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def by_class(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the ascending indices of every class that has samples, in class order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def normalized(split: Labelled) -> Labelled:
    """Return the split with feature vectors of unit length."""

    def scaled(x: NDArray[np.float32]) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return unit

    return _by_rows(split, scaled)


def standardized(splits: Sequence[Labelled], count: int | None = None) -> list[Labelled]:
    """Return the splits with features of zero mean and unit variance in what is learned from.

    Args:
        splits: the first is learned from.
        count: its rows that give mean and variance, from the first on; all by default.
    """
    x = splits[0].x[:count]
    mean = x.mean(axis=0, dtype=np.float64)
    # Deviations from the mean are in float64: in chunks they take no memory of the size of the features.
    squares = sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in _rows(x))
    deviation = np.sqrt(squares / len(x))
    deviation[deviation == 0] = 1.0  # A constant feature says nothing, whatever its scale.
    return [_by_rows(split, lambda part: (part - mean) / deviation) for split in splits]


def _rows(x: NDArray[np.float32]) -> Iterator[slice]:
    # In float64 and with temporaries, these are as large as a metric's chunks.
    return row_chunks(len(x), 8 * x.shape[1])


def _by_rows(split: Labelled, change: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Labelled:
    """Return the split with features changed row by row; temporaries are of a chunk's size."""
    x = np.empty(split.x.shape, np.float32)
    for rows in _rows(x):
        x[rows] = change(split.x[rows])
    return Labelled(x=x, y=split.y)
