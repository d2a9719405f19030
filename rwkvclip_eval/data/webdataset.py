"""Reads webdataset shards laid out as LAION's CLIP_benchmark publishes them.

    wds_NAME/SPLIT/{0,1,…}.tar, nshards.txt    members KEY.{webp,png,jpg,jpeg} with KEY.cls (class id),
                                               KEY.npy (0, 1; −1: left open) or KEY.txt (one caption a line)
    wds_NAME/classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

KEY is the member's name up to the first dot of its last part, as in the webdataset library. Shards are read
once; where each image lies, the labels or captions and the fingerprint are kept in an index beside the shards
(or in the cache folder, where that one cannot be written).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import (
    IMAGE_SUFFIXES,
    Split,
    check_unique,
    default_cache_dir,
    fingerprint_samples,
    name_some,
    read_text,
    stat_signature,
)
from rwkvclip_eval.disk import atomic_path
from rwkvclip_eval.errors import DamagedData, NoSuchSplit, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from rwkvclip_eval.data.types import DatasetKind

INDEX_NAME = ".rwkvclip-index.parquet"
INDEX_VERSION = 1
TARGET_SUFFIX: dict[DatasetKind, str] = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
BLOCK_BYTES = 512


@dataclass(frozen=True)
class ShardReader:
    """Reads image bytes at known offsets of tar files."""

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
    """Columns of the index, grown sample by sample."""

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
    table = _index(folder / split, shards, kind, cache_dir)
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
        fingerprint=json.loads(table.schema.metadata[b"rwkvclip"])["fingerprint"],
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
    where = folder / split
    if not where.is_dir():
        others = sorted(p.parent.name for p in folder.glob("*/*.tar"))
        has = f" It has: {', '.join(dict.fromkeys(others))}." if others else ""
        raise NoSuchSplit(f"{folder} has no split {split!r} (a folder with .tar shards).{has}")
    found = sorted(where.glob("*.tar"), key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)], p.name))
    count_file = where / "nshards.txt"
    if not count_file.is_file():
        if not found:
            raise DamagedData(f"{where} holds no .tar shard. Fetch its shards, or remove it.")
        return found
    text = read_text(count_file).strip()
    if not text.isdecimal():
        raise DamagedData(f"{count_file}: expected the number of shards; found {text!r}.")
    numbered = [where / f"{i}.tar" for i in range(int(text))]
    missing = [p.name for p in numbered if not p.is_file()]
    if not missing:
        return numbered
    if len(found) == len(numbered):
        return found
    raise DamagedData(
        f"{where}: nshards.txt says {text} shards, {len(found)} are there; missing: {name_some(missing)}. "
        "Fetch the missing shards."
    )


def _lines(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())


def _index(where: Path, shards: Sequence[Path], kind: DatasetKind, cache_dir: Path | None) -> pa.Table:
    """Return the index of the shards, read from beside them or the cache, made where there is none."""
    signature = stat_signature(shards, where.parents[1], INDEX_VERSION, kind)
    beside = where / INDEX_NAME
    cached = (cache_dir or default_cache_dir()) / "data" / f"{signature}.parquet"
    for path in (beside, cached):
        table = _read_index(path, signature)
        if table is not None:
            return table
    table = _scan(shards, kind, signature)
    import pyarrow.parquet as pq

    for path in (beside, cached):
        # A folder without write permission for anyone is meant to stay as it is, even if root may write.
        if path is beside and not (where.stat().st_mode & 0o222 and os.access(where, os.W_OK)):
            continue
        try:
            with atomic_path(path) as temporary:
                pq.write_table(table, temporary)
        except OutputError:
            # A full disk or a folder that cannot be written costs a second scan next time, nothing else.
            continue
        break
    return table


def _read_index(path: Path, signature: str) -> pa.Table | None:
    """Return the index at `path` if it belongs to these very shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        # read_table would take folder names such as `split=test` for columns; ParquetFile reads one file.
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError):
        return None
    about = json.loads((table.schema.metadata or {}).get(b"rwkvclip", b"{}"))
    return table if about.get("signature") == signature else None


def _scan(shards: Sequence[Path], kind: DatasetKind, signature: str) -> pa.Table:
    """Read all shards once; return keys, places and targets, with the fingerprint in the metadata."""
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
    about = {"signature": signature, "fingerprint": fingerprint}
    table = pa.table(
        {
            "key": pa.array(scan.keys, pa.string()),
            "member": pa.array(scan.members, pa.string()),
            "shard": pa.array(scan.shard_of, pa.int32()),
            "offset": pa.array(scan.offsets, pa.int64()),
            "size": pa.array(scan.sizes, pa.int64()),
            "target": scan.targets,
        }
    )
    return table.replace_schema_metadata({"rwkvclip": json.dumps(about)})


def _scan_shard(shard: Path, number: int, kind: DatasetKind, scan: _Scan) -> list[str]:
    """Append one shard's samples to `scan`; return the keys of incomplete ones."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    repeated: list[str] = []
    incomplete: list[str] = []
    with shard.open("rb") as stream:
        for member in _members(shard, stream):
            folder, slash, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            if not (member.isreg() and stem and dot):
                continue
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
            scan.offsets.append(image.offset_data)
            scan.sizes.append(image.size)
            scan.digests.append(hashlib.sha256(_content(stream, image)).digest())
            scan.targets.append(
                _parse_target(_content(stream, target), kind, f"{shard}, member {target.name}")
            )
    return incomplete


def _content(stream: io.BufferedReader, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


def _members(shard: Path, stream: io.BufferedReader) -> list[tarfile.TarInfo]:
    """Return all members of an uncompressed tar.

    Raises:
        DamagedData: it is no tar, or it ends before its end mark; tarfile alone takes a damaged header in
            the middle for the end, which would lose samples unseen.
    """
    members: list[tarfile.TarInfo] = []
    problem = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                members.append(member)
            stream.seek(archive.offset)
            end = stream.read(BLOCK_BYTES)
            if len(end) < BLOCK_BYTES or end.strip(b"\0"):
                problem = "no end mark where its last readable member ends"
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = str(error)
    if problem:
        after = f" after member {members[-1].name}" if members else ""
        raise DamagedData(
            f"{shard} is cut off or damaged ({problem}): {len(members)} members are readable{after}. "
            "Fetch this shard again."
        )
    return members


def _parse_target(content: bytes, kind: DatasetKind, where: str) -> int | list[int] | list[str]:
    """Return class id, vector of 0, 1 and −1, or captions.

    Raises:
        DamagedData: the content is something else; the text names the member.
    """
    try:
        if kind == "classification":
            label = int(content)
            if label < 0:
                raise ValueError("below 0")
            return label
        if kind == "multilabel":
            vector = np.load(io.BytesIO(content), allow_pickle=False)
            if vector.ndim != 1 or not np.isin(vector, (-1, 0, 1)).all():
                raise ValueError(f"shape {vector.shape}, expected a vector of 0, 1 and -1")
            listed: list[int] = vector.astype(np.int64).tolist()
            return listed
        captions = [line for line in content.decode("utf-8").splitlines() if line.strip()]
        if not captions:
            raise ValueError("no caption")
        return captions
    except ValueError as error:
        wanted = {
            "classification": "a class id from 0",
            "multilabel": "a .npy vector of 0, 1 and -1",
            "retrieval": "captions, one a line, in UTF-8",
        }[kind]
        raise DamagedData(f"{where}: expected {wanted} ({error}).") from error
