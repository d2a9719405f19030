"""The evaluation protocols. Records name theirs; numbers of different ones never share a column."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from rwkvclip_eval.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
class Difference:
    """What is known to set numbers under a protocol apart from those of the code that it follows.

    Attributes:
        text: one sentence.
        but_not: variants of the dataset of which it is not true.
        class_name: where set, it is true only if a class is spelt so, which a user's own names end.
    """

    text: str
    but_not: frozenset[str] = frozenset()
    class_name: str = ""

    def applies(self, variant: str, class_names: Sequence[str]) -> bool:
        """Return whether it is true of a dataset as opened."""
        return variant not in self.but_not and self.class_name in (*class_names, "")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How features become numbers.

    Attributes:
        name: what records and suites call it.
        description: one sentence for tables and `suites`.
        logits: `float`, or `truncated`: 100·cosine cut toward zero into int64 before the top-k, as the
            official RWKV-CLIP and ALIP scripts do, ties in the order of CPU `torch.topk`.
        primary: `dataset` takes the catalogue's metric for each set, otherwise the metric named.
        padding: where set, `top1_accuracy_padded` stands beside the corrected top-1 of the sets it names, if
            every image of theirs is scored.
        caption_prefix: put before every caption in retrieval.
        variants: dataset name → variant this protocol means, where several are in circulation.
        differences: record name of a dataset → what is known to differ from the code this protocol follows;
            records and reports say those that apply.
        keeps_reference_prompts: records keep the hash of clip-benchmark's own prompts of their dataset, so
            that they can be held against figures made with those.
        options: what it sets of a task's own options; the task that follows it checks them
            (`tasks.base.TaskOptions`).
    """

    name: str
    description: str
    logits: Literal["float", "truncated"] = "float"
    primary: str = "dataset"
    padding: Padding | None = None
    caption_prefix: str = ""
    variants: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    differences: Mapping[str, tuple[Difference, ...]] = field(default_factory=lambda: MappingProxyType({}))
    keeps_reference_prompts: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def known_differences(self, dataset: str, variant: str, class_names: Sequence[str]) -> str:
        """Return the differences that apply to a dataset as opened, sentence after sentence."""
        found = self.differences.get(dataset, ())
        return " ".join(each.text for each in found if each.applies(variant, class_names))

    def with_options(self, options: Mapping[str, Any]) -> Protocol:
        """Return this protocol with these options, which its name then carries; itself if there are none."""
        if not options:
            return self
        said = ", ".join(f"{key}={_plain(value)}" for key, value in options.items())
        merged = MappingProxyType({**self.options, **options})
        return replace(self, name=f"{self.name} ({said})", options=merged)


def _plain(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


PROTOCOLS: Registry[Protocol] = Registry("protocol")

STANDARD = PROTOCOLS.register(
    "standard",
    Protocol(
        name="standard",
        description="Float logits, every image once, official splits, clip-benchmark's templates, no prefix.",
        variants=MappingProxyType({"caltech101": "clip-benchmark"}),
    ),
)
_UNSTABLE_SORT = Difference(
    text="Equal scores keep the data's order; the released scripts leave theirs to a sort that need not."
)
_OFFICIAL_DIFFERENCES = MappingProxyType(
    {
        "sun397": (
            Difference(
                text="The released scripts draw 19,850 test images at random, by a seed with Python's salted "
                "hash in it: another split in every process, so no number of theirs is known to be of these "
                "images."
            ),
        ),
        "imagenet": (
            Difference(
                text="Images are decoded by Pillow and scaled as the model asks; the released scripts let "
                "DALI scale ImageNet's shorter side to 256 px, by a triangular filter, and crop 224 px."
            ),
        ),
        "pets": (
            Difference(
                text="Two classes are spelt right, Persian and Yorkshire Terrier; the released label.json "
                "has “Persian'” and “Yorkshire Terrie”.",
                class_name="Persian",
            ),
        ),
        "cifar100": (
            Difference(
                text="Class names hold the data's underscores (aquarium_fish); the released label.json has "
                "spaces there.",
                class_name="aquarium_fish",
            ),
        ),
        "caltech101": (
            Difference(
                text="The released scripts score another split, 5,677 images of 101 classes without the "
                "background, drawn with seed 3072 (caltech101@seed3072).",
                but_not=frozenset({"seed3072"}),
            ),
        ),
        "flickr30k": (_UNSTABLE_SORT,),
        "mscoco_captions": (_UNSTABLE_SORT,),
    }
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
        differences=_OFFICIAL_DIFFERENCES,
    ),
)
CLIP_BENCHMARK = PROTOCOLS.register(
    "clip-benchmark",
    Protocol(
        name="clip-benchmark",
        description="The conventions of LAION's CLIP_benchmark: float logits, top-1 first, no prefix.",
        primary="top1_accuracy",
        variants=MappingProxyType(
            {
                "sun397": "full",
                "caltech101": "clip-benchmark",
                "eurosat": "vtab",
                "resisc45": "vtab",
                "clevr": "vtab",
                "fer2013": "clip-benchmark",
                "voc2007": "crops",
            }
        ),
        keeps_reference_prompts=True,
    ),
)

# Caltech-101: 3,000 / 5,677 images of 101 classes, as the tables of the RWKV-CLIP authors' group count it.
_CLIP_VARIANTS = MappingProxyType({"caltech101": "seed3072"})
CLIP_CERTIFIED = PROTOCOLS.register(
    "clip-certified",
    Protocol(
        name="clip-certified",
        description="CLIP's linear probe at the optimum: each strength solved to a certified gap.",
        variants=_CLIP_VARIANTS,
    ),
)
CLIP_LBFGS = PROTOCOLS.register(
    "clip-lbfgs",
    Protocol(
        name="clip-lbfgs",
        description="CLIP's linear probe as it was run: L-BFGS stopped after at most 1,000 iterations.",
        variants=_CLIP_VARIANTS,
        options=MappingProxyType({"method": "lbfgs"}),
    ),
)
KNN = PROTOCOLS.register(
    "knn",
    Protocol(
        name="knn",
        description="Votes of the nearest images of train and, where there is one, of the official "
        "validation split, by cosine, weighted by exp(cosine / temperature).",
        variants=_CLIP_VARIANTS,
    ),
)
