"""The curves of linear probes: what the search for λ saw, read from predictions.

λ multiplies ½‖W‖² against the summed cross entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError, shortened
from rwkvclip_eval.printable import printable
from rwkvclip_models.files import require_regular

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.report.loading import Entry

_FIELDS = ["stage", "l2", "score", "status", "objective", "gap", "iterations"]
_MAX_FITS = 10_000
_MAX_NUMBER = 1e30


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One fit of a probe, at one strength.

    Attributes:
        l2: λ.
        score: primary metric as a fraction, in the search on the validation split, of the final fit on the
            test split; None where none was kept.
        status: how the solver ended.
        objective: summed cross entropy + λ/2 ‖W‖² where the solver ended.
        gap: certified upper bound on how far the objective is from its optimum; None where none was proven.
        iterations: of the solver.
    """

    l2: float
    score: float | None
    status: str
    objective: float | None
    gap: float | None
    iterations: int | None


@dataclass(frozen=True, kw_only=True)
class RegularisationCurve:
    """The fits of one unit's search for λ.

    Attributes:
        unit: name of the unit.
        model: column title of its model.
        search: by ascending λ.
        final: the fit on training and validation split together; None where there is none.
    """

    unit: str
    model: str
    search: tuple[Fit, ...]
    final: Fit | None


def read_curves(entries: Sequence[Entry]) -> list[RegularisationCurve]:
    """Return the regularisation curves that the runs keep for `entries`, one per unit and model.

    Raises:
        OutputError: a file is damaged.
    """
    curves: dict[tuple[str, str], RegularisationCurve] = {}
    for entry in entries:
        key = (entry.record.unit, entry.model)
        path = entry.run.path / "predictions" / entry.record.unit / "regularisation.parquet"
        # A unit that is no name of a folder would lead out of the run.
        if not is_probe(entry.record.notes) or key in curves or "/" in entry.record.unit:
            continue
        if not path.exists():
            continue
        fits = _read_fits(path)
        search = sorted((fit for stage, fit in fits if stage == "search"), key=lambda fit: fit.l2)
        final = [fit for stage, fit in fits if stage == "final"]
        curves[key] = RegularisationCurve(
            unit=entry.record.unit,
            model=entry.model,
            search=tuple(search),
            final=final[-1] if final else None,
        )
    return list(curves.values())


def _read_fits(path: Path) -> list[tuple[str, Fit]]:
    import pyarrow.parquet as pq

    require_regular(path, "regularisation curve", error=OutputError)
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            if file.metadata.num_rows > _MAX_FITS:
                raise OutputError(f"{path} has {file.metadata.num_rows} rows; at most {_MAX_FITS} are read.")
            rows = file.read(_FIELDS).to_pylist()
        return [
            (
                str(row["stage"]),
                Fit(
                    l2=_strength(row["l2"]),
                    score=_number(row["score"]),
                    status=printable(str(row["status"])[:100]),
                    objective=_number(row["objective"]),
                    gap=_number(row["gap"]),
                    iterations=None if row["iterations"] is None else int(row["iterations"]),
                ),
            )
            for row in rows
        ]
    except OutputError:
        raise
    except Exception as error:  # the library raises what it likes on a file that is none
        raise OutputError(
            f"{path} is not a regularisation curve ({shortened(repr(error), 300)}); run the suite again."
        ) from error


def _strength(value: Any) -> float:
    if not 1e-30 <= value <= 1e30:
        raise ValueError(f"expected a strength from 1e-30 to 1e30, got {value}")
    return float(value)


def _number(value: Any) -> float | None:
    return None if value is None or not abs(value) <= _MAX_NUMBER else float(value)


def is_probe(notes: Mapping[str, Any]) -> bool:
    """Return whether the notes are of a linear probe that chose a strength."""
    return isinstance(notes.get("l2"), int | float)
