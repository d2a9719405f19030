"""`bench ops`: how fast the Bi-WKV operator is here, beside the plain scan and what others offer."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations at run time
from typing import Annotated

import typer

from rwkvclip_eval import console


def bench_ops(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for ops.json and ops.md.")
    ] = None,
) -> None:
    """Time every implementation of the Bi-WKV operator in turns, on every device here.

    Beside them: the plain two-pass scan and, on a GPU with `pip install 'rwkvclip-eval[bench]'`,
    flash-linear-attention's rwkv6 in both directions. Exit code 3 where one could not be timed.

    Examples:
    - `rwkvclip-eval bench ops -o runs/ops`
    """
    from rwkvclip_eval.bench import operator_table, operators

    times = []
    for timing in operators.time_all():
        console.note(f"{timing.implementation}, {timing.dtype}, {timing.shape}, {timing.direction}")
        times.append(timing)
    if out is not None:
        operator_table.write_times(out, times)
    console.table(list(operator_table.HEAD), [list(row) for row in operator_table.timing_rows(times)])
    for line in operator_table.published_lines(times):
        console.say(f"Published: {line}")
    own = [t for t in times if t.problem and t.implementation not in operators.LINEAR_ATTENTION]
    raise typer.Exit(3 if own else 0)
