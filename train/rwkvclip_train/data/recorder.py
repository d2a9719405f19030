"""Writes an index shard by shard, in constant memory; a killed build goes on at the last whole shard.

While it is being made, the index is a hidden folder beside its name, with a journal: a line for each shard
that is in the files for good, with how long they were then.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import warnings
from array import array
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from rwkvclip_eval.errors import DamagedData, DataWarning, OutputError, UserError, name_some
from rwkvclip_models.disk import file_digest, make_folder, sync_file, sync_folder, write_text
from rwkvclip_train.data.about import (
    ABOUT,
    FILES,
    MOST_COLUMNS,
    MOST_KINDS,
    VERSION,
    About,
    Column,
    FileEntry,
    ShardEntry,
    fingerprint,
)
from rwkvclip_train.data.index import names_in
from rwkvclip_train.data.journal import (
    JOURNAL,
    LOCK,
    Counts,
    State,
    append_state,
    described,
    own_file,
    read_states,
    refuse_strangers,
    take_lock,
    write_states,
)
from rwkvclip_train.data.source import wrong_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_PAIR = struct.Struct("<QQQIII")
_SPAN = struct.Struct("<QIH")
_FLUSH_BYTES = 1 << 20
_WITHOUT = "in the list of --without"


class Recorder:
    """An index that is being written; use it as a context, for the lock that it holds.

    Args:
        folder: what the index will be called.
        settings: all that the outcome depends on beside the shards; a build with others starts anew.
        kinds: the only kinds of text to keep; empty: all.
        longest: characters of a text that is drawn.
        without: keys (`SHARD:NAME`) of samples to leave out.

    Attributes:
        num_pairs: pairs so far.
        done: shards that an earlier, killed build has left, in order.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        kinds: Sequence[str] = (),
        longest: int,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.folder, self.longest = folder, longest
        self.num_pairs = 0
        self.done: list[ShardEntry] = []
        self._only, self._without = frozenset(kinds), without
        self._partial = folder.parent / f".{folder.name}.partial"
        self._settings = described(settings)
        self._kinds: dict[str, int] = {}
        self._columns: dict[tuple[str, str, int, str], int] = {}
        self._counts = Counts()
        self._buffers = {name: bytearray() for name in FILES}
        self._sizes = dict.fromkeys(FILES, 0)
        self._streams: dict[str, BinaryIO] = {}
        self._lock: int = -1
        self._shard: ShardEntry | None = None
        self._hashes = array("q")
        self._digest = hashlib.sha256()

    def __enter__(self) -> Recorder:
        try:
            refuse_strangers(self.folder)
            refuse_strangers(self._partial)
            make_folder(self._partial)
            self._lock = take_lock(self._partial, self.folder)
            states = read_states(self._partial, self._settings)
            for name in FILES:
                stream = open(self._partial / name, "ab", buffering=0, opener=own_file)
                self._streams[name] = stream
                os.ftruncate(stream.fileno(), states[-1].sizes[name] if states else 0)
            if states:
                self._restore(states)
            write_states(self._partial, self._settings, states)
        except OSError as error:
            self._close()
            raise self._unwritable(error) from error
        except BaseException:  # Ctrl-C too: no file stays open.
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _restore(self, states: list[State]) -> None:
        last = states[-1]
        self.done = [state.shard for state in states]
        self.num_pairs, self._sizes = last.num_pairs, dict(last.sizes)
        self._kinds = {kind: number for number, kind in enumerate(last.kinds)}
        self._columns = {(c.form, c.kind, c.place, c.file): n for n, c in enumerate(last.columns)}
        self._counts = Counts(last)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"Cannot write the index {self.folder}: {error.strerror or error}. The shards that were read are "
            "kept; free space, or give another folder by --index, and run the same command again."
        )

    def begin(self, shard: ShardEntry) -> None:
        """Go on to the next shard."""
        self._shard, self._before = shard, self.num_pairs
        self._hashes = array("q")
        self._digest = hashlib.sha256()

    def end(self, num_samples: int) -> None:
        """Keep the shard for good.

        Args:
            num_samples: in it, those left out too.

        Raises:
            DamagedData: two samples of it have one key.
            OutputError: the disk is full.
        """
        assert self._shard is not None
        self._refuse_twice()
        kept = self._shard.model_copy(
            update={
                "num_pairs": self.num_pairs - self._before,
                "num_samples": num_samples,
                "digest": self._digest.hexdigest(),
            }
        )
        try:
            for name in FILES:
                self._flush(name)
                os.fsync(self._streams[name].fileno())
            state = State(shard=kept, sizes=dict(self._sizes), num_pairs=self.num_pairs, **self._said())
            append_state(self._partial, state)
        except OSError as error:
            raise self._unwritable(error) from error
        self.done.append(kept)
        self._shard = None

    def _said(self) -> dict[str, Any]:
        return {
            "kinds": tuple(self._kinds),
            "columns": self._described(),
            "not_drawn": dict(self._counts.not_drawn),
            "left_out": dict(self._counts.left_out),
            "examples": self._counts.examples,
        }

    def _described(self) -> tuple[Column, ...]:
        names = ("form", "kind", "place", "file")
        return tuple(Column.model_validate(dict(zip(names, c, strict=True))) for c in self._columns)

    def finish(self, layout: str, arrays: Iterable[ShardEntry], image_column: str = "") -> About:
        """Give the index its name and return what it says of itself.

        Raises:
            DamagedData: there is no pair in it.
            OutputError: it cannot be written.
        """
        if not self.num_pairs:
            reasons = self._counts.summary()
            raise DamagedData(
                f"{self.folder.parent} holds no pair of an image and a usable text"
                f"{f': {reasons}' if reasons else ''}."
            )
        if (missed := len(self._without) - self._counts.left_out.get(_WITHOUT, 0)) > 0:
            warnings.warn(
                f"{missed} of the {len(self._without)} keys in the list of --without are of no pair here; a "
                "key is SHARD:NAME, as `data stats --broken` writes it.",
                DataWarning,
                stacklevel=2,
            )
        self._put("pairs.bin", _PAIR.pack(0, self._keys_end, self._num_spans, 0, 0, 0))
        try:
            for name in FILES:
                self._flush(name)
                sync_file(self._partial / name)
            files = {
                name: FileEntry(size_bytes=self._sizes[name], sha256=file_digest(self._partial / name))
                for name in FILES
            }
            arrays = tuple(arrays)
            about = About(
                version=VERSION,
                settings=self._settings,
                layout=layout,  # type: ignore[arg-type]  # one of the layouts
                image_column=image_column,
                shards=tuple(self.done),
                arrays=arrays,
                num_pairs=self.num_pairs,
                longest=self.longest,
                files=files,
                fingerprint=fingerprint(self._kinds, self._described(), (*self.done, *arrays), files),
                **self._said(),
            )
            write_text(self._partial / ABOUT, about.model_dump_json(indent=1) + "\n")
            if self.folder.exists():
                # A folder takes no other's place: until the next line there is none of that name.
                shutil.rmtree(self.folder)
            self._partial.rename(self.folder)
            (self.folder / JOURNAL).unlink()
            (self.folder / LOCK).unlink(missing_ok=True)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        return about

    def kind(self, name: str) -> int:
        """Return the bit of a kind of text, 0 where it is not kept.

        Raises:
            UserError: there are too many kinds.
        """
        if self._only and name not in self._only:
            return 0
        number = self._kinds.setdefault(name, len(self._kinds))
        if number >= MOST_KINDS:
            raise UserError(
                f"{self._where('')} has texts of more than {MOST_KINDS} kinds ({name_some(self._kinds)}). "
                "Say which to keep: --kinds NAME,NAME."
            )
        return 1 << number

    def column(self, form: str, kind: str = "", place: int = 0, file: str = "") -> int:
        """Return the number of a column.

        Raises:
            UserError: there are too many.
        """
        number = self._columns.setdefault((form, kind, place, file), len(self._columns))
        if number >= MOST_COLUMNS:
            raise UserError(f"More than {MOST_COLUMNS} columns of text; name fewer: --kinds NAME,NAME.")
        return number

    def usable(self, kind: str, texts: Iterable[str], name: str) -> bool:
        """Return whether one of the texts of a kind is fit to be drawn; count those that are not.

        Args:
            kind: theirs.
            texts: of one sample.
            name: of the sample, in the shard.
        """
        found = False
        for text in texts:
            self._digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
            if why := wrong_text(text, self.longest):
                self.count_text(kind, why, name)
            else:
                found = True
        return found

    def digest(self, content: bytes) -> None:
        """Let the fingerprint know of texts in the shard."""
        self._digest.update(content)

    def count_text(self, kind: str, why: str, name: str) -> None:
        """Count a text that is not drawn."""
        if not self._only or kind in self._only:
            self._counts.add(self._counts.not_drawn, f"{kind}: {why}", self._where(name))

    def leave_out(self, why: str, name: str) -> None:
        """Count a sample that is no pair of the index."""
        self._counts.add(self._counts.left_out, why, self._where(name))

    def _where(self, name: str) -> str:
        return f"{self._shard.name if self._shard else self.folder.parent}:{name}".removesuffix(":")

    def put_text(self, content: bytes) -> tuple[int, int]:
        """Keep a text that has no place of its own; return where, and its length."""
        offset = self._sizes["texts.bin"] + len(self._buffers["texts.bin"])
        self._put("texts.bin", content)
        return offset, len(content)

    def add(
        self, name: str, offset: int, length: int, spans: Iterable[tuple[int, int, int]], kinds: int
    ) -> None:
        """Add a sample of the shard, or count it as left out where it has no usable text.

        Args:
            name: unique in the shard.
            offset: of the image or record, bytes; of an image in a table, its row.
            length: bytes.
            spans: (offset, length, column) of its texts.
            kinds: a bit for each kind with a usable text.

        Raises:
            DamagedData: the image has more bytes than an index holds, or none.
        """
        if self._without and self._where(name) in self._without:
            self.leave_out(_WITHOUT, name)
            return
        if not kinds:
            self.leave_out("no usable text", name)
            return
        if not 0 < length < 1 << 32:
            raise DamagedData(f"{self._where(name)}: an image of {length} bytes.")
        assert self._shard is not None
        encoded = name.encode("utf-8", "replace")
        self._hashes.append(hash(encoded))
        row = _PAIR.pack(offset, self._keys_end, self._num_spans, length, len(self.done), kinds)
        self._put("pairs.bin", row)
        self._put("keys.bin", encoded)
        self._put("spans.bin", b"".join(_SPAN.pack(*span) for span in spans))
        self.num_pairs += 1

    @property
    def _keys_end(self) -> int:
        return self._sizes["keys.bin"] + len(self._buffers["keys.bin"])

    @property
    def _num_spans(self) -> int:
        return (self._sizes["spans.bin"] + len(self._buffers["spans.bin"])) // _SPAN.size

    def _put(self, name: str, content: bytes) -> None:
        buffer = self._buffers[name]
        buffer += content
        if len(buffer) > _FLUSH_BYTES:
            try:
                self._flush(name)
            except OSError as error:
                raise self._unwritable(error) from error

    def _flush(self, name: str) -> None:
        buffer = self._buffers[name]
        view = memoryview(buffer)
        written = 0
        while written < len(view):
            written += self._streams[name].write(view[written:]) or 0
        view.release()
        self._sizes[name] += len(buffer)
        buffer.clear()

    def _refuse_twice(self) -> None:
        """Refuse a shard of which two samples have one name.

        Raises:
            DamagedData: they have.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        if not len(alike):
            return
        for name in ("keys.bin", "pairs.bin"):
            self._flush(name)
        name_of = names_in(self._partial, self._before)
        twice = [name_of(order[i]) for i in alike if name_of(order[i]) == name_of(order[i + 1])]
        if twice:
            raise DamagedData(
                f"{self._where('')}: {len(twice)} samples have the key of another: {name_some(twice)}. Every "
                "sample needs its own, and its files must stand together."
            )
