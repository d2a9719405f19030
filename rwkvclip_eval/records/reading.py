"""Writes and reads what a run directory keeps; what is read is checked against its types first."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from rwkvclip_eval.errors import NewerFile, OutputError, joined, refuse_newer
from rwkvclip_eval.records.consistency import contradiction, misfit
from rwkvclip_eval.records.schema import SCHEMA_VERSION, Count, Record, RunInfo
from rwkvclip_eval.schema import misfits
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import check_keys, read_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

RESULTS_LIMIT_BYTES = 64 << 20
"""Some 25,000 records. As objects a hostile file's values take forty times the room of their text."""
RUN_LIMIT_BYTES = 16 << 20
RECORD_LIMIT_BYTES = 1 << 20
LOG_LINE_LIMIT_BYTES = 1 << 16
MAX_RECORDS = 50_000


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write `records` to `path` atomically, one JSON object per line."""
    lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False, allow_nan=False) for r in records]
    write_text(path, "".join(line + "\n" for line in lines))


def read_records(path: Path) -> list[Record]:
    """Return the records of one results.jsonl; keys that are not known are left out.

    Raises:
        OutputError: the file is not a results file, or of a newer schema version.
    """
    content = read_bytes(path, limit=RESULTS_LIMIT_BYTES, what="results", error=OutputError)
    return parsed_records(content, path)


def read_results(directory: Path) -> list[Record]:
    """Return the records of a run directory, after checking that they are those that its command left.

    The check is against damage and loss, not forgery: whoever changes the records can change the digest.

    Raises:
        OutputError: see `read_records`, or something else changed them since.
    """
    path = directory / "results.jsonl"
    content = read_bytes(path, limit=RESULTS_LIMIT_BYTES, what="results", error=OutputError)
    records, description = parsed_records(content, path), directory / "run.json"
    left = read_run_info(description).results_sha256 if description.exists() else ""
    if left and (now := hashlib.sha256(content).hexdigest()) != left:
        raise OutputError(
            f"{path} is not as its run left it: something changed or cut it (SHA-256 {now[:12]}…, run.json "
            f"says {left[:12]}…). Delete it and run the same command again (stored features are used again)."
        )
    return records


def without_digest(run: Path) -> list[Path]:
    """Return the run directories in `run` whose `run.json` does not tell what their records were.

    Such are runs of older versions, and runs whose command is at work or did not end.
    """
    described = {directory: directory / "run.json" for directory in run_dirs(run)}
    return [
        directory
        for directory, description in described.items()
        if not (description.exists() and read_run_info(description).results_sha256)
    ]


def parsed_records(content: bytes, path: Path) -> list[Record]:
    """Return the records in the content of a results.jsonl, see `read_records`.

    Args:
        content: of the file.
        path: what messages call it.

    Raises:
        OutputError: it is none.
    """
    num_lines = content.count(b"\n")
    if len(content) > RESULTS_LIMIT_BYTES or num_lines > MAX_RECORDS:
        raise OutputError(
            f"{path} has {num_lines} records in {len(content)} bytes; at most {MAX_RECORDS} and "
            f"{RESULTS_LIMIT_BYTES} are read."
        )
    # Not as text lines: names may hold characters that Python takes for line ends.
    filled = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line]
    try:
        for number, line in filled:
            if len(line) > RECORD_LIMIT_BYTES:
                raise OutputError(
                    f"{path}:{number}: a record of {len(line)} bytes; at most {RECORD_LIMIT_BYTES} are read."
                )
        records = [_record(line, f"{path}:{number}") for number, line in filled]
        if wrong := contradiction(records):
            raise OutputError(f"{path}: {wrong}.")
    except NewerFile:
        raise
    except OutputError as error:
        raise OutputError(
            f"{error} Something else wrote or cut this file: delete it and run the same command again "
            "(features in the store are used again)."
        ) from error
    return records


def _record(line: bytes, where: str) -> Record:
    """Return one record, its number one that its metric can have.

    Raises:
        OutputError: it is none, or of a newer version.
    """
    what = f"{where}: not a result record"
    record = _versioned(Record, line, where, what)
    if wrong := misfit(record):
        raise OutputError(f"{what}: {wrong}.")
    return record


def read_run_info(path: Path) -> RunInfo:
    """Return the content of one run.json; keys that are not known are left out.

    Raises:
        OutputError: the file is not a run's description, or of a newer schema version.
    """
    content = read_bytes(path, limit=RUN_LIMIT_BYTES, what="run description", error=OutputError)
    return _versioned(RunInfo, content, str(path), f"{path} is not a run description")


V = TypeVar("V", Record, RunInfo)


def _versioned(kind: type[V], content: bytes, where: str, what: str) -> V:
    """Return what `parsed` does, unless it is of a newer schema version than ours."""
    try:
        found = parsed(kind, content, what)
    except OutputError:
        # What does not fit may be of a version that this one does not know.
        refuse_newer(content, "schema_version", SCHEMA_VERSION, where)
        raise
    if found.schema_version > SCHEMA_VERSION:
        refuse_newer(content, "schema_version", SCHEMA_VERSION, where)
    return found


T = TypeVar("T")


def parsed(kind: type[T], content: bytes, what: str) -> T:
    """Return the JSON text `content` as a `kind`, whose annotations it must fit exactly.

    Args:
        kind: a dataclass or pydantic model; keys that it does not know are left out.
        content: of a file, or a line of it.
        what: says for messages that it is none: "FILE is not a run description".

    Raises:
        OutputError: it does not fit; every field that does not is named with what came.
    """
    try:
        found: T = _adapter(cast("Any", kind)).validate_json(content, strict=True)
    except ValidationError as error:
        raise OutputError(f"{what}: {joined(misfits(error), '; ')}.") from error
    try:
        check_keys(content, "file", error=OutputError)
    except OutputError as error:
        raise OutputError(f"{what}. {error}") from error
    return found


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def run_dirs(path: Path) -> list[Path]:
    """Return the run directories at `path`: itself and its job-array members, those that hold results.

    Raises:
        OutputError: there is no results.jsonl.
    """
    members = [p.parent for p in sorted(path.glob("shard-*-of-*/results.jsonl"))]
    found = ([path] if (path / "results.jsonl").exists() else []) + members
    if not found:
        raise OutputError(f"No results in {path}: expected a run directory (with results.jsonl).")
    return found


def nothing_yet(path: Path) -> str:
    """Return what to say of a run directory without a single record."""
    return f"{path} holds no results yet: run its command to the end."


def has_results(path: Path) -> bool:
    """Return whether a folder is a run directory: it or its job-array members hold results."""
    return (path / "results.jsonl").is_file() or any(path.glob("shard-*-of-*/results.jsonl"))


def runs_below(path: Path) -> list[Path]:
    """Return the run directories in a folder that is none itself; nothing for one that is, or holds none."""
    if has_results(path):
        return []
    found = [*path.glob("*/results.jsonl"), *path.glob("*/shard-*-of-*/results.jsonl")]
    return sorted({path / file.relative_to(path).parts[0] for file in found})


class _SeedLine(BaseModel):
    seed: Count | None = None


def training_seeds(path: Path) -> set[int]:
    """Return the seeds of the models that a run directory has training logs of, as the logs say them.

    Raises:
        OutputError: a log is none.
    """
    found = set()
    for log in sorted((path / "training").glob("*.jsonl")):
        require_regular(log, "training log", error=OutputError)
        with log.open("rb") as file:
            line = file.readline(LOG_LINE_LIMIT_BYTES)
        said = parsed(_SeedLine, line, f"{log}:1: not a training log line").seed if line.strip() else None
        found |= set() if said is None else {said}
    return found


def load_results(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Return one tidy row per record of the run directories `paths`.

    Columns are the fields of `Record` but `tables`, with `model_info` and `metric_info` spread as
    `model_info.KEY`, and `run`, the directory the row came from. Values are fractions.

    Raises:
        OutputError: a path holds no results.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [
        (record, str(directory))
        for path in given
        for directory in run_dirs(Path(path))
        for record in read_results(directory)
    ]
    return records_to_frame([record for record, _ in found]).assign(run=[run for _, run in found])


def records_to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per record; `model_info` and `metric_info` are spread as `model_info.KEY`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in records:
        row = dataclasses.asdict(record)
        del row["tables"]
        for name in ("model_info", "metric_info"):
            row |= {f"{name}.{key}": value for key, value in (row.pop(name) or {}).items()}
        rows.append(row)
    spread = ("model_info", "metric_info", "tables")
    columns = [f.name for f in dataclasses.fields(Record) if f.name not in spread]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def load_predictions(run: str | Path, unit: str, table: str = "predictions") -> pd.DataFrame:
    """Return per-sample outputs of one unit of a run directory as a frame.

    Raises:
        OutputError: there is no such table, and the text lists those there are; or it cannot be read.
    """
    import pandas as pd

    for directory in run_dirs(Path(run)):
        path = directory / "predictions" / unit / f"{table}.parquet"
        if path.exists():
            require_regular(path, "predictions", error=OutputError)
            try:
                with path.open("rb") as stream:
                    return pd.read_parquet(stream)
            except Exception as error:  # the library raises what it likes on a file that is none
                raise OutputError(f"{path} is not a table of predictions ({error!r}).") from error
    tables = sorted(
        f"{p.parent.name}/{p.stem}" for d in run_dirs(Path(run)) for p in d.glob("predictions/*/*.parquet")
    )
    raise OutputError(f"No predictions {unit}/{table} in {run}. There are: {', '.join(tables) or 'none'}.")
