"""How much a run has to encode, and how far it is."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.features.store import image_key, text_key
from rwkvclip_eval.run.splits import OpenedUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.features.store import FeatureStore
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.preflight import Opened


NO_DATA = "no data"
"""The problem of a unit whose data cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one unit has to encode: what neither the store holds nor an earlier unit encodes.

    Attributes:
        model: name of the model.
        unit: what is to be scored.
        images: to encode.
        texts: to encode, where they were counted.
        problem: why it will have no number; empty where nothing is known against it.
    """

    model: str
    unit: Unit
    images: int = 0
    texts: int = 0
    problem: str = ""

    @property
    def state(self) -> str:
        """What is to be done in a word or two."""
        return self.problem or ("to encode" if self.images or self.texts else "stored, to score")


def work_load(
    work: Iterable[tuple[EncoderInfo, Sequence[Unit]]],
    opened: Opened,
    store: FeatureStore,
    *,
    count_texts: bool = False,
) -> list[Load]:
    """Return what each unit of each model has to encode, in the order in which a run takes them.

    A split that a killed run left half encoded counts whole.

    Args:
        work: encoders and their units.
        opened: the units' splits.
        store: is asked what it holds.
        count_texts: say how many texts, too, which takes a while where there are many models.
    """
    seen: set[str] = set()

    def new(key: str) -> bool:
        told = key in seen or store.holds(key)
        seen.add(key)
        return not told

    loads = []
    for info, units in work:
        for unit in units:
            if "text" in unit.task.needs and not info.has_text:
                loads.append(Load(model=info.name, unit=unit, problem="not applicable"))
                continue
            found = opened[unit.name("")]
            if not isinstance(found, OpenedUnit):
                loads.append(Load(model=info.name, unit=unit, problem=NO_DATA))
                continue
            images = sum(len(split) for split in found.splits if new(image_key(info, split.info.fingerprint)))
            texts: list[str] = []
            if count_texts and "text" in unit.task.needs and found.scorable:
                texts = sorted(set(unit.task.texts(found.samples, unit.protocol)))
            num_texts = len(texts) if texts and new(text_key(info, texts)) else 0
            loads.append(Load(model=info.name, unit=unit, images=images, texts=num_texts))
    return loads


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is.

    Attributes:
        unit: the one worked on, from 1.
        num_units: of this command.
        images: encoded by this command.
        num_images: to encode in all.
        left_s: seconds it may still take; None before anything can be said.
    """

    unit: int
    num_units: int
    images: int
    num_images: int
    left_s: float | None = None

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        if self.num_images:
            return self.images / self.num_images
        return (self.unit - 1) / self.num_units

    @property
    def text(self) -> str:
        """`unit 3 of 34, about 12 min left`."""
        left = f", about {duration(self.left_s)} left" if self.left_s is not None else ""
        return f"unit {self.unit} of {self.num_units}{left}"


class Pace:
    """Tells a run's standing: time goes with the images encoded, or with units where none are to be.

    Args:
        num_units: of this command.
        num_images: to encode.
        images_done: asked how many this command has encoded.
    """

    def __init__(self, num_units: int, num_images: int, images_done: Callable[[], int]) -> None:
        self.num_units, self.num_images, self._images_done = num_units, num_images, images_done
        self._started = time.perf_counter()

    def standing(self, unit: int) -> Standing:
        """Return how far the run is in its `unit`-th unit, from 1."""
        now = Standing(
            unit=unit,
            num_units=self.num_units,
            images=min(self._images_done(), self.num_images),
            num_images=self.num_images,
        )
        spent = time.perf_counter() - self._started
        left_s = spent * (1 - now.share) / now.share if now.share else None
        return dataclasses.replace(now, left_s=left_s)


def duration(seconds: float) -> str:
    """Return a rough duration in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
