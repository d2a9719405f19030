"""Top-k and mean per-class accuracy, with the ways of ranking logits that published numbers came from.

Axes: n samples, C classes, k ranks. Everything is built on `hit`, [n] bool: whether a sample counts as right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Ties(NamedTuple):
    """What equal logits leave open about the top k.

    Attributes:
        tied: [n] bool, the k-th and the next logit are equal: which class belongs to the top k is open.
        best: [n] bool, a hit if every tie falls in the label's favour.
        worst: [n] bool, a hit even if every tie falls against the label.
    """

    tied: NDArray[np.bool_]
    best: NDArray[np.bool_]
    worst: NDArray[np.bool_]


def top_k(logits: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return [n, k] int64, the classes of the k largest logits, best first; of equal ones the lower id first.

    Args:
        logits: [n, C] finite floats.
        k: ranks wanted, k ≤ C.
    """
    # k passes of argmax, which returns the first maximum: faster than sorting 1000 classes for k = 5.
    left = logits.copy()
    top = np.empty((len(logits), k), np.int64)
    for rank in range(k):
        top[:, rank] = left.argmax(axis=1)
        np.put_along_axis(left, top[:, rank : rank + 1], -np.inf, axis=1)
    return top


def truncate(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return logits cut toward zero to int64, as the official scripts' int64 buffer does."""
    whole: NDArray[np.int64] = np.trunc(logits).astype(np.int64)
    return whole


def truncated_top_k(logits: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return [n, k] int64, the official scripts' ranking (zero_shot.py of RWKV-CLIP and ALIP).

    Logits are cut toward zero to int64, then ranked by CPU `torch.topk`. Ties fall as that function leaves
    them, which depends on k: of 1000 equal logits k = 1 picks class 0, k = 5 begins with class 3. The scripts
    call it with k = 1 for top-1 and mean per-class accuracy and with k = 5 for top-5; so must the caller.

    Args:
        logits: [n, C] float, 100·cosine.
        k: ranks wanted, k ≤ C.
    """
    import torch

    top: NDArray[np.int64] = torch.from_numpy(truncate(logits)).topk(k, dim=1).indices.numpy()
    return top


def hits(top: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return [n] bool, whether each label is among its row of `top` [n, k]."""
    found: NDArray[np.bool_] = (top == labels[:, None]).any(axis=1)
    return found


def mean_of_top1_and_top5(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [n], the mean of hit at 1 and hit at 5 (Kinetics-700's metric): 0, ½ or 1.

    With fewer than five classes the second is a hit at all of them.
    """
    top = top_k(logits, min(5, logits.shape[1]))
    mean: NDArray[np.float64] = (hits(top[:, :1], labels) + hits(top, labels).astype(np.float64)) / 2
    return mean


def accuracy(hit: NDArray[np.bool_]) -> float:
    """Return the fraction of samples that are hits."""
    return float(np.count_nonzero(hit) / len(hit))


def mean_per_class_accuracy(hit: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Return the unweighted mean over classes of each class's accuracy (balanced accuracy, macro recall).

    Classes that no label names are left out of the mean (the official scripts divide by zero there).

    Example:
        labels 0 0 0 1 and hits 1 1 0 0 give (2/3 + 0/1) / 2 = 1/3.
    """
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=hit)
    present = counts > 0
    return float((correct[present] / counts[present]).mean())


def ties(logits: NDArray[Any], labels: NDArray[np.int64], k: int) -> Ties:
    """Return which rows' top k equal logits leave open, and the hits they allow at best and at worst.

    Args:
        logits: [n, C] as ranked (truncated where the ranking truncates).
        labels: [n] int64.
        k: ranks that count.
    """
    target = np.take_along_axis(logits, labels[:, None], axis=1)
    above = np.count_nonzero(logits > target, axis=1)
    level = np.count_nonzero(logits == target, axis=1)
    if k < logits.shape[1]:
        largest = np.partition(logits, (-k - 1, -k), axis=1)
        tied = largest[:, -k - 1] == largest[:, -k]
    else:
        tied = np.zeros(len(logits), np.bool_)
    return Ties(tied, above < k, above + level <= k)


def num_padding_rows(num_samples: int, world_size: int, batch_size: int) -> int:
    """Return how many unfilled rows the official ImageNet evaluation averages in.

    Each of `world_size` processes allots whole batches for its share: 50,000 images on 8 GPUs fill 50,880
    rows at batch 120 (RWKV-CLIP's script: 880 unfilled) and 50,176 at batch 128 (ALIP's: 176).
    """
    return -num_samples % (world_size * batch_size)


def padded_accuracy(accuracy: float, num_samples: int, num_padding: int, num_classes: int) -> float:
    """Return the top-1 accuracy that the official ImageNet evaluation prints.

    Unfilled rows hold logits 0 and label 0, and are ranked like any other: of 1000 equal logits CPU
    `torch.topk` with k = 1 picks class 0, so each counts as correct (below 64 classes it picks another).

    Args:
        accuracy: over the real samples, in [0, 1].
        num_samples: n.
        num_padding: unfilled rows, see `num_padding_rows`.
        num_classes: C.
    """
    picked = truncated_top_k(np.zeros((1, num_classes)), 1)[0, 0]
    correct = num_padding if picked == 0 else 0
    return (accuracy * num_samples + correct) / (num_samples + num_padding)


def chance_levels(labels: NDArray[np.int64], num_classes: int) -> dict[str, dict[str, float]]:
    """Return, for each metric of one label an image, what can be had without looking at the images.

    `chance` is the expected value of a random order of the classes, `majority` that of the best order that
    is the same for all images: of a top-k accuracy the share of the k largest classes.

    Args:
        labels: [n] int64 of the images judged.
        num_classes: C.
    """
    counts = np.bincount(labels, minlength=num_classes)
    largest = np.sort(counts)[::-1]
    first, five = (
        np.array([min(k, num_classes) / num_classes, largest[:k].sum() / len(labels)]) for k in (1, 5)
    )
    levels = {
        "top1_accuracy": first,
        "top5_accuracy": five,
        "mean_top1_top5_accuracy": (first + five) / 2,
        "mean_per_class_accuracy": np.array([1 / num_classes, 1 / np.count_nonzero(counts)]),
        "roc_auc": np.array([0.5, 0.5]),
    }
    return {name: {"chance": float(a), "majority": float(b)} for name, (a, b) in levels.items()}
