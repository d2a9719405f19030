"""An entry of the feature store while it is being written: arrays and a journal of batches.

Several processes (ranks) may write one entry, on machines that share a file system: each batch is written by
one of them as one piece of a file, and each keeps a journal of its own.

Axes: n rows (samples or texts).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

from rwkvclip_eval.data.array_files import map_array
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.features.entry import META_NAME, TEXT_LIMIT_BYTES
from rwkvclip_models.disk import atomic_path, file_digest, remove, sync_folder, write_text
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]


PARTIAL = ".partial"
"""Ends the name of an unfinished entry."""


class PartialEntry:
    """An entry being written; one that a killed run left is continued.

    Args:
        folder: KEY.partial.
        total: n rows.
        shapes: array name → shape of a row; arrays are float32.
        rank: the process's number; 0 reads what earlier runs left and makes the arrays before others join.

    Attributes:
        batch_size: rows per batch, fixed by the first attempt; None before it.
        done: first rows of the batches that are on disk.
        missing: row → reason, of images that could not be decoded.
    """

    def __init__(self, folder: Path, total: int, shapes: Mapping[str, Sequence[int]], rank: int = 0) -> None:
        self.folder, self.total, self.rank = folder, total, rank
        self.shapes = {name: (total, *shape) for name, shape in shapes.items()}
        self.batch_size: int | None = None
        self.done: set[int] = set()
        self.missing: dict[int, str] = {}
        self._added: list[str] = []
        if rank == 0:
            self._read_journals()

    def _read_journals(self) -> None:
        try:
            lines = [
                line for journal in sorted(self.folder.glob("journal*.jsonl")) for line in _lines(journal)
            ]
            if lines:
                for name, shape in self.shapes.items():
                    map_array(self._path(name), np.float32, shape)
                self._take(lines)
        except (OSError, ValueError):
            # Damaged from outside: no batch of it can be trusted, so all are encoded again.
            self.batch_size, self.done, self.missing = None, set(), {}

    def _take(self, lines: list[bytes]) -> None:
        """Take over the batches that the journals name.

        Raises:
            ValueError: they name none of this entry.
        """
        said = [_LINE.validate_json(_checked(line)) for line in lines]
        sizes = {line.batch_size for line in said if isinstance(line, _Begun)}
        if len(sizes) != 1:
            raise ValueError("the first journal is gone, or does not say one batch size")
        (size,) = sizes
        self.batch_size = size
        for batch in (line for line in said if isinstance(line, _Batch)):
            rows = range(batch.start, min(batch.start + size, self.total))
            if not rows or batch.start % size or not set(batch.missing) <= set(rows):
                raise ValueError(f"no batch of this entry begins at {batch.start}")
            self.done.add(batch.start)
            self.missing |= batch.missing

    def start(self, batch_size: int) -> None:
        """Make the arrays where there are none."""
        with self.to_disk("arrays"):
            if self.batch_size is None:
                remove(self.folder)
                self.folder.mkdir(parents=True)
                for name, shape in self.shapes.items():
                    np.lib.format.open_memmap(self._path(name), "w+", np.float32, shape).flush()
                    with self._path(name).open("rb+") as file:
                        # A sparse file would run out of disk hours later.
                        if hasattr(os, "posix_fallocate"):  # not on macOS
                            os.posix_fallocate(file.fileno(), 0, self._path(name).stat().st_size)
                        # The header too, which no batch writes again.
                        os.fsync(file.fileno())
                self._journal({"batch_size": batch_size})
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
                self.batch_size = batch_size

    def begin(self, batch_size: int) -> list[int]:
        """Make the arrays where there are none; return the first rows of the batches that are not on disk.

        Args:
            batch_size: rows per batch, where no earlier attempt fixed it.
        """
        size = self.batch_size or batch_size
        self.start(size)
        return [start for start in range(0, self.total, size) if start not in self.done]

    def batches(self, starts: Iterable[int]) -> list[range]:
        """Return the rows of the batches that begin at `starts`."""
        assert self.batch_size is not None, "begun"
        return [range(start, min(start + self.batch_size, self.total)) for start in starts]

    @property
    def num_done(self) -> int:
        """Rows that are on disk."""
        return sum(map(len, self.batches(self.done)))

    @property
    def key(self) -> str:
        """Of the store."""
        return self.folder.name.removesuffix(PARTIAL)

    def write(
        self, rows: range, present: list[int], arrays: dict[str, Array], missing: dict[int, str]
    ) -> None:
        """Put one batch on disk, then into the journal."""
        with self.to_disk("features"):
            for name, values in arrays.items():
                block = np.zeros((len(rows), *self.shapes[name][1:]), np.float32)
                block[np.array(present) - rows.start] = values
                offset = map_array(self._path(name), np.float32, self.shapes[name]).offset
                # Synchronous and not mapped: writing back whole pages would undo what other machines wrote
                # to the same page.
                with os.fdopen(os.open(self._path(name), os.O_RDWR | os.O_DSYNC), "rb+") as file:
                    file.seek(offset + rows.start * block[0].nbytes)
                    file.write(block.tobytes())
            self._journal({"start": rows.start, "missing": missing})
        self.missing |= missing

    def add(self, name: str, content: bytes) -> None:
        """Put a further file into the entry."""
        with self.to_disk(name), atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(content)
        self._added.append(name)

    def finish(self, final: Path, meta: dict[str, Any]) -> Path:
        """Name the entry finished."""
        with self.to_disk("features"):
            files = [*(f"{name}.npy" for name in self.shapes), *self._added]
            # Reads all once more, mostly from memory: about a second for each GB, of hours of encoding.
            digests = {file: file_digest(self.folder / file) for file in files}
            sizes = {name: self._path(name).stat().st_size for name in self.shapes}
            missing = {row: _storable(reason) for row, reason in self.missing.items()}
            meta |= {"total": self.total, "missing": missing, "bytes": sizes, "sha256": digests}
            write_text(self.folder / META_NAME, json.dumps(meta, indent=1))
            remove(final)
            self.folder.rename(final)
            sync_folder(final.parent)
        return final

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _journal(self, entry: dict[str, Any]) -> None:
        name = f"journal-{self.rank}.jsonl" if self.rank else "journal.jsonl"
        with (self.folder / name).open("a", encoding="utf-8") as file:
            text = json.dumps(entry)
            # A digit changed in it would pass off a batch for another.
            file.write(f"{text}\t{zlib.crc32(text.encode()):08x}\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def to_disk(self, what: str) -> Iterator[None]:
        """Turn an operating-system error of the block into a message that says what to do.

        Raises:
            OutputError: `what` could not be written.
        """
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"Cannot write {what} to the feature store {self.folder.parent}: {error.strerror or error}. "
                "Finished batches are kept; free space (rwkvclip-eval cache clear) or choose another store "
                "with --cache DIR, then run the same command again."
            ) from error


class _Begun(BaseModel):
    """The first line of the first journal."""

    batch_size: int = Field(ge=1, strict=True)


class _Batch(BaseModel):
    """A line of a journal: a batch that is on disk."""

    start: int = Field(ge=0, strict=True)
    missing: dict[int, str]


_LINE: TypeAdapter[_Begun | _Batch] = TypeAdapter(_Begun | _Batch)


def _checked(line: bytes) -> bytes:
    """Return what a line says without the checksum behind it, which lines of before have not.

    Raises:
        ValueError: the checksum is another.
    """
    text, tab, checksum = line.partition(b"\t")
    if tab and checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("a line was changed")
    return text


def _lines(journal: Path) -> list[bytes]:
    """Return a journal's whole lines; one that a kill cut is taken off it, so that the next does not join it.

    Raises:
        ValueError: it is no file, or too large to be one of ours.
    """
    content = read_bytes(journal, limit=TEXT_LIMIT_BYTES, what="journal")
    whole, _, cut_short = content.rpartition(b"\n")
    if cut_short:
        with atomic_path(journal) as temporary:
            temporary.write_bytes(whole + b"\n" if whole else b"")
    return whole.split(b"\n") if whole else []


def _storable(text: str) -> str:
    """Return a text without the halves of characters that stand for bytes of odd file names."""
    return text.encode("utf-8", "backslashreplace").decode()
