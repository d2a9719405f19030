"""Logs of training runs as columns: what a run page draws."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import OutputError, UserError, shown
from rwkvclip_models.files import parse_json, read_text, whole_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIMIT_BYTES = 128 << 20
MOST_NAMES = 10_000
"""Of fields, kinds of text and evaluated numbers in a log."""
MOST_CELLS = 10_000_000
"""Lines times names of a mapping that is drawn."""


class Curve(NamedTuple):
    """One quantity of a run over its steps.

    Attributes:
        label: of a kind of text; empty where a run has one such curve.
        steps: [n] int64, those that the log says something of.
        values: [n] float64; NaN where what it says is no number.
    """

    label: str
    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class LoggedRun:
    """A run's log.

    Attributes:
        name: of the model and its seed, as a legend has it.
        path: of the log.
        lines: by step, each the fields that the loop wrote.
    """

    name: str
    path: Path
    lines: tuple[dict[str, Any], ...]

    def curve(self, field: str, *, item: int | str | None = None, scale: float = 1.0) -> Curve:
        """Return a field over the steps, or an item of the list or mapping that it is, times `scale`."""
        lines = [line for line in self.lines if field in line]
        steps = np.array([line["step"] for line in lines], dtype=np.int64)
        values = [_number(_item(line[field], item)) * scale for line in lines]
        return Curve(item if isinstance(item, str) else "", steps, np.array(values, dtype=np.float64))

    def curves(self, field: str) -> list[Curve]:
        """Return a curve of each key of the mapping that a field is, in the order in which they come.

        Raises:
            OutputError: they are too many.
        """
        lines = [line for line in self.lines if field in line]
        said = [line[field] if isinstance(line[field], dict) else {} for line in lines]
        places = {name: i for i, name in enumerate(dict.fromkeys(name for each in said for name in each))}
        if len(lines) * len(places) > MOST_CELLS:
            raise OutputError(
                f"{self.path}: {len(lines)} lines with {field} of {len(places)} names are too many to draw; "
                f"expected a product of at most {MOST_CELLS}."
            )
        steps = np.array([line["step"] for line in lines], dtype=np.int64)
        values = np.full((len(places), len(lines)), math.nan)
        for column, each in enumerate(said):
            for name, value in each.items():
                values[places[name], column] = _number(value)
        return [Curve(name, steps, values[i]) for name, i in places.items()]

    @functools.cached_property
    def evaluated(self) -> dict[str, list[Curve]]:
        """TASK/PROTOCOL/DATASET → curves of its fractions; by their whole names, other numbers."""
        curves: dict[str, list[Curve]] = {}
        for curve in self.curves("evaluation"):
            where, _, metric = curve.label.rpartition("/")
            finite = curve.values[np.isfinite(curve.values)]
            if len(finite) and finite.min() >= 0 and finite.max() <= 1:
                curves.setdefault(where, []).append(curve._replace(label=metric))
            elif len(finite):
                curves.setdefault(curve.label, []).append(curve._replace(label=""))
        return curves


def find_logs(places: Sequence[Path]) -> list[Path]:
    """Return the logs of run folders (training/*.jsonl in them) or files.

    Raises:
        UserError: a place is none.
    """
    found = []
    for place in places:
        logs = [place] if place.is_file() else sorted((place / "training").glob("*.jsonl"))
        if not logs:
            raise UserError(
                f"No training log at {place}: give a run's folder, which has training/NAME.jsonl."
            )
        found += logs
    return found


def read_run(path: Path) -> LoggedRun:
    """Return a training log.

    Raises:
        OutputError: it cannot be read, has no line, too many or too many names, or a line is no step's.
    """
    text = read_text(path, what="training log", limit=LIMIT_BYTES, error=OutputError)
    lines, names = [], dict[str, str]()
    given = whole_lines(text, f"training log {path}", error=OutputError)
    del text
    for number, line in enumerate(given, start=1):
        fields = parse_json(line, f"training log {path}, line {number},", error=OutputError)
        step = fields.get("step") if isinstance(fields, dict) else None
        if type(step) is not int or not 0 <= step < 1 << 53:
            raise OutputError(
                f"{path}:{number}: expected a line with a whole number as step, got {shown(step)}."
            )
        lines.append(_kept(fields, names, f"{path}:{number}"))
    if not lines:
        raise OutputError(f"{path} has no line yet; the first comes after log_every steps.")
    model, seed = lines[-1].get("model", path.stem), lines[-1].get("seed")
    name = f"{model}, seed {seed}" if isinstance(seed, int) else str(model)
    return LoggedRun(name, path, tuple(sorted(lines, key=_step)))


def _kept(fields: dict[str, Any], names: dict[str, str], where: str) -> dict[str, Any]:
    """Return the fields of a line with names that are the same objects in all lines, kept in `names`.

    Raises:
        OutputError: there are too many names, or a value holds others than texts and numbers.
    """
    kept = {}
    for field, value in fields.items():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if any(isinstance(each, dict | list) for each in inner):
            raise OutputError(f"{where}: {shown(field)} is nested; expected numbers, or names of numbers.")
        if isinstance(value, dict):
            value = {names.setdefault(name, name): each for name, each in value.items()}
        kept[names.setdefault(field, field)] = value
    if len(names) > MOST_NAMES:
        raise OutputError(f"{where}: the log names more than {MOST_NAMES} fields and kinds.")
    return kept


def _step(line: dict[str, Any]) -> int:
    step: int = line["step"]
    return step


def _item(value: Any, item: int | str | None) -> Any:
    if item is None:
        return value
    if isinstance(item, str):
        return value.get(item) if isinstance(value, dict) else None
    return value[item] if isinstance(value, list) and len(value) > item else None


def _number(value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if fits else math.nan
