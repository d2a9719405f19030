"""What a finished entry of the feature store holds, checked before it is used.

    meta.json       `EntryMeta`
    embedding.npy   [n, D] float32, rows of unit norm; of images that could not be decoded, zero
    probe.npy       [n, F] float32 (images)
    keys.json       n sample keys (images)
    rows.npy        [n] int64: where each text's row is (texts)

The SHA-256 of every file stands in meta.json and is compared in full when a process first opens the entry:
every byte is read once more, about a second for each GB, of what took hours to encode (a task that opens the
entry reads those bytes anyway). It finds what disks, copies and scripts do by mistake; who changes the arrays
and meta.json alike is not found out.

Axes: n rows (samples or texts), D embedding, F probe features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rwkvclip_eval.data.array_files import WrongArray, map_array
from rwkvclip_eval.errors import UserError, shown
from rwkvclip_models.disk import file_digest
from rwkvclip_models.files import read_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Array = np.ndarray[Any, Any]

FORMAT_VERSION = 1
META_NAME = "meta.json"
TEXT_LIMIT_BYTES = 1 << 30
"""Of meta.json and keys.json: ImageNet's training keys take 50 MB, a reason for each image 200 MB."""
NORM_TOLERANCE = 1e-2
"""That of the encoders' own check."""
ROWS_AT_ONCE = 8192


class DamagedEntry(ValueError):
    """An entry that cannot be used; the text says why."""


OwnArrays = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")],
        Annotated[list[Annotated[int, Field(ge=1, le=10**6)]], Field(max_length=8)],
    ],
    Field(max_length=32),
]
"""Name → shape of a row, of what an encoder stores beside embeddings and probe features."""


class StoredEncoder(BaseModel):
    """What an entry keeps of the `EncoderInfo` that made it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str
    embed_dim: int = Field(ge=1)
    probe_dim: int = Field(ge=1)
    device: str
    implementation: str
    image_arrays: OwnArrays = Field(default_factory=dict)
    text_arrays: OwnArrays = Field(default_factory=dict)


class EntryMeta(BaseModel):
    """The content of meta.json."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    format: Literal[1]  # FORMAT_VERSION
    kind: Literal["image", "text"]
    encoder: StoredEncoder
    total: int = Field(ge=1)
    missing: dict[int, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(
        default_factory=dict, description="file → digest (hex); none in entries of before there were any"
    )
    dataset: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredEntry:
    """A finished entry, opened.

    Attributes:
        folder: where it lies.
        meta: its description.
        arrays: name → array, mapped from disk and of the shape that `meta` says.
    """

    folder: Path
    meta: EntryMeta
    arrays: Mapping[str, Array]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that have a digest."""
        return (
            *(f"{name}.npy" for name in self.arrays),
            *(["keys.json"] if self.meta.kind == "image" else []),
        )

    def keys(self) -> list[str]:
        """Return the sample keys.

        Raises:
            DamagedEntry: keys.json holds something else.
        """
        try:
            content = read_bytes(self.folder / "keys.json", limit=TEXT_LIMIT_BYTES, what="keys")
            found = TypeAdapter(list[str]).validate_json(content, strict=True)
        except (UserError, ValidationError) as error:
            raise DamagedEntry("keys.json holds no list of keys") from error
        if len(found) != self.meta.total:
            raise DamagedEntry(f"keys.json holds {len(found)} keys for {self.meta.total} rows")
        return found


def read_meta(folder: Path) -> EntryMeta:
    """Return what a finished entry says of itself.

    Raises:
        DamagedEntry: it says nothing, or nothing that makes sense.
    """
    if folder.is_symlink():
        raise DamagedEntry("it is a link")
    try:
        content = read_bytes(folder / META_NAME, limit=TEXT_LIMIT_BYTES, what="description")
        meta = EntryMeta.model_validate_json(content)
    except UserError as error:
        raise DamagedEntry("meta.json is missing or does not say what it should") from error
    except ValidationError as error:
        came = [one["input"] for one in error.errors() if one["loc"] == ("format",)]
        # Those of a newer version have keys of their own; this one was changed, or moved under ours.
        if came and type(came[0]) is int and came[0] > FORMAT_VERSION:
            raise DamagedEntry(
                f"a newer version wrote it: format {shown(came[0])}; expected up to {FORMAT_VERSION}"
            ) from error
        raise DamagedEntry("meta.json is missing or does not say what it should") from error
    if any(not 0 <= row < meta.total for row in meta.missing):
        raise DamagedEntry("meta.json names images that the entry does not have")
    return meta


def open_entry(folder: Path) -> StoredEntry:
    """Return a finished entry whose arrays have the types, shapes and sizes that it says; see `check`.

    Raises:
        DamagedEntry: it is none; the text says why.
    """
    meta = read_meta(folder)
    info, total = meta.encoder, meta.total
    wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "embedding": (np.float32, (total, info.embed_dim))
    }
    if meta.kind == "image":
        wanted["probe"] = (np.float32, (total, info.probe_dim))
    else:
        wanted["rows"] = (np.int64, (total,))
    own = info.image_arrays if meta.kind == "image" else info.text_arrays
    wanted |= {name: (np.float32, (total, *shape)) for name, shape in own.items() if name not in wanted}
    arrays = {}
    for name, (dtype, shape) in wanted.items():
        try:
            arrays[name] = map_array(folder / f"{name}.npy", dtype, shape)
        except WrongArray as error:
            raise DamagedEntry(f"{name}.npy: {error}") from error
        except OSError as error:
            raise DamagedEntry(f"{name}.npy cannot be read: {error.strerror}") from error
    return StoredEntry(folder=folder, meta=meta, arrays=arrays)


_sound: set[tuple[object, ...]] = set()
"""What this process has checked: folder, and number, size and time of each file."""


def check(entry: StoredEntry) -> Mapping[str, str]:
    """Compare every byte with its digest, once a process; where there is none, look at every value.

    Returns:
        The digests to write into meta.json where it has none yet; empty otherwise.

    Raises:
        DamagedEntry: they differ, or no encoder gives such values.
    """
    try:
        # A pipe would be waited for, a device read for ever.
        states = [require_regular(entry.folder / file, "file of the store") for file in entry.files]
        seen = (entry.folder, *((s.st_ino, s.st_size, s.st_mtime_ns) for s in states))
        if seen in _sound:
            return {}
        digests = {file: file_digest(entry.folder / file) for file in entry.files}
    except UserError as error:
        raise DamagedEntry(str(error)) from error
    except OSError as error:
        raise DamagedEntry(f"it cannot be read: {error.strerror}") from error
    known = entry.meta.sha256
    if known and (wrong := [file for file in entry.files if digests[file] != known.get(file)]):
        raise DamagedEntry(f"{wrong[0]} has another SHA-256 than when it was written")
    if not known:
        _check_values(entry)
    _sound.add(seen)
    return {} if known else digests


def _check_values(entry: StoredEntry) -> None:
    """Refuse what no encoder gives: in an entry without digests the only trace of damage."""
    rows = np.arange(entry.meta.total)
    if entry.meta.kind == "text" and not np.array_equal(np.sort(entry.arrays["rows"]), rows):
        raise DamagedEntry("rows.npy does not name each row once")
    norms = np.ones(entry.meta.total)
    norms[list(entry.meta.missing)] = 0
    for start in range(0, entry.meta.total, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        found = np.linalg.norm(entry.arrays["embedding"][part], axis=1)
        # Written so that NaN is wrong, too.
        if not (np.abs(found - norms[part]) <= NORM_TOLERANCE).all():
            raise DamagedEntry("embedding.npy holds rows that are not of unit norm")
        if "probe" in entry.arrays and not np.isfinite(entry.arrays["probe"][part]).all():
            raise DamagedEntry("probe.npy holds numbers that are not finite")


def with_digests(folder: Path, digests: Mapping[str, str]) -> str:
    """Return the text of meta.json with digests, all else as it is."""
    said: dict[str, Any] = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
    return json.dumps({**said, "sha256": dict(digests)}, indent=1)
