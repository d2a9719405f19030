"""`bench compare`: whether a measurement is slower than another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  # typer reads annotations at run time
from typing import Annotated

import typer

from rwkvclip_eval.cli.compare import Format, give, print_speed
from rwkvclip_eval.errors import UserError


class What(StrEnum):
    """What ratios are of."""

    rate = "rate"
    speed_up = "speed-up"


def bench_compare(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE",
            help="What to compare with: a run directory of `bench`, or the efficiency.csv of its report.",
        ),
    ],
    candidate: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="What to judge: the same, of the same cells.")
    ],
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=100,
            metavar="PERCENT",
            help="Difference that is of no consequence; 5 on a CPU, 3 elsewhere by default.",
        ),
    ] = None,
    of: Annotated[
        What,
        typer.Option(
            help="Samples a second; or how many times as fast as the last model of each run, from which "
            "falls out what slows a whole machine."
        ),
    ] = What.rate,
    repeat_baseline: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The baseline measured again: what chance changes.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to say it.")] = Format.terminal,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for JSON, Markdown and JUnit files.")
    ] = None,
) -> None:
    """Say whether models became slower, cell by cell.

    Models go by their names; where each run holds one, by being that one.

    Exit codes: 0 FASTER or SAME; 1 SLOWER, or a cell was lost; 2 no cell in common; 3 AMBIGUOUS; 70 a defect
    of this program.

    Examples:
    - `rwkvclip-eval bench compare runs/main runs/pull-request`
    - `rwkvclip-eval bench compare reports/measured/gpu/efficiency.csv runs/gpu --margin 5 --format github`
    - `rwkvclip-eval bench compare runs/main runs/pull-request --of speed-up`
    """
    from rwkvclip_eval.compare import speed_formats as formats
    from rwkvclip_eval.compare.speed import compare_speed
    from rwkvclip_eval.compare.speed_side import read_speed_side

    if format is Format.html:
        raise UserError("`bench compare` has no HTML page: choose --format terminal, json, github or junit.")
    found = compare_speed(
        read_speed_side(baseline),
        read_speed_side(candidate),
        read_speed_side(repeat_baseline) if repeat_baseline else None,
        margin=None if margin is None else margin / 100,
        of="rate" if of is What.rate else "speed-up",
    )
    if format is Format.terminal:
        print_speed(found)
    written = {
        Format.json: lambda: formats.as_json(found),
        Format.github: lambda: formats.as_github(found),
        Format.junit: lambda: formats.as_junit(found),
    }
    give(written, format, out)
    raise typer.Exit(found.exit_code)
