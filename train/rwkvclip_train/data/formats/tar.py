"""Webdataset tars: KEY.{webp,png,jpg,jpeg} with KEY.txt, KEY.NAME.txt or KEY.json in any number.

A KEY is a member's name up to the first dot of its last part, and the files of one stand together, as in the
webdataset library. KEY.txt is a text of kind `txt` a line, KEY.raw.txt one of kind `raw`; KEY.json is a
mapping of which each text, or list of texts, is of the kind of its key; the other values are passed over.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from rwkvclip_eval.data.archives import each_member
from rwkvclip_eval.data.reading import IMAGE_LIMIT_BYTES, text_lines
from rwkvclip_eval.data.samples import IMAGE_SUFFIXES
from rwkvclip_eval.errors import DamagedData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rwkvclip_eval.data.archives import Member
    from rwkvclip_train.data.formats.arrays import RowTexts
    from rwkvclip_train.data.recorder import Recorder

TEXT_LIMIT_BYTES = 16 << 20
"""Of the texts of one sample."""


def scan_tar(path: Path, recorder: Recorder, rows: RowTexts, on_bytes: Callable[[int], None]) -> None:
    """Write the samples of a shard into an index.

    Args:
        path: the shard.
        recorder: of the index.
        rows: texts that stand in arrays beside it.
        on_bytes: called with how far the shard is read.

    Raises:
        DamagedData: the tar is cut off or damaged.
    """
    with path.open("rb") as stream:
        for name, members in _samples(each_member(path, stream)):
            _add(path, stream.fileno(), name, members, recorder, rows)
            on_bytes(members[-1].offset)


def _samples(members: Iterator[Member]) -> Iterator[tuple[str, list[Member]]]:
    """Yield each key and its files."""
    key = ""
    group: list[Member] = []
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        name = f"{folder}{slash}{base.partition('.')[0]}"
        if name != key and group:
            yield key, group
            group = []
        key = name
        group.append(member)
    if group:
        yield key, group


def _add(
    path: Path, handle: int, name: str, members: list[Member], recorder: Recorder, rows: RowTexts
) -> None:
    by_suffix = {member.name.rpartition("/")[2].partition(".")[2].lower(): member for member in members}
    spans, kinds = rows.next(name)
    image = next((by_suffix[suffix] for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
    if image is None:
        recorder.leave_out("no image", name)
        return
    for suffix, member in by_suffix.items():
        if suffix == "json":
            kind, form = "", "json"
        elif suffix == "txt" or suffix.endswith(".txt"):
            kind, form = suffix.removesuffix(".txt"), "lines"
        else:
            continue
        found = 0
        for kind_found, texts in read_texts(_content(path, handle, member), form, kind, recorder, name):
            bit = recorder.kind(kind_found)
            if bit and recorder.usable(kind_found, texts, name):
                found |= bit
        if found:
            spans.append((member.offset, member.size, recorder.column(form, kind)))
            kinds |= found
    if not 0 < image.size <= IMAGE_LIMIT_BYTES:
        recorder.leave_out("an image without bytes" if not image.size else "an image file too large", name)
        return
    recorder.add(name, image.offset, image.size, spans, kinds)


def _content(path: Path, handle: int, member: Member) -> bytes:
    if member.size > TEXT_LIMIT_BYTES:
        raise DamagedData(
            f"{path}, member {member.name}: {member.size} bytes of text; at most {TEXT_LIMIT_BYTES}."
        )
    return os.pread(handle, member.size, member.offset)


def read_texts(
    content: bytes, form: str, kind: str, recorder: Recorder, name: str
) -> list[tuple[str, list[str]]]:
    """Return kinds and texts of a member; one that cannot be read is counted and gives none."""
    try:
        return texts_of(content, form, kind)
    except ValueError as error:
        recorder.count_text(kind or form, str(error), name)
        return []


def texts_of(content: bytes, form: str, kind: str) -> list[tuple[str, list[str]]]:
    """Return kinds and texts of a .txt (`lines`) or .json member.

    Raises:
        ValueError: it is not UTF-8, or no mapping, or holds a key twice; the text says which.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if form == "lines":
        lines = text_lines(text)
        return [(kind, [line for line in lines if line.strip()] or [""])]
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _Twice:
        raise ValueError("JSON that holds a key twice") from None
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(found, dict):
        raise ValueError("JSON that is no mapping")
    return [(key, texts) for key, value in found.items() if (texts := _as_texts(value)) is not None]


class _Twice(Exception):
    """A key stands twice in a mapping: of which text is the pair?"""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _as_texts(value: object) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return value
    return None
