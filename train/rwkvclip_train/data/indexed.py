"""Pairs that are read from shards by an index."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.reading import below, open_image, read_image
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_train.data.about import ABOUT
from rwkvclip_train.data.formats.arrays import ALL_SHARDS, TokenArray
from rwkvclip_train.data.formats.record_io import LABELS_END, labels_at, parse_record
from rwkvclip_train.data.formats.table import TableImages
from rwkvclip_train.data.formats.tar import texts_of
from rwkvclip_train.data.index import Files
from rwkvclip_train.data.rows import NO_ROW
from rwkvclip_train.data.source import CONTEXT, image_damage, unreadable_image_errors, wrong_ids, wrong_text

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from rwkvclip_train.data.about import Column
    from rwkvclip_train.data.index import Index, PairRow
    from rwkvclip_train.data.source import Text


class IndexedPairs:
    """A `PairSource` over shards and their index.

    Args:
        index: opened.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        about = index.about
        self._paths = [index.root / shard.name for shard in about.shards]
        self._files = Files(self._paths)
        self._tables = TableImages(self._paths, about.image_column)
        self._array = functools.lru_cache(maxsize=64)(TokenArray)

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexedPairs, (self.index,)

    @property
    def paths(self) -> list[Path]:
        """Shards, token arrays and the files of the index."""
        about = self.index.about
        arrays = [self.index.root / entry.name for entry in about.arrays]
        return [*self._paths, *arrays, *(self.index.folder / name for name in (ABOUT, *about.files))]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of places and texts."""
        return self.index.about.fingerprint

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of text that some of the pairs have."""
        return self.index.about.kinds

    def __len__(self) -> int:
        return len(self.index)

    def key(self, index: int) -> str:
        """Return `SHARD:KEY`."""
        return self.index.key(index)

    def keys(self) -> Iterator[str]:
        """Yield the names of all pairs."""
        return self.index.keys()

    def lacking(self, kinds: Sequence[str]) -> Sequence[int]:
        """Return which pairs have a text of none of `kinds`."""
        bits = sum(1 << self.kinds.index(kind) for kind in set(kinds) & set(self.kinds))
        found = np.flatnonzero((self.index.pairs["kinds"][:-1] & np.uint32(bits)) == 0)
        return found  # type: ignore[return-value]  # an array is read as a sequence

    def content(self, index: int) -> bytes:
        """Return the bytes of the image file.

        Raises:
            DamagedData: they cannot be read, or are others than were indexed.
            DataNotFound: the file or its disk cannot be read now.
        """
        row, layout = self.index.row(index), self.index.about.layout
        if layout == "table":
            return self._table_image(index, row)
        content = self._files.read(row.shard, row.offset, row.length)
        return content if layout == "tar" else parse_record(content, self.key(index)).image

    def _table_image(self, index: int, row: PairRow) -> bytes:
        path, name = self._paths[row.shard], self.index.name(index)
        if row.offset != NO_ROW:
            content = self._tables.read(row.shard, row.offset)
        else:
            file = below(path.parent, name, str(path))
            try:
                content = read_image(file)
            except OSError as error:
                raise DataNotFound(f"Cannot read {file}: {error.strerror}. Check the disk.") from error
        if len(content) != row.length:
            raise DamagedData(
                f"{self.key(index)}: the image has {len(content)} bytes, {row.length} when it was indexed; "
                "index the folder again."
            )
        return content

    def image(self, index: int) -> Image:
        """Return the image, of which only the header is decoded yet.

        Raises:
            DamagedData: it is no image, or one of too many pixels.
            DataNotFound: the file or its disk cannot be read now.
        """
        content = self.content(index)
        try:
            return open_image(content)
        except unreadable_image_errors() as error:
            raise image_damage(error, self.key(index)) from error

    def texts(self, index: int) -> Mapping[str, Sequence[Text]]:
        """Return the usable texts of a pair by kind; those of a kind are read when they are asked for."""
        return _Texts(self, index)

    def texts_of_kind(self, index: int, row: PairRow, kind: str) -> list[Text]:
        """Return the usable texts of one kind.

        Raises:
            DamagedData: they cannot be read, or are others than were indexed.
        """
        found: list[Text] = []
        columns = self.index.about.columns
        for offset, length, number in row.spans.tolist():
            column = columns[number]
            if column.kind not in ("", kind):
                continue
            try:
                found += self._read(row, column, offset, length, kind)
            except UserError:
                raise
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise DamagedData(
                    f"{self.key(index)}: the text of kind {kind} cannot be read ({error}); index the folder "
                    "again."
                ) from error
        if not found:
            raise DamagedData(
                f"{self.key(index)} has no text of kind {kind} where it had one when it was indexed; index "
                "the folder again."
            )
        return found

    def _read(self, row: PairRow, column: Column, offset: int, length: int, kind: str) -> list[Text]:
        form = column.form
        if form == "array":
            path = self.index.root / ALL_SHARDS if column.file else self._paths[row.shard].with_suffix(".npy")
            return [self._array(path).ids(offset, column.place)]
        if form == "label":
            labels = self._labels(row)
            ids = labels[column.place * CONTEXT : (column.place + 1) * CONTEXT].astype(np.int64)
            return [] if wrong_ids(ids) else [ids]
        if form in ("ids", "list"):
            content = self.index.text_bytes(offset, length)
            if form == "ids":
                return list(np.frombuffer(content, dtype="<u2").astype(np.int64).reshape(-1, CONTEXT))
            texts = json.loads(content)
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError("no list of texts")
        else:
            content = self._files.read(row.shard, offset, length)
            texts = [t for name, some in texts_of(content, form, column.kind) if name == kind for t in some]
        return [text for text in texts if not wrong_text(text, self.index.about.longest)]

    def _labels(self, row: PairRow) -> np.ndarray[Any, np.dtype[np.float32]]:
        start = self._files.read(row.shard, row.offset, min(row.length, LABELS_END))
        labels = labels_at(start)
        if labels is None:
            content = self._files.read(row.shard, row.offset, row.length)
            labels = parse_record(content, str(self._paths[row.shard])).labels
        return labels


class _Texts(Mapping[str, "Sequence[Text]"]):
    def __init__(self, pairs: IndexedPairs, index: int) -> None:
        self._pairs, self._index, self._row = pairs, index, pairs.index.row(index)

    def _kinds(self) -> list[str]:
        return [kind for bit, kind in enumerate(self._pairs.kinds) if self._row.kinds >> bit & 1]

    def __getitem__(self, kind: str) -> Sequence[Text]:
        if kind not in self._kinds():
            raise KeyError(kind)
        return self._pairs.texts_of_kind(self._index, self._row, kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds())

    def __len__(self) -> int:
        return len(self._kinds())
