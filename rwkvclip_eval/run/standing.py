"""How far a run is."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
