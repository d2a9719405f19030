"""Per-sample tables of a run, read column by column, and brought into one order with another run's.

Axes: n rows, k entries of a list.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from rwkvclip_eval.errors import NAMES_SHOWN, OutputError, name_some
from rwkvclip_eval.printable import one_line
from rwkvclip_eval.records.reading import parsed
from rwkvclip_models.files import require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

Place = Path | zipfile.Path
"""Where predictions lie: in a run directory, or in a baseline file."""

MAX_ROWS = 10_000_000
"""Some 200 bytes of memory each."""
MAX_LIST = 100_000
"""Entries of a list column's row."""
MAX_CELLS = 1_000_000_000
MAX_TEXT = 2000
"""Bytes of a row's texts, on average: keys and digests, of which a short file can hold very long ones."""


class _Kind(NamedTuple):
    """What a column of numbers holds.

    Attributes:
        low: least number.
        high: largest number.
        whole: whether they are whole numbers.
        listed: whether each row is a list.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    listed: bool = False


MAX_CLASS = 10_000_000
_CLASS = _Kind(0, MAX_CLASS, whole=True)
_NUMBERS = {
    "label": _CLASS,
    "labels": _Kind(-1, 1, whole=True, listed=True),
    "prediction": _CLASS,
    "top_ids": _CLASS._replace(listed=True),
    "top_logits": _Kind(listed=True),
    "label_logit": _Kind(),
    "log_sum_exp": _Kind(),
    "model_log_sum_exp": _Kind(),
    "rank": _Kind(1, 10**12, whole=True),
    "caption_index": _Kind(0, 10**9, whole=True),
    "shots": _Kind(1, 10**9, whole=True),
    "seed": _Kind(0, 2**63, whole=True),
    "hit_5": _Kind(0, 1, whole=True),
    "score": _Kind(),
    "scores": _Kind(listed=True),
}

_Names = Annotated[list[Annotated[str, Field(max_length=20_000)]], Field(max_length=1_000_000)]
_TEXTS = ("key", "content_id", "caption_id")
KNOWN_COLUMNS = (*_TEXTS, *_NUMBERS)
"""Those that tasks of ours write of samples."""
_AGAIN = "Something else wrote or cut this file: delete it and run the same command again."


class SamplesDiffer(OutputError):
    """Two runs were not judged on the same samples; the text says in what."""


@dataclass(frozen=True)
class Table:
    """Some columns of one table of predictions.

    Attributes:
        path: where it lies.
        columns: name → [n], or [n, k] of a list column; texts stay as they are stored.
        num_rows: n.
        class_names: in label order; nothing in predictions of before they were kept.
    """

    path: Place
    columns: Mapping[str, Any]
    num_rows: int
    class_names: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column of numbers.

        Raises:
            OutputError: the table has none of this name.
        """
        if name not in self.columns:
            raise OutputError(f"{self.path} has no column {name!r} of the kind expected. {_AGAIN}")
        found: NDArray[Any] = self.columns[name]
        return found

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number where names were not kept."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else f"class {label}"

    def codes(self, name: str) -> NDArray[np.int64]:
        """Return a column of texts as [n] numbers, from 0 in order of appearance."""
        codes: NDArray[Any] = self.columns[name].dictionary_encode().indices.to_numpy(zero_copy_only=False)
        return codes.astype(np.int64)

    def texts(self, name: str) -> set[str]:
        """Return the different texts of a column."""
        return {text for text in self.columns[name].unique().to_pylist() if text is not None}

    def rows(self, chosen: NDArray[Any]) -> Table:
        """Return the rows `chosen`, by number or by a mask."""
        import pyarrow as pa

        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        columns = {
            name: column[numbers] if isinstance(column, np.ndarray) else column.take(pa.array(numbers))
            for name, column in self.columns.items()
        }
        return Table(self.path, columns, len(numbers), self.class_names)


@contextlib.contextmanager
def open_table(path: Place, *, coded: bool = False) -> Iterator[pq.ParquetFile]:
    """Yield an open parquet file.

    Args:
        path: where it lies.
        coded: read texts as numbers of a list that holds each once, as the file does: a text of a megabyte
            that stands in every row takes a megabyte.

    Raises:
        OutputError: there is no such file, it is no table, or has too many rows or cells.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(path, Path):
        require_regular(path, "predictions", error=OutputError)
    elif not path.is_file():
        raise OutputError(f"Cannot read the predictions {path}: the file holds none of this name.")
    try:
        source = path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
        names = _text_columns(source) if coded else None
        with pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=names) as file:
            num_rows = file.metadata.num_rows
            if num_rows > MAX_ROWS:
                raise OutputError(f"{path} has {num_rows} rows; at most {MAX_ROWS} are compared.")
            yield file
    except (OutputError, MemoryError):
        raise
    except Exception as error:  # the library raises what it likes on a file that is none
        raise OutputError(f"{path} is not a table of predictions ({error!r}). {_AGAIN}") from error


def _text_columns(source: Any) -> list[str]:
    import pyarrow.parquet as pq
    import pyarrow.types as kinds

    schema = pq.read_schema(source)
    if not isinstance(source, Path):
        source.seek(0)
    return [one.name for one in schema if kinds.is_string(one.type) or kinds.is_large_string(one.type)]


def read_table(path: Place, names: Sequence[str]) -> Table:
    """Return those columns of `names` that a parquet file has.

    Raises:
        OutputError: there is no such file, it is no table, too large, or a column holds something else than
            texts or finite numbers.
    """
    with open_table(path, coded=True) as file:
        there = [name for name in names if name in file.schema_arrow.names]
        _require_room(path, file, there)
        table = file.read(columns=there)
        table.validate(full=True)
        table = _spelt_out(path, table)
        kept = (file.schema_arrow.metadata or {}).get(b"class_names")
    if table.num_rows == 0:
        raise OutputError(f"{path} holds no rows. {_AGAIN}")
    columns = {name: _column(path, name, table[name].combine_chunks()) for name in there}
    class_names: list[str] = [] if kept is None else parsed(_Names, kept, f"{path}: class names do not fit")
    if kept is not None and not class_names and "label" in columns:
        raise OutputError(f"{path}: the list of class names is empty. {_AGAIN}")
    return Table(path, columns, table.num_rows, tuple(map(one_line, class_names)))


def check_bytes(path: Path) -> None:
    """Read every column of a parquet file, whatever it holds.

    Raises:
        OutputError: there is no such file, it is no table, or damaged.
    """
    with open_table(path, coded=True) as file:
        for batch in file.iter_batches():
            batch.validate(full=True)


def _require_room(path: Place, file: pq.ParquetFile, names: Sequence[str]) -> None:
    """Raise where columns would hold more numbers than are compared; a short file can say so many."""
    import pyarrow.types as kinds

    types = [file.schema_arrow.field(name).type for name in names]
    widths = [one.list_size if kinds.is_fixed_size_list(one) else 1 for one in types]
    if (cells := file.metadata.num_rows * sum(widths)) > MAX_CELLS:
        raise OutputError(f"{path} has {cells} cells; at most {MAX_CELLS} are compared.")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    texts = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in _TEXTS)
    _require_few_letters(path, texts, file.metadata.num_rows)


def _spelt_out(path: Place, table: pa.Table) -> pa.Table:
    """Return a table with its texts in every row, after counting what they take so.

    Raises:
        OutputError: they take too much.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    total = 0
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if not kinds.is_dictionary(column.type) or not kinds.is_string(column.type.value_type):
            continue
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
            total += pc.sum(lengths.cast(pa.int64())).as_py() or 0
        _require_few_letters(path, total, table.num_rows)
        table = table.set_column(place, name, column.cast(pa.string()))
    return table


def _require_few_letters(path: Place, num_bytes: int, num_rows: int) -> None:
    # What a table's first page takes is none of its rows'.
    if num_bytes > MAX_TEXT * num_rows + (1 << 20):
        raise OutputError(
            f"{path} holds {num_bytes} bytes of texts in {num_rows} rows; at most {MAX_TEXT} a row are "
            "compared."
        )


def _column(path: Place, name: str, column: pa.Array) -> Any:
    import pyarrow as pa
    import pyarrow.types as kinds

    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    if name in _TEXTS:
        if not kinds.is_string(column.type):
            raise OutputError(f"{path}: column {name!r} holds {column.type}, expected texts. {_AGAIN}")
        return column
    kind, width = _NUMBERS[name], 0
    if kind.listed is not kinds.is_fixed_size_list(column.type):
        expected = "lists of one length" if kind.listed else "one number a row"
        raise OutputError(f"{path}: column {name!r} holds {column.type}, expected {expected}. {_AGAIN}")
    if kind.listed:
        width = column.type.list_size
        if not 0 < width <= MAX_LIST or column.null_count:
            raise OutputError(f"{path}: column {name!r} holds lists of {width}, or none. {_AGAIN}")
        column = column.flatten()
    whole = kinds.is_integer(column.type) or kinds.is_boolean(column.type)
    if not (whole or (kinds.is_floating(column.type) and not kind.whole)):
        expected = "whole numbers" if kind.whole else "numbers"
        raise OutputError(f"{path}: column {name!r} holds {column.type}, expected {expected}. {_AGAIN}")
    if column.null_count:
        raise OutputError(f"{path}: column {name!r} lacks {column.null_count} values. {_AGAIN}")
    found = column.to_numpy(zero_copy_only=False)
    if kinds.is_floating(column.type) and not np.isfinite(found).all():
        raise OutputError(f"{path}: column {name!r} holds numbers that are not finite. {_AGAIN}")
    if len(found) and not kind.low <= found.min() <= found.max() <= kind.high:
        raise OutputError(
            f"{path}: column {name!r} holds numbers beyond {kind.low} and {kind.high}. {_AGAIN}"
        )
    return found.reshape(-1, width) if width else found


def in_one_order(
    baseline: Table, candidate: Table, targets: Sequence[str], within: Sequence[str] = (), *, by: str
) -> tuple[Table, Table]:
    """Return both tables in one order of rows, after checking that they are of the same samples.

    Args:
        baseline: a table.
        candidate: the other run's.
        targets: columns that say what a sample should come out as: they must agree, sample by sample.
        within: further columns that tell rows of one sample apart (`seed`).
        by: the column that tells samples: `key` or `content_id`.

    Raises:
        SamplesDiffer: samples or targets differ; the text says in what.
    """
    sides = baseline, candidate
    names, ids = _shared_codes(sides, by)
    extra = [
        _shared_codes(sides, name)[1] if name in _TEXTS else (sides[0][name], sides[1][name])
        for name in within
    ]
    if not _equal(*ids) or not all(_equal(*pair) for pair in extra):
        orders = [np.lexsort((*(pair[i] for pair in reversed(extra)), ids[i])) for i in range(2)]
        _require_same(ids, names, sides)
        ordered = ids[0][orders[0]], ids[1][orders[1]]
        for name, pair in zip(within, extra, strict=True):
            differing = np.flatnonzero(pair[0][orders[0]] != pair[1][orders[1]])
            if len(differing):
                shown = _some_names(names, ordered[0], differing)
                raise SamplesDiffer(f"the rows of a sample have other values of {name!r}, as {shown}")
        sides, ids = (baseline.rows(orders[0]), candidate.rows(orders[1])), ordered
    for name in targets:
        one, other = sides[0][name], sides[1][name]
        if one.shape[1:] != other.shape[1:]:
            raise SamplesDiffer(f"{name} are lists of {one.shape[1]} and of {other.shape[1]}")
        differing = np.flatnonzero((one != other).reshape(len(one), -1).any(axis=1))
        if len(differing):
            shown = _some_names(names, ids[0], differing)
            raise SamplesDiffer(f"{len(differing)} rows have another {name}, as {shown}")
    return sides


def _shared_codes(
    sides: tuple[Table, Table], name: str
) -> tuple[pa.Array, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the texts of a column of both tables, and each table's rows as numbers of them.

    Raises:
        SamplesDiffer: a table does not have it, or not in every row.
    """
    import pyarrow as pa

    for side in sides:
        if name not in side.columns or side.columns[name].null_count:
            what = "no" if name not in side.columns else f"{side.columns[name].null_count} rows without a"
            raise SamplesDiffer(
                f"{side.path} has {what} {name}, by which samples of different copies are told apart: run it "
                "again with this version, over data that can be read"
            )
    encoded = pa.concat_arrays([side.columns[name] for side in sides]).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, (codes[: sides[0].num_rows], codes[sides[0].num_rows :])


def _some_names(names: pa.Array, ids: NDArray[np.int64], rows: NDArray[Any]) -> str:
    return _first(names, np.unique(ids[rows]))


def _first(names: pa.Array, ids: NDArray[np.int64]) -> str:
    """Return the names of the first few of `ids`, and how many more there are."""
    shown = name_some(str(names[int(one)]) for one in ids[:NAMES_SHOWN])
    return shown + (f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else "")


def _require_same(ids: tuple[NDArray[Any], NDArray[Any]], names: pa.Array, sides: Sequence[Table]) -> None:
    """Raise unless both sides hold each sample as often."""
    counts = [np.bincount(side, minlength=len(names)) for side in ids]
    surplus = counts[0].astype(np.int64) - counts[1]
    if not surplus.any():
        return
    told = []
    for sign, whose in ((1, "baseline"), (-1, "candidate")):
        only = np.flatnonzero(sign * surplus > 0)
        if len(only):
            told.append(
                f"{len(only)} of {sides[sign < 0].num_rows} only in the {whose} ({_first(names, only)})"
            )
    raise SamplesDiffer(
        f"the samples differ: {'; '.join(told)}. Images encoded again are other images: their bytes differ"
    )


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bool(len(one) == len(other) and (one == other).all())
