"""Shows and clears a feature store; nothing but its own entries is ever deleted."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.entry import META_NAME, DamagedEntry, open_entry
from rwkvclip_models.disk import make_folder, remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK_NAME = ".rwkvclip-eval-store"
"""File in a store's folder that says that it is one."""
MARK_TEXT = "The feature store of rwkvclip-eval: `rwkvclip-eval cache clear` deletes its entries.\n"
ENTRY_NAME = re.compile(r"([0-9a-f]{64})(\.partial)?")
LOCK_NAME = re.compile(r"[0-9a-f]{64}\.lock")


def mark(features: Path) -> None:
    """Make the folder of a store where there is none, and mark it as one.

    Raises:
        OSError: it cannot be written.
    """
    make_folder(features)
    if not (features / MARK_NAME).is_file():
        (features / MARK_NAME).write_text(MARK_TEXT, encoding="utf-8")


def entries(root: Path) -> list[dict[str, Any]]:
    """Return one mapping per entry of the store `root`: path, bytes, complete, and model, dataset, split.

    Where it is neither complete nor under way, `damaged` says why.

    Raises:
        UserError: `root` is there and no folder.
    """
    found = []
    for folder in _entries(_features(root)):
        entry: dict[str, Any] = {"path": folder, "bytes": _size(folder), "complete": False}
        if folder.suffix != ".partial":
            try:
                meta = open_entry(folder).meta
            except DamagedEntry as error:
                if not folder.exists() and not folder.is_symlink():  # A run cleared it meanwhile.
                    continue
                entry["damaged"] = str(error)
            else:
                dataset = meta.dataset or f"{meta.total} texts"
                entry |= {
                    "complete": True,
                    "model": meta.encoder.name,
                    "dataset": dataset,
                    "split": meta.split,
                }
        found.append(entry)
    return found


def clear(root: Path) -> tuple[int, int]:
    """Delete every entry of the store `root`; return (entries, bytes) freed. Those in use are left alone.

    Raises:
        UserError: `root` is no folder or holds something else than a feature store; nothing was deleted.
    """
    from filelock import FileLock, Timeout

    features = _features(root)
    foreign = None if (features / MARK_NAME).is_file() else _foreign(features)
    if foreign is not None:
        raise UserError(
            f"{root} is no feature store: {foreign} is no entry of one. Nothing was deleted; give the folder "
            "that --cache or $RWKVCLIP_EVAL_CACHE named in a run."
        )
    count = freed = 0
    for folder in _entries(features):
        size = _size(folder)
        lock = FileLock(folder.with_name(folder.name.removesuffix(".partial") + ".lock"))
        with contextlib.suppress(Timeout, FileNotFoundError), lock.acquire(timeout=0):
            remove(folder)
            count, freed = count + 1, freed + size
    return count, freed


def _features(root: Path) -> Path:
    """Return the folder of a store's entries, which need not be there."""
    if (root.exists() or root.is_symlink()) and not root.is_dir():
        raise UserError(
            f"{root} is no folder; give the one that --cache or $RWKVCLIP_EVAL_CACHE named in a run."
        )
    return root / "features"


def _entries(features: Path) -> Iterator[Path]:
    """Yield what has an entry's name, where an entry lies."""
    for path in sorted(features.glob("??/*")):
        name = ENTRY_NAME.fullmatch(path.name)
        if name is not None and path.parent.name == name[1][:2]:
            yield path


def _foreign(features: Path) -> Path | None:
    """Return what is no entry in a folder without a mark, as of a store of before there were marks."""
    ours = {path for path in _entries(features) if _is_entry(path)}
    for top in sorted(features.iterdir()) if features.is_dir() else ():
        if top.is_symlink() or not top.is_dir():
            return top
        for path in sorted(top.iterdir()):
            if path not in ours and not (LOCK_NAME.fullmatch(path.name) and path.is_file()):
                return path
    return None


def _is_entry(folder: Path) -> bool:
    """Whether a folder is an entry, damaged or not: it was begun by a journal."""
    return not folder.is_symlink() and any((folder / name).is_file() for name in (META_NAME, "journal.jsonl"))


def _size(folder: Path) -> int:
    """Return the bytes of an entry's files; of what is gone by now, none."""
    size = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            with contextlib.suppress(OSError):
                size += file.lstat().st_size
    return size
