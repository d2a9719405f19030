"""Makes a run directory of imported results."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.exchange.clip_benchmark import TOOL, Imported, read_results
from rwkvclip_eval.records.reading import write_records
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.version import __version__
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def import_run(files: Sequence[Path], out: Path) -> Imported:
    """Read CLIP_benchmark's result files and write the run directory `out` of them.

    Raises:
        OutputError: a file is none of its results, or `out` holds results already or cannot be written.
    """
    if (out / "results.jsonl").exists():
        raise OutputError(f"{out} holds results already; choose another --out.")
    imported = read_results(files)
    names = sorted({str(record.notes["imported"]) for record in imported.records})
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = "".join(f"# {name}\n" for name in names)
    info = RunInfo(
        command=f"rwkvclip-eval import FILE… --out {out.name}",
        suite_name=f"imported from {TOOL}",
        suite_text=text,
        suite_sha256=hashlib.sha256(text.encode()).hexdigest(),
        models=sorted({record.model for record in imported.records}),
        identity={"imported": TOOL},
        environment={"imported with": f"rwkvclip-eval {__version__}", "measured with": "not stated"},
        started_utc=now,
    )
    write_text(out / "run.json", json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False))
    write_records(out / "results.jsonl", imported.records)
    return imported
