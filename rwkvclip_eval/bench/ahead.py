"""What a measurement will do, and about how long it takes, before it begins."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.bench import turns
from rwkvclip_eval.bench.load import LOOK_S
from rwkvclip_eval.bench.worker import Worker, WorkerFailed
from rwkvclip_eval.encoders.spec import expand_specs
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.efficiency import Measured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rwkvclip_eval.records.efficiency import Cell
    from rwkvclip_eval.records.grid import Grids


ASSUMED_SHARE = 0.35
"""Of the device's ceiling that a tower is assumed to reach where its pace could not be measured."""
COMPILE_S = 60.0
"""Assumed of torch.compile, which is not measured before."""
CEILING_S = 2.0
PACE_S = 0.3
"""Seconds for which one cell of each tower is timed before the time of all is estimated."""
PACE_SAMPLES = {"cpu": 8}
"""Kind of device → images of 224 px, or texts of 77 tokens, that such a cell holds at most."""
PACE_SAMPLES_ELSEWHERE = 64


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        device: cpu, cuda, cuda:N or mps.
        implementation: of Bi-WKV.
        threads: of a process on a CPU.
        plugins: Python files that register encoders.
        effort: how long each cell is measured.
        max_minutes: no cell is begun after so many; None for no limit.
        seed: of the order of cells.
        largest_batch: largest that is tried to find the largest that fits; None for not looking.
    """

    device: str = "cpu"
    implementation: str = "auto"
    threads: int = 1
    plugins: tuple[str, ...] = ()
    effort: turns.Effort = field(default_factory=turns.Effort)
    max_minutes: float | None = None
    seed: int = 0
    largest_batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured, and what is known before.

    Attributes:
        cells: in the order of the grid.
        models: one a spec: name, spec and parameters.
        specs: as given.
        known: what each model is in a cell before it is measured: its FLOPs, or why it cannot.
        ceilings: precision → FLOP/s of square products.
        copying: bytes read and written a second by a copy; None where not measured.
        paces: model, precision, and whether of texts → FLOP/s, measured on one cell of the grid.
        starts: model → seconds that its process takes to start and load, measured.
        fingerprints: of each model.
        began: when looking ahead did, by `time.monotonic`.
    """

    cells: Sequence[Cell]
    models: Sequence[Measured]
    specs: Sequence[str]
    known: dict[tuple[int, str], Measured]
    ceilings: dict[str, float]
    copying: float | None = None
    paces: Mapping[tuple[int, str, bool], float] = field(default_factory=dict)
    starts: Mapping[int, float] = field(default_factory=dict)
    fingerprints: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)

    def seconds(self, cell: Cell, effort: turns.Effort) -> float:
        """Return about how long a cell takes."""
        assumed = ASSUMED_SHARE * self.ceilings.get(cell.precision, 1e11)
        total = effort.repeats * LOOK_S
        for index in range(len(self.specs)):
            facts = self.known[index, cell.key]
            if facts.status != "ok":
                continue
            pace = self.paces.get((index, cell.precision, cell.tower == "text"), assumed)
            call = (facts.flops or 0) / pace
            starts = effort.repeats if effort.fresh else 1
            # The first call and the two of the warm-up.
            begin = self.starts.get(index, 10.0) + 3 * call + COMPILE_S * cell.compiled
            slow = call > 3 * effort.turn_s
            each = call if slow else 2 * max(effort.turn_s, min(3 * call, 3 * effort.turn_s))
            # Once more for the bytes that its parts move.
            apart = turns.calls_apart(cell, call)
            total += starts * begin + effort.repeats * each + (apart + 1 if apart else 0) * call
        return total

    def total_seconds(self, effort: turns.Effort) -> float:
        """Return about how long all cells take."""
        return sum(self.seconds(cell, effort) for cell in self.cells)


def look_ahead(
    specs: Sequence[str], cells: Sequence[Cell], options: BenchOptions, *, limits: Grids | None = None
) -> Plan:
    """Return what a measurement will do: which cells each model can take, their FLOPs, the device's ceiling.

    Args:
        specs: of the models, each of one checkpoint.
        cells: of the grid.
        options: how.
        limits: cells beyond its own are left out; None for no limit.

    Raises:
        UserError: a model cannot be loaded in fp32, is given twice, or there is no cell.
    """
    if not cells:
        raise UserError("The grid has no cell; name at least one tower, size and batch.")
    expanded = expand_specs(specs)
    specs = [spec.text for spec in expanded]
    models: list[Measured] = []
    known: dict[tuple[int, str], Measured] = {}
    ceilings: dict[str, float] = {}
    copying: float | None = None
    starts: dict[int, float] = {}
    fingerprints: list[str] = []
    began = time.monotonic()
    pacing: dict[tuple[int, str, bool], tuple[Cell, float]] = {}
    precisions = sorted({cell.precision for cell in cells})
    for index, spec in enumerate(specs):
        cannot: dict[str, dict[str, Any]] = {}
        # FLOPs are counted on a model as it is, whose weights no precision packed.
        for precision in dict.fromkeys((*precisions, "fp32")):
            begun = time.monotonic()
            arguments = worker_arguments(spec, precision, options)
            try:
                with Worker(**arguments) as worker:
                    starts[index] = time.monotonic() - begun
                    if precision in precisions and precision not in ceilings:
                        ceiling = worker.ask("ceiling", precision=precision, seconds=CEILING_S)
                        ceilings[precision], copying = (
                            ceiling["flops_per_second"],
                            ceiling["bytes_per_second"],
                        )
                    for cell in _pace_cells(cells, precision, options.device):
                        if (seconds := _pace(worker, cell)) is not None:
                            pacing[index, precision, cell.tower == "text"] = cell, seconds
                    if precision == "fp32":
                        found = _counted(worker, arguments, cells)
                    facts = worker.facts
            except WorkerFailed as failed:
                if precision == "fp32":
                    raise UserError(f"{spec}: {failed.reason}") from failed
                cannot[precision] = {"failed": failed.status, "reason": failed.reason}
        # The process knows its own model alone; of several of one name each goes by its file.
        name = expanded[index].name
        model = Measured(model=name, spec=facts["spec"], num_parameters=facts["num_parameters"])
        models.append(model)
        fingerprints.append(facts["fingerprint"])
        for cell, answer in zip(cells, found, strict=True):
            answer = cannot.get(cell.precision, answer)
            known[index, cell.key] = _before(model, cell, answer, facts, limits)
    paces = {
        key: flops / seconds
        for key, (cell, seconds) in pacing.items()
        if (flops := known[key[0], cell.key].flops)
    }
    return Plan(
        cells=cells,
        models=models,
        specs=specs,
        known=known,
        ceilings=ceilings,
        copying=copying,
        paces=paces,
        starts=starts,
        fingerprints=fingerprints,
        began=began,
    )


def _counted(worker: Worker, arguments: Mapping[str, Any], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return what is known of each cell, out of another process where pacing ended this one.

    Counting may end a process too, which says nothing of whether the model runs.
    """
    asked = [dataclasses.asdict(cell) for cell in cells]
    try:
        found: list[dict[str, Any]] = worker.ask("count", cells=asked)["cells"]
    except WorkerFailed:
        try:
            with Worker(**arguments) as another:
                found = another.ask("count", cells=asked)["cells"]
        except WorkerFailed as failed:
            found = [{"flops": None, "failed": "crashed", "reason": failed.reason}] * len(cells)
    return found


def _pace_cells(cells: Sequence[Cell], precision: str, device: str) -> Iterator[Cell]:
    """Yield a cell of images and one of texts to time: the largest of a precision that is not large."""
    most = PACE_SAMPLES.get(device.partition(":")[0], PACE_SAMPLES_ELSEWHERE)
    for tower, one in (("image", 224 * 224), ("text", 77)):
        sized = [
            (cell.batch * (cell.height * cell.width or cell.tokens), cell)
            for cell in cells
            if (cell.tower, cell.precision, cell.compiled) == (tower, precision, False)
        ]
        if sized:
            yield max((pair for pair in sized if pair[0] <= most * one), default=min(sized))[1]


def _pace(worker: Worker, cell: Cell) -> float | None:
    """Return the seconds of a call; None where the model cannot."""
    try:
        worker.ask("prepare", cell=dataclasses.asdict(cell))
        times: list[float] = worker.ask("measure", seconds=PACE_S)["seconds"]
    except WorkerFailed:
        return None
    return statistics.median(times)


def _before(
    model: Measured, cell: Cell, answer: dict[str, Any], facts: dict[str, Any], limits: Grids | None
) -> Measured:
    if "failed" in answer and ("flops" not in answer or answer["failed"] == "not_possible"):
        return dataclasses.replace(model, status=answer["failed"], reason=answer["reason"])
    patches, patch = 0, facts["patch_px"]
    if cell.height and patch:
        patches = -(-cell.height // patch) * -(-cell.width // patch)
    positions = cell.batch * max(patches, cell.tokens)
    left = ""
    if limits and limits.most_patches and patches > limits.most_patches:
        left = f"{patches} patches an image, beyond {limits.most_patches}"
    elif limits and limits.most_positions and positions > limits.most_positions:
        left = f"{positions} patches or tokens a batch, beyond {limits.most_positions}"
    if left:
        reason = f"not in the default grid: {left}"
        return dataclasses.replace(model, status="not_in_grid", reason=reason)
    # None where they could not be counted, which says nothing of whether the model runs.
    return dataclasses.replace(model, flops=answer["flops"], beyond=_beyond(cell, facts))


def _beyond(cell: Cell, facts: dict[str, Any]) -> str:
    """Return the sizes that a model was made for where a cell's are larger, and outputs mean nothing."""
    (height, width), length = facts["image_size_px"], facts["context_length"] or 0
    large = f"{height}×{width} px" if cell.height > height or cell.width > width else ""
    long = f"{length} tokens" if cell.tokens > length else ""
    return " and ".join(part for part in (large, long) if part)


def worker_arguments(spec: str, precision: str, options: BenchOptions) -> dict[str, Any]:
    """Return what the process of a model is started with."""
    return {
        "spec": spec,
        "device": options.device,
        "precision": precision,
        "implementation": options.implementation,
        "threads": options.threads,
        "plugins": options.plugins,
    }
