"""Pictures of samples that flipped: those that runs keep as examples, then those of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.compare.tables import read_table
from rwkvclip_eval.errors import UserError, shortened
from rwkvclip_eval.report.loading import read_thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rwkvclip_eval.compare.flips import Flip
    from rwkvclip_eval.compare.pairing import Side, UnitKey
    from rwkvclip_eval.compare.result import Result, Row
    from rwkvclip_eval.records.schema import Record

SHOWN = 8
"""Samples gained, and samples lost, that are shown of one set."""
_MAX_WHY = 300


@dataclass
class Pictures:
    """What is at hand.

    Attributes:
        found: unit and key → base64 JPEG.
        absent: unit → why samples that are shown have none.
    """

    found: dict[tuple[UnitKey, str], str] = field(default_factory=dict)
    absent: dict[UnitKey, str] = field(default_factory=dict)


def shown_flips(row: Row, most: int = SHOWN) -> tuple[tuple[Flip, ...], tuple[Flip, ...]]:
    """Return the samples gained and lost that are shown of a set."""
    flipped = row.compared.found.flipped
    return (flipped.gained[:most], flipped.lost[:most]) if flipped else ((), ())


def collect_pictures(
    result: Result, read: Callable[[Record, Collection[str]], dict[str, str]] | None
) -> Pictures:
    """Return pictures of the samples that flipped in the sets that the verdict is about.

    Args:
        result: of a comparison.
        read: gives a record's pictures by key from the data; None where nobody says where they lie.

    Raises:
        OutputError: examples or predictions of a run are damaged.
    """
    pictures = Pictures()
    for row in result.rows:
        unit = row.compared.unit
        keys = {flip.key for flips in shown_flips(row) for flip in flips}
        if not row.verdict or not keys:
            continue
        sides = result.comparison.baseline, result.comparison.candidate
        records = [next(iter(side.numbers[unit].values())) for side in sides]
        own = stored(sides[0], unit, keys)
        if records[0].dataset_fingerprint == records[1].dataset_fingerprint:
            own |= stored(sides[1], unit, keys)
        missing = keys - own.keys()
        if missing and read is not None:
            try:
                own |= read(records[0], sorted(missing))
            except UserError as error:
                pictures.absent[unit] = shortened(str(error), _MAX_WHY)
        elif missing:
            pictures.absent[unit] = "runs keep few pictures; --data-root DATA says where the others lie"
        pictures.found |= {(unit, key): picture for key, picture in own.items()}
    return pictures


def stored(side: Side, unit: UnitKey, keys: Collection[str]) -> dict[str, str]:
    """Return the pictures among a run's examples of those keys; a baseline file has none."""
    folder = side.folders[unit]
    if not isinstance(folder, Path):
        return {}
    path = folder.parents[1] / "examples" / f"{folder.name}.json"
    tables = [folder / f"{name}.parquet" for name in ("predictions", "image_to_text")]
    there = [table for table in tables if table.exists()]
    if not path.exists() or not there:
        return {}
    thumbnails, names = read_thumbnails(path), read_table(there[0], ("key",)).columns["key"].to_pylist()
    rows = {key: str(row) for row, key in enumerate(names) if key in keys}
    return {key: thumbnails[row] for key, row in rows.items() if row in thumbnails}
