"""Tables: CSV or parquet files with a column of images and columns of texts, each a kind.

The image is a path below the table's folder (`image`, `path`, `file`, `filepath`, `file_name`, …) or, in
parquet, the bytes of its file, alone or as {bytes, path} as Hugging Face writes them. A text column has a
text, a list of texts, or 77 token ids (parquet). Rows of one image that follow each other are one pair with
the texts of all. Texts are copied into the index, because no row of a table can be read alone; images in
parquet are read by row groups, so that small groups (100 rows) make reading them fast.
"""

from __future__ import annotations

import functools
import json
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.reading import IMAGE_LIMIT_BYTES, below, csv_rows
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, name_some, shortened
from rwkvclip_train.data.rows import NO_ROW
from rwkvclip_train.data.source import CONTEXT, wrong_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_train.data.formats.arrays import RowTexts
    from rwkvclip_train.data.recorder import Recorder

IMAGE_COLUMNS = ("image", "image_path", "path", "file_path", "filepath", "file_name", "filename", "file")
"""What the column with the image is called, first that there is."""
_ROWS_AT_ONCE = 256
MOST_ROWS = 10_000
"""Of one image."""
MOST_LETTERS = 16 << 20
"""Of the texts of one image; ids count as one."""


def scan_table(
    path: Path,
    recorder: Recorder,
    rows: RowTexts,
    on_bytes: Callable[[int], None],
    *,
    image_column: str = "",
    kinds: Sequence[str] = (),
) -> None:
    """Write the rows of a table into an index.

    Args:
        path: the table.
        recorder: of the index.
        rows: texts that stand in arrays beside it.
        on_bytes: called with how far the table is read.
        image_column: with the images; by default one of `IMAGE_COLUMNS`.
        kinds: columns of texts; by default all others that hold texts.

    Raises:
        DataNotFound: an image is not there.
        DamagedData: the table cannot be read, or two rows apart name one image.
        UserError: it has no such columns.
    """
    read = _parquet_rows if path.suffix == ".parquet" else _csv_rows
    size = path.stat().st_size
    group: list[dict[str, Any]] = []
    first, size_of_group = 0, 0
    last: object = None
    for number, share, row in read(path, image_column, tuple(kinds)):
        image = row[""]
        if group and (isinstance(image, int) or not image or image != last):
            _add(path, first, last, group, recorder, rows)
            on_bytes(int(share * size))
            group = []
        if not group:
            first, last, size_of_group = number, image, 0
        size_of_group += sum(_letters(value) for value in row.values())
        if len(group) >= MOST_ROWS or size_of_group > MOST_LETTERS:
            raise DamagedData(
                f"{path}, row {number}: the rows of one image ({shortened(ascii(image))}) that follow each "
                f"other are more than {MOST_ROWS:,}, or have more than {MOST_LETTERS:,} letters and ids."
            )
        group.append(row)
    if group:
        _add(path, first, last, group, recorder, rows)


def _letters(value: object) -> int:
    """Return about how much of texts and ids a cell holds."""
    if isinstance(value, list):
        return sum(len(item) if isinstance(item, str) else 1 for item in value)
    return len(value) if isinstance(value, str) else 0


def _csv_rows(
    path: Path, image_column: str, kinds: Sequence[str]
) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Yield line, share of the file, and the texts by column, the image under ""."""
    columns: list[str] = []
    for line, row in csv_rows(path):
        if not columns:
            image_column = _image_column(path, list(row), image_column)
            columns = [c for c in row if c != image_column and (not kinds or c in kinds)]
        yield line, 0.0, {"": row[image_column], **{column: row[column] for column in columns}}


def _image_column(path: Path, columns: Sequence[str], named: str) -> str:
    found = [named] if named in columns else [c for c in IMAGE_COLUMNS if not named and c in columns]
    if not found:
        wanted = named or f"an image column ({', '.join(IMAGE_COLUMNS)})"
        raise UserError(
            f"{path} has the columns {name_some(columns)}; expected {wanted}. Name it: --image-column NAME."
        )
    return found[0]


def _parquet_rows(
    path: Path, image_column: str, kinds: Sequence[str]
) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Yield row, share of the file, and the texts by column, the image (its size, if embedded) under ""."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            schema = file.schema_arrow
            image_column = _image_column(path, schema.names, image_column)
            _check_image_type(path, image_column, schema.field(image_column).type)
            columns = [
                field.name
                for field in schema
                if field.name != image_column
                and (not kinds or field.name in kinds)
                and (_is_text(field.type) or _is_ids(field.type))
            ]
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[image_column, *columns]):
                found = batch.to_pydict()
                for i in range(batch.num_rows):
                    row = {column: found[column][i] for column in columns}
                    row[""] = _image_of(found[image_column][i])
                    yield number, number / file.metadata.num_rows, row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DamagedData(f"{path} is cut off or damaged: {str(error)[:300]}. Fetch it again.") from error


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _check_image_type(path: Path, column: str, kind: Any) -> None:
    """Refuse a column of images that holds neither paths nor bytes.

    Raises:
        UserError: it does not.
    """
    import pyarrow.types as types

    parts = {"": kind}
    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        parts = {name: fields[name] for name in ("bytes", "path") if name in fields}
    wrong = [
        name
        for name, part in parts.items()
        if not types.is_null(part)
        and not (
            (name != "bytes" and _is_text(part) and not _is_listed(part))
            or (name != "path" and _is_bytes(part))
        )
    ]
    if wrong or not parts:
        raise UserError(
            f"{path}: the column {column} holds {shortened(str(kind))}; expected paths, bytes of image "
            "files, or a struct of `bytes` and `path`. Name another: --image-column NAME."
        )


def _is_listed(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind))


def _is_ids(kind: Any) -> bool:
    import pyarrow.types as types

    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(listed and types.is_integer(kind.value_type))


def _image_of(value: object) -> object:
    """Return the path of an image, or the number of its bytes where those are in the table."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") else value.get("path")
    return len(value) if isinstance(value, bytes) else value


def _add(
    path: Path,
    number: int,
    image: object,
    group: Sequence[dict[str, Any]],
    recorder: Recorder,
    rows: RowTexts,
) -> None:
    """Write the rows of one image."""
    name = image if isinstance(image, str) else str(number)
    spans, kinds = rows.next(name)
    for column in group[0]:
        bit = recorder.kind(column) if column else 0
        if not bit:
            continue
        values = [row[column] for row in group if row[column] is not None and row[column] != []]
        if values and isinstance(values[0], list) and any(isinstance(item, int) for item in values[0]):
            put = _ids(path, number, column, name, values, recorder)
            form = "ids"
        else:
            put, form = _texts(column, name, values, recorder), "list"
        if put is not None:
            spans.append((*put, recorder.column(form, column)))
            kinds |= bit
    if isinstance(image, int):
        recorder.add(name, number, image, spans, kinds)
        return
    if not isinstance(image, str) or not image:
        recorder.leave_out("no image", name)
        return
    file = below(path.parent, image, f"{path}, row {number}")
    try:
        state = file.stat()
    except OSError as error:
        raise DataNotFound(f"{path}, row {number}: cannot read {file}: {error.strerror}.") from error
    if not stat.S_ISREG(state.st_mode):
        raise DamagedData(f"{path}, row {number}: {file} is no file; expected the file of an image.")
    size = state.st_size
    if not 0 < size <= IMAGE_LIMIT_BYTES:
        recorder.leave_out("an image without bytes" if not size else "an image file too large", name)
        return
    recorder.add(name, NO_ROW, size, spans, kinds)


def _texts(column: str, name: str, values: list[Any], recorder: Recorder) -> tuple[int, int] | None:
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    texts = [text for text in texts if isinstance(text, str)]
    if not recorder.usable(column, texts or [""], name):
        return None
    return recorder.put_text(json.dumps(texts, ensure_ascii=False).encode("utf-8", "replace"))


def _ids(
    path: Path, number: int, column: str, name: str, values: list[list[int]], recorder: Recorder
) -> tuple[int, int] | None:
    kept = b""
    for value in values:
        ids = np.asarray(value)
        if ids.shape != (CONTEXT,) or ids.dtype.kind not in "iu":
            whole = sum(isinstance(item, int) for item in value)
            raise DamagedData(
                f"{path}, row {number}: expected {CONTEXT} whole numbers in {column}, found {whole} among "
                f"{len(value)} values."
            )
        if why := wrong_ids(ids):
            recorder.count_text(column, why, name)
        else:
            kept += ids.astype("<u2").tobytes()
    recorder.digest(kept)
    return recorder.put_text(kept) if kept else None


class TableImages:
    """Images in parquet files, read by row groups, the last of which are kept."""

    def __init__(self, paths: Sequence[Path], image_column: str) -> None:
        self._paths, self._image_column = paths, image_column
        self._group = functools.lru_cache(maxsize=2)(self._read_group)
        self._starts = functools.lru_cache(maxsize=1024)(self._read_starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return TableImages, (self._paths, self._image_column)

    def read(self, shard: int, row: int) -> bytes:
        """Return the bytes of the image in a row of a table.

        Raises:
            DamagedData: it cannot be read.
        """
        import pyarrow as pa

        path = self._paths[shard]
        try:
            starts = self._starts(shard)
            group = int(np.searchsorted(starts, row, side="right")) - 1
            value = self._group(shard, group)[row - int(starts[group])].as_py()
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DamagedData(f"{path}, row {row}: cannot be read: {str(error)[:300]}.") from error
        content = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DamagedData(f"{path}, row {row}: no image in the column {self._image_column}.")
        return content

    def _read_starts(self, shard: int) -> np.ndarray[Any, Any]:
        import pyarrow.parquet as pq

        with self._paths[shard].open("rb") as stream, pq.ParquetFile(stream) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return np.cumsum([0, *counts])

    def _read_group(self, shard: int, group: int) -> Any:
        import pyarrow.parquet as pq

        path = self._paths[shard]
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            image_column = _image_column(path, file.schema_arrow.names, self._image_column)
            return file.read_row_group(group, columns=[image_column]).column(0)
