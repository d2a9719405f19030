"""Logs of training runs as columns: what a run page draws."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import OutputError, UserError, shown
from rwkvclip_models.files import parse_json, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIMIT_BYTES = 256 << 20


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

    def text_kinds(self) -> list[str]:
        """Return the kinds of text whose shares the log has."""
        kinds = (line["texts"] for line in self.lines if isinstance(line.get("texts"), dict))
        return sorted({kind for each in kinds for kind in each})

    @functools.cached_property
    def evaluated(self) -> dict[str, list[Curve]]:
        """TASK/PROTOCOL/DATASET → curves of its fractions; by their whole names, other numbers."""
        found = [line["evaluation"] for line in self.lines if isinstance(line.get("evaluation"), dict)]
        curves: dict[str, list[Curve]] = {}
        for name in dict.fromkeys(name for numbers in found for name in numbers):
            curve = self.curve("evaluation", item=name)
            where, _, metric = name.rpartition("/")
            finite = curve.values[np.isfinite(curve.values)]
            if len(finite) and finite.min() >= 0 and finite.max() <= 1:
                curves.setdefault(where, []).append(curve._replace(label=metric))
            elif len(finite):
                curves.setdefault(name, []).append(curve._replace(label=""))
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
        OutputError: it cannot be read, has no line, or a line is no step's.
    """
    text = read_text(path, what="training log", limit=LIMIT_BYTES, error=OutputError)
    lines = []
    # What stands behind the last line end is a line that a running process is writing.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        fields = parse_json(line, f"training log {path}, line {number},", error=OutputError)
        step = fields.get("step") if isinstance(fields, dict) else None
        if type(step) is not int or not 0 <= step < 1 << 53:
            raise OutputError(
                f"{path}:{number}: expected a line with a whole number as step, got {shown(step)}."
            )
        lines.append(fields)
    if not lines:
        raise OutputError(f"{path} has no line yet; the first comes after log_every steps.")
    model, seed = lines[-1].get("model", path.stem), lines[-1].get("seed")
    name = f"{model}, seed {seed}" if isinstance(seed, int) else str(model)
    return LoggedRun(name, path, tuple(sorted(lines, key=_step)))


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
