"""A run directory while a run writes into it: refuses a foreign one, continues an unfinished one."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import DataWarning, OutputError, name_some
from rwkvclip_eval.records.reading import read_records, read_results, read_run_info, write_records
from rwkvclip_eval.run.identity import differences
from rwkvclip_models.disk import atomic_path, file_digest, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record, RunInfo
    from rwkvclip_eval.run.outcome import UnitOutcome

FINISHED = ("ok", "not_applicable")
"""Outcomes that a continued run does not try again."""


def is_finished(records: Sequence[Record], task_version: int) -> bool:
    """Whether a unit with these records needs no further work."""
    return bool(records) and all(
        record.status in FINISHED and record.task_version == task_version for record in records
    )


def read_run(out: Path, info: RunInfo) -> tuple[list[Record], RunInfo | None]:
    """Return what a run directory holds of the run that `info` describes.

    A directory without results is nobody's yet: a run that ended at a mistyped model leaves one.

    Raises:
        OutputError: it holds another run, or results of which nothing says what they are of.
    """
    found = out / "results.jsonl"
    # A link to nothing is no absent file.
    records = read_records(found) if (found.exists() or found.is_symlink()) else []
    try:
        before = read_run_info(out / "run.json")
    except OutputError as error:
        if not records:
            return records, None
        raise OutputError(
            f"{out} holds results, but no run.json that says of what ({str(error).rstrip('.')}); "
            "choose another --out."
        ) from error
    said = differences(before, info)
    if said and not records:
        return records, None
    if said:
        raise OutputError(
            f"{out} holds another run ({'; '.join(said)}). Choose another --out, or the same options."
        )
    # Without records nothing is lost that is not made again.
    return (_with_tables(out, read_results(out)) if records else records), before


def _with_tables(out: Path, records: list[Record]) -> list[Record]:
    """Return the records of units whose predictions are as they were written; the others are made again."""
    wrong: dict[str, bool] = {}
    for record in records:
        if record.unit not in wrong:
            paths = {out / "predictions" / record.unit / f"{n}.parquet": d for n, d in record.tables.items()}
            wrong[record.unit] = any(not p.is_file() or file_digest(p) != d for p, d in paths.items())
    if lost := [unit for unit, is_wrong in wrong.items() if is_wrong]:
        warnings.warn(
            f"{out}: predictions are gone or not as they were written, of {len(lost)} units "
            f"({name_some(lost)}); they are made again.",
            DataWarning,
            stacklevel=2,
        )
    return [record for record in records if not wrong[record.unit]]


class RunDirectory:
    """One run directory on disk, held by one process at a time."""

    def __init__(self, out: Path, info: RunInfo) -> None:
        from filelock import FileLock, Timeout

        self.out = out
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(out / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"Another process is running into {out}; wait for it or choose another --out."
            ) from error
        except OSError as error:
            raise OutputError(
                f"Cannot write the run directory {out}: {error.strerror or error}. Choose another --out."
            ) from error
        self.records: dict[str, list[Record]] = {}
        try:
            self.info = self._continue(info)
            self._write_info()
        except BaseException:  # Ctrl-C too: no lock stays behind.
            self._lock.release()
            raise

    def _continue(self, info: RunInfo) -> RunInfo:
        """Return the run's info with this command counted, after checking that it is the same run."""
        records, before = read_run(self.out, info)
        for record in records:
            self.records.setdefault(record.unit, []).append(record)
        if before is None:
            return info
        return dataclasses.replace(
            before,
            num_commands=before.num_commands + 1,
            environment=info.environment,
            results_sha256="",
        )

    def _write_info(self) -> None:
        write_text(
            self.out / "run.json", json.dumps(dataclasses.asdict(self.info), indent=1, ensure_ascii=False)
        )

    def refuse_other_model(self, name: str, fingerprint: str) -> None:
        """Refuse to mix numbers of two models under one name.

        Raises:
            OutputError: this run scored a model called `name` with another fingerprint.
        """
        scored = self.scored(name, "fingerprint")
        if scored and fingerprint not in scored:
            raise OutputError(
                f"{name} (weights, configuration or preprocessing) has changed since {self.out} scored it; "
                "choose another --out."
            )

    def scored(self, model: str, fact: str) -> set[Any]:
        """Return what finished records of `model` say of it under `fact`."""
        return {
            record.model_info.get(fact)
            for records in self.records.values()
            for record in records
            if record.model == model and record.status in FINISHED
        }

    def finished(self, unit: str, task_version: int) -> bool:
        """Whether the unit needs no further work: it has its outcome, of this version of its task."""
        return is_finished(self.records.get(unit, ()), task_version)

    def add(self, unit: str, outcome: UnitOutcome) -> None:
        """Put a unit's outcome on disk: predictions and examples first, then its records."""
        tables: dict[str, str] = {}
        if outcome.result:
            import pyarrow.parquet as pq

            for name, table in outcome.result.predictions.items():
                path = self.out / "predictions" / unit / f"{name}.parquet"
                # The library takes no path that is not UTF-8.
                with atomic_path(path) as temporary:
                    with temporary.open("wb") as file:
                        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
                    tables[name] = file_digest(temporary)
        if outcome.examples:
            text = json.dumps(outcome.examples, ensure_ascii=False)
            write_text(self.out / "examples" / f"{unit}.json", text)
        self.records[unit] = [dataclasses.replace(record, tables=tables) for record in outcome.records]
        self.write_results()

    def write_results(self) -> None:
        """Put all records on disk; a member of a job array may have none, and says so by an empty file."""
        write_records(self.out / "results.jsonl", [r for records in self.records.values() for r in records])

    def close(self, seconds: Mapping[str, float]) -> None:
        """Write the seconds this command spent by stage and the digest of all results, and end."""
        rounded = {stage: round(spent, 3) for stage, spent in seconds.items()}
        self.info = dataclasses.replace(
            self.info,
            duration_s=round((self.info.duration_s or 0.0) + seconds["total"], 3),
            stage_seconds=[*self.info.stage_seconds, rounded],
        )
        try:
            results = self.out / "results.jsonl"
            digest = file_digest(results) if results.is_file() else ""
            self.info = dataclasses.replace(self.info, results_sha256=digest)
            self._write_info()
        finally:
            self._lock.release()
