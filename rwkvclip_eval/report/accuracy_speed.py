"""Accuracy beside measured speed: one row a model, and which models no other beats in both. No torch.

Weights do not matter for speed, so that a model is its architecture here: the part of its spec before `=`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.metrics.ratios import geometric_mean
from rwkvclip_eval.report.rows import restrict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rwkvclip_eval.metrics.ratios import Estimate
    from rwkvclip_eval.records.efficiency import Block, Measured
    from rwkvclip_eval.report.overview import Group
    from rwkvclip_eval.report.rows import Cell, Row

_MOST_NUMBERS = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a model's image tower was.

    Attributes:
        rate: images a second.
        joules: energy of an image, J; None where nothing measured it.
        how: the cell in words.
        noisy: why the times are not to be trusted; empty where they are.
    """

    rate: Estimate
    joules: float | None
    how: str
    noisy: str


@dataclass(frozen=True, kw_only=True)
class Number:
    """What a model's accuracy is told by.

    Attributes:
        title: task and average or dataset.
        protocol: its protocol.
        row: the number of every model.
    """

    title: str
    protocol: str
    row: Row


@dataclass(frozen=True, kw_only=True)
class AccuracySpeed:
    """The models of a report that a measurement of speed has, too.

    Attributes:
        device: that was measured.
        numbers: of accuracy, columns.
        speeds: model → its speed, in the report's order.
        apart: model → why it has no speed here.
    """

    device: str
    numbers: tuple[Number, ...]
    speeds: Mapping[str, Speed]
    apart: Mapping[str, str]

    def cell(self, number: Number, model: str) -> Cell | None:
        """Return a model's accuracy; None where it has none."""
        cell = number.row.cells.get(model)
        return None if cell is None or cell.value is None else cell

    def front(self, number: Number) -> tuple[str, ...]:
        """Return the models that no other is at least as accurate and as fast as, fastest first.

        Untrained models and incomplete averages have no place there, nor have noisy times.
        """
        sign = -1.0 if number.row.metric.better == "lower" else 1.0
        points = {
            model: (sign * (cell.value or 0.0), speed.rate.value)
            for model, speed in self.speeds.items()
            if (cell := self.cell(number, model)) is not None and cell.rankable and not speed.noisy
        }
        able = {
            model: (value, rate)
            for model, (value, rate) in points.items()
            if not number.row.problem
            and not any(v >= value and r >= rate and (v, r) != (value, rate) for v, r in points.values())
        }
        return tuple(sorted(able, key=lambda model: -able[model][1]))


def accuracy_speed(groups: Sequence[Group], models: Sequence[str], blocks: Sequence[Block]) -> AccuracySpeed:
    """Return the accuracies that sum a report up beside the speed of the same models.

    All speeds are of one batch, eager or compiled: that at which most models were measured, then the largest.
    Each model's own input size and precision count.

    Args:
        groups: of the report's overview.
        models: of the report.
        blocks: of one measurement.
    """
    numbers = tuple(
        Number(title=f"{g.kind}, {row.title}", protocol=g.under, row=restrict(row, models))
        for g in groups
        for row in g.rows[:1]
        if any(cell.value is not None for cell in row.cells.values())
    )[:_MOST_NUMBERS]
    infos = _infos(groups, models)
    found = {model: list(_measured(infos.get(model, {}), model, blocks)) for model in models}
    keys = Counter(key for own in found.values() for key in {_key(block) for block, _ in own})
    best = max(keys, key=lambda key: (keys[key], *key), default=None)
    speeds = {
        model: _speed(block, measured)
        for model, own in found.items()
        for block, measured in own
        if _key(block) == best
    }
    apart = {model: _why(infos.get(model, {}), model, blocks) for model in models if model not in speeds}
    device = blocks[0].device if blocks else ""
    return AccuracySpeed(device=device, numbers=numbers, speeds=speeds, apart=apart)


def _infos(groups: Iterable[Group], models: Iterable[str]) -> dict[str, Mapping[str, object]]:
    rows = [row for group in groups for row in (*group.table.rows, *group.rows)]
    return {
        m: cell.entry.record.model_info
        for m in models
        for row in rows
        if (cell := row.cells.get(m)) is not None and cell.entry is not None
    }


def _is(measured: Measured, info: Mapping[str, object], model: str) -> bool:
    architecture = str(info.get("spec", "")).partition("=")[0]
    return measured.model in (model, info.get("name")) or measured.spec.partition("=")[0] == architecture


def _measured(
    info: Mapping[str, object], model: str, blocks: Iterable[Block]
) -> Iterable[tuple[Block, Measured]]:
    """Yield a model's measurements of its image tower at its own precision and size."""
    for block in blocks:
        cell = block.cell
        if (cell.tower, cell.precision, [cell.height, cell.width]) != ("image", *_evaluated(info)):
            continue
        for measured in block.models:
            if measured.status == "ok" and measured.repeats and _is(measured, info, model):
                yield block, measured
                break


def _key(block: Block) -> tuple[int, bool]:
    return block.cell.batch, not block.cell.compiled


def _speed(block: Block, measured: Measured) -> Speed:
    return Speed(
        rate=geometric_mean(measured.rates(block.cell)),
        joules=None if measured.energy_j is None else measured.energy_j / block.cell.batch,
        how=block.cell.label,
        noisy=block.noisy,
    )


def _evaluated(info: Mapping[str, object]) -> tuple[object, list[object]]:
    """Return at what precision, height and width a model was evaluated, as far as its record says."""
    size = info.get("image_size_px")
    return info.get("precision"), list(size) if isinstance(size, list | tuple) else []


def _why(info: Mapping[str, object], model: str, blocks: Iterable[Block]) -> str:
    """Return why a model has no speed, in words."""
    own = [(block.cell, m) for block in blocks for m in block.models if _is(m, info, model)]
    if not own:
        return "not measured"
    towers = [(cell, m) for cell, m in own if cell.tower == "image" and m.status == "ok"]
    if not towers:
        return "no time of its image tower"
    precision, sides = _evaluated(info)
    if precision is None or not sides:
        return "its record does not say at what size and precision it was evaluated"
    size = "×".join(map(str, sides))
    there = ", ".join(dict.fromkeys(f"{cell.shape}, {cell.precision}" for cell, _ in towers))
    evaluated = f"{size} px, {precision}"
    return f"not measured as it was evaluated ({evaluated}) or not at one batch with the others: {there}"
