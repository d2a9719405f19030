"""The loop of every run: one model after the other, each over its units; it yields what each gave."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.run.standing import Pace
from rwkvclip_eval.run.unit import run_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.features.context import Context
    from rwkvclip_eval.features.engine import Engine
    from rwkvclip_eval.features.store import FeatureStore
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.options import RunOptions
    from rwkvclip_eval.run.outcome import UnitOutcome
    from rwkvclip_eval.run.preflight import Opened
    from rwkvclip_eval.run.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one model has to do.

    Attributes:
        model: its display name.
        load: gives the encoder; called when its turn comes.
        units: in order.
    """

    model: str
    load: Callable[[], Encoder]
    units: Sequence[Unit]


def outcomes(
    work: Sequence[Work],
    opened: Opened,
    store: FeatureStore,
    engine: Engine,
    options: RunOptions,
    *,
    num_images: int = 0,
    on_standing: Callable[[Standing], None] = lambda standing: None,
) -> Iterator[tuple[str, UnitOutcome]]:
    """Yield each unit's name and outcome as it ends, at most one model loaded by this function at a time.

    Args:
        work: what each model has to do.
        opened: the units' splits, see `preflight`; those of units that cannot apply may be absent.
        store: keeps features.
        engine: encodes.
        options: how to run.
        num_images: to encode in all, as far as is known.
        on_standing: told how far the run is.
    """
    timings = engine.context.timings
    num_units = sum(len(own.units) for own in work)
    pace = Pace(num_units, num_images, lambda: timings.images * engine.num_processes)
    number = 0
    for own in work:
        with timings.stage("load"):
            encoder = own.load()
        for unit in own.units:
            number += 1
            engine.work_on(own.model, unit.name(""))
            with _told_standing(engine.context, on_standing, pace, number):
                outcome = run_unit(encoder, unit, opened, store, engine, options)
            yield unit.name(own.model), outcome
        del encoder


@contextlib.contextmanager
def _told_standing(
    context: Context, on_standing: Callable[[Standing], None], pace: Pace, number: int
) -> Iterator[None]:
    """Say how far the run is, now and with every step of a unit."""
    on_progress = context.on_progress

    def told(done: int, total: int, what: str) -> None:
        on_progress(done, total, what)
        on_standing(pace.standing(number))

    on_standing(pace.standing(number))
    context.on_progress = told
    try:
        yield
    finally:
        context.on_progress = on_progress
