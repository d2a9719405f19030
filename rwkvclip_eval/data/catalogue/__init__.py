"""What is known of each dataset: versions in circulation, expected counts, metric, and where to get it.

The entries lie beside this file, one YAML file per kind of picture, datasets by record name. Counts are those
of the whole sets; of several variants the first is the default. `counts` of a split that nothing here can
give are left out. `class_list: none`: clip-benchmark has no such list. `unverified` in a licence or note: it
is what the field says, and no text of the authors could be read for it. Sizes are those that
tensorflow_datasets/url_checksums states of the published archives, but for country211 (its authors' page),
imagenet and imagenet_sketch (cards of Hugging Face copies) and resisc45 (TensorFlow Datasets' page).
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rwkvclip_eval.data.types import DatasetInfo, DatasetKind
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable

Metric = Literal[
    "top1_accuracy",
    "mean_per_class_accuracy",
    "mean_average_precision_11_point",
    "roc_auc",
    "mean_top1_top5_accuracy",
    "image_retrieval_recall@1",
]

FILES = ("objects", "small_images", "frames_and_memes", "robustness", "retrieval", "extras")
"""The files of entries, in the order in which datasets are listed."""


class Download(BaseModel):
    """A public file of a dataset, fetched by `data download`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    file: str = Field(description="where it goes, below DATA_ROOT/NAME; archives are unpacked beside it")
    md5: str | None = None
    sha256: str | None = None
    bytes: int | None = None

    @property
    def has_sum(self) -> bool:
        """Whether a checksum is known; without one no two parts of a file are joined."""
        return (self.md5 or self.sha256) is not None


class HuggingFaceCopy(BaseModel):
    """A copy on the Hugging Face hub for its library `datasets`; labels in the order of other sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="owner/name")
    image: str = "image"
    label: str = "label"
    splits: dict[str, str] = Field(default_factory=dict, description="split → what the copy calls it")
    underscores: bool = Field(False, description="in its class names, where other sources have spaces")


class Variant(BaseModel):
    """One version in circulation of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    counts: dict[str, int] = Field(description="split → images")
    captions: dict[str, int] = Field(default_factory=dict, description="split → captions, for retrieval")
    num_classes: int | None = Field(None, description="classes; the entry's by default")
    kind: DatasetKind | None = Field(None, description="the entry's by default")
    metric: Metric | None = Field(None, description="the entry's by default")
    webdataset: tuple[str, ...] = Field((), description="folders looked for under the data root, in order")
    clip_benchmark: str | None = Field(None, description="name in the clip-benchmark package")
    hub: tuple[str, ...] = Field((), description="Hugging Face repositories that hold the webdataset folders")
    hub_splits: tuple[str, ...] = Field(
        (), description="the splits of these that are whole and so worth fetching; all by default"
    )
    hugging_face: HuggingFaceCopy | None = Field(
        None, description="what `source: {kind: hugging_face}` means in a suite"
    )
    class_list: str | None = Field(
        None, description="name of clip-benchmark's class names; by alias by default"
    )
    template_list: str | None = Field(None, description="name of its templates; by alias by default")
    embedded: bool = Field(False, description="ships with scikit-learn")
    downloads: tuple[Download, ...] = Field((), description="public files that hold this version")
    lossy: bool = Field(
        False,
        description="the counts are of lists of addresses, many of them dead: each has a copy of its own",
    )
    note: str = Field("", description="what sets this version apart")

    @property
    def sources(self) -> str:
        """Where `data download` gets it from, in words; empty where it cannot."""
        return ", ".join(self.hub) or ("published files" if self.downloads else "")

    def on_hub(self, splits: Iterable[str]) -> list[str]:
        """Return those of `splits` that the hub's copy may hold whole."""
        return [split for split in splits if self.hub and split in (self.hub_splits or (split,))]

    def short_copy(self, folder: str, split: str) -> bool:
        """Return whether webdataset folder `folder` is one of the hub's that holds only a part of `split`."""
        of_hub = folder in (repository.rpartition("/")[2] for repository in self.hub)
        return of_hub and not self.on_hub([split])


LEAST_OF_LOSSY = 0.5
"""Share of a lossy set's list from which a copy counts as what could be fetched; below, it is a subset."""


class Entry(BaseModel):
    """One dataset of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: DatasetKind
    title: str
    variants: dict[str, Variant] = Field(
        min_length=1,
        description="the first is the default; `seed*` stands for `seed0`, `seed1`, …; see `variant`",
    )
    num_classes: int | None = None
    metric: Metric = "top1_accuracy"
    aliases: tuple[str, ...] = Field((), description="names other projects and prompt files use")
    evaluation_split: str = "test"
    homepage: str
    licence: str
    terms: str = Field("", description="what one must accept or ask for before fetching it")
    size_gb: float | None = Field(
        None, description="of all published files (1e9 bytes), where the downloads do not say it"
    )
    by_hand: str = Field("", description="what must be fetched by hand, and how")
    layout: str = Field("", description="what the folder of the published files holds, for `data prepare`")

    @model_validator(mode="after")
    def _complete(self) -> Entry:
        for name, variant in self.variants.items():
            if self.evaluation_split not in variant.counts:
                raise ValueError(f"variant {name} has no count of the evaluation split")
            if self.kind != "retrieval" and (variant.num_classes or self.num_classes) is None:
                raise ValueError(f"variant {name} has no number of classes")
        return self

    def has_variant(self, name: str) -> bool:
        """Return whether there is such a variant, `seed7` of `seed*` included."""
        return "*" not in name and (name in self.variants or _pattern(name) in self.variants)

    def variant(self, name: str) -> Variant:
        """Return one variant; `seed*` as the one that `name` says."""
        if name in self.variants:
            return self.variants[name]
        found = self.variants[_pattern(name)]
        number = name.removeprefix(_pattern(name)[:-1])
        folders = tuple(folder.replace("*", number) for folder in found.webdataset)
        return found.model_copy(update={"webdataset": folders})

    def classes_of(self, variant: str) -> int | None:
        """Return the number of classes of one variant."""
        return self.variant(variant).num_classes or self.num_classes

    def kind_of(self, variant: str) -> DatasetKind:
        """Return what one variant's labels or captions make it."""
        return self.variant(variant).kind or self.kind

    def size_of(self, variant: str) -> str:
        """Return how many GB of one variant to fetch: `39.1`, `~5` where copies differ, `?` if unknown."""
        known = self.variant(variant)
        if known.embedded:
            return "0"
        sizes = [download.bytes for download in known.downloads]
        whole = sum(size or 0 for size in sizes) / 1e9 if sizes and None not in sizes else None
        if whole and not known.hub:
            return f"{whole:.3g}"
        size_gb = whole or self.size_gb
        if size_gb is None:
            return "?"
        return f"~{size_gb:.0f}" if size_gb >= 10 else f"~{size_gb:.2g}"

    def facts_of(self, variant: str, metric: str) -> DatasetInfo:
        """Return what one variant must be once it is opened; blanks stand for its classes' names.

        Args:
            variant: which.
            metric: the suite's choice.
        """
        return DatasetInfo(
            name="",
            variant=variant,
            kind=self.kind_of(variant),
            num_samples=0,
            fingerprint="",
            class_names=("",) * (self.classes_of(variant) or 0),
            primary_metric=metric,
        )

    def metric_of(self, variant: str) -> Metric:
        """Return what the field reports of one variant."""
        return self.variant(variant).metric or self.metric


def _pattern(name: str) -> str:
    """Return `seed*` for `seed7`; a name without a plain number at its end is its own pattern."""
    return re.sub(r"(?<![0-9])(0|[1-9][0-9]*)$", "*", name)


@functools.cache
def catalogue() -> dict[str, Entry]:
    """Return record name → entry, in the file's order."""
    folder = resources.files("rwkvclip_eval.data.catalogue")
    texts = [folder.joinpath(f"{file}.yaml").read_text(encoding="utf-8") for file in FILES]
    # Ten times as fast where PyYAML has libyaml, which every command would wait for.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded = [yaml.load(text, Loader=loader) or {} for text in texts]
    entries = {name: entry for found in loaded for name, entry in found.items()}
    return {name: Entry.model_validate(entry) for name, entry in entries.items()}


@functools.cache
def _names() -> dict[str, str]:
    """Return every name a dataset goes by → record name."""
    return {n: name for name, entry in catalogue().items() for n in (name, *entry.aliases)}


def record_name(name: str) -> str | None:
    """Return the record name behind `name` (itself, an alias, with or without `wds/`), or None."""
    for candidate in (name, name.removeprefix("wds/"), name.removeprefix("wds_")):
        if candidate in _names():
            return _names()[candidate]
    return None


def canonical_name(name: str) -> str:
    """Return what records call the dataset `name`: its record name, else itself without `wds/` or `wds_`."""
    return record_name(name) or name.removeprefix("wds/").removeprefix("wds_")


def names_of(name: str) -> tuple[str, ...]:
    """Return `name` and every other name of the same dataset, record name first."""
    record = record_name(name)
    if record is None:
        return (name,)
    return tuple(dict.fromkeys((record, name, *catalogue()[record].aliases)))


def how_to_complete(name: str, variant: str = "default") -> str:
    """Return how one makes whole shards of a dataset whose copy is not."""
    label = name if variant == "default" else f"{name}@{variant}"
    return (
        "make shards of the published files: "
        f"rwkvclip-eval data prepare {label} --from FOLDER --data-root DIR"
    )


def absent_splits(
    name: str, variant: str, known: Variant, there: Iterable[str], wanted: Iterable[str] | None = None
) -> list[str]:
    """Return a sentence that names the official splits that are not `there`, and the cure, or nothing.

    Args:
        name: of the dataset.
        variant: of its versions.
        known: what the catalogue says of that one.
        there: splits that were found.
        wanted: splits that should be; all that the catalogue counts by default.
    """
    found = set(there)
    absent = [s for s in known.counts if s not in found and (wanted is None or s in wanted)]
    if known.embedded or not absent:
        return []
    what = f"the official split{'s' if len(absent) > 1 else ''} {' and '.join(absent)}"
    return [f"Absent: {what}, which probes need; {how_to_complete(name, variant)}."]


def choose_variant(name: str, entry: Entry, variant: str | None) -> str:
    """Return `variant` if the entry has it, its first where None is asked for.

    Raises:
        UserError: the entry has no such variant.
    """
    if variant is None:
        return next(iter(entry.variants))
    if not entry.has_variant(variant):
        raise UserError(unknown_name(f"variant of {name}", variant, entry.variants))
    return variant
