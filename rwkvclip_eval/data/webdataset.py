"""Reads webdataset shards laid out as LAION's CLIP_benchmark publishes them.

    wds_NAME/SPLIT/{0,1,…}.tar, nshards.txt    members KEY.{webp,png,jpg,jpeg} with KEY.cls (class id),
                                               KEY.npy (0, 1; −1: left open) or KEY.txt (one caption a line)
    wds_NAME/classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

KEY is the member's name up to the first dot of its last part, as in the webdataset library. Shards are read
once; where each image lies, labels or captions and the fingerprint are kept in an index (`shard_index.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.archives import Member, tar_members
from rwkvclip_eval.data.array_files import small_array
from rwkvclip_eval.data.reading import (
    IMAGE_LIMIT_BYTES,
    MOST_CLASSES,
    is_text,
    plain_name,
    read_text,
    text_lines,
)
from rwkvclip_eval.data.samples import IMAGE_SUFFIXES, Split, check_unique, fingerprint_samples
from rwkvclip_eval.data.shard_index import index_of, schema
from rwkvclip_eval.errors import NAMES_SHOWN, DamagedData, NoSuchSplit, name_some
from rwkvclip_eval.printable import unreadable
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    import io
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from rwkvclip_eval.data.types import DatasetKind

TARGET_SUFFIX: dict[DatasetKind, str] = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
TARGET_LIMIT_BYTES = 16 << 20
"""Of a label, a vector of labels, or captions."""


@dataclass(frozen=True)
class ShardReader:
    """Reads image bytes at known offsets of tar files.

    Attributes:
        shards: the tar files.
        shard_of: [n] integers: which of the shards holds each image.
        offsets: [n] integers: where its bytes begin.
        sizes: [n] integers: how many bytes it has.
        members: names of the n images in the shards, for messages.
    """

    shards: tuple[Path, ...]
    shard_of: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    sizes: np.ndarray[Any, Any]
    members: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return the bytes of the image file."""
        shard_path = self.shards[int(self.shard_of[index])]
        with shard_path.open("rb") as shard:
            shard.seek(int(self.offsets[index]))
            return shard.read(int(self.sizes[index]))

    def where(self, index: int) -> str:
        """Return shard and member."""
        return f"{self.shards[int(self.shard_of[index])]}, member {self.members[index]}"


@dataclass
class _Scan:
    """Columns of the index, grown sample by sample.

    Attributes:
        keys: of the samples.
        members: names of their images in the shard.
        shard_of: number of the shard.
        offsets: of the images' bytes in it.
        sizes: of the images, bytes.
        digests: SHA-256 of the images.
        targets: label, labels or captions.
    """

    keys: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    shard_of: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)


def open_webdataset(folder: Path, split: str, cache_dir: Path | None = None) -> Split:
    """Open `folder`/`split`.

    Args:
        folder: `wds_NAME`.
        split: name of the folder with the shards.
        cache_dir: where the index goes if `folder` cannot be written; the user's cache folder by default.

    Raises:
        DataNotFound: there is no such folder.
        DamagedData: shards are missing, cut off or damaged, samples incomplete, keys not unique.
    """
    folder = folder.absolute()
    shards = shard_paths(folder, split)
    kind = dataset_type(folder)
    table, fingerprint = index_of(shards, kind, cache_dir, lambda: _scan(shards, kind))
    column = table.column("target").to_pylist()
    retrieval = kind == "retrieval"
    keys = table.column("key").to_pylist()
    return Split(
        kind=kind,
        keys=keys,
        images=ShardReader(
            shards=tuple(shards),
            shard_of=table.column("shard").to_numpy(),
            offsets=table.column("offset").to_numpy(),
            sizes=table.column("size").to_numpy(),
            members=tuple(table.column("member").to_pylist()),
        ),
        source=f"webdataset {folder.name}/{split}",
        fingerprint=fingerprint,
        labels=None if retrieval else np.asarray(column, dtype=np.int64),
        captions=column if retrieval else None,
        class_names=_lines(folder / "classnames.txt"),
        templates=_lines(folder / "zeroshot_classification_templates.txt"),
    )


def dataset_type(folder: Path) -> DatasetKind:
    """Return what dataset_type.txt says; classification where there is none, as in CLIP_benchmark.

    Raises:
        DamagedData: it names another type.
    """
    path = folder / "dataset_type.txt"
    text = read_text(path).strip().lower() if path.is_file() else "classification"
    for kind in TARGET_SUFFIX:
        if text == kind:
            return kind
    raise DamagedData(f"{path}: expected one of {', '.join(TARGET_SUFFIX)}; found {text!r}.")


def shard_paths(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split in order.

    Raises:
        DataNotFound: no such folder.
        DamagedData: no shard in it, or nshards.txt names another number of them.
    """
    where = folder / plain_name(split, "split")
    if not where.is_dir():
        others = sorted(p.parent.name for p in folder.glob("*/*.tar"))
        has = f" It has: {', '.join(dict.fromkeys(others))}." if others else ""
        raise NoSuchSplit(f"{folder} has no split {split!r} (a folder with .tar shards).{has}")
    found = sorted((p for p in where.glob("*.tar") if not p.name.startswith(".")), key=_numbers_first)
    count_file = where / "nshards.txt"
    if not count_file.is_file():
        if not found:
            raise DamagedData(f"{where} holds no .tar shard. Fetch its shards, or remove it.")
        return found
    text = read_text(count_file).strip()
    count = whole_number(text)
    if not count:
        raise DamagedData(f"{count_file}: expected the number of shards; found {text[:40]!r}.")
    if len(found) > count:
        raise DamagedData(
            f"{where}: nshards.txt says {count} shards, {len(found)} are there, the last of them "
            f"{found[-1].name}. Correct nshards.txt, or move away the shards of another copy."
        )
    there = {path.name for path in found}
    # The number may be any: only as many names are made as are shown.
    lacking = (f"{i}.tar" for i in range(count) if f"{i}.tar" not in there)
    missing = list(itertools.islice(lacking, NAMES_SHOWN))
    if not missing:
        return [where / f"{i}.tar" for i in range(count)]
    if len(found) == count:
        return found
    raise DamagedData(
        f"{where}: nshards.txt says {count} shards, {len(found)} are there; missing: {', '.join(missing)}"
        f"{' and others' if len(missing) == NAMES_SHOWN else ''}. Fetch the missing shards."
    )


def _numbers_first(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall("[0-9]+", path.stem)], path.name


def _lines(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    return tuple(line.strip() for line in text_lines(read_text(path)) if line.strip())


def _scan(shards: Sequence[Path], kind: DatasetKind) -> tuple[pa.Table, str]:
    """Read all shards once; return keys, places and targets, and the fingerprint."""
    import pyarrow as pa

    scan = _Scan()
    incomplete: list[str] = []
    for number, shard in enumerate(shards):
        incomplete += _scan_shard(shard, number, kind, scan)
    where = f"{shards[0].parents[1].name}/{shards[0].parent.name}"
    if incomplete:
        wanted = f"an image ({', '.join(IMAGE_SUFFIXES)}) and a .{TARGET_SUFFIX[kind]} file"
        raise DamagedData(
            f"{where}: {len(incomplete)} samples are incomplete; each needs {wanted}: "
            f"{name_some(incomplete)}. Fetch the shards again or repair them."
        )
    if not scan.keys:
        raise DamagedData(f"{where}: the shards hold no samples.")
    check_unique(scan.keys, where)
    if kind == "multilabel" and len({len(t) for t in scan.targets}) > 1:
        raise DamagedData(f"{where}: the .npy label vectors differ in length.")
    fingerprint = fingerprint_samples(zip(scan.keys, scan.digests, scan.targets, strict=True))
    columns = (scan.keys, scan.members, scan.shard_of, scan.offsets, scan.sizes, scan.targets)
    known = schema(kind)
    return pa.table(dict(zip(known.names, columns, strict=True)), schema=known), fingerprint


def _scan_shard(shard: Path, number: int, kind: DatasetKind, scan: _Scan) -> list[str]:
    """Append one shard's samples to `scan`; return the keys of incomplete ones."""
    groups: dict[str, dict[str, Member]] = {}
    repeated: list[str] = []
    incomplete: list[str] = []
    with shard.open("rb") as stream:
        for member in tar_members(shard, stream):
            folder, slash, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            if not (stem and dot):
                continue
            if not is_text(member.name):
                raise DamagedData(f"{shard}: the name of member {member.name!r} is not UTF-8; rename it.")
            files = groups.setdefault(folder + slash + stem, {})
            if suffix.lower() in files:
                repeated.append(member.name)
            files[suffix.lower()] = member
        if repeated:
            raise DamagedData(
                f"{shard}: {len(repeated)} members occur more than once: {name_some(repeated)}. "
                "Every sample needs its own key."
            )
        for key, files in groups.items():
            image = next((files[s] for s in IMAGE_SUFFIXES if s in files), None)
            target = files.get(TARGET_SUFFIX[kind])
            if image is None or target is None:
                incomplete.append(f"{key} ({shard.name})")
                continue
            scan.keys.append(key)
            scan.members.append(image.name)
            scan.shard_of.append(number)
            scan.offsets.append(image.offset)
            scan.sizes.append(image.size)
            scan.digests.append(hashlib.sha256(_content(shard, stream, image, IMAGE_LIMIT_BYTES)).digest())
            content = _content(shard, stream, target, TARGET_LIMIT_BYTES)
            scan.targets.append(_parse_target(content, kind, f"{shard}, member {target.name}"))
    return incomplete


def _content(shard: Path, stream: io.BufferedReader, member: Member, limit: int) -> bytes:
    if member.size > limit:
        raise DamagedData(
            f"{shard}, member {member.name}: {member.size} bytes; at most {limit} are read. "
            "Fetch this shard again."
        )
    stream.seek(member.offset)
    return stream.read(member.size)


def _parse_target(content: bytes, kind: DatasetKind, where: str) -> int | list[int] | list[str]:
    """Return class id, vector of 0, 1 and −1, or captions.

    Raises:
        DamagedData: the content is something else; the text names the member.
    """
    try:
        if kind == "classification":
            label = whole_number(content.decode("ascii"))
            if label is None or label >= MOST_CLASSES:
                raise ValueError(f"{content[:40]!r}, at most {MOST_CLASSES - 1}")
            return label
        if kind == "multilabel":
            vector = small_array(content)
            if vector.ndim != 1 or len(vector) > MOST_CLASSES or not np.isin(vector, (-1, 0, 1)).all():
                raise ValueError(f"shape {vector.shape}, expected a vector of 0, 1 and -1")
            listed: list[int] = vector.astype(np.int64).tolist()
            return listed
        captions = [line for line in text_lines(content.decode("utf-8")) if line.strip()]
        for caption in captions or [""]:
            if why := unreadable(caption):
                raise ValueError(f"a caption {why}")
        return captions
    except ValueError as error:
        wanted = {
            "classification": "a class id from 0",
            "multilabel": "a .npy vector of 0, 1 and -1",
            "retrieval": "captions, one a line, in UTF-8",
        }[kind]
        raise DamagedData(f"{where}: expected {wanted} ({error}).") from error
