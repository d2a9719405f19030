"""MXNet's RecordIO, read without mxnet: images with token ids, as RWKV-CLIP's official script packs them.

A .rec file is a chain of parts, each padded with zeros to 4 bytes:
    magic uint32 = 0xced7230a · uint32: kind in the upper 3 bits, length in the lower 29 · length bytes
of kind 0 (a whole record) or 1, 2, …, 2, 3 (first, middle, last part of one). A record that holds the magic
at a multiple of 4 is split there by the writer, which leaves the magic out; the reader puts it back between
parts. A record is a header `IfQQ` (flag, label, id, id2), `flag` float32 labels and the image file. Here the
labels are K · 77 token ids. A .idx file beside it has a line `KEY <tab> OFFSET` for every record; without one
the chain is followed from the start, and records are called by their number.
"""

from __future__ import annotations

import os
import struct
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import DamagedData, shortened
from rwkvclip_models.files import require_regular
from rwkvclip_train.data.formats.arrays import token_kinds
from rwkvclip_train.data.source import CONTEXT, wrong_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_train.data.formats.arrays import RowTexts
    from rwkvclip_train.data.recorder import Recorder

MAGIC = 0xCED7230A
_MAGIC = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
MOST_TEXTS = 32
"""Of one record."""
LABELS_END = _PART.size + _HEADER.size + 4 * CONTEXT * MOST_TEXTS
"""Bytes of a record's start that hold all labels, where it is not split before."""


class Record(NamedTuple):
    """A record, put together.

    Attributes:
        labels: [flag] float32.
        image: bytes of the image file.
    """

    labels: np.ndarray[Any, np.dtype[np.float32]]
    image: bytes


class _Found(NamedTuple):
    """Where a record lies.

    Attributes:
        offset: in the file.
        length: of all its parts, bytes.
        start: bytes of its header and labels.
    """

    offset: int
    length: int
    start: bytes


def scan_records(
    path: Path,
    recorder: Recorder,
    rows: RowTexts,
    on_bytes: Callable[[int], None],
    named: Sequence[str] = (),
) -> None:
    """Write the records of a .rec file into an index.

    Args:
        path: the file.
        recorder: of the index.
        rows: texts that stand in arrays beside it.
        on_bytes: called with how far the file is read.
        named: what the texts of a record are called.

    Raises:
        DamagedData: the file is cut off or damaged, or holds other records; .idx and .rec do not fit.
        UserError: nobody says what the texts are called.
    """
    size = path.stat().st_size
    covered = 0
    offsets, ends = array("Q"), array("Q")
    with path.open("rb") as stream:
        handle = stream.fileno()
        for name, offset in _places(path, handle, size):
            found = _look(path, handle, name, offset, size)
            # The last record's padding may be cut off.
            if (covered := covered + found.length) > size + 3:
                raise DamagedData(
                    f"{path.with_suffix('.idx')} names records that overlap: those up to {name} have "
                    f"{covered} bytes of {size}. Fetch it again."
                )
            offsets.append(offset)
            ends.append(offset + found.length)
            spans, kinds = rows.next(name)
            labels = _labels(f"{path}, record {name}", found.start)
            recorder.digest(labels.tobytes())
            count = len(labels) // CONTEXT
            names = token_kinds(count, named, str(path)) if count else ()
            for place, kind in enumerate(names):
                bit = recorder.kind(kind)
                if not bit:
                    continue
                if why := wrong_ids(labels[place * CONTEXT : (place + 1) * CONTEXT]):
                    recorder.count_text(kind, why, name)
                    continue
                spans.append((0, CONTEXT, recorder.column("label", kind, place)))
                kinds |= bit
            recorder.add(name, offset, found.length, spans, kinds)
            on_bytes(offset)
    _require_all(path, size, np.sort(np.asarray(offsets)), np.sort(np.asarray(ends)))


def _require_all(
    path: Path,
    size: int,
    offsets: np.ndarray[Any, np.dtype[np.uint64]],
    ends: np.ndarray[Any, np.dtype[np.uint64]],
) -> None:
    """Check that each record begins where the one before it ends, the last one ending with the file."""
    starts = np.append(offsets, np.uint64(size))
    # The last record's padding may be cut off.
    reached = np.append(np.uint64(0), np.minimum(ends, np.uint64(size)))
    wrong = np.flatnonzero(starts != reached)
    if len(wrong):
        raise DamagedData(
            f"{path.with_suffix('.idx')} lacks records of {path.name} or names some twice: of those that it "
            f"names, one ends at byte {reached[wrong[0]]} and the next begins at {starts[wrong[0]]}. Fetch "
            "it again, or delete it: the records are found without it."
        )


def _places(path: Path, handle: int, size: int) -> Iterator[tuple[str, int]]:
    """Yield name and offset of each record, in the order of the .idx file or else of the file."""
    listed = path.with_suffix(".idx")
    if not listed.exists():
        number, offset = 0, 0
        while offset < size:
            yield str(number), offset
            offset += _look(path, handle, str(number), offset, size).length
            number += 1
        return
    require_regular(listed, "list of records", error=DamagedData)
    with listed.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(1000), b""), start=1):
            key, _, place = line.partition(b"\t")
            try:
                offset = int(place)
                if not key.isascii() or not 0 <= offset < size or offset % 4:
                    raise ValueError
            except ValueError as error:
                raise DamagedData(
                    f"{listed}, line {number}: expected a key, a tab and a place in {path.name} ({size} "
                    f"bytes), found {shortened(ascii(line))}."
                ) from error
            yield key.decode("ascii"), offset


def _look(path: Path, handle: int, name: str, offset: int, size: int) -> _Found:
    """Return where a record lies, of which only the heads of its parts and the labels are read."""
    where = f"{path}, record {name} at byte {offset}"
    at, start, last = offset, bytearray(), -1
    while last not in (0, 3):
        content = os.pread(handle, LABELS_END if len(start) < LABELS_END else _PART.size, at)
        kind, length = _part(where, content, at, size, last)
        if len(start) < LABELS_END:
            start += _MAGIC if last >= 0 else b""
            start += content[_PART.size : _PART.size + length]
        at += _PART.size + (length + 3) // 4 * 4
        last = kind
    return _Found(offset, at - offset, bytes(start))


def _part(where: str, content: bytes, at: int, size: int, last: int) -> tuple[int, int]:
    """Return kind and length of the part whose head stands at byte `at`, after one of kind `last` or −1."""
    if len(content) < _PART.size:
        raise DamagedData(f"{where} is cut off: the file ends at byte {size}. Fetch it again.")
    magic, word = _PART.unpack_from(content)
    kind, length = word >> 29, word & 0x1FFFFFFF
    if magic != MAGIC or kind not in ((0, 1) if last < 0 else (2, 3)):
        raise DamagedData(
            f"{where}: no RecordIO part begins at byte {at}. Fetch the file, and its .idx, again."
        )
    if at + _PART.size + length > size:
        raise DamagedData(
            f"{where} is cut off: it needs {length} bytes from byte {at + _PART.size} of {size}."
        )
    return kind, length


def _labels(where: str, start: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the labels [K · 77] float32 of a record's start.

    Raises:
        DamagedData: it is too short for them, or they are no K · 77.
    """
    flag = _HEADER.unpack_from(start)[0] if len(start) >= _HEADER.size else 0
    if flag % CONTEXT or flag > CONTEXT * MOST_TEXTS or len(start) < _HEADER.size + 4 * flag:
        raise DamagedData(
            f"{where}: expected a header and K · {CONTEXT} labels (token ids), K up to {MOST_TEXTS}; found "
            f"{flag} labels in {len(start)} bytes."
        )
    return np.frombuffer(start, dtype="<f4", count=flag, offset=_HEADER.size)


def parse_record(content: bytes, where: str) -> Record:
    """Return a record of the bytes of all its parts.

    Raises:
        DamagedData: they are no record; the text names `where`.
    """
    parts, at, last = [], 0, -1
    while last not in (0, 3):
        kind, length = _part(where, content[at : at + _PART.size], at, len(content), last)
        parts.append(content[at + _PART.size : at + _PART.size + length])
        at += _PART.size + (length + 3) // 4 * 4
        last = kind
    whole = parts[0] if len(parts) == 1 else _MAGIC.join(parts)
    labels = _labels(where, whole)
    return Record(labels, whole[_HEADER.size + labels.nbytes :])


def labels_at(start: bytes) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Return the labels of a record of its first `LABELS_END` bytes; None where it is split among them."""
    if len(start) < _PART.size + _HEADER.size:
        return None
    flag = _HEADER.unpack_from(start, _PART.size)[0]
    length = _PART.unpack_from(start)[1] & 0x1FFFFFFF
    if _HEADER.size + 4 * flag > min(length, len(start) - _PART.size):
        return None
    return np.frombuffer(start, dtype="<f4", count=flag, offset=_PART.size + _HEADER.size)
