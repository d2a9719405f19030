"""The journal of an index that is being written, and what in its shards is passed over."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from rwkvclip_eval.errors import NAMES_SHOWN, name_some
from rwkvclip_eval.schema import Strict
from rwkvclip_models.disk import write_text
from rwkvclip_train.data.index import VERSION, Column, ShardEntry

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL = "journal.jsonl"


def described(settings: dict[str, Any]) -> str:
    """Return what an index is made of as one line, by which another with the same is known."""
    return json.dumps({"version": VERSION, **settings}, sort_keys=True)


class State(Strict):
    """What stands in the files of an index after a whole shard."""

    shard: ShardEntry = Field(description="the shard")
    sizes: dict[str, int] = Field(description="bytes of each file")
    num_pairs: int = Field(ge=0, description="pairs so far")
    kinds: tuple[str, ...] = Field(description="kinds of text so far")
    columns: tuple[Column, ...] = Field(description="columns so far")
    not_drawn: dict[str, int] = Field(description="as in About")
    left_out: dict[str, int] = Field(description="as in About")
    examples: dict[str, str] = Field(description="as in About")


def read_states(folder: Path, settings: str) -> list[State]:
    """Return the states that a build with the same settings left, in order; none where there was none."""
    path = folder / JOURNAL
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    states: list[State] = []
    if lines and lines[0] == settings:
        for line in lines[1:]:
            try:
                state = State.model_validate(json.loads(line))
                whole = all((folder / name).stat().st_size >= size for name, size in state.sizes.items())
            except (ValidationError, ValueError, OSError):
                break
            if not whole:
                break
            states.append(state)
    return states


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
