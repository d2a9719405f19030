"""The evaluation protocols. Records name theirs; numbers of different ones never share a column."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Unfilled rows that an evaluation averages in; see `metrics.classification.num_padding_rows`.

    Attributes:
        datasets: record names of the sets it applies to.
        world_size: number of processes.
        batch_size: images per process and step.
    """

    datasets: frozenset[str]
    world_size: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How features become numbers.

    Attributes:
        name: what records and suites call it.
        description: one sentence for tables and `suites`.
        logits: `float`, or `truncated`: 100·cosine cut toward zero into int64 before the top-k, as the
            official RWKV-CLIP and ALIP scripts do, ties in the order of CPU `torch.topk`.
        primary: `dataset` takes the catalogue's metric for each set, otherwise the metric named.
        padding: where set, `top1_accuracy_padded` stands beside the corrected top-1 of the sets it names.
        caption_prefix: put before every caption in retrieval.
        variants: dataset name → variant this protocol means, where several are in circulation.
    """

    name: str
    description: str
    logits: Literal["float", "truncated"] = "float"
    primary: str = "dataset"
    padding: Padding | None = None
    caption_prefix: str = ""
    variants: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


PROTOCOLS: Registry[Protocol] = Registry("protocol")

STANDARD = PROTOCOLS.register(
    "standard",
    Protocol(
        name="standard",
        description="Float logits, every image once, official splits, clip-benchmark's templates, no prefix.",
        variants=MappingProxyType({"sun397": "partition1", "caltech101": "clip-benchmark"}),
    ),
)
OFFICIAL = PROTOCOLS.register(
    "official-rwkv-clip",
    Protocol(
        name="official-rwkv-clip",
        description="The released RWKV-CLIP scripts: logits cut to integers, 'a photo of ' before captions.",
        logits="truncated",
        # shell/test_zero_shot_classificaiton.sh: 8 processes, batch 120. ALIP's zero_shot.py: batch 128.
        padding=Padding(datasets=frozenset({"imagenet"}), world_size=8, batch_size=120),
        caption_prefix="a photo of ",
        variants=MappingProxyType({"caltech101": "seed3072"}),
    ),
)
CLIP_BENCHMARK = PROTOCOLS.register(
    "clip-benchmark",
    Protocol(
        name="clip-benchmark",
        description="The conventions of LAION's CLIP_benchmark: float logits, top-1 first, no prefix.",
        primary="top1_accuracy",
        variants=MappingProxyType({"sun397": "full", "caltech101": "clip-benchmark"}),
    ),
)
