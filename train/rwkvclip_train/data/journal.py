"""The journal of an index that is being written, and what in its shards is passed over."""

from __future__ import annotations

import json
import os
import stat
import warnings
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from rwkvclip_eval.errors import NAMES_SHOWN, DataWarning, OutputError, UserError, name_some, shortened
from rwkvclip_eval.schema import Strict
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import check_keys, read_bytes
from rwkvclip_train.data.about import (
    ABOUT,
    ABOUT_LIMIT_BYTES,
    FILES,
    MOST_COLUMNS,
    MOST_KINDS,
    VERSION,
    Column,
    Count,
    Counted,
    ShardEntry,
)
from rwkvclip_train.data.rows import PAIR, SPAN

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL = "journal.jsonl"
LOCK = ".lock"


def refuse_strangers(folder: Path) -> None:
    """Refuse a folder that an index is about to be written into, or to take the place of, unless it is one.

    What a link leads to would be written to, and what is no part of an index would be deleted with it.

    Raises:
        OutputError: it is a link or a file, or holds something else, a link or a file with another name.
        OSError: it cannot be looked at.
    """
    if folder.is_symlink():
        raise OutputError(
            f"{folder} is a symbolic link; expected a folder of the index alone: delete the link."
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder, so that no index can be written there; move it away.")
    ours = (*FILES, ABOUT, JOURNAL, LOCK)
    for entry in os.scandir(folder):
        state = entry.stat(follow_symlinks=False)
        left = any(entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp") for name in ours)
        if not (entry.name in ours or left) or not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
            raise OutputError(
                f"{shortened(ascii(entry.name))} in {folder} is no file of an index, or a link: no index is "
                "written there. Delete it, or give another folder by --index."
            )


def own_file(path: str | Path, flags: int) -> int:
    """Open a file, or make it; not what a link leads to.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def take_lock(partial: Path, folder: Path) -> int:
    """Return a file that is locked while it is open, where system and file system can.

    Raises:
        OutputError: another process writes there.
    """
    handle = own_file(partial / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(f"Another process is making {folder}; wait for it.") from error
    except (ImportError, OSError):
        pass
    return handle


def described(settings: dict[str, Any]) -> str:
    """Return what an index is made of as one line, by which another with the same is known."""
    return json.dumps({"version": VERSION, **settings}, sort_keys=True)


class State(Strict):
    """What stands in the files of an index after a whole shard."""

    shard: ShardEntry = Field(description="the shard")
    sizes: dict[str, Count] = Field(description="bytes of each file")
    num_pairs: Count = Field(description="pairs so far")
    kinds: tuple[str, ...] = Field(max_length=MOST_KINDS, description="kinds of text so far")
    columns: tuple[Column, ...] = Field(max_length=MOST_COLUMNS, description="columns so far")
    not_drawn: Counted = Field(description="as in About")
    left_out: Counted = Field(description="as in About")
    examples: dict[str, str] = Field(description="as in About")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse sizes that are not those of so many pairs."""
        if set(self.sizes) != set(FILES):
            raise ValueError(f"sizes: expected {', '.join(FILES)}")
        if (
            self.sizes["pairs.bin"] != self.num_pairs * PAIR.itemsize
            or self.sizes["spans.bin"] % SPAN.itemsize
        ):
            raise ValueError("sizes of other pairs")
        return self


def read_states(folder: Path, settings: str) -> list[State]:
    """Return the states that a build with the same settings left, in order; none where there was none.

    Those from the first on that does not fit its shard, the one before, or the files are left out: their
    shards are read again.
    """
    try:
        content = read_bytes(folder / JOURNAL, limit=ABOUT_LIMIT_BYTES, what="journal")
    except UserError:
        return []
    lines = content.split(b"\n")[:-1]
    if not lines or lines[0] != settings.encode("utf-8", "replace"):
        return []
    # What follows is of a file that anybody may have changed.
    shards = json.loads(settings).get("shards", [])
    states: list[State] = []
    for line, shard in zip(lines[1:], shards, strict=False):
        try:
            check_keys(line, "journal")
            state = State.model_validate_json(line)
            fits = (
                [state.shard.name, state.shard.size_bytes, state.shard.mtime_ns] == shard
                and _follows(state, states[-1] if states else None)
                and all((folder / name).stat().st_size >= size for name, size in state.sizes.items())
            )
        except (ValueError, UserError, OSError):
            break
        if not fits:
            break
        states.append(state)
    if len(states) < len(lines) - 1:
        warnings.warn(
            f"{folder / JOURNAL}, line {len(states) + 2} does not fit the files beside it: the shards from "
            f"number {len(states) + 1} on are read again.",
            DataWarning,
            stacklevel=2,
        )
    return states


def _follows(state: State, before: State | None) -> bool:
    """Return whether one state may be that of the next shard."""
    if before is None:
        return state.num_pairs == state.shard.num_pairs
    return (
        state.num_pairs == before.num_pairs + state.shard.num_pairs
        and all(state.sizes[name] >= size for name, size in before.sizes.items())
        and state.kinds[: len(before.kinds)] == before.kinds
        and state.columns[: len(before.columns)] == before.columns
    )


def write_states(folder: Path, settings: str, states: list[State]) -> None:
    """Write the journal anew."""
    write_text(folder / JOURNAL, "".join(f"{line}\n" for line in [settings, *map(_line, states)]))


def append_state(folder: Path, state: State) -> None:
    """Add a state whose files are on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
        journal.write(_line(state) + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def _line(state: State) -> str:
    return state.model_dump_json()


class Counts:
    """Counts texts that are not drawn and samples that are left out, and names the first of each reason.

    Attributes:
        not_drawn: why → number of texts.
        left_out: why → number of samples.
    """

    def __init__(self, state: State | None = None) -> None:
        self.not_drawn = dict(state.not_drawn) if state else {}
        self.left_out = dict(state.left_out) if state else {}
        self._examples = {why: [said] for why, said in state.examples.items()} if state else {}
        self._known = frozenset(self._examples)

    @property
    def examples(self) -> dict[str, str]:
        """Reason → the first samples, as a message names them."""
        return {why: name_some(names) for why, names in self._examples.items()}

    def add(self, counts: dict[str, int], why: str, name: str) -> None:
        """Count a text or a sample in one of the two."""
        counts[why] = counts.get(why, 0) + 1
        names = self._examples.setdefault(why, [])
        if why not in self._known and len(names) < NAMES_SHOWN:
            names.append(name)

    def summary(self) -> str:
        """Return why samples are left out, how many and which first; empty where none is."""
        return "; ".join(f"{n} × {why} ({self.examples[why]})" for why, n in self.left_out.items())
