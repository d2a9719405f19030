"""`bench`: speed and memory of models, in turns; with its commands `compare` and `ops`."""

from __future__ import annotations

import dataclasses
from pathlib import Path  # noqa: TC003  # typer reads annotations
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.bench_compare import bench_compare
from rwkvclip_eval.cli.bench_ops import bench_ops
from rwkvclip_eval.cli.bench_streaming import bench_streaming
from rwkvclip_eval.cli.options import (
    DeviceOption,
    ImplementationOption,
    PluginOption,
    command_line,
    prepare,
)
from rwkvclip_eval.errors import UserError, name_some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rwkvclip_eval.bench.ahead import BenchOptions, Plan

SUITE = "efficiency"
NOTHING_GIVEN: Mapping[str, str | None] = MappingProxyType({})
_GRID = "Grid"

bench_app = typer.Typer(rich_markup_mode="markdown", subcommand_metavar="[compare | ops | streaming]")
bench_app.command("compare")(bench_compare)
bench_app.command("ops")(bench_ops)
bench_app.command("streaming")(bench_streaming)


def _grid_option(name: str, takes: str, said: str) -> object:
    return typer.Option(name, metavar=takes, help=said, rich_help_panel=_GRID)


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME[=FILE]",
            help="Model and its checkpoint (`random:0`: speed needs no more), repeatable; others are "
            "compared with the last.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Run directory; the same command continues it."),
    ] = None,
    suite: Annotated[
        str, _grid_option("--suite", "SUITE", "With `grids`; a shipped name or a YAML file.")
    ] = SUITE,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Three image sizes, three text lengths, in at most ten minutes."),
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
    plugin: PluginOption = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, max=4096, help="Of a CPU; every core by default."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, max=1000, help="Of each cell, at least.")
    ] = 5,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="A new process for every repeat, not one for all of a cell: much longer."
        ),
    ] = False,
    turn: Annotated[
        float | None,
        typer.Option(
            "--turn", metavar="S", min=0.01, max=600, help="Seconds of a model's turn; 0.5 by default."
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", metavar="N", min=0, max=1e6, help="Begin no cell after so many."),
    ] = None,
    largest_batch: Annotated[
        int | None,
        typer.Option(
            "--largest-batch",
            metavar="N",
            min=1,
            max=1_000_000,
            help="Also find the largest batch of each input that fits into memory, trying up to N.",
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report at the end.")] = True,
) -> None:
    """Measure speed and memory of models side by side, and write a report.

    Every model runs in a process of its own; in each cell of the grid they take turns, repeat after repeat,
    so that their ratio has an interval. Times while others use the processors are measured again or marked.
    `bench compare BASELINE CANDIDATE` says whether a change made them slower; `bench ops` times the operator,
    `bench streaming` measures long images in constant memory.

    Examples:
    - `rwkvclip-eval bench -m rwkv-clip-b32=random:0 -m clip-vit-b32=random:0 --quick -o runs/speed`
    - `rwkvclip-eval bench -m rwkv-clip-b16=random:0 -m clip-vit-b16=random:0 --device cuda -o runs/gpu
      --dry-run`
    - `rwkvclip-eval bench -m rwkv-clip-b32=random:0 --tower image --size 224,448x896 --batch-size 1,8
      -o runs/sizes`
    - `rwkvclip-eval bench compare runs/before runs/after`
    """
    if context.invoked_subcommand is not None:
        if model or out:
            raise UserError(
                f"`bench {context.invoked_subcommand}` does not measure models: give its own options behind "
                "its name."
            )
        return
    if not model or (out is None and not list_cells and not dry_run):
        raise UserError(
            "Expected at least one --model and --out DIR, such as `rwkvclip-eval bench -m "
            "rwkv-clip-b32=random:0 -m clip-vit-b32=random:0 --quick -o runs/speed`; or `rwkvclip-eval bench "
            "compare BASELINE CANDIDATE`."
        )
    from rwkvclip_eval.bench.ahead import BenchOptions
    from rwkvclip_eval.bench.turns import Effort
    from rwkvclip_models.device import num_cores

    prepare(plugin)
    effort = Effort(turn_s=turn or Effort.turn_s, repeats=repeats, fresh=fresh)
    options = BenchOptions(
        device=device,
        implementation=implementation,
        threads=threads or num_cores(),
        plugins=_plugins(plugin),
        effort=dataclasses.replace(effort, most_repeats=max(repeats, effort.most_repeats)),
        max_minutes=max_minutes,
        largest_batch=largest_batch,
    )
    given = {"tower": tower, "precision": precision, "mode": mode}
    given |= {"batch-size": batch_size, "size": size, "tokens": tokens}
    measure(
        model,
        out,
        options,
        suite=suite,
        quick=quick,
        given=given,
        list_cells=list_cells,
        dry_run=dry_run,
        report=report,
    )


def measure(
    models: Sequence[str],
    out: Path | None,
    options: BenchOptions,
    *,
    suite: str = SUITE,
    quick: bool = False,
    given: Mapping[str, str | None] = NOTHING_GIVEN,
    list_cells: bool = False,
    dry_run: bool = False,
    report: bool = True,
) -> NoReturn:
    """Measure the grid of a suite, or say what that would be, and exit with the code for it.

    Args:
        models: specs.
        out: run directory; None where nothing is measured.
        options: how.
        suite: name or file.
        quick: its quick grid.
        given: what stands in the place of the grid's, see `bench.cells.narrowed`.
        list_cells: say what each cell is.
        dry_run: say how long it takes.
        report: write one.
    """
    from rwkvclip_eval.bench.ahead import look_ahead
    from rwkvclip_eval.bench.cells import choose_grid, narrowed
    from rwkvclip_eval.bench.session import run_bench
    from rwkvclip_eval.plan.suite import load_suite
    from rwkvclip_eval.progress import Progress
    from rwkvclip_models.device import resolve_device

    loaded = load_suite(suite).suite
    if not loaded.grids:
        raise UserError(f"The suite {loaded.name} measures accuracy: `rwkvclip-eval run {loaded.name} …`.")
    resolve_device(options.device)
    name, grids = choose_grid(loaded.grids, options.device, quick=quick)
    grids = narrowed(grids, given)
    plan = look_ahead(models, grids.cells(), options, limits=grids)
    if out is None or list_cells or dry_run:
        _print_plan(plan, options, cells=list_cells)
        raise typer.Exit
    with Progress() as progress:
        summary = run_bench(
            plan,
            out,
            options=options,
            command=command_line(),
            grid=name if loaded.name == SUITE else f"{loaded.name} {name}",
            on_cell=lambda cell, done, left: progress.say(
                f"{done + 1} of {len(plan.cells)}: {cell.label}; about {_minutes(left)} left"
            ),
        )
        progress.clear()
    if report and summary.blocks:
        from rwkvclip_eval.report.writing import write_efficiency

        console.say(f"Report: {write_efficiency(out, out / 'report')}")
    if summary.lost:
        console.note(f"No number of {name_some(summary.lost)}.")
    if summary.left:
        console.note(f"{len(summary.left)} cells are left; the same command continues.")
    raise typer.Exit(summary.exit_code)


def measure_suite(
    context: typer.Context, suite: str, models: Sequence[str], out: Path, plugin: Sequence[Path] | None
) -> NoReturn:
    """Do for `run SUITE` what `bench --suite SUITE` does, and exit with its code.

    Args:
        context: of `run`, with its other options.
        suite: name or file of a suite of grids.
        models: specs.
        out: run directory.
        plugin: files, loaded already.

    Raises:
        UserError: `run` was given an option that is for accuracies.
    """
    from rwkvclip_eval.bench.ahead import BenchOptions
    from rwkvclip_models.device import num_cores

    known = {"suite", "model", "out", "device", "implementation", "plugin", "dry_run", "report"}
    left = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in known and _was_typed(context, name)
    ]
    if left:
        raise UserError(
            f"The suite {suite} measures speed, which {', '.join(left)} cannot change: see the options of "
            f"`rwkvclip-eval bench --suite {suite} --help`."
        )
    given = context.params
    options = BenchOptions(
        device=given["device"],
        implementation=given["implementation"],
        threads=num_cores(),
        plugins=_plugins(plugin),
    )
    measure(models, out, options, suite=suite, dry_run=given["dry_run"], report=given["report"])


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _plugins(given: Sequence[Path] | None) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in given or ())


def _print_plan(plan: Plan, options: BenchOptions, *, cells: bool) -> None:
    if cells:
        rows = []
        for cell in plan.cells:
            for index, model in enumerate(plan.models):
                known = plan.known[index, cell.key]
                flops = known.reason or "not counted" if known.flops is None else f"{known.flops / 1e9:.4g}"
                rows.append([cell.label, model.model, flops, known.beyond])
        console.table(["cell", "model", "GFLOP a call", "beyond the model's own"], rows)
    seconds = plan.total_seconds(options.effort)
    for precision, rate in plan.ceilings.items():
        console.say(f"{precision}: {rate / 1e9:,.0f} GFLOP/s in square products here.")
    for index, model in enumerate(plan.models):
        left = [cell for cell in plan.cells if plan.known[index, cell.key].status != "ok"]
        if left:
            why = dict.fromkeys(plan.known[index, cell.key].reason.rstrip(".") for cell in left)
            count = "1 cell" if len(left) == 1 else f"{len(left)} cells"
            console.say(f"{model.model} is left out of {count}: {name_some(why)}.")
    console.say(
        f"{len(plan.cells)} cells, about {_minutes(seconds)}: by the FLOPs of each at the pace at which one "
        "small eager cell of images and one of texts ran here just now in each precision, else at an assumed "
        "one, and by the start of a process."
        + (" The search for the largest batches is not counted." if options.largest_batch else "")
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
