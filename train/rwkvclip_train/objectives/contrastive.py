"""The symmetric contrastive loss (InfoNCE) of CLIP, arXiv:2103.00020, figure 3, over all ranks' pairs.

A rank makes the logits of its own images with every text, chunk by chunk, and throws them away: what stays
is two vectors of log-sums, from which the backward pass makes each chunk again. Ranks exchange texts, the
log-sums of the columns and the texts' gradients; images never travel. Memory is O(B·D), in place of O(B²).

Axes: B pairs of all ranks, b pairs of this one, D embedding, c rows of a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

MIN_CHUNK_ROWS = 256
"""Products of fewer rows are slow; the logits of these take less than the embeddings of any model in use."""
PART_BYTES = 1 << 20
"""Of logits, that a CPU takes through all elementwise work at once."""
# torch 2.14 calls them otherwise, and warns of the old names.
_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def global_contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    chunk_rows: int | None = None,
    tower_gradient_scale: float = 1.0,
) -> Tensor:
    """Return the mean of the image→text and the text→image cross entropies of all ranks' pairs, in nats.

    Row i of `image` and row i of `text` are a pair, every other row of any rank a negative. Computed in
    float32, of float64 embeddings in float64, under autocast too. The official code takes the mean of both
    directions; the paper of RWKV-CLIP writes their sum.

    The value is the same on every rank. Of gradients the mean over ranks, which DDP takes, is that of the
    value: each rank's are those of its own rows, times the number of ranks.

    Args:
        image: [b, D] image embeddings, of any norm; the same b on every rank.
        text: [b, D] text embeddings, of any norm.
        logit_scale: scalar multiplier of the cosine similarity (already exponentiated).
        group: the ranks that share the batch; by default all that `torch.distributed` knows, or this process.
        chunk_rows: rows of the logits held at a time; by default as many as take what the texts do.
        tower_gradient_scale: factor of the embeddings' gradients, not of the logit scale's. One over the
            number of ranks is what the official script's gather without gradient leaves under DDP.

    Returns:
        Scalar float32 or float64; ln B for embeddings that say nothing.
    """
    exact = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    image, text = F.normalize(image.to(exact), dim=-1), F.normalize(text.to(exact), dim=-1)
    rows = chunk_rows or max(image.shape[1], MIN_CHUNK_ROWS)
    loss: Tensor = _Contrastive.apply(
        image, text, logit_scale.to(exact), _Ranks(group), rows, tower_gradient_scale
    )
    return loss


class _Ranks:
    """The ranks that share a batch; without `torch.distributed` this process alone.

    Args:
        group: of ranks; None for all.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        shared = dist.is_available() and dist.is_initialized()
        self.num = dist.get_world_size(group) if shared else 1
        self.rank = dist.get_rank(group) if shared else 0

    def gathered(self, x: Tensor) -> Tensor:
        """Return the rows of all ranks [B, …] of x [b, …]."""
        if self.num == 1:
            return x
        whole = x.new_empty((self.num * len(x), *x.shape[1:]))
        _ALL_GATHER(whole, x.contiguous(), group=self.group)
        return whole

    def own(self, x: Tensor) -> Tensor:
        """Return this rank's rows [b, …] of x [B, …]."""
        return x.chunk(self.num)[self.rank]

    def summed(self, x: Tensor) -> Tensor:
        """Return x, summed over ranks in place."""
        if self.num > 1:
            dist.all_reduce(x, group=self.group)
        return x

    def own_summed(self, x: Tensor) -> Tensor:
        """Return this rank's rows [b, …] of the sum over ranks of x [B, …]."""
        if self.num == 1:
            return x
        own = torch.empty_like(self.own(x))
        _REDUCE_SCATTER(own, x, group=self.group)
        return own

    def log_sum_exp(self, x: Tensor) -> Tensor:
        """Return the logarithm of the sum over ranks of exp(x), x being [B]."""
        if self.num == 1:
            return x
        largest = x.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return self.summed((x - largest).exp_()).log_().add_(largest)


class _Contrastive(torch.autograd.Function):
    """The loss of unit-norm embeddings; see `global_contrastive_loss`.

    All products are written where they are wanted: such ones autocast leaves alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        ranks: _Ranks,
        chunk_rows: int,
        tower_gradient_scale: float,
    ) -> Tensor:
        texts = ranks.gathered(text)
        by_row = image.new_empty(len(image))
        by_column = image.new_full((len(texts),), -torch.inf)
        for rows, logits in _chunks(image, texts, scale, chunk_rows):
            for part in _parts(logits):
                by_row[rows][part] = logits[part].logsumexp(1)
                by_column = torch.logaddexp(by_column, logits[part].logsumexp(0))
        by_column = ranks.log_sum_exp(by_column)
        matched = scale * (image * text).sum(1)
        loss = ranks.summed((by_row + ranks.own(by_column) - 2 * matched).sum()) / (2 * len(texts))
        ctx.save_for_backward(image, texts, scale, by_row, by_column)
        ctx.ranks, ctx.chunk_rows, ctx.tower_gradient_scale = ranks, chunk_rows, tower_gradient_scale
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, texts, scale, by_row, by_column = ctx.saved_tensors
        ranks: _Ranks = ctx.ranks
        # Of the sum of all 2·B cross entropies, with respect to the products image · text.
        of_image, of_texts = torch.empty_like(image), torch.zeros_like(texts)
        for rows, logits in _chunks(image, texts, scale, ctx.chunk_rows):
            for part in _parts(logits):
                of_row = (logits[part] - by_row[rows][part, None]).exp_()
                logits[part].sub_(by_column).exp_().add_(of_row)
            first = ranks.rank * len(image) + rows.start
            logits[:, first : first + len(logits)].diagonal().sub_(2)
            torch.mm(logits, texts, out=of_image[rows])
            of_texts.addmm_(logits.T, image[rows])
        of_text = ranks.own_summed(of_texts)
        share = grad * ranks.num / (2 * len(texts))
        of_scale = share * (image * of_image).sum()
        share = share * scale * ctx.tower_gradient_scale
        return of_image.mul_(share), of_text.mul_(share), of_scale, None, None, None


def _parts(logits: Tensor) -> Iterator[slice]:
    """Yield slices of rows that stay in a CPU's cache through several operations; elsewhere one of all."""
    most = max(1, PART_BYTES // (logits.shape[1] * logits.element_size()))
    step = most if logits.device.type == "cpu" else len(logits)
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _chunks(image: Tensor, texts: Tensor, scale: Tensor, num_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the rows of `image` with their logits [c, B], which the next ones overwrite."""
    room = image.new_empty(min(num_rows, len(image)), len(texts))
    for start in range(0, len(image), num_rows):
        rows = slice(start, min(start + num_rows, len(image)))
        yield rows, torch.mm(scale * image[rows], texts.T, out=room[: rows.stop - rows.start])
