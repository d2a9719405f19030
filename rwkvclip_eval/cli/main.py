"""The command line. Imports nothing heavy until a command needs it; errors are one readable message.

Exit codes: 0 fine; 1 a failed check or a regression; 2 bad input, found before any encoding; 3 some units
failed or lacked their data while others finished, or a comparison is inconclusive; 70 a defect of ours; 130
interrupted; 141 nobody read the output to its end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.bench import bench_app, measure_suite
from rwkvclip_eval.cli.compare import check_runs, compare
from rwkvclip_eval.cli.data import cache_app, data_app
from rwkvclip_eval.cli.exchange import export, import_results, write_cards
from rwkvclip_eval.cli.options import (
    AllowMissingOption,
    BatchSizeOption,
    CardOfOption,
    DataRootOption,
    DeviceOption,
    DryRunOption,
    FailBelowOption,
    ImplementationOption,
    LimitOption,
    MemoryOption,
    ModelCardOption,
    ModelOption,
    NoCacheOption,
    OfflineOption,
    OutOption,
    PluginOption,
    PrecisionOption,
    PublishedOption,
    PushOption,
    ReportOption,
    RunCacheOption,
    RunDataRootOption,
    RunModelOption,
    RunPluginOption,
    SetOption,
    ShardOption,
    SharedCacheOption,
    ShotsOption,
    SuiteArgument,
    WorkersOption,
    command_line,
    parse_pair,
    parse_shard,
    prepare,
)
from rwkvclip_eval.cli.outlines import outlined
from rwkvclip_eval.cli.published import published as published_command
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.memory import MEMORY_BUDGET
from rwkvclip_eval.version import __version__
from rwkvclip_models.moved import make_callable

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Evaluate RWKV-CLIP, CLIP and ALIP checkpoints: zero-shot classification, retrieval, reports.\n\n"
    "First run, without any download:  `rwkvclip-eval quickstart`",
)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(bench_app, name="bench")
app.command("published")(published_command)
app.command()(compare)
app.command()(export)
app.command("import")(import_results)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"rwkvclip-eval {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (before the command).")] = False,
) -> None:
    """Hold the options that stand before the command."""


@app.command()
def run(
    typed: typer.Context,
    suite: SuiteArgument,
    model: RunModelOption,
    out: OutOption,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    report: ReportOption = True,
    fail_below: FailBelowOption = None,
    setting: SetOption = None,
    plugin: RunPluginOption = None,
    data_root: RunDataRootOption = None,
    limit: LimitOption = None,
    shots: ShotsOption = None,
    allow_missing: AllowMissingOption = 0,
    offline: OfflineOption = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    implementation: ImplementationOption = "auto",
    batch_size: BatchSizeOption = 64,
    num_workers: WorkersOption = None,
    memory_budget: MemoryOption = MEMORY_BUDGET / 1e9,
    cache: RunCacheOption = None,
    shared_cache: SharedCacheOption = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Run models on a suite and write a report.

    Examples:
    - `rwkvclip-eval run zero-shot-11 -m rwkv-clip-b32=model_31.pt -m clip-vit-b32=openai -o runs/b32
      --data-root DATA`
    - `rwkvclip-eval run retrieval -m 'rwkv-clip-b32=ckpts/epoch_*.pt' --data-root DATA -o runs/curve`
    - `rwkvclip-eval run smoke -m rwkv-clip-b32=random:0 --data-root DATA --limit 200 -o runs/try`
    - `rwkvclip-eval run few-shot-10 -m clip-vit-b32=openai --data-root DATA --shots 1,4,16 -o runs/few`
    - `rwkvclip-eval run linear-probe-10 -m clip-vit-b32=openai --data-root DATA --set linear_probe.C=0.316
      -o runs/c`
    - `rwkvclip-eval run smoke -m rwkv-clip-b32=model_31.pt --data-root DATA -o runs/b32
      --fail-below floors.yaml`
    """
    from rwkvclip_eval.cli.printing import follow, print_dry_run, print_held, print_summary
    from rwkvclip_eval.features.options import EncodeOptions, default_num_workers
    from rwkvclip_eval.features.ranks import TorchrunRanks, join_ranks
    from rwkvclip_eval.features.torchrun import TorchrunEngine
    from rwkvclip_eval.plan import floors
    from rwkvclip_eval.plan.overrides import overridden
    from rwkvclip_eval.plan.suite import load_suite
    from rwkvclip_eval.plan.units import plan
    from rwkvclip_eval.progress import Progress
    from rwkvclip_eval.run.dry_run import dry_run as look_ahead
    from rwkvclip_eval.run.helper import help_suite
    from rwkvclip_eval.run.options import RunContext, RunOptions
    from rwkvclip_eval.run.suite_run import run_suite
    from rwkvclip_models.device import num_cores

    with join_ranks() as ranks, Progress(bars=ranks.rank == 0) as progress:
        prepare(plugin, offline=offline)
        if report:
            from rwkvclip_eval.report.writing import check_source_date

            # At the end of a long run it would be late.
            check_source_date()
        if num_workers is None:
            num_workers = default_num_workers(device, num_cores() // ranks.local_size)
        options = RunOptions(
            data_root=data_root,
            device=ranks.device(device),
            precision=precision,
            implementation=implementation,
            limit=limit,
            allow_missing=allow_missing,
            offline=offline,
            cache_dir=cache,
            shared_cache=shared_cache,
            use_cache=not no_cache,
            memory_budget=int(memory_budget * 1e9),
            encode=EncodeOptions(batch_size=batch_size, num_workers=num_workers),
        )
        context = RunContext(on_message=progress.say)
        loaded = load_suite(suite)
        if loaded.suite.grids:
            measure_suite(typed, suite, model, out, plugin)
        loaded = overridden(loaded, setting or (), shots)
        if fail_below and shard:
            raise UserError("--fail-below needs the whole run: leave it out of the jobs of an array.")
        wanted = floors.load_floors(fail_below, plan(loaded)) if fail_below else ()
        if dry_run:
            if ranks.size > 1:
                raise UserError("--dry-run is for one process: leave out torchrun.")
            ahead = look_ahead(loaded, model, out, options=options, shard=parse_shard(shard))
            print_dry_run(ahead)
            raise typer.Exit(0 if ahead.complete else 3)
        if isinstance(ranks, TorchrunRanks) and ranks.rank > 0:
            context.on_message = lambda text: progress.say(f"Rank {ranks.rank}: {text}")
            engine = TorchrunEngine(ranks, options.encode, context)
            code = help_suite(loaded, model, engine=engine, options=options)
        else:
            follow(context, progress)
            summary = run_suite(
                loaded,
                model,
                out,
                options=options,
                context=context,
                ranks=ranks,
                shard=parse_shard(shard),
                command=command_line(),
            )
            progress.clear()
            print_summary(summary)
            # A member of a job array may have nothing to do.
            if report and summary.records:
                _write_report([summary.out], summary.out / "report")
            code = summary.exit_code
            if wanted:
                found = floors.held(wanted, summary.records)
                print_held(found)
                code = floors.exit_code(found, code)
            ranks.dismiss(code)
    raise typer.Exit(code)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, or a folder of them; members of a job array are found inside."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; RUN/report by default."),
    ] = None,
    published: PublishedOption = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing: derive every value and interval again from the stored predictions. Exit "
            "code 1 where a number is not what its record says, 2 where predictions are missing or damaged, "
            "3 where they do not tell one.",
        ),
    ] = False,
    model_card: ModelCardOption = False,
    card_of: CardOfOption = None,
    push_to_hub: PushOption = None,
    difference: Annotated[
        list[str] | None,
        typer.Option(
            "--difference",
            help="ONE..OTHER: draw one model (or published method) less another; repeatable. The first less "
            "the second by default.",
        ),
    ] = None,
) -> None:
    """Make the report (HTML, Markdown, CSV, plots) of one or several runs.

    Examples:
    - `rwkvclip-eval report runs/b32 runs/b16 --out comparison`
    - `rwkvclip-eval report runs/b32 --check`
    """
    from rwkvclip_eval.records.reading import runs_below

    found: list[Path] = []
    for path in runs:
        inside = runs_below(path)
        if inside:
            names = ", ".join(folder.name for folder in inside)
            console.note(f"{path} is no run directory itself; it holds {len(inside)}: {names}.")
        found += inside or [path]
    if check:
        check_runs(found)
    folder = out or runs[0] / "report"
    _write_report(found, folder, published or (), [parse_pair(text) for text in difference or ()])
    if model_card or card_of or push_to_hub:
        write_cards(found, folder, card_of or (), push_to_hub)


@app.command()
def models(plugin: PluginOption = None) -> None:
    """List the models that `--model` knows, with the form of each."""
    from rwkvclip_eval.encoders import list_models

    prepare(plugin)
    rows = list_models()
    console.table(
        ["name", "family", "example"], [[row["name"], row["family"], row["example"]] for row in rows]
    )
    forms: dict[str, list[str]] = {}
    for row in rows:
        forms.setdefault(row["checkpoint"], []).append(row["name"])
    for form, names in forms.items():
        console.note(f"{', '.join(names)} = {form}")


@app.command()
def suites() -> None:
    """List the shipped suites."""
    from rwkvclip_eval.plan.suite import list_suites, load_suite
    from rwkvclip_eval.plan.units import plan

    loaded = {name: load_suite(name) for name in list_suites()}
    rows = [
        [name, "" if each.suite.grids else str(len(plan(each))), each.suite.description]
        for name, each in loaded.items()
    ]
    console.table(["suite", "units", "what it measures"], rows)


@app.command()
def validate(
    suite: SuiteArgument,
    plugin: PluginOption = None,
) -> None:
    """Check a suite file: keys, protocols, names, and that what it brings itself is there and fits.

    Mistakes come with file and line. Folders and manifests that the suite names are opened as by a run; data
    of the catalogue are not looked for (`rwkvclip-eval data list --suite SUITE --data-root DATA` does that).
    """
    from rwkvclip_eval.cli.printing import units_text
    from rwkvclip_eval.plan.suite import load_suite
    from rwkvclip_eval.run.suite_check import check_suite

    prepare(plugin)
    loaded = load_suite(suite)
    cells = [f"{len(each.cells())} cells in {name}" for name, each in loaded.suite.grids.items()]
    found = f"measures speed: {', '.join(cells)}" if cells else f"{units_text(check_suite(loaded))} a model"
    console.say(f"{suite}: fine; {found}.")


@app.command()
def prefetch(
    suite: SuiteArgument,
    model: ModelOption,
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Fetch a suite's data, weights, tokenizers and configurations, for `run --offline`."""
    from rwkvclip_eval.run.prefetch import prefetch_all

    prepare(plugin)
    rows, complete = prefetch_all(suite, model, data_root)
    console.table(["what", "state"], rows)
    raise typer.Exit(0 if complete else 3)


@app.command()
def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Check every implementation over a grid, then time it.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Where --full writes its JSON and Markdown.")] = Path(
        "doctor"
    ),
) -> None:
    """Check this machine: versions, devices, operator implementations and whether they agree."""
    from rwkvclip_eval.doctor import diagnose, full_check

    found = full_check(out) if full else diagnose()
    console.table(found.HEADERS, found.rows())
    if full:
        console.say(f"Written to {out}")
    raise typer.Exit(found.exit_code)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory.")] = Path("runs/quickstart"),
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train two nano models on digits, evaluate both, write a report. No network, under three minutes."""
    # The one import of the training package from here: the quickstart trains.
    from rwkvclip_train.quickstart import run_quickstart

    result = run_quickstart(out, device=device)
    console.say(result.text)


def _write_report(
    runs: Sequence[Path],
    out: Path,
    published: Sequence[Path] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> None:
    from rwkvclip_eval.report.writing import write_pages

    for page in write_pages(runs, out, published, pairs):
        console.say(f"Report: {page}")


def main() -> None:
    """Run the command line; the entry point of `rwkvclip-eval`."""
    console.run_app(outlined(app, sys.argv[1:]))


# `from rwkvclip_eval.cli import main` gave the function; now that is this module.
make_callable(__name__)
