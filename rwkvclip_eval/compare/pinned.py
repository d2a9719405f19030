"""A pinned baseline: what a comparison reads of one model of a run, in one file without pictures.

    rwkvclip-eval baseline 1 SHA256             a line; the digest is of all that follows
    results.jsonl                               a zip of these, whose tables are compressed themselves
    predictions/UNIT/TABLE.parquet

Records and tables are those of the run directory, tables with the columns alone that are compared, so that a
comparison with the file and one with the run say the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.compare.measured import (
    CLASSIFICATION_COLUMNS,
    FEW_SHOT_COLUMNS,
    MULTILABEL_COLUMNS,
    RETRIEVAL_COLUMNS,
)
from rwkvclip_eval.compare.tables import open_table
from rwkvclip_eval.errors import OutputError, shown
from rwkvclip_eval.records.metrics import ROC_AUC
from rwkvclip_eval.records.reading import parsed_records
from rwkvclip_models.disk import atomic_path
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.compare.tables import Place
    from rwkvclip_eval.records.schema import Record

FORMAT_VERSION = 1
ENDING = ".baseline"
LIMIT_BYTES = 256 << 20
_MAX_MEMBERS = 20_000
_BEGINS = b"rwkvclip-eval baseline "
_HEAD = re.compile(_BEGINS + rb"(\d{1,9}) ([0-9a-f]{64})\n")
_MADE_BY = "`rwkvclip-eval compare RUN --write-baseline FILE` writes one"
_RESULTS = "results.jsonl"
_TABLES = ("predictions", "image_to_text", "text_to_image")
_OF_AREAS = ("top_logits", "score")
"""Columns that only areas under curves are made of."""
_COLUMNS = {*CLASSIFICATION_COLUMNS, *FEW_SHOT_COLUMNS, *MULTILABEL_COLUMNS, *RETRIEVAL_COLUMNS}


def write_pinned(path: Path, records: Sequence[Record], folders: Mapping[str, Place]) -> int:
    """Write a baseline file atomically; return its size in bytes. The same content gives the same bytes.

    Args:
        path: the file; an older baseline there is replaced.
        records: of one model.
        folders: unit → where its predictions lie.

    Raises:
        OutputError: it cannot be written, something else than a baseline is there, predictions are damaged,
            or all is too much to be read again.
    """
    _require_replaceable(path)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as archive:
        lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False, allow_nan=False) for r in records]
        # A fixed date: that of the zip's epoch.
        archive.writestr(zipfile.ZipInfo(_RESULTS), "".join(f"{line}\n" for line in lines).encode())
        for unit, folder in folders.items():
            areas = any(r.unit == unit and r.metric.startswith(ROC_AUC.name) for r in records)
            columns = _COLUMNS if areas else _COLUMNS - {*_OF_AREAS}
            for name in _TABLES:
                source = folder / f"{name}.parquet"
                if source.exists():
                    member = zipfile.ZipInfo(f"predictions/{unit}/{name}.parquet")
                    archive.writestr(member, _reduced(source, columns))
    content = body.getvalue()
    head = _BEGINS + f"{FORMAT_VERSION} {hashlib.sha256(content).hexdigest()}\n".encode()
    if len(head) + len(content) > LIMIT_BYTES:
        raise OutputError(
            f"The baseline would have {len(content)} bytes; at most {LIMIT_BYTES} are read again. Pin a run "
            "of fewer units."
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(head + content)
    return len(head) + len(content)


def _require_replaceable(path: Path) -> None:
    """Refuse a place where there is a file that no comparison wrote."""
    # Folders, pipes and devices are refused by what writes; a link is replaced, not what it leads to.
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(len(_BEGINS))
        if begins != _BEGINS:
            raise OutputError(f"{path} is there and no baseline: it was left as it is. Choose another name.")


def _reduced(path: Place, columns: set[str]) -> bytes:
    """Return a table as parquet, with those of `columns` that it has."""
    import pyarrow.parquet as pq

    with open_table(path) as file:
        there = [name for name in file.schema_arrow.names if name in columns]
        table = file.read(columns=there)
    written = io.BytesIO()
    pq.write_table(table, written, compression="zstd")
    return written.getvalue()


def read_pinned(path: Path) -> tuple[list[Record], Place]:
    """Return a baseline file's records, and the place that holds its predictions as a run directory does.

    Raises:
        OutputError: the file is none, of another version, or not as it was written.
    """
    content = read_bytes(path, limit=LIMIT_BYTES, what="baseline", error=OutputError)
    head = _HEAD.match(content)
    if head is None:
        raise OutputError(f"{path} is no baseline file; {_MADE_BY}, and run directories are folders.")
    if int(head[1]) != FORMAT_VERSION:
        raise OutputError(
            f"{path} is a baseline of format {int(head[1])}; this version reads {FORMAT_VERSION}: "
            f"{_MADE_BY} of this one."
        )
    body = content[head.end() :]
    del content
    # Each takes more room as an object than in the file.
    if body.count(b"PK\x01\x02") > _MAX_MEMBERS:
        raise OutputError(f"{path} names more than {_MAX_MEMBERS} tables; at most so many are read.")
    digest = hashlib.sha256(body).hexdigest()
    if digest != head[2].decode():
        raise OutputError(
            f"{path} is not as it was written: its content has the SHA-256 {digest[:12]}…, its first line "
            f"says {head[2].decode()[:12]}…. Fetch or write it again."
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        members = archive.infolist()
        strange = any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members)
        # Bytes before, between and behind the members would be carried along unseen.
        strange = strange or sum(map(_bytes_of, members)) + _END_BYTES != len(body)
        if strange or len({m.filename for m in members}) < len(members):
            raise OutputError(f"{path} is no baseline file that this suite wrote; {_MADE_BY}.")
        # Names in messages begin with that of the file.
        archive.filename = str(path)
        results = archive.read(_RESULTS)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path} is no baseline file ({error}); {_MADE_BY}.") from error
    records = parsed_records(results, where := Path(f"{path}/{_RESULTS}"))
    twice = [key for key, count in Counter((r.unit, r.metric) for r in records).items() if count > 1]
    if twice:
        raise OutputError(f"{where} holds {len(twice)} numbers twice, as {shown(twice[0])}; {_MADE_BY}.")
    return records, zipfile.Path(archive)


_END_BYTES = 22
"""Of the record that ends a zip without a comment."""


def _bytes_of(member: zipfile.ZipInfo) -> int:
    """Return what a member of a zip takes: two headers with its name, and its content."""
    return 30 + 46 + 2 * len(member.filename.encode()) + member.file_size


def find_pinned(folder: Path) -> Path | None:
    """Return the baseline file in a folder; None where there is none.

    Raises:
        OutputError: there are several.
    """
    found = sorted(folder.glob(f"*{ENDING}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise OutputError(f"{folder} holds {len(found)} baseline files: name one of them ({names}).")
    return found[0] if found else None
