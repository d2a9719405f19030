"""Holds the files of an index to what about.json says, once, when it is opened: sizes, bounds, digests.

They are read in order and in pieces, so that 15 million pairs take no more memory than a piece does.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from rwkvclip_eval.errors import DamagedData
from rwkvclip_models.files import require_regular
from rwkvclip_train.data.rows import NO_ROW, PAIR, SPAN
from rwkvclip_train.data.source import CONTEXT

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_train.data.about import About

_ROWS_AT_ONCE = 1 << 16
_BYTES_AT_ONCE = 1 << 20
_IDS_BYTES = 2 * CONTEXT
_MOST_TABLE_ROWS = 1 << 48


def check_files(folder: Path, about: About) -> dict[str, str]:
    """Refuse an index of which a row leads outside the shards, the columns or the other files.

    Args:
        folder: of the index.
        about: what it says of itself.

    Returns:
        The SHA-256 (hex) of each file as it is.

    Raises:
        DamagedData: a file is missing or of another size, or a row is out of bounds; both are named.
    """
    for name, entry in about.files.items():
        size = require_regular(folder / name, "index", error=DamagedData).st_size
        if size != entry.size_bytes:
            raise DamagedData(f"{folder / name} has {size} bytes, expected {entry.size_bytes}")
    sizes = {name: entry.size_bytes for name, entry in about.files.items()}
    if sizes["pairs.bin"] != (about.num_pairs + 1) * PAIR.itemsize or sizes["spans.bin"] % SPAN.itemsize:
        raise DamagedData(f"{folder / 'pairs.bin'} or spans.bin has no whole rows of {about.num_pairs} pairs")
    with ExitStack() as files:
        streams = {name: _Hashed(files.enter_context((folder / name).open("rb"))) for name in sizes}
        try:
            _check_rows(streams, about)
        except _Wrong as error:
            raise DamagedData(f"{folder / error.name}: {error}") from error
        return {name: stream.digest() for name, stream in streams.items()}


class _Wrong(Exception):
    """What is wrong in a file of the index.

    Attributes:
        name: of the file.
    """

    def __init__(self, name: str, said: str) -> None:
        super().__init__(said)
        self.name = name


class _Hashed:
    """A file that is read once, from its beginning to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hash = stream, hashlib.sha256()

    def read(self, length: int) -> bytes:
        content = self._stream.read(length)
        self._hash.update(content)
        return content

    def digest(self) -> str:
        """Return that of all bytes (hex); reads the rest."""
        while self.read(_BYTES_AT_ONCE):
            pass
        return self._hash.hexdigest()


def _check_rows(streams: dict[str, _Hashed], about: About) -> None:
    shard_sizes = np.array([shard.size_bytes for shard in about.shards], dtype=np.uint64)
    counts = np.zeros(len(shard_sizes), dtype=np.int64)
    num_spans = about.files["spans.bin"].size_bytes // SPAN.itemsize
    ends = {"key": about.files["keys.bin"].size_bytes, "span": num_spans}
    spans = _Spans(about, shard_sizes)
    rows = np.frombuffer(streams["pairs.bin"].read(PAIR.itemsize), dtype=PAIR)
    if rows["key"][0] or rows["span"][0]:
        raise _Wrong("pairs.bin", "row 0 does not begin at the first name and text")
    for start in range(0, about.num_pairs, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, about.num_pairs - start)
        content = streams["pairs.bin"].read(count * PAIR.itemsize)
        if len(content) != count * PAIR.itemsize:
            raise _Wrong("pairs.bin", "it ends before its last row")
        rows = np.concatenate([rows[-1:], np.frombuffer(content, dtype=PAIR)])
        for field, end in ends.items():
            # Before the difference, which of unsigned numbers wraps around.
            _refuse("pairs.bin", start, (rows[field][1:] < rows[field][:-1]) | (rows[field][1:] > end), field)
        own = rows[:-1]
        _refuse("pairs.bin", start, own["shard"] >= len(shard_sizes), "shard")
        _refuse("pairs.bin", start, (own["kinds"] == 0) | (own["kinds"] >> len(about.kinds) != 0), "kinds")
        _refuse("pairs.bin", start, own["length"] == 0, "length")
        if about.layout == "table":
            beyond = (own["offset"] != NO_ROW) & (own["offset"] > _MOST_TABLE_ROWS)
        else:
            beyond = _beyond(own["offset"], own["length"], shard_sizes[own["shard"]])
        _refuse("pairs.bin", start, beyond, "offset")
        counts += np.bincount(own["shard"], minlength=len(counts))
        first = int(rows["span"][0])
        number = int(rows["span"][-1]) - first
        shards = np.repeat(own["shard"], np.diff(rows["span"]).astype(np.int64))
        spans.check(
            first, np.frombuffer(streams["spans.bin"].read(number * SPAN.itemsize), dtype=SPAN), shards
        )
    for field, end in ends.items():
        if rows[field][-1] != end:
            raise _Wrong("pairs.bin", f"the last row ends at {rows[field][-1]} of {end} ({field})")
    if counts.tolist() != [shard.num_pairs for shard in about.shards]:
        raise _Wrong("pairs.bin", "its rows are of other shards than about.json counts")


class _Spans:
    """What the rows of spans.bin may be."""

    def __init__(self, about: About, shard_sizes: np.ndarray[Any, Any]) -> None:
        forms = np.array([column.form for column in about.columns])
        self._in_shard = np.isin(forms, ("lines", "json"))
        self._in_texts = np.isin(forms, ("list", "ids"))
        self._ids = forms == "ids"
        self._rows = np.isin(forms, ("label", "array"))
        self._shard_sizes = shard_sizes
        self._texts_size = np.uint64(about.files["texts.bin"].size_bytes)
        # A row has bytes, so that there are fewer rows.
        self._most_row = np.uint64(max((array.size_bytes for array in about.arrays), default=1))

    def check(self, start: int, rows: np.ndarray[Any, Any], shards: np.ndarray[Any, Any]) -> None:
        """Refuse rows from number `start`, of pairs of these shards, that lead elsewhere."""
        if len(rows) != len(shards):
            raise _Wrong("spans.bin", "it ends before its last row")
        column = rows["column"]
        _refuse("spans.bin", start, column >= len(self._ids), "column")
        offset, length = rows["offset"], rows["length"]
        size = np.where(
            self._in_shard[column],
            self._shard_sizes[shards],
            np.where(self._in_texts[column], self._texts_size, self._most_row + np.uint64(CONTEXT)),
        )
        _refuse("spans.bin", start, _beyond(offset, length, size), "offset")
        wrong = (self._rows[column] & (length != CONTEXT)) | (
            self._ids[column] & ((length == 0) | (length % _IDS_BYTES != 0))
        )
        _refuse("spans.bin", start, wrong, "length")


def _beyond(
    offset: np.ndarray[Any, Any], length: np.ndarray[Any, Any], size: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return which pieces end behind their file; no sum of theirs overflows."""
    found: np.ndarray[Any, Any] = (offset > size) | (length > size - np.minimum(offset, size))
    return found


def _refuse(name: str, start: int, wrong: np.ndarray[Any, Any], field: str) -> None:
    """Refuse the first of the rows from number `start` that are wrong."""
    if wrong.any():
        raise _Wrong(name, f"row {start + int(np.argmax(wrong))}: {field} out of bounds")
