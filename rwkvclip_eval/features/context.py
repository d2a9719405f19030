"""What travels with a run and changes no number: who is told how it goes, and where the time went."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES = ("load", "decode", "encode", "score")


@dataclass
class Timings:
    """Wall seconds this process spent in each stage or waited for it; no second counts twice.

    Attributes:
        load_s: models read and datasets opened.
        decode_s: waiting for decoded images; with workers, only what encoding did not hide.
        encode_s: forward passes of both towers, and waiting for other ranks to end theirs.
        score_s: tasks, from features to metrics and intervals.
        images: encoded by this process.
        texts: encoded by this process.
    """

    load_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    score_s: float = 0.0
    images: int = 0
    texts: int = 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        clock = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, f"{name}_s", getattr(self, f"{name}_s") + time.perf_counter() - clock)

    def seconds(self, total_s: float) -> dict[str, float]:
        """Return seconds by stage, then `other` (disk, start-up), which makes them add up to `total`."""
        stages: dict[str, float] = {name: getattr(self, f"{name}_s") for name in STAGES}
        return {**stages, "other": total_s - sum(stages.values()), "total": total_s}


@dataclass(kw_only=True)
class Context:
    """Of one run, in one process.

    Attributes:
        on_progress: called with (done, total, what).
        on_message: called with texts a user should read.
        timings: added to.
    """

    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None
    on_message: Callable[[str], None] = lambda text: None
    timings: Timings = field(default_factory=Timings)
