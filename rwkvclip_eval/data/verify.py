"""Checks an opened dataset image by image."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.data.catalogue import (
    absent_splits,
    catalogue,
    choose_variant,
    how_to_complete,
    record_name,
)
from rwkvclip_eval.data.checksums import SUMS_NAME, wrong_sums
from rwkvclip_eval.data.open import DATASETS, open_dataset, wds_folder, with_variant
from rwkvclip_eval.data.samples import FileReader, SampleDataset, read_anew
from rwkvclip_eval.data.webdataset import ShardReader
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import Dataset, DatasetInfo, DatasetRef


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a check of every sample found.

    Attributes:
        info: the dataset as opened; `info.fingerprint` identifies its content.
        num_samples: images looked at.
        num_captions: captions; None for classification.
        expected_captions: the catalogue's count, None where it has none.
        damaged: (key, reason) of each image that cannot be decoded.
        duplicate_keys: keys that occur more than once.
        empty_classes: classes without an image.
        pictures: SHA-256 of the decoded pixels → keys of the images that show them.
        wrong_sums: a phrase per shard that SHA256SUMS beside the shards contradicts.
        num_links: image files or shards that a symbolic link below the dataset's folder leads to.
        mended: a sentence per fingerprint or index that was remembered wrongly.
    """

    info: DatasetInfo
    num_samples: int
    num_captions: int | None
    expected_captions: int | None
    damaged: tuple[tuple[str, str], ...]
    duplicate_keys: tuple[str, ...]
    empty_classes: tuple[str, ...]
    pictures: Mapping[bytes, tuple[str, ...]]
    wrong_sums: tuple[str, ...]
    num_links: int = 0
    mended: tuple[str, ...] = ()

    @property
    def duplicate_images(self) -> tuple[tuple[str, ...], ...]:
        """Groups of keys whose pictures are equal pixel for pixel."""
        return tuple(keys for keys in self.pictures.values() if len(keys) > 1)

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence per thing that is wrong; empty where the data can be used as they are."""
        found = []
        if self.damaged:
            shown = name_some(f"{key}: {reason}" for key, reason in self.damaged)
            found.append(f"{len(self.damaged)} damaged images: {shown}")
        if self.duplicate_keys:
            found.append(f"{len(self.duplicate_keys)} keys occur twice: {name_some(self.duplicate_keys)}")
        if self.wrong_sums:
            found.append(f"{len(self.wrong_sums)} shards contradict SHA256SUMS: {name_some(self.wrong_sums)}")
        found += self.mended
        expected = self.expected_captions
        if expected is not None and self.info.verified and self.num_captions != expected:
            found.append(f"{self.num_captions} captions, the catalogue knows {expected}")
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """One sentence per thing worth knowing that does not stop an evaluation."""
        said = []
        if self.info.expected_samples is None:
            said.append("the catalogue does not know this split: counts are unchecked")
        elif self.info.subset:
            cure = how_to_complete(self.info.name, self.info.variant)
            said.append(
                f"{self.num_samples} of the catalogue's {self.info.expected_samples} images. For all of them "
                f"{cure}"
            )
        elif self.info.own_copy:
            said.append(
                f"{self.num_samples} of the catalogue's {self.info.expected_samples} images; others may "
                "be lost"
            )
        if self.num_links:
            said.append(f"{self.num_links} files are reached by symbolic links")
        if self.empty_classes:
            said.append(f"{len(self.empty_classes)} classes have no image: {name_some(self.empty_classes)}")
        if self.duplicate_images:
            groups = name_some(" = ".join(group) for group in self.duplicate_images)
            said.append(f"{len(self.duplicate_images)} pictures occur more than once: {groups}")
        return tuple(said)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def state(self) -> str:
        """The verdict: `fine` only where the split is whole, by the catalogue's count, and sound."""
        if not self.ok:
            return "NOT fine"
        if self.info.expected_samples is None:
            return "uncounted"
        return "a subset" if self.info.subset else "a copy of its own" if self.info.own_copy else "fine"


def verify_dataset(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, mended: Sequence[str] = ()
) -> VerifyReport:
    """Decode every image of `dataset` and report what is wrong.

    Args:
        dataset: as opened; opening has checked the counts and classes against the catalogue.
        progress: called with (images done, images in all) after each image.
        mended: what `open_splits` found remembered wrongly of this split.
    """
    keys = list(dataset.keys)
    damaged: list[tuple[str, str]] = []
    by_content: dict[bytes, list[str]] = defaultdict(list)
    for i, key in enumerate(keys):
        try:
            image = dataset.image(i)
        except DamagedData as error:
            damaged.append((key, str(error)))
        else:
            content = hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
            by_content[content].append(key)
        if progress is not None:
            progress(i + 1, len(keys))
    info, labels, captions = dataset.info, dataset.labels, dataset.captions
    empty: tuple[str, ...] = ()
    if labels is not None:
        ids = labels if labels.ndim == 1 else np.flatnonzero((labels == 1).any(axis=0))
        present = set(ids.tolist())
        empty = tuple(name for i, name in enumerate(info.class_names) if i not in present)
    record = record_name(info.name)
    entry = catalogue().get(record) if record else None
    variant = entry.variant(info.variant) if entry and entry.has_variant(info.variant) else None
    return VerifyReport(
        info=info,
        num_samples=len(keys),
        num_captions=None if captions is None else sum(map(len, captions)),
        expected_captions=variant.captions.get(info.split) if variant else None,
        damaged=tuple(damaged),
        duplicate_keys=tuple(k for k, count in Counter(keys).items() if count > 1),
        empty_classes=empty,
        pictures={content: tuple(group) for content, group in by_content.items()},
        wrong_sums=_wrong_sums(dataset),
        num_links=_num_links(dataset),
        mended=tuple(mended),
    )


def _num_links(dataset: Dataset) -> int:
    """Return how many image files or shards are reached by a link below the dataset's folder."""
    images = dataset.images if isinstance(dataset, SampleDataset) else None
    if isinstance(images, ShardReader):
        return sum(path.is_symlink() or path.parent.is_symlink() for path in images.shards)
    if not isinstance(images, FileReader) or images.root is None:
        return 0
    root = images.root
    linked: dict[Path, bool] = {root: False}

    def is_linked(path: Path) -> bool:
        """Whether a folder, or one between it and the root, is a link."""
        if path not in linked:
            linked[path] = path.is_symlink() or (path != path.parent and is_linked(path.parent))
        return linked[path]

    return sum(path.is_symlink() or is_linked(path.parent) for path in images.paths)


def _wrong_sums(dataset: Dataset) -> tuple[str, ...]:
    images = dataset.images if isinstance(dataset, SampleDataset) else None
    if not isinstance(images, ShardReader):
        return ()
    folder = images.shards[0].parent
    return wrong_sums(folder) if (folder / SUMS_NAME).is_file() else ()


def shared_pictures(reports: Sequence[VerifyReport]) -> tuple[str, ...]:
    """Return a sentence for each two splits that show equal pictures, with counts and names."""
    said = []
    for first, second in itertools.combinations(reports, 2):
        common = [content for content in first.pictures if content in second.pictures]
        if common:
            pairs = (f"{first.pictures[c][0]} = {second.pictures[c][0]}" for c in common)
            num_second = sum(len(second.pictures[c]) for c in common)
            said.append(
                f"Overlap: {first.info.split} and {second.info.split} share {len(common)} pictures "
                f"({num_second} images of {second.info.split}): {name_some(pairs)}"
            )
    return tuple(said)


def absent_remarks(reports: Sequence[VerifyReport]) -> list[str]:
    """Return a sentence that names the official splits of which there is no report, or nothing."""
    info = reports[0].info
    record = record_name(info.name)
    entry = catalogue().get(record) if record else None
    if record is None or entry is None or not entry.has_variant(info.variant):
        return []
    there = [report.info.split for report in reports]
    return absent_splits(record, info.variant, entry.variant(info.variant), there)


def open_splits(
    ref: DatasetRef,
    data_root: Path | None,
    splits: Sequence[str] = (),
    mended: dict[str, list[str]] | None = None,
) -> list[Dataset]:
    """Open `splits` of a dataset, by default all that are there; everything is read anew.

    Args:
        ref: name and variant.
        data_root: folder of datasets.
        splits: which.
        mended: gets, by split, a sentence for each fingerprint or index that was remembered wrongly.

    Raises:
        DataNotFound: none is there, or not one that was asked for.
        DamagedData: one cannot be read.
    """
    ref = with_variant(ref)
    wanted = splits or ((ref.split,) if ref.split else ())

    def opened(split: str | None) -> Dataset:
        with read_anew() as wrong:
            dataset = open_dataset(ref.model_copy(update={"split": split}), data_root=data_root)
        if mended is not None:
            mended[dataset.info.split] = wrong
        return dataset

    if wanted:
        return [opened(split) for split in wanted]
    if ref.name in DATASETS:
        return [opened(ref.split)]
    record = record_name(ref.name)
    entry = catalogue()[record] if record else None
    if record is not None and entry is not None:
        known = entry.variant(choose_variant(record, entry, ref.variant))
        names, folders = [*known.counts], known.webdataset
    else:
        own = wds_folder(ref.name, data_root)
        names, folders = [], (own.name,) if own else ()
    for folder in folders if data_root is not None else ():
        assert data_root is not None
        names += sorted({path.parent.name for path in (data_root / folder).glob("*/*.tar")})
    found: list[Dataset] = []
    missing: DataNotFound | None = None
    for split in dict.fromkeys(names or ["test"]):
        try:
            found.append(opened(split))
        except DataNotFound as error:
            missing = missing if missing is not None and split != "test" else error
    if not found:
        assert missing is not None
        raise missing
    return found
