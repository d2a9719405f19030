"""Writes files that neither a kill nor a power cut leaves half-written, and sweeps what killed writers left.

A file gets its name only when its bytes are on the disk, and the name is put on the disk too. Its temporary
file is named for it and locked while somebody writes: one that nobody holds is what a killed process left,
and goes when the same file is written next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_models.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APP = "rwkvclip-eval"
"""Name of the folder in the user's cache."""

UNTOUCHED_S = 86400.0
"""Where files cannot be locked, or were left by a version that locked none: this old, nobody works on it."""
_LOOKED_AT = 1 << 24
"""Bytes at the beginning of a file in which a mark of ours stands."""
_RANDOM = "[a-z0-9_]{8}"
"""What `tempfile` puts into names."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends without an error.

    The data is on disk before the name changes, so that no half-written file ever carries the name. It costs
    two waits for the disk: one for the data, one for the name.

    Raises:
        OutputError: the folder cannot be written, the disk is full, or `path` is a device, pipe or socket,
            which would be replaced.
    """
    temporary = ""
    handle = -1
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OutputError(f"Cannot write {path}: it is no file. Choose another name.")
        make_folder(path.parent)
        sweep(path.parent, rf"\.{re.escape(path.name)}\.{_RANDOM}\.tmp")
        handle, temporary = _locked_temporary(path)
        yield Path(temporary)
        sync_file(Path(temporary))
        # mkstemp makes files only their owner can read; results are for sharing.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
        temporary = ""
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:
            # A library's word on what it read (gzip, Pillow): nothing that this file could not hold.
            raise
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was lost; free space or choose another "
            "folder, then run the same command again."
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def _locked_temporary(path: Path) -> tuple[int, str]:
    while True:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        _lock(handle)
        # A sweep before the line above may have taken it for left over.
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        # A name of other bytes than UTF-8 brings half a surrogate pair, which no text file can hold.
        temporary.write_bytes(text.encode("utf-8", "replace"))


def refuse_others(folder: Path, marks: Mapping[str, str]) -> None:
    """Refuse to write where files of somebody else have the names of ours.

    Args:
        folder: where the files will be written.
        marks: name → a text that every file of ours with this name holds.

    Raises:
        OutputError: a file of such a name holds it not; which one.
    """
    for name, mark in marks.items():
        path = folder / name
        if path.is_file() and mark not in path.read_bytes()[:_LOOKED_AT].decode("utf-8", "replace"):
            raise OutputError(
                f"{path} is there and was not written by this program; it would be replaced. Name another "
                "folder, or move it away."
            )


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; nothing where the system cannot."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        # Some network file systems refuse; they put names on the disk by themselves.
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where there are none, and put their names on the disk.

    Raises:
        OSError: it cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete what carries this name: a folder with all in it, a file, or a link but not what it leads to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def sweep(folder: Path, name: str) -> None:
    """Delete the temporary files of killed processes in `folder`, those that nobody holds.

    Args:
        folder: where they lie.
        name: regular expression of our own temporary names.
    """
    pattern = re.compile(name)
    try:
        with os.scandir(folder) as found:
            # Links are nobody's temporary file.
            ours = [e for e in found if pattern.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
    except OSError:
        return
    for entry in ours:
        with contextlib.suppress(OSError):
            handle = os.open(entry.path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _left_over(handle):
                    Path(entry.path).unlink()
            finally:
                os.close(handle)


def user_cache(name: str = "") -> Path:
    """Return this project's folder in the user's cache, or the one called `name` in it.

    `$XDG_CACHE_HOME` is heeded on every system; without it, the place is the system's own.

    Raises:
        RuntimeError: the user's home folder is asked for and unknown.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / APP / name
    import platformdirs

    own = platformdirs.user_cache_path(APP, appauthor=False)
    if str(own).startswith("~"):
        raise RuntimeError("Could not determine home directory.")
    return own / name


def file_digest(*paths: Path, algorithm: str = "sha256") -> str:
    """Return the digest (hex) of a file's bytes, or of those of several files, one after the other.

    Raises:
        OSError: one cannot be read; it is named.
    """
    digest = hashlib.new(algorithm)
    for path in paths:
        try:
            with path.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        except OSError as error:
            # What fails once a file is open names no file by itself.
            raise OSError(error.errno, error.strerror, str(path)) from error
    return digest.hexdigest()


class TemporaryFolder:
    """A folder in the system's place for temporary ones that goes with its owner, or when another is made.

    Args:
        name: what its name begins with; the folders of killed processes are known by it.

    Attributes:
        path: the folder.
    """

    def __init__(self, name: str) -> None:
        top = Path(tempfile.gettempdir())
        for left in top.glob(f"{name}-*"):
            if re.fullmatch(f"{re.escape(name)}-{_RANDOM}", left.name):
                _remove_unheld(left)
        self._folder = tempfile.TemporaryDirectory(prefix=f"{name}-")
        self.path = Path(self._folder.name)
        self._handle = os.open(self.path / _HELD, os.O_RDWR | os.O_CREAT, 0o600)
        _lock(self._handle)

    def cleanup(self) -> None:
        """Delete it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._folder.cleanup()


_HELD = ".held"
"""File in a temporary folder that its owner keeps locked."""


def _remove_unheld(folder: Path) -> None:
    with contextlib.suppress(OSError):
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            return
        if not (folder / _HELD).is_file():
            # Its owner may be about to make the file.
            if _untouched(state):
                shutil.rmtree(folder)
            return
        handle = os.open(folder / _HELD, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if _left_over(handle):
                shutil.rmtree(folder)
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file for as long as it stays open, where system and file system can."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _left_over(handle: int) -> bool:
    """Return whether nobody holds an open file; where that cannot be told, whether it is long untouched."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return _untouched(os.fstat(handle))
    return True


def _untouched(state: os.stat_result) -> bool:
    return time.time() - state.st_mtime > UNTOUCHED_S
