"""Peak memory and time of the image tower's streaming form beside the parallel form, against image size.

Every point has a process of its own, so that one that runs out of memory costs itself alone.

Axes: T patches, C width.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.bench.heap import trim_heap
from rwkvclip_eval.errors import UserError, name_some
from rwkvclip_eval.records.streaming import FORMS, StreamingPoint
from rwkvclip_models import PixelRows, encode_image_streaming, load_config, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from rwkvclip_models import RWKVCLIP

PRECISIONS = ("fp32", "bf16")
TOKENS = (1024, 4096, 16384)
_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_curve(
    config: str | Mapping[str, Any],
    tokens: Iterable[int] = TOKENS,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    rows_per_chunk: int | None = None,
    forms: Iterable[str] = FORMS,
) -> Iterator[StreamingPoint]:
    """Yield every form at every size, with random weights and pixels, each measured in a new process.

    Args:
        config: of the model, as `load_model` takes it.
        tokens: patches of each image; its grid is square, or as near to it as this number allows.
        device: cpu or cuda.
        precision: one of `PRECISIONS`.
        rows_per_chunk: as `encode_image_streaming` takes it.
        forms: of `FORMS`.

    Raises:
        UserError: an unknown form, precision, device or number of tokens, or no such configuration.
    """
    checked = load_config(config)
    forms = list(forms)
    if unknown := [form for form in forms if form not in FORMS]:
        raise UserError(f"A form is one of {', '.join(FORMS)}, got {name_some(map(repr, unknown))}.")
    if precision not in PRECISIONS:
        raise UserError(f"The precision is one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"The device is cpu, or cuda where torch sees a GPU, got {device!r}.")
    counts = list(tokens)
    if any(count < 1 for count in counts):
        raise UserError(f"Numbers of tokens are at least 1, got {min(counts)}.")
    for count in counts:
        columns = math.isqrt(count)
        grid = -(-count // columns), columns
        for form in forms:
            point = StreamingPoint(
                form=form,
                tokens=math.prod(grid),
                height_px=grid[0] * checked.image_patch_size,
                width_px=grid[1] * checked.image_patch_size,
                device=device,
                precision=precision,
                threads=torch.get_num_threads(),
                token_bytes=2 * math.prod(grid) * checked.image_embed_dims * 4,
            )
            yield _in_a_new_process(point, checked.to_dict(), rows_per_chunk)


def _in_a_new_process(
    point: StreamingPoint, config: dict[str, Any], rows_per_chunk: int | None
) -> StreamingPoint:
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measured, point, config, rows_per_chunk).result()
    except BrokenProcessPool:
        return dataclasses.replace(point, problem="its process was ended, as the system does without memory")
    except (RuntimeError, MemoryError) as error:  # out of memory, as torch and Python say it
        return dataclasses.replace(point, problem=f"{type(error).__name__}: {error}".splitlines()[0])


def _measured(point: StreamingPoint, config: dict[str, Any], rows_per_chunk: int | None) -> StreamingPoint:
    torch.set_num_threads(point.threads)
    model = load_model(config, device=point.device)
    encode: Callable[[Any], Tensor] = model.encode_image
    if point.form == "streaming":
        encode = partial(encode_image_streaming, model, rows_per_chunk=rows_per_chunk)
    autocast = torch.autocast(point.device, torch.bfloat16, enabled=point.precision == "bf16")
    side = model.config.input_size
    with torch.inference_mode(), autocast:
        encode(_pixels(model, point.form, side, side))
        pixels = _pixels(model, point.form, point.height_px, point.width_px)
        before = _start_counting(point.device)
        start = time.perf_counter()
        encode(pixels).cpu()
        seconds = time.perf_counter() - start
    peak = _peak(point.device)
    taken = None if peak is None or before is None else peak - before
    return dataclasses.replace(point, seconds=seconds, peak_bytes=taken)


def _pixels(model: RWKVCLIP, form: str, height: int, width: int) -> Tensor | PixelRows:
    """Return random pixels, for the streaming form made strip by strip."""
    device = model.logit_scale.device
    if form == "parallel":
        return torch.randn(1, 3, height, width, device=device)

    def read(top: int, bottom: int) -> Tensor:
        return torch.randn(3, bottom - top, width, device=device)

    return PixelRows(height=height, width=width, read=read)


def _start_counting(device: str) -> int | None:
    """Return the bytes held, and count their peak from now on; None where the system does not say."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not _CLEAR_PEAK.exists():
        return None
    # What was freed but kept by the allocator would hide as much of what is taken.
    trim_heap()
    _CLEAR_PEAK.write_text("5", encoding="ascii")
    return _status_bytes("VmRSS")


def _peak(device: str) -> int | None:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status_bytes("VmHWM") if _CLEAR_PEAK.exists() else None


def _status_bytes(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
