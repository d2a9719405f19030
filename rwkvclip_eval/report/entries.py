"""What a report is of: numbers, each with the run that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record, RunInfo


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run directory (or one member of a job array).

    Attributes:
        path: where it lies; reports show its name only.
        info: run.json, None where there is none.
    """

    path: Path
    info: RunInfo | None

    @property
    def name(self) -> str:
        """Return what tables call the run: its folder, with the parent's for a job-array member."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if path.name.startswith("shard-") else path.name


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record, the run it came from, and the column it belongs in.

    Attributes:
        record: the number.
        run: where it came from.
        model: column title: the record's model name, with what tells it apart where two encoders share the
            name.
        title: what pages and drawings call its dataset; empty: by its record name.
    """

    record: Record
    run: Run
    model: str
    title: str = ""

    @property
    def trained(self) -> bool:
        """Whether the weights were trained; random ones are never called best."""
        return bool(self.record.model_info.get("trained", True))
