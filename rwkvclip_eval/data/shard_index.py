"""The index of webdataset shards: where each image lies, labels or captions, and the fingerprint.

A parquet file that the first scan of the shards writes beside them. It is a copy of what the shards say, so
it is used only if it is whole: of these very shards, of the types below, within the shards' bounds, and with
the digest of its columns that it holds (indices of before have none until `data verify`). What does not fit
is made anew with a warning. The digest is of all columns and takes some ms for 50,000 samples; it finds what
was changed by mistake, not by somebody who writes another digest beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.reading import IMAGE_LIMIT_BYTES, MOST_SAMPLES
from rwkvclip_eval.data.samples import default_cache_dir, reading_anew, stat_signature
from rwkvclip_eval.errors import DataWarning, OutputError
from rwkvclip_models.disk import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from rwkvclip_eval.data.types import DatasetKind

INDEX_NAME = ".rwkvclip-index.parquet"
INDEX_VERSION = 2
INDEX_LIMIT_BYTES = 4 << 30
"""Of its columns, unpacked."""


class WrongIndex(ValueError):
    """An index that does not fit its shards; the text says why."""


def index_of(
    shards: Sequence[Path],
    kind: DatasetKind,
    cache_dir: Path | None,
    scan: Callable[[], tuple[pa.Table, str]],
) -> tuple[pa.Table, str]:
    """Return the index of the shards and the fingerprint of their samples.

    Args:
        shards: of one split, in one folder `wds_NAME/SPLIT`.
        kind: of the dataset.
        cache_dir: where the index goes if that folder cannot be written.
        scan: reads all shards; returns the columns of an index, and the fingerprint.
    """
    where = shards[0].parent
    signature = stat_signature(shards, where.parents[1], INDEX_VERSION, kind)
    cached = (cache_dir or default_cache_dir()) / "data" / f"{signature}.parquet"
    places, anew = (where / INDEX_NAME, cached), reading_anew()
    kept: tuple[pa.Table, str] | None = None
    for path in places:
        try:
            kept = _read(path, signature, shards, kind)
        except WrongIndex as problem:
            text = f"{path} does not fit its shards ({problem}); it is made anew."
            warnings.warn(text, DataWarning, stacklevel=2)
        if kept is not None:
            break
    if kept is not None and anew is None:
        return kept
    table, fingerprint = scan()
    if kept is not None and anew is not None and (kept[1] != fingerprint or not kept[0].equals(table)):
        anew.append(
            f"{path} said something else than its shards (fingerprint {kept[1]}): numbers of before do not "
            "count. It is made anew."
        )
    about = {"signature": signature, "fingerprint": fingerprint, "digest": _digest(table)}
    _write(table.replace_schema_metadata({"rwkvclip": json.dumps(about)}), places)
    return table, fingerprint


def _write(table: pa.Table, places: Sequence[Path]) -> None:
    """Write the index to the first of `places` that can be written."""
    import pyarrow.parquet as pq

    for path in places:
        # A folder without write permission for anyone is meant to stay as it is, even if root may write.
        folder = path.parent
        if folder.is_dir() and not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK)):
            continue
        # A full disk or a folder that cannot be written costs a second scan next time, nothing else.
        with contextlib.suppress(OutputError), atomic_path(path) as temporary, temporary.open("wb") as file:
            # The library takes no path that is not UTF-8.
            pq.write_table(table, file)
            return


def _read(
    path: Path, signature: str, shards: Sequence[Path], kind: DatasetKind
) -> tuple[pa.Table, str] | None:
    """Return the index at `path` if there is one of these very shards, and their fingerprint.

    Raises:
        WrongIndex: there is one that cannot be right.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        # read_table would take folder names such as `split=test` for columns; ParquetFile reads one file.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            about = _about(file.schema_arrow.metadata)
            if about.get("signature") != signature:
                return None
            stated = file.metadata
            size = sum(stated.row_group(i).total_byte_size for i in range(stated.num_row_groups))
            if not 0 < stated.num_rows <= MOST_SAMPLES or size > INDEX_LIMIT_BYTES:
                raise WrongIndex(f"{stated.num_rows} samples in {size} bytes")
            table = file.read().replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, WrongIndex):
            raise
        raise WrongIndex("it cannot be read") from error
    fingerprint = about.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise WrongIndex("it names no fingerprint")
    if not table.schema.equals(schema(kind)):
        raise WrongIndex(f"its columns are {', '.join(map(str, table.schema))}"[:300])
    _check_places(table, shards)
    if "digest" in about and about["digest"] != _digest(table):
        raise WrongIndex("it was changed since it was written")
    return table, fingerprint


def schema(kind: DatasetKind) -> pa.Schema:
    """Return the columns of an index and their types."""
    import pyarrow as pa

    target = {
        "classification": pa.int64(),
        "multilabel": pa.list_(pa.int64()),
        "retrieval": pa.list_(pa.string()),
    }[kind]
    columns = {
        "key": pa.string(),
        "member": pa.string(),
        "shard": pa.int32(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "target": target,
    }
    return pa.schema(list(columns.items()))


def _about(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    found = json.loads((metadata or {}).get(b"rwkvclip", b"{}"))
    return found if isinstance(found, dict) else {}


def _check_places(table: pa.Table, shards: Sequence[Path]) -> None:
    """Refuse places outside the shards, and values that are not there."""
    if any(column.null_count for column in table.itercolumns()):
        raise WrongIndex("values are missing")
    shard, offset, size = (table.column(name).to_numpy() for name in ("shard", "offset", "size"))
    if shard.min() < 0 or shard.max() >= len(shards):
        raise WrongIndex(f"it names shards {shard.min()} to {shard.max()} of {len(shards)}")
    ends = np.array([path.stat().st_size for path in shards], dtype=np.int64)[shard]
    if offset.min() < 0 or size.min() < 0 or size.max() > IMAGE_LIMIT_BYTES or (offset > ends - size).any():
        raise WrongIndex("it names places outside the shards")


def _digest(table: pa.Table) -> str:
    """Return a SHA-256 (hex) of the columns, whatever chunks they are stored in."""
    total = hashlib.sha256()
    for name in table.column_names:
        column = table.column(name)
        if column.type in ("int32", "int64"):
            total.update(f"{name} {len(column)}\n".encode() + column.to_numpy().tobytes())
        else:
            total.update(json.dumps([name, column.to_pylist()]).encode())
    return total.hexdigest()
