"""What the operator and the towers must reach, and whether the measured times do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rwkvclip_eval.bench.operators import Timing
    from rwkvclip_eval.bench.towers import TowerTiming

SCAN_SPEEDUPS = {
    ("cpu", "float32", "forward"): 1 / 0.6,
    ("cuda", "bfloat16", "forward"): 5.0,
    ("cuda", "bfloat16", "forward + backward"): 4.0,
}
"""(implementation, dtype, direction) → times as fast as the plain scan."""
LINEAR_ATTENTION_SPEEDUP = 1.5
"""Times as fast as the faster form of flash-linear-attention, for the "cuda" implementation in bfloat16."""
LINEAR_COST = 1.5
"""Most time of a token in a long sequence by that in one a quarter as long; quadratic cost gives 4."""
LONG_TOWERS = ("image B/16, 896 px", "image B/16, 1792 px")
"""Towers whose batches hold as many tokens in sequences of different length; no other limit is for them."""
TOWER_SPEEDUPS = {224: 1.0, 896: 1.3, 1792: 2.0}
"""Image side → times as fast as CLIP's tower, with no more peak memory."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One limit beside what was measured.

    Attributes:
        what: the measurement, in words.
        measured: what came out.
        limit: the least that `measured` may be.
    """

    what: str
    measured: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the limit is met; NaN does not."""
        return self.measured >= self.limit


def verdicts(times: Sequence[Timing], towers: Iterable[TowerTiming]) -> Iterator[Verdict]:
    """Yield every limit whose both sides were measured."""
    for t in times:
        limit = SCAN_SPEEDUPS.get((t.implementation, t.dtype, t.direction))
        if limit is None or _tower(t) in LONG_TOWERS or t.problem:
            continue
        what = f"{t.implementation}, {t.dtype}, {t.shape}, {t.direction}: times as fast as"
        if t.of_scan:
            yield Verdict(what=f"{what} the plain scan", measured=1 / t.of_scan, limit=limit)
        if t.implementation == "cuda" and (other := _hardest_rival(times, t)):
            measured, name = other
            yield Verdict(what=f"{what} {name}", measured=measured, limit=LINEAR_ATTENTION_SPEEDUP)
    yield from _linear_cost(times)
    for tower in towers:
        limit = TOWER_SPEEDUPS.get(tower.image_px)
        if limit is None or tower.problem:
            continue
        what = f"image tower B/16, {tower.image_px} px"
        yield Verdict(what=f"{what}: times as fast as ViT-B/16", measured=tower.speedup, limit=limit)
        memory = tower.clip_peak_bytes / tower.rwkv_peak_bytes
        yield Verdict(what=f"{what}: ViT-B/16's peak memory by ours", measured=memory, limit=1.0)


def _tower(t: Timing) -> str:
    return t.shape.partition(":")[0]


def _hardest_rival(times: Sequence[Timing], t: Timing) -> tuple[float, str] | None:
    """Return how many times as fast `t` is as flash-linear-attention's faster form there, and its name."""
    found = [
        (other.median_ms / _ms_by_the_clock_of(other, t), other.implementation)
        for other in times
        if other.implementation.startswith("flash-linear-attention")
        and (other.shape, other.direction, other.problem) == (t.shape, t.direction, "")
    ]
    return min(found, default=None)


def _ms_by_the_clock_of(other: Timing, t: Timing) -> float:
    """Return the time of `t`, with its dispatch where `other` could only be timed with its own."""
    replayed = other.clock.startswith("CUDA graph")
    return t.median_ms if replayed or t.eager_ms is None else t.eager_ms


def _linear_cost(times: Sequence[Timing]) -> Iterator[Verdict]:
    found = {
        (t.dtype, t.direction, _tower(t)): t.median_ms
        for t in times
        if t.implementation == "cuda" and not t.problem
    }
    shorter, longer = LONG_TOWERS
    for dtype, direction, tower in found:
        if tower == longer and (base := found.get((dtype, direction, shorter))):
            what = f"cuda, {dtype}, {longer}, {direction}: times as fast per token as {shorter}"
            measured = base / found[dtype, direction, tower]
            yield Verdict(what=what, measured=measured, limit=1 / LINEAR_COST)
