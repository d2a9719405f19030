"""Measures one cell: every model in a process of its own, taking turns, repeat after repeat."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.bench.energy import NOT_MEASURED, Meter, meter_of
from rwkvclip_eval.bench.load import DISTURBED, OtherLoad, most_of_others, wait_for_quiet
from rwkvclip_eval.bench.watch import HEAT, Watch, source_of
from rwkvclip_eval.bench.worker import Worker, WorkerFailed
from rwkvclip_eval.metrics.ratios import LEAST_REPEATS, geometric_mean, margin_of, paired_ratio
from rwkvclip_eval.records.efficiency import Block, Measured, Part, Repeat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.records.efficiency import Cell

MOST_AGAIN = 3
"""Times that a repeat is measured again because others were busy meanwhile."""
CALLS_APART = 5
"""Forward passes that are taken apart, one of them counting…"""
LONG_CALL_S = 1.0
"""…of those that take no longer than this, and one of others, or more where it was disturbed."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each cell is measured.

    Attributes:
        turn_s: seconds of a turn; up to three times as long for three calls, and as long as one call takes.
        repeats: least number of repeats.
        most_repeats: where intervals stay wide.
        fresh: a new process for every repeat.
        gate_s: seconds that a repeat waits for others to leave the machine alone.
    """

    turn_s: float = 0.5
    repeats: int = LEAST_REPEATS
    most_repeats: int = 10
    fresh: bool = False
    gate_s: float = 10.0


def _loaded(arguments: Mapping[str, Any]) -> Worker:
    """Return a process with a model that could be loaded when looking ahead: what lacks now may be back.

    Raises:
        WorkerFailed: it cannot be loaded now.
    """
    try:
        return Worker(**arguments)
    except WorkerFailed as failed:
        if failed.status != "not_possible":
            raise
        raise WorkerFailed("crashed", failed.reason) from failed


def calls_apart(cell: Cell, call_s: float) -> int:
    """Return how many calls that take so many seconds each are taken apart: eager ones of one tower."""
    if cell.tower not in ("image", "text") or cell.compiled:
        return 0
    return CALLS_APART if call_s <= LONG_CALL_S else 1


@dataclass
class _Contender:
    """One model in a cell, so far.

    Attributes:
        arguments: that its process is started with.
        measured: what is known of it.
        meter: of energy.
        worker: its process; None where it has ended.
        times: of all calls that count, seconds.
        repeats: that count.
        call_s: time of a call in the warm-up; 0 before.
        gpu_uuid: of the GPU that its process uses; empty on a CPU.
        joules: of all turns in which a counter moved, those that did not count among them.
        metered: calls of these turns.
    """

    arguments: dict[str, Any]
    measured: Measured
    meter: Meter
    worker: Worker | None = None
    times: list[float] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    call_s: float = 0.0
    gpu_uuid: str = ""
    joules: float = 0.0
    metered: int = 0

    @property
    def runs(self) -> bool:
        return self.measured.status == "ok"

    def is_slow(self, effort: Effort) -> bool:
        """Whether one call takes longer than a turn may."""
        return self.call_s > 3 * effort.turn_s

    def start(self, cell: Cell) -> None:
        """Have a process with the model, warmed up for `cell`; one that fails is out."""
        try:
            self.worker = _loaded(self.arguments)
            facts = self.worker.facts
            prepared = self.worker.ask("prepare", cell=dataclasses.asdict(cell))
        except WorkerFailed as failed:
            self.fail(failed)
            return
        self.call_s, self.gpu_uuid = prepared["seconds"], facts.get("gpu_uuid", "")
        if self.measured.load_s is None:
            self.measured = dataclasses.replace(
                self.measured,
                implementation=facts["implementation"],
                num_parameters=facts["num_parameters"],
                load_s=facts["load_s"],
                first_call_s=prepared["first_call_s"],
                attention_kernels=prepared.get("attention_kernels", ""),
                baseline_bytes=self.worker.baseline_bytes,
                loaded_bytes=facts.get("loaded_bytes"),
            )

    def turn(self, seconds: float, watch: Watch) -> list[float]:
        """Return the times of the calls of one turn, after which `watch` looks; none where it failed."""
        worker = self.worker
        assert worker is not None
        try:
            answer, joules = self.meter.around(lambda: worker.ask("measure", seconds=seconds))
        except WorkerFailed as failed:
            self.fail(failed)
            return []
        watch.look()
        peaks = {
            "peak_bytes": worker.peak_bytes(),
            "allocated_bytes": answer.get("allocated_bytes"),
            "reserved_bytes": answer.get("reserved_bytes"),
            "device_bytes": watch.source.bytes_of(worker.pid),
        }
        larger: dict[str, Any] = {
            name: value
            for name, value in peaks.items()
            if value is not None and value > (getattr(self.measured, name) or 0)
        }
        self.measured = dataclasses.replace(self.measured, **larger)
        found: list[float] = answer["seconds"]
        if joules is not None:
            self.joules += joules
            self.metered += len(found)
        return found

    def take_apart(self, cell: Cell) -> None:
        """Ask where the time of an eager forward pass of one tower goes; its process ends with that."""
        calls = calls_apart(cell, self.call_s)
        if self.worker is None or not calls:
            return
        try:
            usual = statistics.median(self.times)
            answer = self.worker.ask("parts", cell=dataclasses.asdict(cell), calls=calls, usual=usual)
        except WorkerFailed as failed:
            # Its times stand.
            self.measured = dataclasses.replace(self.measured, parts_note=failed.reason)
        else:
            parts = tuple(Part(**part) for part in answer["parts"])
            self.measured = dataclasses.replace(self.measured, parts=parts, parts_note=answer.get("note", ""))
        self.stop()

    def fail(self, failed: WorkerFailed) -> None:
        self.stop()
        self.measured = dataclasses.replace(
            self.measured,
            status=failed.status,  # type: ignore[arg-type]  # one of CellStatus: the two sides agree
            reason=failed.reason,
        )

    def tell_others(self, others: int) -> None:
        """Have the reason of a model that ran out of memory say how many shared it."""
        if self.measured.status == "out_of_memory" and others:
            shared = (
                f"{self.measured.reason.rstrip('.')} ({others} other{'s' * (others > 1)} loaded meanwhile)"
            )
            self.measured = dataclasses.replace(self.measured, reason=shared)

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.worker = None

    def result(self) -> Measured:
        """Return what is kept of it."""
        if not self.runs:
            return self.measured
        points = {f"p{p}": float(np.percentile(self.times, p)) for p in (50, 90, 95, 99)}
        note, failure = self.meter.note, self.meter.failure
        if failure:
            note = f"{note}, until it failed: {failure}" if self.metered else NOT_MEASURED + failure
        elif self.meter.monitor is not None and not self.metered:
            note = f"{NOT_MEASURED}no counter moved during a turn ({note})"
        return dataclasses.replace(
            self.measured,
            repeats=tuple(self.repeats),
            latency_s=points,
            energy_j=self.joules / self.metered if self.metered else None,
            energy_note=note,
        )


def measure(
    cell: Cell,
    models: Sequence[Measured],
    arguments: Sequence[dict[str, Any]],
    *,
    device: str,
    effort: Effort,
    ceiling_flops: float | None = None,
    ceiling_bytes: float | None = None,
) -> Block:
    """Measure every model that is `ok` so far in `cell`.

    Models take their turns forth and back in every repeat (A B B A), so that drift hits all alike; where a
    call takes longer than a turn may, forth in one repeat and back in the next. A repeat during which others
    were busy is measured again; if they stay so, the block is marked.

    Args:
        cell: what to measure.
        models: what is known of each model.
        arguments: that each model's process is started with (`Worker`).
        device: as the user named it.
        effort: how long.
        ceiling_flops: what the device was seen to do.
        ceiling_bytes: what it was seen to copy.
    """
    meter = meter_of(device)
    contenders = [_Contender(dict(a), m, meter) for a, m in zip(arguments, models, strict=True)]
    disturbed: Counter[str] = Counter()
    watch: Watch | None = None
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.stop)
        for done in range(effort.most_repeats):
            if not any(c.runs for c in contenders):
                break
            for contender in contenders if effort.fresh or not done else ():
                contender.stop()
                if contender.runs:
                    contender.start(cell)
            if watch is None:
                uuid = next((c.gpu_uuid for c in contenders if c.gpu_uuid), "")
                watch = Watch(source_of(device, uuid))
            # Who did not leave within one repeat's tries is not waited for in every other.
            again = 0 if disturbed else MOST_AGAIN
            disturbed.update(_repeat(contenders, effort, watch, again=again, back=done % 2 > 0))
            if done + 1 >= effort.repeats and _narrow(contenders, margin_of(device)):
                break
        for contender in contenders:
            contender.take_apart(cell)
            contender.tell_others(len(models) - 1)
    return Block(
        cell=cell,
        device=device,
        models=[contender.result() for contender in contenders],
        ceiling_flops=ceiling_flops,
        ceiling_bytes=ceiling_bytes,
        noisy=_noise(contenders, disturbed, margin_of(device)),
        watched=watch.source.note if watch else "",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _repeat(
    contenders: Sequence[_Contender], effort: Effort, watch: Watch, *, again: int, back: bool
) -> list[str]:
    """Measure one repeat; return in words what disturbed it.

    Args:
        contenders: the models.
        effort: how long.
        watch: of the device.
        again: times that it is measured again while it is disturbed.
        back: whether to begin with the last model.
    """
    most = most_of_others()
    for attempt in range(again + 1):
        running = [c for c in contenders if c.runs]
        own = [c.worker.pid for c in running if c.worker is not None]
        wait_for_quiet(own, effort.gate_s, watch.source.busy_share)
        times: dict[int, list[float]] = {id(c): [] for c in running}
        # None of ours runs yet.
        used = watch.source.busy_share()
        watch.begin()
        load = OtherLoad(own)
        order = running[::-1] if back else running
        for turn, contender in enumerate((*order, *order[::-1])):
            if contender.runs and (turn < len(order) or not any(c.is_slow(effort) for c in order)):
                times[id(contender)] += contender.turn(effort.turn_s, watch)
        share, seen = load.share(), watch.seen()
        disturbances = {
            f"other processes took more than {100 * most:.2g}% of the processors": share > most,
            f"others used the GPU for more than {DISTURBED:.0%} of the time": used > DISTURBED,
            "the device slowed down for heat": HEAT in (seen.held_back or ""),
        }
        if not any(disturbances.values()) or attempt == again:
            break
    for contender in contenders:
        if contender.runs and (found := times.get(id(contender))):
            contender.times += found
            median = statistics.median(found)
            told = dataclasses.asdict(seen)
            contender.repeats.append(
                Repeat(seconds=median, calls=len(found), other_load=round(share, 4), **told)
            )
    return [words for words, true in disturbances.items() if true]


def _narrow(contenders: Sequence[_Contender], margin: float) -> bool:
    """Whether every ratio to the last model, or its own time where it is alone, is known well enough."""
    series = [[r.seconds for r in c.repeats] for c in contenders if c.runs]
    if not series:
        return True
    estimates = [paired_ratio(series[-1], other) for other in series[:-1]] or [geometric_mean(series[-1])]
    return all(estimate.half_width <= np.log1p(margin) for estimate in estimates)


def _noise(contenders: Sequence[_Contender], disturbed: Mapping[str, int], margin: float) -> str:
    repeats = max((len(c.repeats) for c in contenders), default=0)
    said = [f"{words} in {count} of {repeats} repeats" for words, count in disturbed.items()]
    if any(c.runs for c in contenders) and not _narrow(contenders, margin):
        said.append(f"intervals stayed wider than ±{margin:.0%} after {repeats} repeats")
    return " and ".join(said)
