"""`bench streaming`: memory and time of the image tower's streaming form beside the parallel form."""

from __future__ import annotations

import tempfile
from pathlib import Path  # noqa: TC003  # typer reads annotations at run time
from typing import Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.options import command_line
from rwkvclip_eval.errors import OutputError

SIZES = "1024,4096,16384"


def bench_streaming(
    config: Annotated[
        str, typer.Option("--config", metavar="NAME|FILE", help="A shipped name, or a JSON file.")
    ] = "rwkv-clip-b16",
    patches: Annotated[
        str, typer.Option("--patches", metavar="N,…", help="Of the images, which are square or nearly so.")
    ] = SIZES,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="cpu or cuda.")] = "cpu",
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="fp32, or bf16 for autocast.")
    ] = "fp32",
    rows_per_chunk: Annotated[
        int | None, typer.Option("--rows-per-chunk", metavar="N", min=1, help="Rows of patches in a strip.")
    ] = None,
    form: Annotated[
        str, typer.Option("--form", metavar="NAME,…", help="streaming, parallel.")
    ] = "streaming,parallel",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for streaming.csv, streaming.md and plots."),
    ] = None,
) -> None:
    """Measure memory and time of long images, strip by strip and whole, each in a process of its own.

    Weights and pixels are random. What the streaming form takes beyond two arrays of tokens does not grow.
    Exit code 3 where a size has no number.

    Examples:
    - `rwkvclip-eval bench streaming -o runs/streaming`
    - `rwkvclip-eval bench streaming --config rwkv-clip-b32 --patches 1024,65536 --form streaming`
    """
    from rwkvclip_eval.bench.cells import parse_numbers
    from rwkvclip_eval.bench.streaming import memory_curve
    from rwkvclip_eval.environment import environment
    from rwkvclip_eval.report.streaming import HEAD, streaming_rows, write_streaming

    counts = list(dict.fromkeys(parse_numbers(patches, "--patches", 10**9)))
    if out is not None:
        _check_writable(out)
    points = []
    for point in memory_curve(
        config,
        counts,
        device=device,
        precision=precision,
        rows_per_chunk=rows_per_chunk,
        forms=form.split(","),
    ):
        said = point.problem or f"{point.seconds:.2f} s"
        console.note(f"{point.form}, {point.tokens:,} patches: {said}")
        points.append(point)
        if out is not None:
            # What is measured is kept, whatever comes.
            page = write_streaming(points, out, environment(), command_line())
    console.table(list(HEAD), streaming_rows(points))
    if out is not None:
        console.say(f"Written: {page}")
    raise typer.Exit(3 if any(point.problem for point in points) else 0)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is measured.

    Raises:
        OutputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write into {folder}: {error.strerror or error}.") from error
