"""Training data as the solvers see them: checked, centred, rotated, cut into chunks of rows.

The objective (CLIP's linear probe, Radford et al. 2021, arXiv:2103.00020, A.3) is
    Σ_n CE(y_n, x_nᵀ W + b) + λ/2 ‖W‖²,
with an unpenalised intercept b. Two classes have one column w, as in scikit-learn, so that λ means what it
meant in CLIP: CE is then the logistic loss of x w + b. (A softmax over two columns has its optimum at
±w/2, of which ‖W‖² is half of ‖w‖²: it is the same problem at half the λ.)

Subtracting a fixed vector from all features only shifts b, and rotating them rotates W; neither changes the
optimum. Both are done chunk by chunk, so the features are never copied whole unless the copy fits the memory
budget.

Axes: n samples, F features, K classes with an attainable optimum, J strengths solved together, c rows of a
chunk.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rwkvclip_eval.errors import DamagedData

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 2 << 30}
"""Logits of one chunk: they should stay in a processor's cache, and fill an accelerator."""


MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps."""

_SOFTPLUS_LINEAR = 40.0
"""exp(−40) is below the last digit of 40 in float64."""

_VECTORS = 2 * MEMORY + 18
"""Vectors of D numbers per strength: the pairs; point, gradient, direction, roots; what makes a step; sums in
float64."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Checked training data.

    Attributes:
        features: [n, F] float32 or float64, possibly memory-mapped.
        labels: [n] int64 indices into `classes`, or [n, K] float 0/1 with `multilabel`; on `device`.
        classes: [K] int64, those among `num_classes` that have samples (and, with `multilabel`, also lack
            some); of `pair` the second alone.
        pair: the two classes that have samples, where there are just two; solved as one binary problem.
        counts: [K] float64, samples (positives) per class.
        shift: [F] float64, the mean feature.
        certain: [num_classes], intercept of the classes without an attainable optimum: −inf for a class that
            never occurs, +inf for one that always does (its probability at the infimum is 0 or 1).
        num_classes: classes in all.
        multilabel: K independent binary problems instead of one multinomial; true of a `pair`.
        device: where products are computed.
        memory_budget: bytes.
        held: `features` on an accelerator, where a quarter of the budget holds them and the rest is enough
            for a solver: proofs read them often.
    """

    features: NDArray[Any]
    labels: Tensor
    classes: Tensor
    pair: tuple[int, int] | None
    counts: Tensor
    shift: Tensor
    certain: Tensor
    num_classes: int
    multilabel: bool
    device: torch.device
    memory_budget: int
    held: Tensor | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """n, F, K."""
        n, num_features = self.features.shape
        return n, num_features, len(self.classes)

    def spread(self, own: Tensor, full: Tensor) -> None:
        """Write columns […, K] into those of all classes […, num_classes]."""
        if self.pair is None:
            full[..., self.classes] = own
        else:
            full[..., list(self.pair)] = torch.cat([-own / 2, own / 2], -1)

    def gather(self, full: Tensor) -> Tensor:
        """Return the columns […, K] that `spread` wrote into `full` [..., num_classes]."""
        if self.pair is None:
            return full[..., self.classes]
        first, second = self.pair
        return full[..., [second]] - full[..., [first]]

    @property
    def null_losses(self) -> Tensor:
        """The smallest loss without features, [] (`multilabel`: [K]) float64: W = 0, b = log odds."""
        n = self.shape[0]
        entropy: Tensor = n * torch.special.entr(self.counts / n)
        return entropy + n * torch.special.entr(1 - self.counts / n) if self.multilabel else entropy.sum()

    @property
    def null_objective(self) -> float:
        """The smallest objective without features."""
        return float(self.null_losses.sum())

    @property
    def shared_bytes(self) -> int:
        """Bytes used whatever is solved: scatter matrix and eigenvectors, labels, what proofs add up."""
        _, num_features, num_classes = self.shape
        matrices = 4 * num_features**2 + 8 * num_features * num_classes
        held = 0 if self.held is None else self.held.nbytes
        return 8 * matrices + self.labels.nbytes + held

    @property
    def smallest_budget(self) -> int:
        """Bytes that solving one strength by short chunks takes; with less, no solver begins."""
        few = min(self.shape[0], 16) * self.row_bytes(torch.float64, 1)
        # The last precision is float64; a proof may use an eighth of what is not shared.
        return self.shared_bytes + max(24 * few, 4 * few + self.strength_bytes(torch.float64))

    def strength_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the solver's vectors for one strength."""
        _, num_features, num_classes = self.shape
        return _VECTORS * dtype.itemsize * (num_features + 1) * num_classes

    @property
    def proof_rows(self) -> int:
        """Rows per chunk of a pass in float64 for one strength, while a solver holds most of the memory."""
        available = (self.memory_budget - self.shared_bytes) // 8
        # Targets, probabilities and their entropies come on top of what `row_bytes` counts.
        return self.chunk_rows(torch.float64, 1, available // 3)

    def row_bytes(self, dtype: torch.dtype, num_strengths: int) -> int:
        """Bytes that one row of a chunk needs: features on their way to rotated ones, logits, temporaries."""
        _, num_features, num_classes = self.shape
        logits = dtype.itemsize * num_strengths * num_classes
        return 8 * 7 * (num_features + 1) + (4 if self.multilabel else 2) * logits

    def chunk_rows(self, dtype: torch.dtype, num_strengths: int, available: int) -> int:
        """Rows per chunk within `available` bytes; at least one."""
        logits = dtype.itemsize * num_strengths * self.shape[2]
        cap = max(256, _CHUNK_BYTES.get(self.device.type, _CHUNK_BYTES["cuda"]) // logits)
        return max(1, min(self.shape[0], cap, available // self.row_bytes(dtype, num_strengths)))

    def chunks(self, rows: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, centred features [c, F]) in `dtype` on the device."""
        shift = self.shift.to(self.device)
        for part, block in blocks(self.features if self.held is None else self.held, rows):
            # Centring in float64: float32 features far from the origin would lose digits.
            yield part, (block.to(self.device).double() - shift).to(dtype)

    @functools.cached_property
    def label_product(self) -> Tensor:
        """Xᵀ Y [F, K] float64 on the device, of centred features and labels as 0/1."""
        _, num_features, num_classes = self.shape
        total = torch.zeros(num_features, num_classes, dtype=torch.float64, device=self.device)
        for part, rows in self.chunks(self.proof_rows, torch.float64):
            labels = self.labels[part]
            target = labels if self.multilabel else torch.nn.functional.one_hot(labels, num_classes)
            total.addmm_(rows.T, target.double())
        return total

    def losses_and_residual(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Return every sample's loss and, in the memory of `logits` [c, J, K], P − Y.

        Both keep their digits in the tails: a sample that is right by a margin of z has a loss, and an entry
        of P − Y, of about exp(−z), which 1 − P or log(1 + exp(−z)) would round to 0.

        Returns:
            Losses [c, J] (with `multilabel` [c, J, K], one per label) and P − Y [c, J, K].
        """
        labels = self.labels[part]
        if self.multilabel:
            sign = torch.where(labels > 0, -1.0, 1.0).to(logits.dtype)[:, None, :]
            logits *= sign
            # Above its threshold softplus is linear; the default of 20 would cut digits off.
            losses = torch.nn.functional.softplus(logits, threshold=_SOFTPLUS_LINEAR)
            return losses, logits.sigmoid_().mul_(sign)
        index = labels[:, None, None].expand(-1, logits.shape[1], 1)
        logits -= logits.amax(-1, keepdim=True)
        own = logits.gather(-1, index)
        logits.exp_().scatter_(-1, index, 0.0)
        others = logits.sum(-1, keepdim=True)
        total = others + own.exp()
        losses = torch.where(own == 0, others.log1p(), total.log() - own)[..., 0]
        logits /= total
        return losses, logits.scatter_(-1, index, others.div_(total).neg_())


def blocks(features: NDArray[Any] | Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, features [c, F]) where `features` lie, in their own dtype."""
    for start in range(0, len(features), rows):
        part = slice(start, min(start + rows, len(features)))
        block = features[part]
        if isinstance(block, torch.Tensor):
            yield part, block
            continue
        # torch refuses to promise that it will not write into a read-only (memory-mapped) array.
        yield part, torch.from_numpy(np.require(block, requirements="W"))


def make_problem(
    features: NDArray[Any],
    labels: NDArray[Any],
    *,
    num_classes: int,
    multilabel: bool,
    memory_budget: int,
    device: str | torch.device,
) -> Problem:
    """Check training data and gather what all strengths share.

    Raises:
        DamagedData: Empty data, shapes that disagree, non-finite features, labels outside the range, or fewer
            than two classes to tell apart.
    """
    check_pair(features, labels, num_classes=num_classes, multilabel=multilabel, split="training")
    device = torch.device(device)
    n = len(features)
    shift = torch.zeros(features.shape[1], dtype=torch.float64)
    # A sum in float64 takes a copy in float64.
    most = min(1 << 20, memory_budget // 32)
    for part, block in blocks(features, max(1, most // max(1, features.shape[1]))):
        if not bool(torch.isfinite(block).all()):
            row = part.start + int((~torch.isfinite(block).all(1)).nonzero()[0, 0])
            raise DamagedData(
                f"The features of training sample {row} hold NaN or infinite values; the probe needs finite "
                "ones. Encode that split again, and check the model's precision."
            )
        shift += block.sum(0, dtype=torch.float64)
    certain = torch.zeros(num_classes, dtype=torch.float64)
    pair = None
    if multilabel:
        positives = torch.from_numpy(np.asarray(labels).sum(0, dtype=np.int64))
        classes = ((positives > 0) & (positives < n)).nonzero()[:, 0]
        certain[positives == 0], certain[positives == n] = -torch.inf, torch.inf
        target = torch.from_numpy(np.asarray(labels, dtype=np.float32))[:, classes]
        if not len(classes):
            raise DamagedData(
                f"None of the {num_classes} classes has both positive and negative training samples; "
                "there is nothing to learn. Check the labels of the training split."
            )
    else:
        positives = torch.bincount(torch.from_numpy(np.asarray(labels, np.int64)), minlength=num_classes)
        classes = positives.nonzero()[:, 0]
        certain[positives == 0] = -torch.inf
        target = torch.searchsorted(classes, torch.from_numpy(np.asarray(labels, np.int64)))
        if len(classes) < 2:
            raise DamagedData(
                f"All {n} training samples belong to class {int(classes[0])}; a probe needs at least two "
                "classes. Check the labels of the training split."
            )
        if len(classes) == 2:
            pair = int(classes[0]), int(classes[1])
            classes, target = classes[1:], target[:, None].float()
    problem = Problem(
        features=features,
        held=None,
        labels=target.to(device),
        classes=classes,
        pair=pair,
        counts=positives[classes].double(),
        shift=shift / n,
        certain=certain,
        num_classes=num_classes,
        multilabel=multilabel or pair is not None,
        device=device,
        memory_budget=memory_budget,
    )
    # What `check_budget` lets pass must be enough here too: it knows of no device.
    spare = memory_budget - problem.smallest_budget
    if device.type == "cpu" or features.nbytes > min(memory_budget // 4, spare):
        return problem
    return replace(problem, held=torch.from_numpy(np.require(features, requirements="W")).to(device))


def check_pair(
    features: NDArray[Any], labels: NDArray[Any], *, num_classes: int, multilabel: bool, split: str
) -> None:
    """Check that `features` [n, F] and `labels` [n] or [n, num_classes] belong together.

    Raises:
        DamagedData: They do not, or there are none.
    """
    if features.ndim != 2 or features.dtype not in (np.float32, np.float64):
        raise DamagedData(
            f"The features of the {split} split should be a float32 or float64 array [samples, features], "
            f"not {features.dtype} {list(features.shape)}."
        )
    if not len(features):
        raise DamagedData(f"The {split} split is empty; the probe needs at least one sample in it.")
    expected = [len(features), num_classes] if multilabel else [len(features)]
    if list(labels.shape) != expected:
        raise DamagedData(
            f"The labels of the {split} split should have the shape {expected}, not {list(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    top = 1 if multilabel else num_classes - 1
    if low < 0 or high > top:
        raise DamagedData(
            f"The labels of the {split} split should lie in 0 … {top}, but reach from {low} to {high}. "
            "Check the number of classes and the label file."
        )
