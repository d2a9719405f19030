"""Unpacks archives, and reads tars without believing what their headers say of sizes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from rwkvclip_eval.errors import DamagedData, OutputError, UserError
from rwkvclip_models.disk import atomic_path, write_text
from rwkvclip_models.files import require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_BYTES = 512
"""A tar's unit."""
HEADER_LIMIT_BYTES = 1 << 20
"""Of what is read of a tar at once: names and attributes of one member."""
MAGIC = {
    ".zip": (0, b"PK"),
    ".gz": (0, b"\x1f\x8b"),
    ".tgz": (0, b"\x1f\x8b"),
    ".bz2": (0, b"BZh"),
    ".xz": (0, b"\xfd7zXZ\0"),
    ".mat": (0, b"MATLAB 5.0 MAT-file"),
}
"""File ending → which bytes stand where in every such file."""
UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    RuntimeError,  # An encrypted zip; NotImplementedError, an unknown compression, is one too.
    OverflowError,
)
"""What Python's readers raise on archives that are broken."""


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: path in the tar.
        offset: where its bytes begin.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


class _Headers:
    """A tar's stream for `tarfile`, which reads as much at once as a header says."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_LIMIT_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tar_members(shard: Path, stream: IO[bytes]) -> list[Member]:
    """Return the files in an uncompressed tar.

    Raises:
        DamagedData: see `each_member`.
    """
    return list(each_member(shard, stream))


def each_member(shard: Path, stream: IO[bytes]) -> Iterator[Member]:
    """Yield the files in an uncompressed tar; the stream's place must stay as it was left.

    Raises:
        DamagedData: it is no tar, it ends before its end mark, or more than padding follows that; tarfile
            alone takes a damaged header in the middle for the end, which would lose samples unseen.
    """
    last = ""
    count, problem = 0, ""
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Headers(stream)), mode="r:") as archive:
            place = -1
            while (found := archive.next()) is not None:
                if archive.offset <= place or found.issparse():
                    raise tarfile.ReadError(f"member {found.name!r} is sparse or leads backwards")
                place, count = archive.offset, count + 1
                # tarfile keeps all; a tar of nothing but headers would fill memory.
                archive.members.clear()  # type: ignore[attr-defined]  # unlisted
                if found.isreg():
                    last = f" after member {found.name}"
                    yield Member(found.name, found.offset_data, found.size)
            stream.seek(archive.offset)
            end = stream.read(BLOCK_BYTES)
            if len(end) < BLOCK_BYTES or end.strip(b"\0"):
                problem = "no end mark where its last readable member ends"
            elif any(rest.strip(b"\0") for rest in iter(lambda: stream.read(HEADER_LIMIT_BYTES), b"")):
                problem = "something stands behind its end mark, such as another tar that was appended"
    except (*UNREADABLE, OSError) as error:
        problem = str(error)
    if problem:
        raise DamagedData(
            f"{shard} is cut off or damaged ({problem}): {count} members are readable{last}. "
            "Fetch this shard again."
        )


def unpack(archive: Path) -> bool:
    """Unpack `archive` beside itself, unless that was done; return whether it is an archive.

    Raises:
        DamagedData: it is broken or encrypted, or a member would land outside the folder.
        OutputError: it cannot be written, or the disk has no room for it.
    """
    name, folder = archive.name.lower(), archive.parent
    is_tar = name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz"))
    if not (is_tar or name.endswith((".zip", ".gz"))):
        return False
    state = require_regular(archive, "archive", error=DamagedData)
    mark, said = folder / f".{archive.name}.unpacked", f"{state.st_size} {state.st_mtime_ns}\n"
    if mark.is_file() and mark.read_text(encoding="ascii", errors="replace") == said:
        return True
    try:
        if is_tar:
            with _plain(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                tar.extractall(folder, filter="data")
        elif name.endswith(".zip"):
            _unzip(archive, folder)
        else:
            with (
                gzip.open(archive) as packed,
                atomic_path(archive.with_suffix("")) as temporary,
                temporary.open("wb") as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked)
    except UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise DamagedData(f"{archive} cannot be unpacked: {error}. Delete it and fetch it again.") from error
    except OSError as error:
        if error.errno is None:  # The libraries' own word on what they read, of which bz2 has no other.
            raise DamagedData(
                f"{archive} cannot be unpacked: {error}. Delete it and fetch it again."
            ) from error
        raise OutputError(f"Cannot unpack {archive}: {error.strerror or error}.") from error
    # The mark must not be on the disk before what it vouches for.
    os.sync()
    write_text(mark, said)
    return True


@contextlib.contextmanager
def _plain(archive: Path) -> Iterator[IO[bytes]]:
    """Yield a tar's stream, unpacked on the way."""
    openers: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers.get(archive.suffix.lower(), open)(archive, "rb") as stream:
        yield cast("IO[bytes]", _Headers(stream))


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        if outside := [n for n in zipped.namelist() if not _inside(folder, n)]:
            raise DamagedData(f"{archive}: member {outside[0]!r} would land outside {folder}.")
        needed, free = sum(file.file_size for file in zipped.infolist()), shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"{archive} unpacks to {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free in {folder}."
            )
        zipped.extractall(folder)


def _inside(folder: Path, member: str) -> bool:
    return "\0" not in member and (folder / member).resolve().is_relative_to(folder.resolve())


def other_content(path: Path, name: str) -> str:
    """Return what a downloaded file holds instead of what its name says, empty where it may be that.

    Args:
        path: the file.
        name: what it is to be called; its ending tells what it should hold.
    """
    with path.open("rb") as stream:
        start = stream.read(BLOCK_BYTES)
    ending = next((end for end in MAGIC if name.lower().endswith(end)), None)
    if ending is None or start[(at := MAGIC[ending][0]) : at + len(MAGIC[ending][1])] == MAGIC[ending][1]:
        return ""
    page = start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
    return f"expected a {ending} file, found {'a web page' if page else 'something else'}"
