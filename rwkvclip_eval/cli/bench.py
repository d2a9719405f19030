"""`bench`: speed and memory of models, in turns."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.options import (  # noqa: TC001  # typer reads annotations at run time
    DeviceOption,
    ImplementationOption,
    ModelOption,
)
from rwkvclip_eval.errors import UserError, shown

if TYPE_CHECKING:
    from rwkvclip_eval.bench.cells import Grid
    from rwkvclip_eval.bench.session import BenchOptions, Plan

_GRID = "Grid"


def _grid_option(name: str, takes: str, said: str) -> object:
    return typer.Option(name, metavar=takes, help=said, rich_help_panel=_GRID)


def bench(
    model: ModelOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Run directory; the same command continues it.")
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Three image sizes, three text lengths, one process a cell.")
    ] = False,
    list_cells: Annotated[
        bool, typer.Option("--list", help="Measure nothing: say what each cell is, and its FLOPs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure nothing: say about how long it takes.")
    ] = False,
    tower: Annotated[str | None, _grid_option("--tower", "NAME,…", "image, text, both, train.")] = None,
    precision: Annotated[str | None, _grid_option("--precision", "NAME,…", "fp32, bf16, fp16.")] = None,
    batch_size: Annotated[str | None, _grid_option("--batch-size", "N,…", "Samples a call.")] = None,
    size: Annotated[
        str | None, _grid_option("--size", "PX,…", "Of images: 224, or height x width such as 448x896.")
    ] = None,
    tokens: Annotated[
        str | None,
        _grid_option("--tokens", "N,…", "Of texts; beyond a model's own for speed only."),
    ] = None,
    mode: Annotated[str | None, _grid_option("--mode", "NAME,…", "eager, compiled (torch.compile).")] = None,
    device: DeviceOption = "cpu",
    implementation: ImplementationOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, max=4096, help="Of a CPU; every core by default."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, max=1000, help="Of each cell, at least.")
    ] = 5,
    turn: Annotated[
        float | None,
        typer.Option("--turn", metavar="S", min=0.01, max=600, help="Seconds of a model's turn."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", metavar="N", min=0, max=1e6, help="Begin no cell after so many."),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report at the end.")] = True,
) -> None:
    """Measure speed and memory of models side by side, and write a report.

    Every model runs in a process of its own; in each cell of the grid they take turns, repeat after repeat,
    so that their ratio has an interval. Times while others use the processors are measured again or marked.

    Examples:
    - `rwkvclip-eval bench -m rwkv-clip-b32=random:0 -m clip-vit-b32=random:0 --quick -o runs/speed`
    - `rwkvclip-eval bench -m rwkv-clip-b16=random:0 -m clip-vit-b16=random:0 --device cuda -o runs/gpu
      --dry-run`
    - `rwkvclip-eval bench -m rwkv-clip-b32=random:0 --tower image --size 224,448x896 --batch-size 1,8
      -o runs/sizes`
    """
    from rwkvclip_eval.bench.cells import GRIDS, default_grid
    from rwkvclip_eval.bench.session import BenchOptions, look_ahead, run_bench
    from rwkvclip_eval.bench.turns import Effort
    from rwkvclip_models.device import num_cores, resolve_device

    resolve_device(device)
    name = default_grid(device, quick=quick)
    grid = _narrowed(
        GRIDS[name],
        tower=tower,
        precision=precision,
        batch_size=batch_size,
        size=size,
        tokens=tokens,
        mode=mode,
    )
    effort = Effort(turn_s=turn or (1.0 if quick else 2.0), repeats=repeats, fresh=not quick)
    effort = dataclasses.replace(effort, most_repeats=max(repeats, effort.most_repeats))
    options = BenchOptions(
        device=device,
        implementation=implementation,
        threads=threads or num_cores(),
        effort=effort,
        max_minutes=max_minutes,
    )
    plan = look_ahead(model, grid.cells(), options, most_patches=grid.most_patches)
    if list_cells or dry_run:
        _print_plan(plan, options, cells=list_cells)
        return
    with console.Progress() as progress:
        summary = run_bench(
            plan,
            out,
            options=options,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            grid=name,
            on_cell=lambda cell, done, left: progress.say(
                f"{done + 1} of {len(plan.cells)}: {cell.label}; about {_minutes(left)} left"
            ),
        )
        progress.clear()
    if report and summary.blocks:
        from rwkvclip_eval.report.writing import write_efficiency

        console.say(f"Report: {write_efficiency(out, out / 'report')}")
    if summary.left:
        console.note(f"{len(summary.left)} cells are left; the same command continues.")
    raise typer.Exit(summary.exit_code)


def _narrowed(grid: Grid, **given: str | None) -> Grid:
    """Return the grid with what the command line says in its place.

    Raises:
        UserError: a name or number is none.
    """
    from rwkvclip_eval.bench.cells import TOWERS, parse_numbers, parse_sizes

    changes: dict[str, object] = {}
    names = {"tower": TOWERS, "precision": ("fp32", "bf16", "fp16"), "mode": ("eager", "compiled")}
    for option, allowed in names.items():
        text = given[option]
        if text is None:
            continue
        words = [word.strip() for word in text.split(",")]
        if wrong := [word for word in words if word not in allowed]:
            raise UserError(f"--{option} {shown(wrong[0])}: expected {', '.join(allowed)}.")
        key = {"tower": "towers", "precision": "precisions", "mode": "modes"}[option]
        changes[key] = [word == "compiled" for word in words] if option == "mode" else words
    if given["batch_size"] is not None:
        changes["batches"] = parse_numbers(given["batch_size"], "--batch-size", 1_000_000)
        changes["train_batches"] = ()
    if given["size"] is not None:
        changes |= {"sizes": parse_sizes(given["size"]), "most_patches": None}
    if given["tokens"] is not None:
        changes["lengths"] = parse_numbers(given["tokens"], "--tokens", 65_536)
    return dataclasses.replace(grid, **changes)  # type: ignore[arg-type]  # fields of Grid


def _print_plan(plan: Plan, options: BenchOptions, *, cells: bool) -> None:
    if cells:
        rows = []
        for cell in plan.cells:
            for index, model in enumerate(plan.models):
                known = plan.known[index, cell.key]
                flops = known.reason if known.flops is None else f"{known.flops / 1e9:.2f}"
                rows.append([cell.label, model.model, flops])
        console.table(["cell", "model", "GFLOP a call"], rows)
    seconds = sum(plan.seconds(cell, options.effort) for cell in plan.cells)
    for precision, rate in plan.ceilings.items():
        console.say(f"{precision}: {rate / 1e9:,.0f} GFLOP/s in square products here.")
    console.say(f"{len(plan.cells)} cells, about {_minutes(seconds)} (an estimate).")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
