"""Runs one implementation in every form that the towers use; the process of `trial`.

    python -m rwkvclip_models.ops.attempt NAME DEVICE

prints a JSON object: `error`, why it does not run, and `wrong`, what it computes wrongly; empty if all is
well. A process of its own, so that a crash, or a GPU left unusable, stays there.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from rwkvclip_models.ops import agreement
from rwkvclip_models.ops.fused import Shift

ERRORS = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest relative error, far above rounding, with which an implementation is still used."""

TOKENS = (49, 77, 196, 1024)
"""Lengths of the recurrence: the released towers' (images at 32 and 16 px a patch, texts), and a long one."""

SHIFTS = (Shift(7, 7, 2, 4), Shift(77, 1, 2, 2), Shift(14, 14, 2, 4))
"""Of the elementwise work, the same towers'."""


def attempt(name: str, device: torch.device) -> dict[str, str]:
    """Return why the implementation does not run, as `error`, or what it computes wrongly, as `wrong`.

    In a thread of its own, which no mode of this one reaches: no autocast, no tracing, gradients on.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_attempt, name, device).result()


def _attempt(name: str, device: torch.device) -> dict[str, str]:
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        for dtype, limit in ERRORS.items():
            found = {f"T={n}": agreement.recurrence_error(name, device, dtype, n) for n in TOKENS}
            found |= {
                f"{shift.rows}×{shift.columns}": agreement.elementwise_error(name, device, dtype, shift)
                for shift in SHIFTS
            }
            # So that NaN is refused too.
            if not all(error <= limit for error in found.values()):
                said = ", ".join(f"{error:.0e} ({what})" for what, error in found.items())
                wrong = f"its errors in {dtype} on this {device.type} are {said}; allowed is {limit:.0e}."
                return {"error": "", "wrong": wrong}
    except Exception as error:  # a driver too old for the toolkit, a GPU too new for it, …
        return {"error": f"{type(error).__name__}: {error}", "wrong": ""}
    return {"error": "", "wrong": ""}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(attempt(sys.argv[1], torch.device(sys.argv[2]))))
