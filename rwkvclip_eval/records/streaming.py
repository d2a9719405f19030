"""What a measurement of the image tower's streaming form keeps. No torch."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = ("streaming", "parallel")


@dataclass(frozen=True, kw_only=True)
class StreamingPoint:
    """One form at one image size.

    Attributes:
        form: one of `FORMS`.
        tokens: T, patches of the image.
        height_px: of the image.
        width_px: of the image.
        device: kind of device.
        precision: fp32, or bf16 for autocast.
        threads: of torch.
        seconds: of one call, after one of the model's own image size.
        peak_bytes: most memory during that call beyond what was held before it, weights and, for the parallel
            form, pixels; of the process on a CPU, of torch's allocator on a GPU.
        token_bytes: of the two arrays [T, C] in float32 that the streaming form holds.
        problem: why there are no numbers; empty when there are.
    """

    form: str
    tokens: int
    height_px: int
    width_px: int
    device: str
    precision: str
    threads: int
    seconds: float | None = None
    peak_bytes: int | None = None
    token_bytes: int
    problem: str = ""
