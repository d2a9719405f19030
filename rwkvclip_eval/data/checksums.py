"""SHA256SUMS files beside shards, in the form `sha256sum` writes and checks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rwkvclip_eval.data.reading import below, read_text, text_lines
from rwkvclip_eval.errors import DamagedData
from rwkvclip_models.disk import file_digest, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUMS_NAME = "SHA256SUMS"


def write_sums(folder: Path, digests: Mapping[str, str]) -> None:
    """Write `folder`/SHA256SUMS: file name → SHA-256 (hex)."""
    write_text(folder / SUMS_NAME, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def wrong_sums(folder: Path) -> tuple[str, ...]:
    """Return a phrase for each file of `folder`/SHA256SUMS that is missing or changed, and each bad line."""
    found = []
    for line in text_lines(read_text(folder / SUMS_NAME)):
        if not line:
            continue
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None:
            found.append(f"a line that is not `SHA-256  FILE`: {line[:200]!r}")
            continue
        try:
            path = below(folder, match[2], SUMS_NAME)
        except DamagedData:
            found.append(f"a file outside the folder: {match[2][:200]!r}")
            continue
        if not path.is_file():
            found.append(f"{match[2]} is missing")
        elif file_digest(path) != match[1]:
            found.append(f"{match[2]} has another SHA-256")
    return tuple(found)
