"""The columns of the paper's tables, in the paper's order, and those of what papers print besides.

Zero-shot classification and the probe on 10 sets are in the order of the RWKV-CLIP README and of ALIP's
tables, retrieval as there (texts, then images), the probe's 27 sets in that of the MLCD paper's Table 11,
robustness in that of the RealSyn paper's Table 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.records.metrics import (
    MAP_11_POINT,
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    PRIMARY,
    ROC_AUC,
    TOP1,
    known,
    recall,
)
from rwkvclip_eval.records.titles import DATASET_TITLES, task_title

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rwkvclip_eval.records.metrics import Metric

Key = tuple[str, str]
"""Record name of a dataset, name of a metric."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of every method.

    Attributes:
        name: what tells it apart from the table's other columns, for files.
        title: as papers print it.
        metric: what the numbers mean.
        groups: headings over it, from the outermost.
        dataset: record name; empty for an average.
        over: datasets and metrics that an average is over.
        optional: left out where no model has a number in it.
    """

    name: str
    title: str
    metric: Metric
    groups: tuple[str, ...] = ()
    dataset: str = ""
    over: frozenset[Key] = frozenset()
    optional: bool = False

    @property
    def key(self) -> Key:
        """Return its dataset and metric."""
        return self.dataset, self.metric.name


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table is of.

    Attributes:
        name: of its files.
        title: what its caption says first.
        published_task: task of published rows.
        task: task of records.
        columns: in order.
        only_with: not drawn where none of these was measured.
    """

    name: str
    title: str
    published_task: str
    task: str
    columns: tuple[Column, ...]
    only_with: frozenset[Key]


ELEVEN = (
    *("cifar10", "cifar100", "food101", "pets", "flowers", "sun397", "cars", "dtd", "caltech101", "aircraft"),
    "imagenet",
)
TEN = ELEVEN[:-1]
TWENTY_SEVEN = (
    *("food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars", "aircraft", "voc2007", "dtd", "pets"),
    *("caltech101", "flowers", "mnist", "fer2013", "stl10", "eurosat", "resisc45", "gtsrb", "kitti"),
    *("country211", "pcam", "ucf101", "kinetics700", "clevr", "hateful_memes", "rendered_sst2", "imagenet"),
)
TWENTY = tuple(
    name
    for name in TWENTY_SEVEN
    if name not in ("voc2007", "mnist", "fer2013", "gtsrb", "pcam", "kinetics700", "clevr")
)
"""What the RealSyn paper averages."""
SHIFTED = ("imagenet_v2", "imagenet_a", "imagenet_r", "objectnet", "imagenet_sketch")
METRICS = {
    **dict.fromkeys(("pets", "flowers", "caltech101", "aircraft"), MEAN_PER_CLASS),
    "voc2007": MAP_11_POINT,
    "kinetics700": MEAN_TOP1_TOP5,
    "hateful_memes": ROC_AUC,
}
"""Dataset → the metric that these papers report; top-1 of the others."""


def key(dataset: str) -> Key:
    """Return a dataset with the metric that these papers report of it."""
    return dataset, METRICS.get(dataset, TOP1).name


def _dataset(dataset: str, metric: Metric) -> Column:
    title = DATASET_TITLES.get(dataset, dataset.replace("_", " "))
    return Column(name=f"{dataset}.{metric.name}", title=title, metric=metric, dataset=dataset)


def _datasets(names: Iterable[str]) -> tuple[Column, ...]:
    return tuple(_dataset(name, METRICS.get(name, TOP1)) for name in names)


def _average(names: Collection[str], title: str, name: str = "", *, optional: bool = False) -> Column:
    return Column(
        name=name or f"average_{len(names)}",
        title=title,
        metric=PRIMARY,
        over=frozenset(map(key, names)),
        optional=optional,
    )


def _without(name: str) -> Column:
    names = [each for each in TWENTY_SEVEN if each != name]
    title = f"Average of 26, no {DATASET_TITLES[name]}"
    return _average(names, title, f"average_26_without_{name}")


_OF_20 = _average(TWENTY, "Average of RealSyn's 20", optional=True)
_RECALLS = tuple(
    Column(
        name=f"{dataset}.{recall(retrieved, k).name}",
        title=f"R@{k}",
        metric=recall(retrieved, k),
        groups=(heading, DATASET_TITLES[dataset]),
        dataset=dataset,
    )
    for retrieved, heading in (("text", "Text retrieval"), ("image", "Image retrieval"))
    for dataset in ("flickr30k", "mscoco_captions")
    for k in (1, 5, 10)
)


def _layout(
    name: str,
    title: str,
    task: str,
    columns: Sequence[Column],
    only_with: Iterable[Key],
    record_task: str = "",
) -> Layout:
    return Layout(
        name=name,
        title=title,
        published_task=task,
        task=record_task or task,
        columns=tuple(columns),
        only_with=frozenset(only_with),
    )


def _with_average(name: str, title: str, task: str, names: Sequence[str], record_task: str = "") -> Layout:
    """Return the layout of some datasets and their average."""
    columns = (*_datasets(names), _average(names, "Average"))
    return _layout(name, title, task, columns, map(key, names), record_task)


RETRIEVAL = _layout(
    "zero-shot-retrieval",
    "Zero-shot retrieval on Flickr30k and MSCOCO",
    "zero_shot_retrieval",
    _RECALLS,
    [column.key for column in _RECALLS],
)
ZERO_SHOT_11 = _with_average(
    "zero-shot-classification-11",
    "Zero-shot classification on 11 datasets",
    "zero_shot_classification",
    ELEVEN,
)
PROBE_10 = _with_average("linear-probe-10", "Linear probe on 10 datasets", "linear_probe", TEN)
PROBE_27 = _layout(
    "linear-probe-27",
    "Linear probe on CLIP's 27 datasets",
    "linear_probe",
    (*_datasets(TWENTY_SEVEN), _without("fer2013"), _without("imagenet"), _OF_20),
    (key(name) for name in TWENTY_SEVEN if name not in TEN),
)
ROBUSTNESS = _with_average(
    "zero-shot-robustness",
    "Zero-shot robustness: classification under distribution shift",
    "zero_shot_robustness",
    SHIFTED,
    "zero_shot_classification",
)
LAYOUTS = (RETRIEVAL, ZERO_SHOT_11, PROBE_10, PROBE_27, ROBUSTNESS)


def further_layout(
    task: str, record_task: str, measured: Iterable[Key], published: Collection[Key]
) -> Layout:
    """Return the layout of what was measured and published of a task beyond the paper's tables.

    Args:
        task: as published rows have it.
        record_task: as records have it.
        measured: what has a number here.
        published: what has one in published rows of the task.
    """
    order = {name: i for i, name in enumerate(TWENTY_SEVEN)}
    of_clip = set(map(key, TWENTY_SEVEN)) if task == "zero_shot_classification" else set()
    keys = [one for one in dict.fromkeys(measured) if one in published or one in of_clip]
    keys.sort(key=lambda one: order.get(one[0], len(order)))
    told = {column.key for layout in LAYOUTS if layout.published_task == task for column in layout.columns}
    columns = [_dataset(dataset, known(metric)) for dataset, metric in keys]
    names = [column.dataset for column in columns]
    # A dataset may stand there by several metrics.
    columns = [c if names.count(c.dataset) == 1 else _with_metric(c) for c in columns]
    return _layout(
        f"{task.replace('_', '-')}-further",
        f"{task_title(task)} on more datasets",
        task,
        (*columns, _OF_20),
        (one for one in keys if one not in told),
        record_task,
    )


def _with_metric(column: Column) -> Column:
    return Column(
        name=column.name,
        title=f"{column.title}, {column.metric.title}",
        metric=column.metric,
        dataset=column.dataset,
    )
