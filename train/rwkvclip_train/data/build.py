"""Builds the index of a folder of shards or tables."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_models.disk import file_digest
from rwkvclip_models.files import read_text
from rwkvclip_train.data.about import INDEX, About, shard_entry
from rwkvclip_train.data.formats.arrays import ALL_SHARDS, RowTexts, TokenArray, token_kinds
from rwkvclip_train.data.formats.record_io import scan_records
from rwkvclip_train.data.formats.table import scan_table
from rwkvclip_train.data.formats.tar import scan_tar
from rwkvclip_train.data.index import Index, check_root
from rwkvclip_train.data.journal import described
from rwkvclip_train.data.recorder import Recorder
from rwkvclip_train.data.source import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rwkvclip_train.data.about import ShardEntry

Layout = Literal["tar", "rec", "table"]
SUFFIXES: dict[str, tuple[Layout, str]] = {
    "tar": ("tar", "tar"),
    "rec": ("rec", "rec"),
    "parquet": ("table", "parquet"),
    "csv": ("table", "csv"),
}
"""What may be asked for → layout, and how the files' names end; the first that a folder has is taken."""
LIST_LIMIT_BYTES = 1 << 30
SAID_EVERY_S = 0.1


@dataclass(frozen=True)
class Settings:
    """What an index is made of, beside the files.

    Attributes:
        layout: `tar`, `rec`, `parquet` or `csv`; empty: the first that there is.
        kinds: the only kinds of text to keep; empty: all.
        token_kinds: what the texts of a record or a row of a token array are called, in their order.
        image_column: of tables; empty: one of the usual names.
        longest: characters of a text that is drawn.
        without: keys of pairs to leave out.
    """

    layout: str = ""
    kinds: tuple[str, ...] = ()
    token_kinds: tuple[str, ...] = ()
    image_column: str = ""
    longest: int = LONGEST
    without: frozenset[str] = frozenset()


def build_index(
    root: Path,
    folder: Path | None = None,
    settings: Settings | None = None,
    *,
    on_progress: Callable[[int, int, int], None] = lambda done, total, pairs: None,
) -> About:
    """Write the index of the shards below `root` and return what it says of itself.

    A build that was killed goes on after its last whole shard. An index of the same is kept as it is; another
    one stays until the new one is whole.

    Args:
        root: folder of the shards or tables, at any depth.
        folder: of the index; `root`/index by default.
        settings: see `Settings`.
        on_progress: called with bytes of shards that are done, their sum, and pairs so far.

    Raises:
        DataNotFound: no such folder, or nothing in it.
        DamagedData: a shard is cut off or damaged, or contradicts what stands beside it; it is named.
        OutputError: the index cannot be written.
        UserError: the settings do not fit the data.
    """
    settings = settings or Settings()
    folder = folder or root / INDEX
    layout, suffix, names = find_shards(root, settings.layout, folder)
    shards = [shard_entry(root, name) for name in names]
    arrays = _arrays(root, shards)
    total = sum(shard.size_bytes for shard in shards)
    about = {
        "layout": suffix,
        "shards": [[s.name, s.size_bytes, s.mtime_ns] for s in (*shards, *arrays)],
        "settings": repr((dataclasses.replace(settings, without=frozenset()), sorted(settings.without))),
    }
    if (whole := _whole(root, folder, described(about))) is not None:
        return whole
    with Recorder(
        folder, about, kinds=settings.kinds, longest=settings.longest, without=settings.without
    ) as recorder:
        done, sample, said = 0, 0, 0.0
        resumed = bool(recorder.done)
        for number, shard in enumerate(shards):
            if number < len(recorder.done):
                done += shard.size_bytes
                sample += recorder.done[number].num_samples
                continue
            path = root / shard.name
            rows = RowTexts(recorder, _rows_of(root, path, sample, settings))
            base = done

            def on_bytes(here: int, base: int = base, size: int = shard.size_bytes) -> None:
                nonlocal said
                if (now := time.monotonic()) - said > SAID_EVERY_S:
                    said = now
                    on_progress(base + min(here, size), total, recorder.num_pairs)

            recorder.begin(shard)
            if layout == "tar":
                scan_tar(path, recorder, rows, on_bytes)
            elif layout == "rec":
                scan_records(path, recorder, rows, on_bytes, settings.token_kinds)
            else:
                scan_table(
                    path, recorder, rows, on_bytes, image_column=settings.image_column, kinds=settings.kinds
                )
            rows.end(shard.name, last=number == len(shards) - 1)
            recorder.end(rows.num_samples)
            sample += rows.num_samples
            done += shard.size_bytes
            on_progress(done, total, recorder.num_pairs)
        made = recorder.finish(layout, arrays, settings.image_column)
    if resumed:
        # What the earlier build left in the files was not looked at.
        Index(folder, root)
    return made


def _whole(root: Path, folder: Path, settings: str) -> About | None:
    """Return what an undamaged index of the same says; None where there is none."""
    try:
        index = Index(folder, root)
        kept = index.about if index.about.settings == settings else None
    except UserError:
        return None
    return kept


def find_shards(root: Path, asked: str, folder: Path) -> tuple[Layout, str, list[str]]:
    """Return the layout, its files' ending and their names below `root`, numbers in order of size.

    Raises:
        DataNotFound: there is no folder, or no such file in it.
        UserError: there is no such layout.
    """
    check_root(root)
    if asked and asked not in SUFFIXES:
        raise UserError(f"Unknown layout {asked!r}; expected {', '.join(SUFFIXES)}.")
    found: dict[str, list[str]] = {suffix: [] for _, suffix in SUFFIXES.values()}
    # One walk: a folder of images may hold millions.
    for place, _, files in os.walk(root):
        if Path(place) == folder:
            continue
        for name in files:
            if (ending := name.rpartition(".")[2]) in found and not name.startswith("."):
                found[ending].append((Path(place) / name).relative_to(root).as_posix())
    for asking, (layout, suffix) in SUFFIXES.items():
        if found[suffix] and asked in ("", asking):
            return layout, suffix, sorted(found[suffix], key=_numbers_first)
    raise DataNotFound(
        f"{root} holds no training data: no file in it or below ends in {asked or ', '.join(SUFFIXES)}."
    )


def _numbers_first(name: str) -> list[tuple[int, str]]:
    """Return a key for sorting by which shard 2 stands before shard 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", name)]


def _arrays(root: Path, shards: Sequence[ShardEntry]) -> list[ShardEntry]:
    """Return the token arrays beside the shards, with their digests.

    Raises:
        DamagedData: there is one for all and some for single shards.
        DataNotFound: one is no regular file.
    """
    beside = [f"{shard.name.rpartition('.')[0]}.npy" for shard in shards]
    own = [name for name in beside if (root / name).exists() and name != ALL_SHARDS]
    whole = [ALL_SHARDS] if (root / ALL_SHARDS).exists() else []
    if own and whole:
        raise DamagedData(
            f"{root} holds {ALL_SHARDS} and {own[0]}: which texts are the shards'? Move one away."
        )
    entries = [shard_entry(root, name) for name in whole + own]
    of_shards = {f"{shard.name.rpartition('.')[0]}.npy": shard.size_bytes for shard in shards}
    for entry in entries:
        # Before anything is read: a file of zeros may claim any length.
        rows = TokenArray(root / entry.name).num_rows
        most = sum(of_shards.values()) if entry.name == ALL_SHARDS else of_shards[entry.name]
        if rows > most:
            raise DamagedData(
                f"{root / entry.name} has {rows} rows of texts; the shards it belongs to are {most} "
                "bytes and hold fewer samples than that."
            )
    return [entry.model_copy(update={"digest": file_digest(root / entry.name)}) for entry in entries]


def _rows_of(
    root: Path, shard: Path, first: int, settings: Settings
) -> list[tuple[Path, str, int, Sequence[str]]]:
    """Return the array that belongs to a shard, as `RowTexts` takes it; none where there is none."""
    for path, file, start in ((root / ALL_SHARDS, ALL_SHARDS, first), (shard.with_suffix(".npy"), "", 0)):
        if path.is_file():
            count = TokenArray(path).num_texts
            return [(path, file, start, token_kinds(count, settings.token_kinds, str(path)))]
    return []


def read_keys(path: Path) -> frozenset[str]:
    """Return the keys of a list, one a line; what follows a tab is a remark.

    Raises:
        UserError: it cannot be read.
    """
    text = read_text(path, what="list of pairs", limit=LIST_LIMIT_BYTES)
    return frozenset(line.partition("\t")[0] for line in text.split("\n") if line.strip())


def open_index(root: Path, folder: Path | None = None, *, digests: bool = True) -> Index:
    """Return the index of a folder of training data.

    Args:
        root: the folder.
        folder: of the index; `root`/index by default.
        digests: refuse files of the index that are not those that were written.

    Raises:
        DataNotFound: there is none, or a shard is missing.
        DamagedData: it is damaged, or of shards that have changed since.
    """
    check_root(root)
    return Index(folder or root / INDEX, root, digests=digests)
