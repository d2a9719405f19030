"""Opens datasets by name: the catalogue says where to look and what to expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.absence import not_found
from rwkvclip_eval.data.catalogue import (
    LEAST_OF_LOSSY,
    Entry,
    canonical_name,
    catalogue,
    choose_variant,
    record_name,
)
from rwkvclip_eval.data.formats import READERS, reader_of
from rwkvclip_eval.data.limit import limit_dataset
from rwkvclip_eval.data.prompts import reference_prompts, resolve_prompts
from rwkvclip_eval.data.reading import bounded_pillow, damage_named
from rwkvclip_eval.data.registered import check_registered
from rwkvclip_eval.data.samples import SampleDataset, Split
from rwkvclip_eval.data.types import (
    Dataset,
    DatasetInfo,
    EmbeddedSource,
    FolderSource,
    HuggingFaceSource,
    ManifestSource,
    ReferencePrompts,
)
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, users_code
from rwkvclip_eval.registry import Registry, unknown_name
from rwkvclip_models.files import expanded

if TYPE_CHECKING:
    from rwkvclip_eval.data.catalogue import HuggingFaceCopy, Variant
    from rwkvclip_eval.data.types import DatasetRef, Source

__all__ = [
    "DATASETS",
    "DatasetFactory",
    "known_splits",
    "limit_dataset",
    "open_dataset",
    "wds_folder",
    "with_variant",
]

DatasetFactory = Callable[[str], Dataset]
"""Takes the split's name, returns the dataset."""

DATASETS: Registry[DatasetFactory] = Registry("dataset")
"""The user's own datasets, registered by `--plugin FILE`: `DATASETS.register("mine", open_mine)`."""


def open_dataset(
    ref: DatasetRef,
    *,
    data_root: Path | None,
    base_dir: Path | None = None,
    variant: str | None = None,
    offline: bool = False,
    cache_dir: Path | None = None,
) -> Dataset:
    """Open one split; no image is decoded.

    Looked for in order: the source or folder the suite names; a registered dataset; the places of the
    catalogue (webdataset folder under the data root, then published files there; a copy of the hub's that is
    known to be short comes last); any `wds_NAME` folder.
    Nothing is downloaded unless the suite names a source that does.

    Args:
        ref: how the suite names it; `name@variant` is understood.
        data_root: folder of datasets; None where there is none.
        base_dir: folder of the suite file; paths in `ref` are relative to it.
        variant: the protocol's choice, where `ref` makes none.
        offline: open no socket.
        cache_dir: where indices go that cannot lie beside the data; the user's cache folder by default.

    Raises:
        DataNotFound: it is nowhere; the text lists the places and how to get it.
        DamagedData: what was found cannot be read, or contradicts the catalogue.
        UserError: unknown name or variant, or prompts that do not fit.
    """
    ref = with_variant(ref)
    record = record_name(ref.name)
    if ref.name in DATASETS and record is not None:
        raise UserError(f"The name {ref.name!r} belongs to the catalogue; register yours under another.")
    if ref.name in DATASETS:
        with users_code(f"The registered dataset {ref.name!r}", failing=True):
            registered = DATASETS.get(ref.name)(ref.split or "test")
        if not isinstance(registered, Dataset):
            raise UserError(
                f"The registered dataset {ref.name!r} gave a {type(registered).__name__}; expected an object "
                "with info, keys, labels, captions, image(index) and a length."
            )
        check_registered(registered, ref.name)
        return registered
    entry = catalogue()[record] if record is not None else None
    explicit = ref.source or (FolderSource(kind="folder", path=ref.folder) if ref.folder else None)
    if entry is None and explicit is None and wds_folder(ref.name, data_root) is None:
        raise _unknown(ref.name, data_root)
    name = canonical_name(ref.name)
    chosen = ref.variant or "default"
    if entry is not None:
        # A protocol's choice binds; one that was made for another dataset's variants cannot reach here.
        chosen = choose_variant(name, entry, ref.variant or variant)
    split = ref.split or (entry.evaluation_split if entry else "test")
    places = _Places(ref, name, entry, chosen, split, data_root, base_dir, offline, cache_dir)
    bounded_pillow()  # Readers of other packages open images by themselves.
    with damage_named(f"{name}, split {split},"):
        found = places.explicit(explicit) if explicit is not None else places.search()
    return _assemble(found, ref, name, entry, chosen, split, base_dir)


class _Places:
    """Where one dataset may lie, and what was tried."""

    def __init__(
        self,
        ref: DatasetRef,
        name: str,
        entry: Entry | None,
        variant: str,
        split: str,
        data_root: Path | None,
        base_dir: Path | None,
        offline: bool,
        cache_dir: Path | None,
    ) -> None:
        self.ref, self.name, self.entry, self.variant, self.split = ref, name, entry, variant, split
        self.data_root, self.base_dir = data_root, base_dir or Path()
        self.offline, self.cache_dir = offline, cache_dir

    def explicit(self, source: Source) -> Split:
        """Open the source the suite names."""
        if isinstance(source, EmbeddedSource):
            from rwkvclip_eval.data.embedded import open_embedded

            return open_embedded(self.name, self.split)
        if isinstance(source, FolderSource):
            path = self.base_dir / expanded(source.path)
            reader = reader_of(self.name)
            if source.kind == "published":
                if reader is None:
                    raise UserError(unknown_name("published format", self.name, READERS))
                return reader(path, self.split, self.variant, self.cache_dir)
            if source.kind == "webdataset":
                return self._shards(path)
            from rwkvclip_eval.data.folder import open_folder

            return open_folder(path, self.split, self.ref.class_names, self.cache_dir)
        if isinstance(source, ManifestSource):
            from rwkvclip_eval.data.manifest import open_manifest

            images = None if source.root is None else self.base_dir / expanded(source.root)
            path = self.base_dir / expanded(source.path)
            return open_manifest(path, images, self.split, self.ref.class_names, self.cache_dir)
        if isinstance(source, HuggingFaceSource):
            from rwkvclip_eval.data.hugging_face import names_of_copy, open_hugging_face

            if source.path:
                return open_hugging_face(source, self.split, self.base_dir, self.offline, self.cache_dir)
            copy, variant = self._hugging_face_copy()
            split = source.split or copy.splits.get(self.split, self.split)
            there = {"path": copy.path, "image": copy.image, "label": copy.label, "split": split}
            found = open_hugging_face(
                source.model_copy(update=there), self.split, self.base_dir, self.offline, self.cache_dir
            )
            return dataclasses.replace(found, class_names=names_of_copy(found, copy, self.name, variant))
        root = self.base_dir / expanded(source.root) if source.root else None
        known = self.entry.variant(self.variant).clip_benchmark if self.entry else None
        if self.entry is not None and known is None:
            raise UserError(
                f"clip-benchmark has no {self._label}; take the published files (source: {{kind: published, "
                "path: …}) or shards of it."
            )
        return self._clip_benchmark(source.name or known or self.name, root)

    def search(self) -> Split:
        """Try the catalogue's places in order, then any webdataset folder of that name."""
        known = self.entry.variant(self.variant) if self.entry else None
        if known is not None and known.embedded:
            from rwkvclip_eval.data.embedded import open_embedded

            return open_embedded(self.name, self.split)
        tried: list[str] = []
        folders = known.webdataset if known else ()
        if self.data_root is not None:
            paths = [self.data_root / folder for folder in folders]
            own = wds_folder(self.ref.name, self.data_root)
            if known is None and own is not None:
                paths.append(own)
            there = [path for path in paths if (path / self.split).is_dir()]
            whole = [path for path in there if not (known and known.short_copy(path.name, self.split))]
            if whole:
                return self._shards(whole[0])
            tried += [str(path / self.split) for path in paths]
            reader = reader_of(self.name)
            published = (self.name, known.clip_benchmark) if known else ()
            for root in dict.fromkeys(self.data_root / name for name in published if name):
                if root.is_dir() and reader is not None:
                    return reader(root, self.split, self.variant, self.cache_dir)
                if root.is_dir() and known is not None and known.clip_benchmark:
                    return self._clip_benchmark(known.clip_benchmark, root)
                tried.append(str(root))
            if there:
                return self._shards(there[0])
        raise not_found(self.name, self.variant, self.split, self.data_root, tried)

    def _shards(self, path: Path) -> Split:
        from rwkvclip_eval.data.webdataset import open_webdataset

        return open_webdataset(path, self.split, self.cache_dir)

    def _hugging_face_copy(self) -> tuple[HuggingFaceCopy, Variant]:
        """Return the copy that the catalogue knows."""
        known = self.entry.variant(self.variant) if self.entry else None
        if known is None or known.hugging_face is None:
            having = [n for n, e in catalogue().items() if any(v.hugging_face for v in e.variants.values())]
            raise UserError(
                f"The catalogue knows no Hugging Face copy of {self._label}, only of {', '.join(having)}. "
                "Say which it is: source: {kind: hugging_face, path: OWNER/NAME, …}."
            )
        return known.hugging_face, known

    def _clip_benchmark(self, name: str, root: Path | None) -> Split:
        from rwkvclip_eval.data.clip_benchmark import open_clip_benchmark

        if root is None:
            if self.data_root is None:
                raise DataNotFound(f"{self.name}: give source.root or a data root (--data-root DIR).")
            root = self.data_root / name
        return open_clip_benchmark(name, root, self.split, self.cache_dir)

    @property
    def _label(self) -> str:
        return self.name if self.variant == "default" else f"{self.name}@{self.variant}"


def check_data_root(data_root: Path | None) -> None:
    """Refuse a data root that is not a folder.

    Raises:
        DataNotFound: it is not.
    """
    if data_root is not None and not data_root.is_dir():
        raise DataNotFound(
            f"The data root {data_root} is not a folder; give the one that holds the datasets."
        )


def with_variant(ref: DatasetRef) -> DatasetRef:
    """Return `ref` with `name@variant` taken apart.

    Raises:
        UserError: the name and `variant:` disagree.
    """
    name, at, variant = ref.name.partition("@")
    if not at:
        return ref
    if ref.variant not in (None, variant):
        raise UserError(f"{ref.name}: the name says variant {variant!r}, `variant:` says {ref.variant!r}.")
    return ref.model_copy(update={"name": name, "variant": variant})


def known_splits(ref: DatasetRef, variant: str | None = None) -> frozenset[str]:
    """Return the splits that the catalogue knows of what `ref` names; none for a set of the user's own.

    Args:
        ref: how the suite names it.
        variant: the protocol's choice, where `ref` makes none.

    Raises:
        UserError: unknown variant.
    """
    ref = with_variant(ref)
    record = record_name(ref.name)
    if record is None or ref.name in DATASETS:
        return frozenset()
    entry = catalogue()[record]
    return frozenset(entry.variant(choose_variant(record, entry, ref.variant or variant)).counts)


def wds_folder(name: str, data_root: Path | None) -> Path | None:
    """Return the webdataset folder under the data root that `name` means, if there is one."""
    if data_root is None:
        return None
    short = name.removeprefix("wds/").removeprefix("wds_").replace("/", "-")
    path = data_root / f"wds_{short}"
    return path if path.is_dir() else None


def _unknown(name: str, data_root: Path | None) -> UserError:
    folders = sorted(p.name for p in data_root.glob("wds_*")) if data_root else []
    known = [*catalogue(), *DATASETS, *(f.removeprefix("wds_") for f in folders)]
    short = name.removeprefix("wds/").removeprefix("wds_")
    where = (
        f" {data_root} has no folder wds_{short}."
        if data_root
        else " There is no data root: give one with --data-root DIR."
    )
    return DataNotFound(unknown_name("dataset", name, set(known)) + where)


def _assemble(
    found: Split,
    ref: DatasetRef,
    name: str,
    entry: Entry | None,
    variant: str,
    split: str,
    base_dir: Path | None,
) -> Dataset:
    """Join what was found with what the catalogue expects, and refuse contradictions."""
    label = name if variant == "default" else f"{name}@{variant}"
    if entry is not None and entry.kind_of(variant) != found.kind:
        raise DamagedData(
            f"{label}: the catalogue says {entry.kind_of(variant)}, {found.source} holds {found.kind} data."
        )
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    reference: ReferencePrompts | None = ReferencePrompts()
    if found.kind != "retrieval":
        known = entry.variant(variant) if entry else None
        class_names, templates = resolve_prompts(ref, found.class_names, found.templates, base_dir, known)
        reference = reference_prompts(ref.name, found.class_names, found.templates, known)
        _check_classes(found, class_names, label, entry.classes_of(variant) if entry else None)
    expected = entry.variant(variant).counts.get(split) if entry else None
    count = len(found.keys)
    if expected is not None and count > expected:
        others = "".join(f" or {name}@{v}" for v in entry.variants if v != variant) if entry else ""
        raise DamagedData(
            f"{label} {split}: the catalogue knows {expected} images, {found.source} holds {count}. If it is "
            f"another version, name it so{others}, or open it under a name of its own."
        )
    short = expected is not None and count < expected
    lossy = entry is not None and entry.variant(variant).lossy
    own_copy = short and lossy and count >= LEAST_OF_LOSSY * (expected or 0)
    default_metric = "image_retrieval_recall@1" if found.kind == "retrieval" else "top1_accuracy"
    info = DatasetInfo(
        name=name,
        variant=variant,
        split=split,
        kind=found.kind,
        num_samples=count,
        fingerprint=found.fingerprint,
        class_names=class_names,
        templates=templates,
        reference_prompts=reference,
        primary_metric=ref.metric or (entry.metric_of(variant) if entry else default_metric),
        source=found.source,
        verified=expected is not None and count == expected,
        expected_samples=expected,
        subset=short and not own_copy,
        own_copy=own_copy,
    )
    return SampleDataset(
        info=info, keys=found.keys, labels=found.labels, captions=found.captions, images=found.images
    )


def _check_classes(found: Split, class_names: tuple[str, ...], label: str, expected: int | None) -> None:
    """Refuse class lists that do not fit the labels or the catalogue; both numbers are named."""
    if found.labels is None:
        return
    if found.labels.ndim == 2:
        needed, what = found.labels.shape[1], f"the label vectors have {found.labels.shape[1]} entries"
        fits = len(class_names) == needed
    else:
        needed = int(found.labels.max()) + 1
        what = f"the labels go up to {needed - 1}, so at least {needed} classes are needed"
        fits = len(class_names) >= needed
    if not fits:
        raise DamagedData(f"{label}: {len(class_names)} class names, but {what} ({found.source}).")
    if found.class_names is not None and len(found.class_names) != len(class_names):
        raise DamagedData(
            f"{label}: {len(class_names)} class names given, but {found.source} has "
            f"{len(found.class_names)} classes."
        )
    if expected is not None and len(class_names) != expected:
        raise DamagedData(
            f"{label}: the catalogue knows {expected} classes, {len(class_names)} class names were found "
            f"({found.source})."
        )
