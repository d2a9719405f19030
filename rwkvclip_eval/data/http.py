"""Fetches public files over HTTP: resumed where broken off, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.data.archives import other_content
from rwkvclip_eval.errors import DamagedData, DataNotFound, OutputError
from rwkvclip_models.disk import file_digest, sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rwkvclip_eval.data.catalogue import Download

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
MOST_BYTES = 1 << 40
"""Of a file of which neither catalogue nor server say how large it is."""


def fetch_file(
    download: Download, folder: Path, on_progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """Fetch one file to `folder`/`download.file` through a `.part` file.

    A later call continues that, unless no checksum is known: the server may hold another file by then, and
    nothing would tell that the parts do not belong together.

    Args:
        download: address, name and checksums.
        folder: where it goes; a whole file of the right checksum there is kept.
        on_progress: called with (MiB done, MiB in all, file).

    Raises:
        DataNotFound: the server cannot be reached, has no such file or broke off.
        DamagedData: size or checksum is not that of the catalogue; the part file is deleted.
        OutputError: it cannot be written.
    """
    target = folder / download.file
    if target.is_file() and not wrong_file(target, download):
        return target
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if not download.has_sum:
            part.unlink(missing_ok=True)
        _receive(download, part, on_progress)
        problem = wrong_file(part, download)
        if problem:
            part.unlink()
            raise DamagedData(
                f"{download.url}: {problem}. What came was deleted; run the command again, and if it stays "
                "so, the server holds another version."
            )
        sync_file(part)
        part.replace(target)
        sync_folder(folder)
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}.") from error
    return target


def wrong_file(path: Path, download: Download) -> str:
    """Return what about the file contradicts the catalogue, empty where nothing does."""
    size = path.stat().st_size
    if download.bytes is not None and size != download.bytes:
        return f"expected {download.bytes} bytes, found {size}"
    for algorithm, expected in (("sha256", download.sha256), ("md5", download.md5)):
        if expected is not None:
            found = file_digest(path, algorithm=algorithm)
            return "" if found == expected else f"expected {algorithm} {expected}, found {found}"
    return other_content(path, download.file)


def _receive(download: Download, part: Path, on_progress: Callable[[int, int, str], None] | None) -> None:
    """Append to `part` what it lacks."""
    import requests

    url = download.url
    done = part.stat().st_size if part.is_file() else 0
    # Compressed transfer would count other bytes than the file has.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                # `part` is whole, or longer than the file: the checks that follow tell.
                return
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content or not _goes_on(answer.headers, done):
                done = 0
            length = answer.headers.get("Content-Length", "")
            total = (
                done + int(length) if length.isascii() and length.isdecimal() and len(length) < 16 else None
            )
            most = min(filter(None, (download.bytes, total, MOST_BYTES)))
            with part.open("ab" if done else "wb") as stream:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    stream.write(chunk)
                    done += len(chunk)
                    if done > most:
                        break
                    if on_progress is not None and total:
                        on_progress(done >> 20, max(total >> 20, 1), part.stem)
            # More than the catalogue says is told by the checks that follow.
            if done > most and download.bytes is None:
                raise requests.ConnectionError(f"more than {most} bytes came")
            if total is not None and done < min(total, most):
                raise requests.ConnectionError(f"{done} of {total} bytes came")
    except requests.RequestException as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise DataNotFound(
            f"Cannot fetch {url}: {error}. "
            + (f"{kept} bytes are kept; the same command continues. " if download.has_sum else "")
            + f"Without a network, fetch the file elsewhere and put it at {part.with_suffix('')}."
        ) from error


def _goes_on(headers: Mapping[str, str], done: int) -> bool:
    """Return whether a partial answer begins at byte `done`, as asked."""
    return headers.get("Content-Range", f"bytes {done}-").startswith(f"bytes {done}-")
