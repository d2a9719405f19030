"""What the operator and the towers must reach, and whether the measured times do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rwkvclip_eval.operator_speed import Timing
    from rwkvclip_eval.tower_speed import TowerTiming

SCAN_SPEEDUPS = {
    ("cpu", "float32", "forward"): 1 / 0.6,
    ("cuda", "bfloat16", "forward"): 5.0,
    ("cuda", "bfloat16", "forward + backward"): 4.0,
}
"""(implementation, dtype, direction) → times as fast as the plain scan."""
LINEAR_ATTENTION_SPEEDUP = 1.5
"""Times as fast as flash-linear-attention, for the "cuda" implementation in bfloat16."""
TOWER_SPEEDUPS = {224: 1.0, 896: 1.3, 1792: 2.0}
"""Image side → times as fast as CLIP's tower, with no more peak memory."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One limit beside what was measured."""

    what: str
    measured: float
    limit: float
    """Least that `measured` may be."""

    @property
    def met(self) -> bool:
        """Whether the limit is met; NaN does not."""
        return self.measured >= self.limit


def verdicts(times: Sequence[Timing], towers: Iterable[TowerTiming]) -> Iterator[Verdict]:
    """Yield every limit whose both sides were measured."""
    others = {
        (t.shape, t.direction): t.of_scan
        for t in times
        if t.implementation == "flash-linear-attention" and t.of_scan
    }
    for t in times:
        limit = SCAN_SPEEDUPS.get((t.implementation, t.dtype, t.direction))
        if limit is None or not t.of_scan:
            continue
        what = f"{t.implementation}, {t.dtype}, {t.shape}, {t.direction}: times as fast as"
        yield Verdict(what=f"{what} the plain scan", measured=1 / t.of_scan, limit=limit)
        other = others.get((t.shape, t.direction))
        if other and t.implementation == "cuda":
            what = f"{what} flash-linear-attention"
            yield Verdict(what=what, measured=other / t.of_scan, limit=LINEAR_ATTENTION_SPEEDUP)
    for tower in towers:
        limit = TOWER_SPEEDUPS.get(tower.image_px)
        if limit is None or tower.problem:
            continue
        what = f"image tower B/16, {tower.image_px} px"
        yield Verdict(what=f"{what}: times as fast as ViT-B/16", measured=tower.speedup, limit=limit)
        memory = tower.clip_peak_bytes / tower.rwkv_peak_bytes
        yield Verdict(what=f"{what}: ViT-B/16's peak memory by ours", measured=memory, limit=1.0)
