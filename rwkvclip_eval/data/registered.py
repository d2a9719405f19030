"""Checks a dataset of a user's own, which a plugin registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.data.prompts import check_class_names
from rwkvclip_eval.data.reading import MOST_CLASSES
from rwkvclip_eval.errors import DamagedData, UserError

if TYPE_CHECKING:
    from rwkvclip_eval.data.types import Dataset


def check_registered(dataset: Dataset, name: str) -> None:
    """Refuse a user's own dataset whose parts contradict each other, before anything is encoded.

    Raises:
        DamagedData: it counts or labels its samples in two ways, or has a class name that shows nothing.
    """
    n, info, keys = len(dataset), dataset.info, dataset.keys
    texts = dataset.captions if info.kind == "retrieval" else dataset.labels
    parts = "captions" if info.kind == "retrieval" else "labels"
    problem = ""
    if not n == info.num_samples == len(keys) == len(set(keys)):
        problem = f"{n} samples, info.num_samples {info.num_samples}, {len(set(keys))} keys that differ"
    elif texts is None or len(texts) != n:
        problem = f"{n} samples of a {info.kind} set, {0 if texts is None else len(texts)} {parts}"
    elif info.kind != "retrieval":
        labels = np.asarray(texts)
        multilabel = info.kind == "multilabel"
        classes, wanted = len(info.class_names), "[n, K] 0, 1 and -1" if multilabel else "[n] class ids"
        fits = labels.ndim == (2 if multilabel else 1) and labels.dtype.kind in "iu"
        low, high = (-1, 1) if multilabel else (0, classes - 1 if classes else MOST_CLASSES)
        outside = int(((labels < low) | (labels > high)).sum()) if fits else 0
        if outside:
            problem = f"{outside} labels name no class: {classes} class names"
        if not fits:
            problem = (
                f"labels {labels.dtype} {list(labels.shape)} for {classes} class names; expected {wanted}"
            )
    if problem:
        raise DamagedData(f"The registered dataset {name!r} contradicts itself: {problem}.")
    try:
        check_class_names(info.class_names, f"The registered dataset {name!r}")
    except UserError as error:
        raise DamagedData(str(error)) from error
