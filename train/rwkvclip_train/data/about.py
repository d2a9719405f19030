"""What an index says of itself: about.json, with limits for all of it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rwkvclip_eval.errors import DamagedData, DataNotFound, refuse_newer
from rwkvclip_eval.printable import printable, unreadable
from rwkvclip_eval.schema import Strict
from rwkvclip_models.files import check_keys, read_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION = 1
INDEX = "index"
ABOUT = "about.json"
ABOUT_LIMIT_BYTES = 256 << 20
FILES = ("pairs.bin", "spans.bin", "keys.bin", "texts.bin")
MOST_KINDS = 32
"""Kinds of text: as many as a pair has bits for them."""
MOST_COLUMNS = 1 << 16
_MOST_PAIRS = 1 << 32
_MOST_BYTES = 1 << 62

Form = Literal["lines", "json", "list", "ids", "label", "array"]
_FORMS = {"tar": {"lines", "json", "array"}, "rec": {"label", "array"}, "table": {"list", "ids", "array"}}


def _below_root(name: str) -> str:
    """Return the name of a shard.

    Raises:
        ValueError: it leads out of its folder, or cannot be shown.
    """
    if unreadable(name) or printable(name) != name or "\n" in name or "\t" in name:
        raise ValueError("expected a name without control characters")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError("expected a path below the folder, without `..`")
    return name


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
Counted = dict[str, Count]


class Column(Strict):
    """Where texts of one kind stand, and how."""

    form: Form = Field(
        description="lines, json: in the shard, a text a line, or a mapping of kinds; list, ids: in "
        "texts.bin, JSON, or 77 uint16; label: 77 float32 in a record; array: a row of a token array"
    )
    kind: str = Field("", description="of text; empty for json, which names its kinds itself")
    place: int = Field(0, ge=0, le=1 << 20, description="of the 77 ids in a label or row, counted in texts")
    file: Literal["", "tokens.npy"] = Field(
        "", description="of a token array for all shards; empty: the shard's own"
    )


class ShardEntry(Strict):
    """A file that the index is of."""

    name: Annotated[str, AfterValidator(_below_root)] = Field(
        max_length=4096, description="path below the folder"
    )
    size_bytes: Count = Field(description="size in bytes")
    mtime_ns: int = Field(ge=-_MOST_BYTES, le=_MOST_BYTES, description="time of the last change")
    num_pairs: Count = Field(0, description="pairs of it in the index")
    num_samples: Count = Field(0, description="samples in it, those left out too")
    digest: Digest | Literal[""] = Field("", description="SHA-256 (hex) of the texts that were read in it")


class FileEntry(Strict):
    """A file of the index."""

    size_bytes: Count = Field(description="size in bytes")
    sha256: Digest = Field(description="digest (hex)")


class About(Strict):
    """What about.json says."""

    version: int = Field(description="of the form of the index")
    settings: str = Field(description="what it was made of, as JSON; the same makes the same index")
    layout: Literal["tar", "rec", "table"] = Field(description="what kind of shards it is of")
    kinds: tuple[str, ...] = Field(
        min_length=1, max_length=MOST_KINDS, description="kinds of text; the bit of each is its place"
    )
    columns: tuple[Column, ...] = Field(
        min_length=1, max_length=MOST_COLUMNS, description="by number, as spans name them"
    )
    image_column: str = Field("", description="of tables, where the images are in them")
    shards: tuple[ShardEntry, ...] = Field(min_length=1, description="by number")
    arrays: tuple[ShardEntry, ...] = Field((), description="token arrays beside the shards")
    num_pairs: int = Field(ge=1, le=_MOST_PAIRS, description="pairs in the index")
    longest: int = Field(gt=0, le=_MOST_BYTES, description="characters; longer texts are not drawn")
    not_drawn: Counted = Field(description="why texts are not drawn → how many")
    left_out: Counted = Field(description="why samples are no pairs of the index → how many")
    examples: dict[str, str] = Field(description="reason → names of the first such samples")
    files: dict[str, FileEntry] = Field(description="of the index")
    fingerprint: Digest = Field(description="SHA-256 (hex) of all but times")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself."""
        if set(self.files) != set(FILES):
            raise ValueError(f"files: expected {', '.join(FILES)}")
        if (held := sum(shard.num_pairs for shard in self.shards)) != self.num_pairs:
            raise ValueError(f"num_pairs is {self.num_pairs}, the shards have {held}")
        for names in (self.kinds, [file.name for file in (*self.shards, *self.arrays)]):
            if len(set(names)) != len(names):
                raise ValueError("a kind or a shard stands in it twice")
        for column in self.columns:
            if column.form not in _FORMS[self.layout]:
                raise ValueError(f"a column of form {column.form} in shards of layout {self.layout}")
        found = fingerprint(self.kinds, self.columns, (*self.shards, *self.arrays), self.files)
        if found != self.fingerprint:
            raise ValueError(f"fingerprint: what it says has {found}")
        return self


def read_about(folder: Path) -> About:
    """Return what an index says of itself.

    Raises:
        DataNotFound: there is none.
        DamagedData: it is damaged, or contradicts itself.
        NewerFile: a later version of ours wrote it.
    """
    path = folder / ABOUT
    if not path.exists():
        raise DataNotFound(
            f"There is no index at {folder}. Make it once: rwkvclip-train data index {folder.parent}"
        )
    content = read_bytes(path, limit=ABOUT_LIMIT_BYTES, what="index", error=DamagedData)
    refuse_newer(content, "version", VERSION, f"The index {path}")
    check_keys(content, f"index {path}", error=DamagedData)
    try:
        about = About.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        said = f"{path}: {f'{place[:200]}: ' if place else ''}{why[:300]}"
        raise DamagedData(f"{said}; {again(folder.parent, folder)}") from error
    if about.version != VERSION:
        raise DamagedData(f"{path} is of an older form; {again(folder.parent, folder)}")
    return about


def again(root: Path, folder: Path) -> str:
    """Return the command that makes the index anew, for the end of a message."""
    other = "" if folder == root / INDEX else f" --index {folder}"
    return f"make the index again: rwkvclip-train data index {root}{other}"


def shard_entry(root: Path, name: str) -> ShardEntry:
    """Return name, size and time of a file below `root`.

    Raises:
        DataNotFound: it is not there, or is no regular file.
        DamagedData: it has a name that cannot be shown.
    """
    state = require_regular(root / name, "training data", error=DataNotFound)
    said = {"name": name, "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    try:
        return ShardEntry.model_validate(said)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise DamagedData(f"{root} holds {ascii(name)[:200]}: {why}; rename it.") from error


def fingerprint(
    kinds: Iterable[str],
    columns: Iterable[Column],
    shards: Iterable[ShardEntry],
    files: dict[str, FileEntry],
) -> str:
    """Return the SHA-256 (hex) of what an index says: names, sizes and texts of shards, places; no times."""
    parts = [
        VERSION,
        list(kinds),
        [column.model_dump() for column in columns],
        [[shard.name, shard.size_bytes, shard.digest] for shard in shards],
        {name: entry.sha256 for name, entry in sorted(files.items())},
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
