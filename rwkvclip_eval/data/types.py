"""What the suite asks of a dataset: the `Dataset` protocol, facts about it, and how a suite refers to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import AfterValidator, Field, field_validator

from rwkvclip_eval.errors import shown
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from PIL.Image import Image

SPLITS = ("train", "val", "test")
"""What splits are called, whatever a publisher calls them."""

Name = Annotated[
    str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(readable)
]
"""What a file calls something or where it says that it lies: to be seen, without control characters."""


Place = Annotated[str, Field(max_length=4096), AfterValidator(readable)]
"""Where a file says that data lie."""


def _named_in_full(text: str) -> str:
    name, at, variant = text.partition("@")
    if at and not (name and variant):
        raise ValueError(f"expected NAME or NAME@VARIANT, got {shown(text)}")
    return text


VersionName = Annotated[Name, AfterValidator(_named_in_full)]
"""NAME or NAME@VARIANT of a dataset."""
FolderName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[^./\\\s\x00-\x1f\x7f]([^/\\\x00-\x1f\x7f]*[^/\\\s\x00-\x1f\x7f])?$",
    ),
    AfterValidator(readable),
]
"""A name that becomes part of a path and can lead to no other folder; no spaces around it."""
_BUILDERS_THAT_READ_MORE_THAN_DATA = ("generator", "pandas", "spark", "sql")

DatasetKind = Literal["classification", "multilabel", "retrieval"]


class ReferencePrompts(NamedTuple):
    """What clip-benchmark asks of a dataset, whatever a suite asks; nothing for retrieval.

    Attributes:
        class_names: in label order.
        templates: with `{c}`.
        own_names: it has no list of its own, so that the class names are the data's.
    """

    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    own_names: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Facts about an opened split that go into every result record. No field holds a path of this machine.

    Attributes:
        name: record name, as in reports/published (`cifar10`, `aircraft`, `mscoco_captions`, …).
        variant: which of the versions in circulation (`partition1`, `seed3072`, …).
        split: `train`, `val` or `test`.
        kind: what the labels or captions make it.
        num_samples: images in this split as opened.
        fingerprint: SHA-256 (hex) of the samples in order: keys, image bytes, labels or captions.
        class_names: class names in label order; empty for retrieval.
        templates: prompt templates with `{c}` where the class name goes; empty for retrieval.
        reference_prompts: clip-benchmark's; None where they are unknown.
        primary_metric: the metric the field reports for this set.
        source: where the samples came from, e.g. `webdataset wds_cifar10/test`.
        verified: known to the catalogue and of the expected size and classes.
        expected_samples: the catalogue's count; None where it has none.
        subset: fewer samples than the whole split (a partial copy, or `--limit`): never compared with full
            runs.
        own_copy: what could be fetched of a set that the web loses: whole, but compared by fingerprint only.
    """

    name: str
    variant: str = "default"
    split: str = "test"
    kind: DatasetKind
    num_samples: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    reference_prompts: ReferencePrompts | None = None
    primary_metric: str = "top1_accuracy"
    source: str = ""
    verified: bool = False
    expected_samples: int | None = None
    subset: bool = False
    own_copy: bool = False


@runtime_checkable
class Dataset(Protocol):
    """One split with random access. Picklable: images are decoded in worker processes.

    Labels, captions and keys are held in memory; images are read when asked for.
    """

    info: DatasetInfo

    @property
    def keys(self) -> Sequence[str]:
        """Unique sample keys in order, n of them."""
        ...

    @property
    def labels(self) -> np.ndarray[Any, Any] | None:
        """[n] int64 class ids, [n, K] 0/1 (−1: left open) for multilabel, None for retrieval."""
        ...

    @property
    def captions(self) -> Sequence[Sequence[str]] | None:
        """Lists of captions, n of them, each of length ≥ 1; None for classification."""
        ...

    def __len__(self) -> int:
        """Return the number of samples n."""
        ...

    def image(self, index: int) -> Image:
        """Return the decoded image.

        Raises:
            DamagedData: it cannot be decoded; the text names the sample and the file.
        """
        ...


class PromptFiles(Strict):
    """Official-format prompt files: JSON, dataset name → list of class names / templates."""

    labels: str | None = Field(None, description="path of label.json")
    templates: str | None = Field(None, description="path of template.json")


class HuggingFaceSource(Strict):
    """A dataset of the Hugging Face `datasets` library."""

    kind: Literal["hugging_face"]
    path: str = Field(
        "",
        description="hub id (owner/name), builder name (imagefolder, parquet) or local folder; by default "
        "the copy that the catalogue knows, with its columns and splits",
    )
    config: str | None = Field(None, description="configuration name")
    split: str | None = Field(None, description="split expression; the entry's split by default")
    data_files: str | None = Field(None, description="glob, for builders such as parquet")
    image: str = Field("image", description="image column")
    label: str | None = Field(None, description="label column; 'label' by default for classification")
    captions: str | None = Field(None, description="caption column (text or list of texts), for retrieval")
    key: str | None = Field(None, description="column with unique sample keys; the row number by default")

    @field_validator("path")
    @classmethod
    def _data_only(cls, path: str) -> str:
        if path in _BUILDERS_THAT_READ_MORE_THAN_DATA:
            raise ValueError(
                f"the builder {path!r} can run code or reach a database; of builders, give imagefolder, "
                "parquet, arrow, csv, json or webdataset."
            )
        return path


class ClipBenchmarkSource(Strict):
    """A dataset built by the clip-benchmark package (torchvision layouts and its own)."""

    kind: Literal["clip_benchmark"]
    name: str | None = Field(
        None, description="that package's dataset name; the catalogue's alias by default"
    )
    root: str | None = Field(None, description="folder; DATA_ROOT/<name> by default")
    download: bool = Field(False, description="no longer: that package fetches by shell commands")

    @field_validator("download")
    @classmethod
    def _reads_only(cls, download: bool) -> bool:
        if download:
            raise ValueError(
                "clip-benchmark fetches by shell commands, so it only reads now. Fetch the set with "
                "`rwkvclip-eval data download NAME --data-root DIR`, or put its files under 'root' yourself."
            )
        return download


class FolderSource(Strict):
    """An image folder (one folder per class), a folder of webdataset shards, or published files."""

    kind: Literal["folder", "webdataset", "published"]
    path: Place


class ManifestSource(Strict):
    """A plain folder of images and a CSV file that says what they show."""

    kind: Literal["manifest"]
    path: Place = Field(description="CSV with columns image, label or caption, and optionally split and key")
    root: Place | None = Field(None, description="folder of the images; that of the CSV by default")


class EmbeddedSource(Strict):
    """Data that ships with a dependency (scikit-learn's handwritten digits)."""

    kind: Literal["embedded"]


Source = Annotated[
    HuggingFaceSource | ClipBenchmarkSource | FolderSource | ManifestSource | EmbeddedSource,
    Field(discriminator="kind"),
]
_SOURCES: dict[str, type[Strict]] = {
    kind: model
    for model in get_args(get_args(Source)[0])
    for kind in get_args(model.model_fields["kind"].annotation)
}
_PROMPTS = ("dataset", "clip-benchmark")


class DatasetRef(Strict):
    """How a suite names a dataset.

    `cifar10` alone is short for `{name: cifar10}`; `sun397@partition1` sets the variant.
    """

    name: VersionName
    variant: FolderName | None = Field(
        None, description="version in circulation; the protocol's choice by default"
    )
    split: FolderName | None = Field(None, description="the catalogue's evaluation split by default (test)")
    source: Source | None = Field(None, description="where to take it; tried in catalogue order by default")
    folder: Name | None = Field(
        None, description="short for {kind: folder, path: …} (relative to the suite file)"
    )
    class_names: tuple[str, ...] | None = Field(
        None, min_length=1, description="in label order; overrides every other list"
    )
    templates: tuple[str, ...] | None = Field(
        None, min_length=1, description="with {c}; overrides every other list"
    )
    prompts: Literal["dataset", "clip-benchmark"] | PromptFiles = Field(
        "dataset",
        description="'dataset': files beside the data, else clip-benchmark's lists; 'clip-benchmark': those "
        "lists always; {labels: label.json, templates: template.json}: official-format files",
    )
    metric: Name | None = Field(None, description="primary metric; the catalogue's by default")

    @field_validator("source", mode="before")
    @classmethod
    def _of_one_kind(cls, given: object) -> object:
        """Read what its kind says, so that mistakes are told of that kind alone."""
        if given is None or isinstance(given, Strict):
            return given
        if not isinstance(given, dict):
            raise ValueError(f"expected a mapping with 'kind': {', '.join(_SOURCES)}.")
        if "kind" not in given:
            raise ValueError(f"the key 'kind' is missing. Allowed: {', '.join(_SOURCES)}.")
        kind = given["kind"]
        if not isinstance(kind, str) or kind not in _SOURCES:
            raise ValueError(unknown_name("kind of source", str(kind), _SOURCES))
        return _SOURCES[kind].model_validate(given)

    @field_validator("prompts", mode="before")
    @classmethod
    def _of_one_form(cls, given: object) -> object:
        if isinstance(given, dict):
            return PromptFiles.model_validate(given)
        if not isinstance(given, PromptFiles) and given not in _PROMPTS:
            raise ValueError(
                "expected 'dataset', 'clip-benchmark', or a mapping with 'labels' and 'templates'."
            )
        return given
