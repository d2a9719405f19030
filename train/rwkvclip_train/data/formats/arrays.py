"""Token arrays: NumPy files (n, 77 · K) beside the shards, a row a sample, of K texts of 77 ids each.

`tokens.npy` is of all shards in their order, as the authors of RWKV-CLIP released (15,061,515, 154), raw and
synthetic; NAME.npy beside a shard NAME.tar, NAME.rec, … is of that one. Rows count every sample of a shard,
those that the index leaves out too.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_models.files import require_regular
from rwkvclip_models.tokenizer import VOCABULARY
from rwkvclip_train.data.source import CONTEXT, NO_TEXT, wrong_ids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_train.data.recorder import Recorder

ALL_SHARDS = "tokens.npy"
TOKEN_KINDS = {1: ("raw",), 2: ("raw", "synthetic"), 3: ("raw", "synthetic", "generated")}
"""What 1, 2 or 3 texts of a row or record are called unless somebody says otherwise: the authors' order."""
_CHUNK_ROWS = 8192
_MOST = 1 << 40


def token_kinds(count: int, named: Sequence[str], where: str) -> Sequence[str]:
    """Return what the `count` texts of each row or record are called.

    Args:
        count: of texts.
        named: what the user calls them; empty: as the authors do.
        where: what holds them, for messages.

    Raises:
        UserError: other than `count` names, or nobody says what they are.
    """
    if named:
        if len(named) != count:
            raise UserError(f"{where} has {count} texts a row, --token-kinds names {len(named)}.")
        return named
    if count in TOKEN_KINDS:
        return TOKEN_KINDS[count]
    raise UserError(f"{where} has {count} texts a row; say what each is: --token-kinds NAME,NAME,….")


def _check_header(path: Path) -> None:
    """Refuse a shape that NumPy takes and that no array has.

    Raises:
        ValueError: it holds a negative number, or one that is none.
    """
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, _ = read(stream)
    if not all(type(length) is int and 0 <= length < _MOST for length in shape):
        raise ValueError(f"a shape of {str(shape)[:80]}")


class TokenArray:
    """A token array on disk, read by rows: mapped, its pages would count as this process's memory.

    Args:
        path: a .npy file.

    Attributes:
        num_rows: n.
        num_texts: K, of each row.

    Raises:
        DamagedData: it is none, or of another shape.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        require_regular(path, "token array", error=DamagedData)
        try:
            _check_header(path)
            found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, OverflowError, TypeError) as error:
            raise DamagedData(f"{path} is no NumPy array that can be mapped: {str(error)[:200]}.") from error
        if (
            found.ndim != 2
            or found.shape[1] % CONTEXT
            or not found.size
            or found.dtype.kind not in "iuf"
            or not found.flags.c_contiguous
        ):
            raise DamagedData(
                f"{path}: expected rows of {CONTEXT} token ids a text, found {found.dtype} "
                f"{list(found.shape)}{'' if found.flags.c_contiguous else ' stored column by column'}. Save "
                "it anew, such as by numpy.save(path, numpy.ascontiguousarray(array))."
            )
        self.num_rows, self.num_texts = found.shape[0], found.shape[1] // CONTEXT
        self._dtype, self._row_bytes = found.dtype, found.shape[1] * found.itemsize
        self._start = path.stat().st_size - found.nbytes
        self._handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # It may have no handle where the file is none.
        if (handle := getattr(self, "_handle", -1)) >= 0:
            os.close(handle)

    def rows(self, start: int, count: int) -> np.ndarray[Any, Any]:
        """Return [≤ count, K, 77] of any numeric type."""
        return self._read(start * self._row_bytes, count * self._row_bytes).reshape(
            -1, self.num_texts, CONTEXT
        )

    def ids(self, row: int, place: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the ids [77] int64 of one text of a row.

        Raises:
            DamagedData: there is no such row, or it has other ids than the vocabulary.
        """
        if not (0 <= place < self.num_texts and 0 <= row < self.num_rows):
            raise DamagedData(
                f"{self._path} has {self.num_rows} rows of {self.num_texts} texts; the index asks for text "
                f"{place} of row {row}."
            )
        length = self._row_bytes // self.num_texts
        found = self._read(row * self._row_bytes + place * length, length)
        if len(found) != CONTEXT:
            raise DamagedData(f"{self._path} has no whole row {row}.")
        if wrong_ids(found) == "damaged":
            raise DamagedData(
                f"{self._path}, row {row}: expected ids from 0 to {VOCABULARY - 1}, found others: it was "
                "changed since it was indexed; index the folder again."
            )
        return found.astype(np.int64)

    def _read(self, offset: int, length: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(os.pread(self._handle, length, self._start + offset), dtype=self._dtype)


class RowTexts:
    """The texts that arrays beside the shards have for the samples of one shard, in order.

    Args:
        recorder: of the index.
        arrays: (file, name as columns have it, first row, names of its texts): see `rows_of`.
    """

    def __init__(self, recorder: Recorder, arrays: Sequence[tuple[Path, str, int, Sequence[str]]]) -> None:
        self._recorder = recorder
        self._arrays = [_Rows(path, file, first, kinds, recorder) for path, file, first, kinds in arrays]
        self.num_samples = 0

    def next(self, name: str) -> tuple[list[tuple[int, int, int]], int]:
        """Return the spans of the next sample's texts and a bit for each kind of which one is usable.

        Raises:
            DamagedData: an array has no further row, or ids that are none.
        """
        spans: list[tuple[int, int, int]] = []
        kinds = 0
        for rows in self._arrays:
            kinds |= rows.take(self.num_samples, name, spans)
        self.num_samples += 1
        return spans, kinds

    def end(self, shard: str, *, last: bool) -> None:
        """Refuse arrays that have more rows than their shards have samples."""
        for rows in self._arrays:
            rows.end(self.num_samples, shard, last=last)


class _Rows:
    def __init__(self, path: Path, file: str, first: int, kinds: Sequence[str], recorder: Recorder) -> None:
        self._path, self._file, self._first, self._kinds, self._recorder = path, file, first, kinds, recorder
        self._array = TokenArray(path)
        self._start = -1
        self._empty = np.empty((0, len(kinds)), dtype=bool)

    def take(self, row: int, name: str, spans: list[tuple[int, int, int]]) -> int:
        at = self._first + row
        if at >= self._array.num_rows:
            raise DamagedData(
                f"{self._path} has {self._array.num_rows} rows, but {name} is sample {at + 1}: rows and "
                "samples must be as many, in the same order."
            )
        if not self._start <= at < self._start + len(self._empty):
            self._check(at)
        found = 0
        for place, kind in enumerate(self._kinds):
            bit = self._recorder.kind(kind)
            if not bit:
                continue
            if self._empty[at - self._start, place]:
                self._recorder.count_text(kind, "empty", name)
                continue
            spans.append((at, CONTEXT, self._recorder.column("array", kind, place, self._file)))
            found |= bit
        return found

    def _check(self, start: int) -> None:
        """Look at the next rows together."""
        rows = self._array.rows(start, _CHUNK_ROWS)
        damaged = (rows < 0) | (rows >= VOCABULARY)
        if rows.dtype.kind == "f":
            damaged |= rows != np.floor(rows)
        if damaged.any():
            row = int(np.argwhere(damaged.any(axis=(1, 2)))[0, 0])
            raise DamagedData(
                f"{self._path}, row {start + row}: expected ids from 0 to {VOCABULARY - 1}, found "
                f"{rows[row][damaged[row]][0]}."
            )
        self._recorder.digest(hashlib.sha256(rows.astype(np.uint16).tobytes()).digest())
        self._start, self._empty = start, np.isin(rows[:, :, 1], NO_TEXT)

    def end(self, num_samples: int, shard: str, *, last: bool) -> None:
        expected = self._first + num_samples
        if self._array.num_rows != expected and (last or not self._file):
            raise DamagedData(
                f"{self._path} has {self._array.num_rows} rows, {shard if not self._file else 'the shards'} "
                f"{'have' if self._file else 'has'} {expected} samples: rows and samples must be as many, in "
                "the same order."
            )
