"""The command `rwkvclip-train`: given a recipe it trains; its commands, such as `export`, do other work.

Exit codes: 0 fine, 2 bad input or a loss that is not finite, 70 a defect of ours, 130 interrupted, 143 (or
what `--sigterm-exit` says) stopped by SIGTERM with all steps saved.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
import typer.core

from rwkvclip_eval import console
from rwkvclip_train.data_cli import data_app


class Tracker(StrEnum):
    """What `track` writes."""

    TENSORBOARD = "tensorboard"
    TRACKIO = "trackio"


class _TrainByDefault(typer.core.TyperGroup):
    """Takes a first argument that is no command for the first one of `train`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left, with the command before them."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["train", *args])


app = typer.Typer(
    cls=_TrainByDefault,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data_app, name="data")


@app.command(
    epilog="""
Examples:

`rwkvclip-train nano-digits-rwkv-clip` (a shipped recipe; needs no data and no GPU)

`rwkvclip-train nano-digits-rwkv-clip --seed 1 --out runs/rwkv-1` (another seed, for `compare --group`)

`rwkvclip-train nano-digits-rwkv-clip --set flavour=official --set quirks.beta1_cycle=false` (single keys)

`rwkvclip-train --explain quirks` (what a recipe's keys mean)

`rwkvclip-train my_recipe.yaml --out runs/mine --data-root data --device cuda --num-workers 8`

`torchrun --nproc-per-node 8 -m rwkvclip_train my_recipe.yaml --out runs/mine --data-root data --device cuda`

`rwkvclip-train export runs/mine/models/NAME/step_000400.safetensors mine.pt` (for the official code)

`rwkvclip-train data index DATA/pairs`, `data stats`, `data peek`, `data bench` (`rwkvclip-train data --help`)

`rwkvclip-eval run quickstart --model NAME.json=step_000400.safetensors` (both in runs/mine/models/NAME)
"""
)
def train(
    recipe: str | None = typer.Argument(
        None, help="Name of a shipped recipe, or path of a YAML file; with --explain a key."
    ),
    changes: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="In the place of the recipe's: lr=0.001, quirks.beta1_cycle=true.",
    ),
    out: Path | None = typer.Option(None, help="Folder of the run; runs/RECIPE by default."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, mps."),
    data_root: Path | None = typer.Option(None, help="Folder of the wds_* folders the recipe names."),
    num_workers: int = typer.Option(
        0, min=0, max=1024, help="Processes that decode images; results stay the same."
    ),
    seed: int | None = typer.Option(
        None, min=0, max=2**31 - 1, help="In the place of the recipe's: a further draw of the same method."
    ),
    threads: int | None = typer.Option(
        None, min=1, max=4096, help="CPU threads; by default OMP_NUM_THREADS, else as many as cores."
    ),
    list_recipes: bool = typer.Option(False, "--list", help="List the shipped recipes and stop."),
    explain: bool = typer.Option(
        False, "--explain", "--keys", help="Say what a recipe's key means, or what all mean, and stop."
    ),
    check: bool = typer.Option(False, help="Check the recipe's text and stop."),
    skip_bad: int = typer.Option(
        0, min=0, max=10**9, help="Steps whose loss or gradient is not finite that may be left out."
    ),
    sigterm_exit: int = typer.Option(
        143, min=0, max=255, help="Exit code after SIGTERM, once all steps are saved; some schedulers need 0."
    ),
    quiet: bool = typer.Option(False, help="No progress bar."),
    debug: bool = typer.Option(False, help="Show the traceback of an error."),
) -> None:
    """Train a model as RECIPE says. Run the same command again to continue a run that was stopped."""
    if list_recipes:
        _list_recipes()
    elif explain:
        from rwkvclip_train.recipe_keys import explained

        console.table(["key", "default", "meaning"], explained(recipe))
    elif recipe is None:
        raise typer.BadParameter("give a recipe, or --list to see those that ship", param_hint="RECIPE")
    else:
        _train(
            recipe,
            changes,
            out,
            device,
            data_root,
            num_workers,
            seed,
            threads,
            check,
            skip_bad,
            sigterm_exit,
            quiet,
        )


@app.command()
def export(
    checkpoint: Path = typer.Argument(help="Weights of a run: step_000400.safetensors."),
    target: Path = typer.Argument(help="File to write: .pt, as the official code loads it, or .safetensors."),
    debug: bool = typer.Option(False, help="Show the traceback of an error."),
) -> None:
    """Write the weights of a checkpoint into a file of another form."""
    from rwkvclip_models.checkpoint import read_checkpoint, save_state_dict

    save_state_dict(read_checkpoint(checkpoint), target)
    console.say(f"{target}: weights of {checkpoint}.")


@app.command(
    epilog="""
Examples:

`rwkvclip-train page runs/mine` (runs/mine/training/index.html)

`rwkvclip-train page runs/a runs/b --out both.html` (curves of both in each drawing)
"""
)
def page(
    runs: list[Path] = typer.Argument(help="Folders of runs, under way or finished, or their logs."),
    out: Path | None = typer.Option(None, help="HTML file; by default training/index.html in the first."),
    debug: bool = typer.Option(False, help="Show the traceback of an error."),
) -> None:
    """Draw the logs of runs on a page: curves, what they saw, the recipe and the machine."""
    from rwkvclip_train.page import write_page
    from rwkvclip_train.run_log import find_logs

    target = out or find_logs(runs)[0].with_name("index.html")
    number = write_page(runs, target)
    console.say(f"{target}: {number} {'run' if number == 1 else 'runs'}.")


@app.command(
    epilog="""
Examples:

`rwkvclip-train track runs/mine --to tensorboard --out logs` (then `tensorboard --logdir logs`)

`rwkvclip-train track runs/a runs/b --to trackio --project nano` (then `trackio show --project nano`)
"""
)
def track(
    runs: list[Path] = typer.Argument(help="Folders of runs, under way or finished, or their logs."),
    to: Tracker = typer.Option(help="Which tool's form."),
    out: Path | None = typer.Option(None, help="Folder of TensorBoard's events; needed for it."),
    project: str | None = typer.Option(None, help="Of trackio; rwkvclip-train by default."),
    debug: bool = typer.Option(False, help="Show the traceback of an error."),
) -> None:
    """Hand the logs of runs to a tracker; those of a run under way as far as they go."""
    from rwkvclip_train.run_log import find_logs, read_run
    from rwkvclip_train.trackers import PROJECT, to_tensorboard, to_trackio

    if (to is Tracker.TENSORBOARD) is (out is None):
        raise typer.BadParameter("tensorboard needs it, trackio has none", param_hint="--out")
    if to is Tracker.TENSORBOARD and project is not None:
        raise typer.BadParameter("only trackio has projects", param_hint="--project")
    found = [read_run(path) for path in find_logs(runs)]
    count = to_trackio(found, project or PROJECT) if out is None else to_tensorboard(found, out)
    console.say(f"{count} numbers of {len(found)} {'run' if len(found) == 1 else 'runs'}: {out or to.value}")


def _list_recipes() -> None:
    from rwkvclip_train.recipe import load_recipe, shipped_recipes

    for name in shipped_recipes():
        recipe = load_recipe(name)
        length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs} epochs"
        console.say(
            f"{name}: {length} of {recipe.batch_size} pairs, data {', '.join(d.label for d in recipe.data)}"
        )


def _train(
    recipe_name: str,
    changes: list[str],
    out: Path | None,
    device: str,
    data_root: Path | None,
    num_workers: int,
    seed: int | None,
    threads: int | None,
    check: bool,
    skip_bad: int,
    sigterm_exit: int,
    quiet: bool,
) -> None:
    from rwkvclip_train.recipe import load_recipe

    recipe = load_recipe(recipe_name, changes)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    if check:
        console.say(f"{recipe_name}: fine.")
        return

    import torch

    from rwkvclip_models.device import num_threads
    from rwkvclip_train.loop import Stopped
    from rwkvclip_train.loop import train as run

    torch.set_num_threads(threads or num_threads())
    out = out or Path("runs") / recipe.name
    try:
        trained = run(
            recipe,
            out,
            device=device,
            data_root=data_root,
            num_workers=num_workers,
            skip_bad=skip_bad,
            progress=not quiet,
        )
    except Stopped as stopped:
        console.note(str(stopped))
        raise typer.Exit(sigterm_exit) from None
    if not trained.leads:
        return
    size = f"{trained.num_parameters:,} parameters"
    console.say(f"{trained.name}: {size}, {trained.num_steps} steps, {trained.seconds:.0f} s.")
    if recipe.keep_best_by != "loss" and trained.best is not None:
        console.say(f"Best by {recipe.keep_best_by} of the checkpoints that stay: {trained.best}")
    console.say(f"Evaluate it: rwkvclip-eval run SUITE --model {trained.spec}")


def main() -> None:
    """Run the command line; the entry point of `rwkvclip-train`."""
    console.run_app(app)
