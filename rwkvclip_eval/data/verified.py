"""What `data verify` found of splits, remembered by their fingerprints for the runs that judge them.

A file a split in the cache folder. What cannot be read or written costs the knowledge, nothing else: a run
then says nothing of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import DatasetInfo
    from rwkvclip_eval.data.verify import VerifyReport

_LIMIT_BYTES = 1 << 20
_Digest = Annotated[str, Field(max_length=200)]
_Count = Annotated[int, Field(ge=0, le=10**12)]


class _Found(BaseModel):
    """Of one split.

    Attributes:
        pictures: those that occur more than once in it.
        repeated: its images that show these.
        shared: fingerprint of another split → its own images that show pictures of that one.
    """

    pictures: _Count = 0
    repeated: _Count = 0
    shared: Annotated[dict[_Digest, _Count], Field(max_length=1000)] = {}


def remember(reports: Sequence[VerifyReport]) -> None:
    """Keep what a check of splits of one dataset found; of splits not among them what was known stays."""
    for report in reports:
        path = _path(report.info.fingerprint)
        found = _read(path) or _Found()
        groups = report.duplicate_images
        shared = {
            other.info.fingerprint: sum(
                len(keys) for content, keys in report.pictures.items() if content in other.pictures
            )
            for other in reports
            if other is not report
        }
        found = _Found(
            pictures=len(groups), repeated=sum(map(len, groups)), shared={**found.shared, **shared}
        )
        with contextlib.suppress(OutputError):
            write_text(path, found.model_dump_json())


def known_notes(judged: DatasetInfo, learned: Sequence[DatasetInfo]) -> dict[str, str]:
    """Return what is known of a split beside its number: pictures that repeat, or that were learned from.

    Args:
        judged: the split.
        learned: splits that a probe learned from.
    """
    found = _read(_path(judged.fingerprint))
    if found is None:
        return {}
    notes = {}
    if found.pictures:
        notes["duplicates"] = (
            f"{found.pictures} pictures occur more than once ({found.repeated} of {judged.num_samples} "
            "images)"
        )
    shared = [(info.split, found.shared.get(info.fingerprint, 0)) for info in learned]
    told = [
        f"{count} of {judged.num_samples} images show pictures of {split}" for split, count in shared if count
    ]
    if told:
        notes["overlap"] = "; ".join(told)
    return notes


def _path(fingerprint: str) -> Path:
    name = hashlib.sha256(fingerprint.encode()).hexdigest()
    return default_cache_dir() / "data" / f"{name}.verified"


def _read(path: Path) -> _Found | None:
    try:
        return _Found.model_validate_json(read_bytes(path, limit=_LIMIT_BYTES, what="findings"), strict=True)
    except (UserError, ValidationError):
        return None
