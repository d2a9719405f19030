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
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, name_some
from rwkvclip_train.data.about import again, read_about, shard_entry
from rwkvclip_train.data.index_check import check_files
from rwkvclip_train.data.rows import PAIR, SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rwkvclip_train.data.about import About

KEYS_AT_ONCE = 1 << 16


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
        digests: refuse files that are not those that were written.

    Attributes:
        about: what about.json says.
        damaged_files: those that are not, by their digests, where they were not to be refused.

    Raises:
        DataNotFound: there is none, or a shard is missing.
        DamagedData: it is damaged, or of shards that have changed since.
    """

    def __init__(self, folder: Path, root: Path, *, digests: bool = True) -> None:
        self.folder, self.root = folder, root
        self.about = read_about(folder)
        _check_shards(self.about, folder, root)
        try:
            found = check_files(folder, self.about)
        except DamagedData as error:
            raise DamagedData(f"{error}; {again(root, folder)}") from error
        self.damaged_files = [name for name, entry in self.about.files.items() if found[name] != entry.sha256]
        if digests and self.damaged_files:
            raise DamagedData(
                f"{folder}: changed since it was written: {', '.join(self.damaged_files)}; "
                f"{again(root, folder)}"
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


def _reopen(folder: Path, root: Path, about: About) -> Index:
    """Return an index that another process had opened and checked."""
    index = Index.__new__(Index)
    index.folder, index.root, index.about = folder, root, about
    index.damaged_files = []
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
