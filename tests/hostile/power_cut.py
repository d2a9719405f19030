"""A disk that forgets what was not synced, as one does when the power goes.

`Disk` notes what a program has made sure of: the bytes of a file at its last fsync (or written to a file that
was opened for synchronous writing), and the names in a folder at that folder's last fsync. After each such
step it can lay out what the worst disk would hold if the power went then, in two ways: names are as the last
sync of their folder left them, or names are all there and contents are not (the rename that came before its
data, the commonest of these accidents).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

Kind = Literal["names as synced", "names as written"]
KINDS: tuple[Kind, ...] = ("names as synced", "names as written")


class Disk:
    """What of the files below `root` is on the disk for good.

    Args:
        root: watched folder; its own name is on the disk.
        on_step: called after each step that changed what is.
    """

    def __init__(self, root: Path, on_step: Callable[[], object] = lambda: None) -> None:
        self.root, self.on_step = root, on_step
        self.content: dict[int, bytearray] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.steps = 0

    @contextlib.contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Take notes in the block."""
        real_fsync, real_open, real_fdopen = os.fsync, os.open, os.fdopen
        synchronous: set[int] = set()

        def fsync(handle: int) -> None:
            real_fsync(handle)
            self._note(handle)
            self._step()

        def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
            handle = real_open(path, flags, *more, **options)
            if flags & getattr(os, "O_DSYNC", 0):
                synchronous.add(handle)
            return handle

        def fdopen(handle: int, *more: Any, **options: Any) -> Any:
            stream = real_fdopen(handle, *more, **options)
            if handle not in synchronous:
                return stream
            synchronous.discard(handle)
            return _Synchronous(stream, self)

        def moved(name: str) -> Callable[..., None]:
            real = getattr(os, name)

            def move(*given: Any, **options: Any) -> None:
                real(*given, **options)
                self._step()

            return move

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            patched.setattr(os, "open", opened)
            patched.setattr(os, "fdopen", fdopen)
            for name in ("rename", "replace"):
                patched.setattr(os, name, moved(name))
            yield

    def lay_out(self, target: Path, kind: Kind) -> None:
        """Write to `target` what the disk would hold if the power went now."""
        if kind == "names as synced":
            self._by_names(self.root.stat().st_ino, target)
            return
        target.mkdir(parents=True)
        for path in sorted(self.root.rglob("*")):
            there = target / path.relative_to(self.root)
            if path.is_dir():
                there.mkdir()
            else:
                there.write_bytes(self.content.get(path.stat().st_ino, b""))

    def _by_names(self, number: int, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name, (inner, is_folder) in self.names.get(number, {}).items():
            if is_folder:
                self._by_names(inner, target / name)
            else:
                (target / name).write_bytes(self.content.get(inner, b""))

    def _note(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if not path.is_dir():
            self.content[number] = bytearray(path.read_bytes())
            return
        with os.scandir(path) as found:
            self.names[number] = {e.name: (e.inode(), e.is_dir()) for e in found}

    def _step(self) -> None:
        self.steps += 1
        self.on_step()


class _Synchronous:
    """A file opened for synchronous writing: what is written is on the disk, and nothing else of it."""

    def __init__(self, stream: Any, disk: Disk) -> None:
        self._stream, self._disk, self._at = stream, disk, 0

    def __enter__(self) -> _Synchronous:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._disk._step()

    def seek(self, place: int) -> None:
        self._at = place
        self._stream.seek(place)

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        known = self._disk.content.setdefault(os.fstat(self._stream.fileno()).st_ino, bytearray())
        known.extend(bytes(max(0, self._at + len(data) - len(known))))
        known[self._at : self._at + len(data)] = data
        self._at += len(data)


def cuts(
    root: Path, cut_root: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], every: int = 1
) -> list[Path]:
    """Do `work` in `root`; return what the disk would hold after every so many steps and at the end."""
    made: list[Path] = []

    def lay_out() -> None:
        for kind in KINDS:
            made.append(cut_root / f"{disk.steps:04d} {kind} {len(made)}")
            disk.lay_out(made[-1], kind)

    def step() -> None:
        if disk.steps % every == 0:
            lay_out()

    root.mkdir(parents=True, exist_ok=True)
    disk = Disk(root, step)
    with disk.watched(monkeypatch):
        work()
    lay_out()
    return made


def drop(cut: Path) -> None:
    """Delete a cut that was looked at."""
    shutil.rmtree(cut)
