"""The index of a training set: where each image and each text lies, memory-mapped.

A folder, by default `index/` beside the shards, of
    about.json    the shards it is of, the kinds of text, counts, the digest of each file below
    pairs.bin     n + 1 rows `PAIR`; what a row starts ends where the next one's starts
    spans.bin     rows `SPAN`: the texts of the pairs
    keys.bin      the pairs' names, UTF-8
    texts.bin     texts that have no place of their own in a file (rows of tables)
It is written beside its name and gets it when it is whole. It is of shards of these names, sizes and times:
with others it is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, name_some, refuse_newer
from rwkvclip_eval.schema import Strict
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

VERSION = 1
INDEX = "index"
ABOUT = "about.json"
ABOUT_LIMIT_BYTES = 256 << 20
FILES = ("pairs.bin", "spans.bin", "keys.bin", "texts.bin")
MOST_KINDS = 32
"""Kinds of text: as many as a pair has bits for them."""
KEYS_AT_ONCE = 1 << 16
NO_ROW = (1 << 64) - 1
"""In place of an offset: the image is a file of its own, which has the pair's name."""

PAIR = np.dtype(
    [
        ("offset", "<u8"),
        ("key", "<u8"),
        ("span", "<u8"),
        ("length", "<u4"),
        ("shard", "<u4"),
        ("kinds", "<u4"),
    ]
)
"""Where an image or record begins in its shard and its bytes (of an image in a table: row, bytes); where its
name and its texts begin; number of the shard; a bit for each kind of which it has a usable text."""
SPAN = np.dtype([("offset", "<u8"), ("length", "<u4"), ("column", "<u2")])
"""Where a text begins (in its shard, in texts.bin, or a row of a token array), its bytes, its column."""

Form = Literal["lines", "json", "list", "ids", "label", "array"]


class Column(Strict):
    """Where texts of one kind stand, and how."""

    form: Form = Field(
        description="lines, json: in the shard, a text a line, or a mapping of kinds; list, ids: in "
        "texts.bin, JSON, or 77 uint16; label: 77 float32 in a record; array: a row of a token array"
    )
    kind: str = Field("", description="of text; empty for json, which names its kinds itself")
    place: int = Field(0, description="of the 77 ids in a label or row, counted in texts")
    file: str = Field("", description="of a token array for all shards; empty: the shard's own")


class ShardEntry(Strict):
    """A file that the index is of."""

    name: str = Field(description="path below the folder")
    size_bytes: int = Field(ge=0, description="size in bytes")
    mtime_ns: int = Field(description="time of the last change")
    num_pairs: int = Field(0, ge=0, description="pairs of it in the index")
    num_samples: int = Field(0, ge=0, description="samples in it, those left out too")
    digest: str = Field("", description="SHA-256 (hex) of the texts that were read in it")


class FileEntry(Strict):
    """A file of the index."""

    size_bytes: int = Field(ge=0, description="size in bytes")
    sha256: str = Field(description="digest (hex)")


class About(Strict):
    """What about.json says."""

    version: int = Field(description="of the form of the index")
    settings: str = Field(description="what it was made of, as JSON; the same makes the same index")
    layout: Literal["tar", "rec", "table"] = Field(description="what kind of shards it is of")
    kinds: tuple[str, ...] = Field(description="kinds of text; the bit of each is its place")
    columns: tuple[Column, ...] = Field(description="by number, as spans name them")
    image_column: str = Field("", description="of tables, where the images are in them")
    shards: tuple[ShardEntry, ...] = Field(description="by number")
    arrays: tuple[ShardEntry, ...] = Field((), description="token arrays beside the shards")
    num_pairs: int = Field(ge=1, description="pairs in the index")
    longest: int = Field(gt=0, description="characters; longer texts are not drawn")
    not_drawn: dict[str, int] = Field(description="why texts are not drawn → how many")
    left_out: dict[str, int] = Field(description="why samples are no pairs of the index → how many")
    examples: dict[str, str] = Field(description="reason → names of the first such samples")
    files: dict[str, FileEntry] = Field(description="of the index")
    fingerprint: str = Field(description="SHA-256 (hex) of all but times")


class PairRow(NamedTuple):
    """One row of pairs.bin, resolved.

    Attributes:
        shard: number.
        offset: of the image or record in it; of an image in a table, its row.
        length: its bytes.
        kinds: a bit for each kind with a usable text.
        spans: its rows of spans.bin, `SPAN`.
    """

    shard: int
    offset: int
    length: int
    kinds: int
    spans: np.ndarray[Any, Any]


class Index:
    """An index on disk, opened. Pickles as its paths alone.

    Args:
        folder: the index.
        root: folder of the shards.

    Attributes:
        about: what about.json says.

    Raises:
        DataNotFound: there is none, or a shard is missing.
        DamagedData: it is damaged, or of shards that have changed since.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.about = read_about(folder)
        _check_shards(self.about, folder, root)
        for name, entry in self.about.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else -1
            if size != entry.size_bytes:
                raise DamagedData(
                    f"{path} has {max(size, 0)} bytes, expected {entry.size_bytes}: {again(root, folder)}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.root, self.about)

    def __len__(self) -> int:
        return self.about.num_pairs

    @functools.cached_property
    def pairs(self) -> np.ndarray[Any, Any]:
        """[n + 1] rows `PAIR`."""
        return np.memmap(self.folder / "pairs.bin", dtype=PAIR, mode="r")

    @functools.cached_property
    def _spans(self) -> np.ndarray[Any, Any]:
        return _mapped(self.folder / "spans.bin", SPAN)

    @functools.cached_property
    def _keys(self) -> np.ndarray[Any, Any]:
        return _mapped(self.folder / "keys.bin", np.dtype(np.uint8))

    @functools.cached_property
    def _texts(self) -> np.ndarray[Any, Any]:
        return _mapped(self.folder / "texts.bin", np.dtype(np.uint8))

    def row(self, index: int) -> PairRow:
        """Return what the index says of a pair."""
        row, end = self.pairs[index], self.pairs[index + 1]
        spans = self._spans[int(row["span"]) : int(end["span"])]
        return PairRow(int(row["shard"]), int(row["offset"]), int(row["length"]), int(row["kinds"]), spans)

    def name(self, index: int) -> str:
        """Return the pair's own name, unique in its shard."""
        start, end = int(self.pairs["key"][index]), int(self.pairs["key"][index + 1])
        return self._keys[start:end].tobytes().decode("utf-8", "replace")

    def key(self, index: int) -> str:
        """Return `SHARD:NAME`, unique in the index."""
        return f"{self.about.shards[int(self.pairs['shard'][index])].name}:{self.name(index)}"

    def keys(self) -> Iterator[str]:
        """Yield the `key` of every pair, many at a time read from disk."""
        shards = [shard.name for shard in self.about.shards]
        for start in range(0, len(self), KEYS_AT_ONCE):
            rows = self.pairs[start : start + KEYS_AT_ONCE + 1]
            ends, numbers = rows["key"].tolist(), rows["shard"].tolist()
            names = self._keys[ends[0] : ends[-1]].tobytes()
            for first, end, number in zip(ends, ends[1:], numbers, strict=False):
                name = names[first - ends[0] : end - ends[0]].decode("utf-8", "replace")
                yield f"{shards[number]}:{name}"

    def text_bytes(self, offset: int, length: int) -> bytes:
        """Return bytes of texts.bin."""
        return self._texts[offset : offset + length].tobytes()

    def damaged_files(self) -> list[str]:
        """Return which files of the index are not those that were written; reads them all."""
        from rwkvclip_models.disk import file_digest

        files = self.about.files.items()
        return [name for name, entry in files if file_digest(self.folder / name) != entry.sha256]


def _reopen(folder: Path, root: Path, about: About) -> Index:
    """Return an index that another process had opened and checked."""
    index = Index.__new__(Index)
    index.folder, index.root, index.about = folder, root, about
    return index


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def names_in(folder: Path, first: int) -> Callable[[int], str]:
    """Return a function that gives the name of the pairs from `first` of an index that is being written."""
    starts = np.fromfile(folder / "pairs.bin", dtype=PAIR)["key"][first:]
    keys = _mapped(folder / "keys.bin", np.dtype(np.uint8))
    ends = np.append(starts[1:], np.uint64(len(keys)))
    return lambda i: keys[int(starts[i]) : int(ends[i])].tobytes().decode("utf-8", "replace")


def read_about(folder: Path) -> About:
    """Return what an index says of itself.

    Raises:
        DataNotFound: there is none.
        DamagedData: it is damaged.
        NewerFile: a later version of ours wrote it.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise DataNotFound(
            f"There is no index at {folder}. Make it once: rwkvclip-train data index {folder.parent}"
        )
    content = read_bytes(path, limit=ABOUT_LIMIT_BYTES, what="index", error=DamagedData)
    refuse_newer(content, "version", VERSION, f"The index {path}")
    try:
        about = About.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedData(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'][:300]}; "
            f"{again(folder.parent, folder)}"
        ) from error
    if about.version != VERSION or set(about.files) != set(FILES):
        raise DamagedData(f"{path} is of an older form; {again(folder.parent, folder)}")
    return about


def again(root: Path, folder: Path) -> str:
    """Return the command that makes the index anew, for the end of a message."""
    other = "" if folder == root / INDEX else f" --index {folder}"
    return f"make the index again: rwkvclip-train data index {root}{other}"


def shard_entry(root: Path, name: str) -> ShardEntry:
    """Return name, size and time of a file below `root`.

    Raises:
        DataNotFound: it is not there.
    """
    try:
        state = (root / name).stat()
    except OSError as error:
        raise DataNotFound(f"Cannot read {root / name}: {error.strerror}.") from error
    said = {"name": name, "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    return ShardEntry.model_validate(said)


def _check_shards(about: About, folder: Path, root: Path) -> None:
    """Refuse an index of other shards.

    Raises:
        DataNotFound: a shard is missing.
        DamagedData: one has another size or time.
    """
    changed = []
    for entry in (*about.shards, *about.arrays):
        found = shard_entry(root, entry.name)
        if (found.size_bytes, found.mtime_ns) != (entry.size_bytes, entry.mtime_ns):
            sizes = f"{found.size_bytes} bytes now, {entry.size_bytes} when it was indexed"
            changed.append(f"{entry.name} ({sizes})" if found.size_bytes != entry.size_bytes else entry.name)
    if changed:
        raise DamagedData(
            f"{folder} is of other files: changed since it was made: {name_some(changed)}. If they are "
            f"whole, {again(root, folder)}"
        )


def fingerprint(
    kinds: Iterable[str],
    columns: Iterable[Column],
    shards: Iterable[ShardEntry],
    files: dict[str, FileEntry],
) -> str:
    """Return the SHA-256 (hex) of what an index says: names, sizes and texts of shards, places; no times."""
    parts = [
        VERSION,
        list(kinds),
        [column.model_dump() for column in columns],
        [[shard.name, shard.size_bytes, shard.digest] for shard in shards],
        {name: entry.sha256 for name, entry in sorted(files.items())},
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Files:
    """Reads parts of the shards, keeping some of them open. Pickles without open files."""

    MOST_OPEN = 64

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Files, (self._paths,)

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of a shard from `offset`.

        Raises:
            DataNotFound: it cannot be read now.
            DamagedData: it ends before.
        """
        path = self._paths[shard]
        try:
            handle = self._open.pop(shard, None)
            if handle is None:
                if len(self._open) >= self.MOST_OPEN:
                    os.close(self._open.pop(next(iter(self._open))))
                handle = os.open(path, os.O_RDONLY)
            self._open[shard] = handle
            content = os.pread(handle, length, offset)
        except OSError as error:
            raise DataNotFound(f"Cannot read {path}: {error.strerror}. Check the disk.") from error
        if len(content) != length:
            size = path.stat().st_size
            raise DamagedData(f"{path} ends at byte {size}; expected {length} bytes from {offset}.")
        return content


def check_root(folder: Path) -> Path:
    """Return a folder of training data.

    Raises:
        DataNotFound: there is none.
        UserError: it is a file.
    """
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{folder} is a file; give the folder that the shards or tables lie in.")
    raise DataNotFound(f"There is no folder {folder}.")
