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

from rwkvclip_models.ops import choice
from rwkvclip_models.ops.agreement import Elementwise, Recurrence, largest

ERRORS = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest relative error, far above rounding, with which an implementation is still used."""

RECURRENCES = ((49, 8, 80), (77, 10, 64), (196, 8, 80), (1024, 8, 80))
"""Tokens, heads and head width: the released towers' (images at 32 px a patch, texts, images at 16 px), and a
long one."""

GRIDS = (((7, 7, 4), 8, 80), ((77, 1, 2), 10, 64), ((14, 14, 4), 8, 80))
"""Rows, columns and directions, heads and head width of the elementwise work: the same towers'."""


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
        # One list for all dtypes: each problem keeps what float64 says.
        problems: dict[str, Recurrence | Elementwise] = {
            **{f"T={t}": Recurrence(num_tokens=t, heads=h, head_width=n, batch=1) for t, h, n in RECURRENCES},
            **{f"{g[0]}×{g[1]}": Elementwise(grid=g, heads=h, head_width=n, batch=1) for g, h, n in GRIDS},
        }
        for dtype, limit in ERRORS.items():
            found = {what: largest(p.errors(name, device, dtype)) for what, p in problems.items()}
            # So that NaN is refused too.
            if not all(error <= limit for error in found.values()):
                said = ", ".join(f"{error:.0e} ({what})" for what, error in found.items())
                wrong = f"its errors in {dtype} on this {device.type} are {said}; allowed is {limit:.0e}."
                return {"error": "", "wrong": wrong}
    except Exception as error:  # a driver too old for the toolkit, a GPU too new for it, …
        return {"error": f"{type(error).__name__}: {error}", "wrong": ""}
    return {"error": "", "wrong": ""}


if __name__ == "__main__":
    choice.trust(sys.argv[1])
    sys.stdout.write(json.dumps(attempt(sys.argv[1], torch.device(sys.argv[2]))))
