"""Peak memory and time of the image tower's streaming form beside the parallel form, against image size.

`python -m rwkvclip_eval.bench.streaming` prints the curve; on a pipe as tab-separated values. Every point has
a process of its own, so that one that runs out of memory costs itself alone.

Axes: T patches, C width.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from rwkvclip_eval import console
from rwkvclip_eval.bench.heap import trim_heap
from rwkvclip_eval.errors import UserError
from rwkvclip_models import PixelRows, encode_image_streaming, load_config, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from rwkvclip_models import RWKVCLIP

FORMS = ("streaming", "parallel")
PRECISIONS = ("fp32", "bf16")
TOKENS = (1024, 4096, 16384)
_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Point:
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


def memory_curve(
    config: str | Mapping[str, Any],
    tokens: Iterable[int] = TOKENS,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    rows_per_chunk: int | None = None,
    forms: Iterable[str] = FORMS,
) -> Iterator[Point]:
    """Yield every form at every size, with random weights and pixels, each measured in a new process.

    Args:
        config: of the model, as `load_model` takes it.
        tokens: patches of each image; its grid is square, or as near to it as this number allows.
        device: cpu or cuda.
        precision: one of `PRECISIONS`.
        rows_per_chunk: as `encode_image_streaming` takes it.
        forms: of `FORMS`.

    Raises:
        UserError: an unknown precision, device or number of tokens, or no such configuration.
    """
    checked = load_config(config)
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
            point = Point(
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


def _in_a_new_process(point: Point, config: dict[str, Any], rows_per_chunk: int | None) -> Point:
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measured, point, config, rows_per_chunk).result()
    except BrokenProcessPool:
        return dataclasses.replace(point, problem="its process was ended, as the system does without memory")
    except (RuntimeError, MemoryError) as error:  # out of memory, as torch and Python say it
        return dataclasses.replace(point, problem=f"{type(error).__name__}: {error}".splitlines()[0])


def _measured(point: Point, config: dict[str, Any], rows_per_chunk: int | None) -> Point:
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


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    model: Annotated[
        str, typer.Option(help="configuration: a shipped name or a JSON file")
    ] = "rwkv-clip-b16",
    # typer hands out a copy of the default.
    tokens: Annotated[list[int], typer.Option(help="patches of the image; may be repeated")] = list(TOKENS),  # noqa: B006
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 for autocast")] = "fp32",
    rows_per_chunk: Annotated[int | None, typer.Option(min=1, help="rows of patches in a strip")] = None,
) -> None:
    """Print peak memory and time of the image tower's streaming and parallel forms.

    A pipe gets every column as tab-separated values.
    """
    points = []
    for point in memory_curve(
        model, tokens, device=device, precision=precision, rows_per_chunk=rows_per_chunk
    ):
        console.note(f"{point.form}, {point.tokens} tokens: {_in_words(point)}")
        points.append(point)
    columns = [field.name for field in dataclasses.fields(Point)]
    console.table(columns, [dataclasses.astuple(point) for point in points], brief=_brief(points))


def _in_words(point: Point) -> str:
    return point.problem or f"{point.seconds:.2f} s"


def _brief(points: list[Point]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows for a terminal: a row for each size."""
    rows = []
    for streaming, parallel in zip(points[::2], points[1::2], strict=True):
        rows.append(
            [
                f"{streaming.tokens} ({streaming.height_px}×{streaming.width_px} px)",
                _mib(streaming.token_bytes),
                *(_mib(point.peak_bytes) for point in (streaming, parallel)),
                *(_in_words(point) for point in (streaming, parallel)),
                f"{streaming.seconds / parallel.seconds:.2f}"
                if streaming.seconds and parallel.seconds
                else "",
            ]
        )
    names = ["tokens", "token arrays, MiB", *(f"{form}, peak MiB" for form in FORMS), *FORMS, "time ratio"]
    return names, rows


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"


if __name__ == "__main__":
    console.run_app(app)
