"""k-NN probe: the nearest training images vote (Wu et al., arXiv 1805.01978; DINO, arXiv 2104.14294).

Neighbours are those of highest cosine between probe features, among the images of train and, where there is
one, of the official validation split; each votes for its class with weight exp(cosine / temperature). It has
nothing to fit, so it is the cheap companion of the linear probe.

Predictions: see `tasks.classification`; logits are log shares of the vote, `FLOOR` where a class has none.

Axes: n test images, m images that may vote, k neighbours, K classes, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.metrics.chunks import row_chunks
from rwkvclip_eval.tasks.base import Features, Samples, TaskResult
from rwkvclip_eval.tasks.classification import ACCURACIES, accuracies, accuracies_on, rank
from rwkvclip_eval.tasks.probe_data import ProbeTask, probe_data, standardized
from rwkvclip_eval.tasks.probe_options import KnnOptions
from rwkvclip_eval.tasks.similarity import COSINE, score_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.tasks.base import Compute
    from rwkvclip_eval.tasks.probe_data import Labelled, ProbeData

FLOOR = -1e4
"""Logit of a class without a vote: finite, below the log share of any vote."""


class KnnProbe(ProbeTask):
    """Weighted vote of the k nearest training images."""

    name = "knn_probe"
    version = 3
    description = "Weighted vote of the training images whose features are nearest by cosine."
    kinds: frozenset[DatasetKind] = frozenset({"classification"})
    gives = ACCURACIES
    protocols = ("knn",)
    Options = KnnOptions

    def gives_on(self, info: DatasetInfo) -> frozenset[str]:
        """Return the names of the metrics that it gives on a dataset."""
        return accuracies_on(info)

    def check_budget(
        self, fit: Mapping[str, Samples], protocol: Protocol, num_features: int, memory_budget: int
    ) -> None:
        """Refuse, before any encoding, a memory budget below one image's cosines."""
        num_images = sum(len(given.keys) for given in fit.values())
        _rows_at_once(num_images, len(fit["train"].info.class_names), memory_budget)

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return accuracies on the test split.

        Raises:
            DamagedData: see `probe_data`.
            UserError: the memory budget is too small.
        """
        options = KnnOptions.of(protocol)
        data = probe_data(samples, features, normalize=options.normalize)
        bank, test = data.learned, data.test  # Nothing is chosen on a validation split.
        if options.standardize:
            bank, test = standardized([bank, test])
        k = min(options.k, len(bank.y))
        votes = log_votes(
            test.x,
            bank,
            data.num_classes,
            k=k,
            temperature=options.temperature,
            compute=features.compute,
        )
        ranked = rank(votes, data.test.y, data.num_classes)
        return TaskResult(
            metrics=accuracies(ranked, data.test.y, data.num_classes),
            predictions={"predictions": ranked.table(samples)},
            notes={
                "k": k,
                "temperature": options.temperature,
                "num_train": len(bank.y),
                "bank": _bank_text(data),
                "num_classes": data.num_classes,
                "train_fingerprint": data.train_fingerprint,
            },
        )


def _bank_text(data: ProbeData) -> str:
    """Return which images vote, in words."""
    num_val = len(data.val.y)
    also = f" and {num_val:,} of the official validation split" if num_val else ""
    return f"{data.num_train:,} images of train{also}"


def log_votes(
    x: NDArray[np.float32],
    bank: Labelled,
    num_classes: int,
    *,
    k: int,
    temperature: float,
    compute: Compute,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows of the n test images and their [rows, K] log shares of the vote.

    Args:
        x: [n, F] features.
        bank: [m, F] features and their classes.
        num_classes: K.
        k: neighbours, at most m.
        temperature: see the top of this file.
        compute: device and memory.

    Raises:
        UserError: one row of cosines does not fit the memory budget.
    """
    import torch

    step = _rows_at_once(len(bank.y), num_classes, compute.memory_budget)
    device = torch.device(compute.device)
    neighbours, unit = torch.empty(bank.x.shape, device=device), _Unit(bank.x, device)
    for part in row_chunks(*bank.x.shape):
        neighbours[part] = unit[part]
    classes = torch.from_numpy(bank.y).to(device)
    parts = (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))
    queries = {"embedding": _Unit(x, device)}
    # Probe features are one vector an image, whatever an encoder's images and texts are compared by.
    for rows, (scores, _) in score_blocks(COSINE, queries, {"embedding": neighbours}, rows=parts):
        cosine, index = torch.as_tensor(scores).topk(k, dim=1)
        weight = ((cosine - cosine[:, :1]) / temperature).exp()
        votes = torch.zeros(len(cosine), num_classes, device=device)
        votes.scatter_add_(1, classes[index], weight)
        share = votes / votes.sum(dim=1, keepdim=True)
        yield rows, share.log().clamp(min=FLOOR).cpu().numpy()


class _Unit:
    """Rows of `x` [n, F] scaled to unit length on `device`, when they are asked for."""

    def __init__(self, x: NDArray[np.float32], device: torch.device) -> None:
        self._x, self._device = x, device

    def __getitem__(self, rows: slice) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        return normalize(torch.from_numpy(np.array(self._x[rows])).to(self._device), dim=1)


def _rows_at_once(num_neighbours: int, num_classes: int, memory_budget: int) -> int:
    """Return how many images' cosines and votes fit `memory_budget` bytes.

    Raises:
        UserError: not one does.
    """
    per_row = 4 * (2 * num_neighbours + num_classes)
    if memory_budget < per_row:
        raise UserError(
            f"The memory budget of {memory_budget:,} bytes is below the {per_row:,} that one image's "
            "cosines need; raise --memory-budget."
        )
    return memory_budget // per_row
