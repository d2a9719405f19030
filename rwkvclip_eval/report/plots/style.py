"""What plots share: a colour and a marker for each model, intervals as error bars, numbers in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rwkvclip_eval.report.rows import Cell, Row

# Okabe & Ito's and two more; those after them are darker, then lighter forms of these.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a6ad8", "#8c6d46")
_BAR = ((-1.0, -0.45), (1.0, -0.45), (1.0, 0.45), (-1.0, 0.45), (-1.0, -0.45))
MARKERS: tuple[Any, ...] = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "d", _BAR)
"""Shapes that are told apart without colour, a model each."""
MAX_MODELS = len(MARKERS)
"""Of one drawing."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


@dataclass(frozen=True)
class Look:
    """How the numbers of one model are drawn.

    Attributes:
        colour: as `#rrggbb`.
        marker: a shape of its own, as matplotlib takes it.
        filled: measured here; published numbers are open.
    """

    colour: str
    marker: Any
    filled: bool = True

    def dots(self, size: float, *, faint: bool = False) -> dict[str, Any]:
        """Return it as keyword arguments of matplotlib's lines, without a line."""
        return {
            "linestyle": "none",
            "marker": self.marker,
            "markersize": size * (1.25 if self.marker == "*" else 1),
            "color": self.colour,
            "markerfacecolor": self.colour if self.filled else "none",
            "markeredgewidth": 0.7,
            "alpha": 0.45 if faint else 1.0,
        }


def looks(measured: Sequence[str], published: Iterable[str], colours: Mapping[str, str]) -> dict[str, Look]:
    """Return a look per model, no two of one shape; those beyond `MAX_MODELS` are left out.

    Args:
        measured: models of the report.
        published: methods, drawn open.
        colours: of the models; methods have those after them.
    """
    found = {m: Look(colours[m], MARKERS[i]) for i, m in enumerate(measured[:MAX_MODELS])}
    first = len(set(colours.values()))
    for method in published:
        if len(found) < MAX_MODELS and method not in found:
            found[method] = Look(_colour(first + len(found)), MARKERS[len(found)], filled=False)
    return found


def looks_with_reference(models: Sequence[str]) -> dict[str, Look]:
    """Return a look per model, that of the last among them, which the others are compared with."""
    drawn = [*models[: MAX_MODELS - 1], *models[-1:]] if len(models) > MAX_MODELS else models
    return looks(drawn, (), model_colours(models, {}))


def model_colours(models: Sequence[str], series: Mapping[str, str]) -> dict[str, str]:
    """Return a colour per model; the checkpoints of one series share theirs."""
    keys = list(dict.fromkeys(series.get(m, m) for m in models))
    return {m: _colour(keys.index(series.get(m, m))) for m in models}


def _colour(number: int) -> str:
    """Return a colour of its own for each number: the palette, then its darker and lighter forms."""
    base = _PALETTE[number % len(_PALETTE)]
    tier = number // len(_PALETTE)
    if tier == 0:
        return base
    # Steps of the golden ratio never meet again.
    towards, share = (0, 255)[tier % 2 == 0], 0.3 + 0.4 * ((tier - 1) * 0.618034 % 1)
    channels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (towards - c) * share):02x}" for c in channels)


def errors(cells: Sequence[Cell]) -> list[list[float]]:
    """Return distances from value to interval, [2][len(cells)], in points; zero where there is none."""
    below = [100 * ((c.value or 0) - c.low) if c.low is not None else 0.0 for c in cells]
    above = [100 * (c.high - (c.value or 0)) if c.high is not None else 0.0 for c in cells]
    return [[max(0.0, d) for d in below], [max(0.0, d) for d in above]]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers to name on a logarithmic axis: 1, 2, 5 and tenfold, closer ones on a short axis.

    Args:
        low: where the axis begins, more than 0.
        high: where it ends.
    """
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [n * 10.0**k for k in decades for n in (1, 2, 5)]
    found = [tick for tick in ticks if low <= tick <= high]
    if len(found) > 2:
        return found
    close = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in close if low <= tick <= high]


def counted(rows: Sequence[Row], models: Iterable[str] | None = None) -> str:
    """Return on how many images or queries the numbers of a plot or a table are; empty where none says it.

    Args:
        rows: shown.
        models: shown; all by default.
    """
    chosen = None if models is None else set(models)
    cells = [c for r in rows for m, c in r.cells.items() if chosen is None or m in chosen]
    records = [c.entry.record for c in cells if c.entry is not None and c.value is not None]
    found = sorted({record.n for record in records if record.n is not None})
    if not found:
        return ""
    what = "queries" if all(r.metric.direction for r in rows) else "images"
    each = " a dataset" if len({r.title for r in rows}) > 1 else ""
    most = f" to {found[-1]:,}" if len(found) > 1 else ""
    return f"n = {found[0]:,}{most} {what}{each}"


def captioned(*parts: str) -> str:
    """Return a caption of those of its parts that say something."""
    return "; ".join(filter(None, parts))


def summary(rows: Sequence[Row], models: Sequence[str]) -> str:
    """Return the numbers of a plot in words, for those who do not see it."""
    return "; ".join(
        f"{row.title} {row.metric.title}: "
        + ", ".join(
            f"{m} {row.cells[m].text}" for m in models if m in row.cells and row.cells[m].value is not None
        )
        for row in rows[:30]
    )
