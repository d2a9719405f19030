"""The command `rwkvclip-train`.

Exit codes: 0 fine, 2 bad input or a loss that is not finite, 70 a defect of ours, 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path

import typer

from rwkvclip_eval import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(
    epilog="""
Examples:

`rwkvclip-train nano-digits-rwkv-clip` (a shipped recipe; needs no data and no GPU)

`rwkvclip-train nano-digits-rwkv-clip --seed 1 --out runs/rwkv-1` (another seed, for `compare --group`)

`rwkvclip-train my_recipe.yaml --out runs/mine --data-root data --device cuda --num-workers 8`

`rwkvclip-eval run quickstart --model runs/mine/models/NAME/NAME.json=runs/mine/models/NAME/step_000400.pt`
"""
)
def train(
    recipe: str | None = typer.Argument(None, help="Name of a shipped recipe, or path of a YAML file."),
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
    keys: bool = typer.Option(False, "--keys", help="Say what the keys of a recipe mean and stop."),
    check: bool = typer.Option(False, help="Check the recipe's text and stop."),
    quiet: bool = typer.Option(False, help="No progress bar."),
    debug: bool = typer.Option(False, help="Show the traceback of an error."),
) -> None:
    """Train a model as RECIPE says. Run the same command again to continue a run that was stopped."""
    if list_recipes:
        _list_recipes()
    elif keys:
        from rwkvclip_train.recipe_keys import recipe_rows

        console.table(["key", "default", "meaning"], recipe_rows())
    elif recipe is None:
        raise typer.BadParameter("give a recipe, or --list to see those that ship", param_hint="RECIPE")
    else:
        _train(recipe, out, device, data_root, num_workers, seed, threads, check, quiet)


def _list_recipes() -> None:
    from rwkvclip_train.recipe import load_recipe, shipped_recipes

    for name in shipped_recipes():
        recipe = load_recipe(name)
        length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs} epochs"
        console.say(
            f"{name}: {length} of {recipe.batch_size} pairs, data {', '.join(d.dataset for d in recipe.data)}"
        )


def _train(
    recipe_name: str,
    out: Path | None,
    device: str,
    data_root: Path | None,
    num_workers: int,
    seed: int | None,
    threads: int | None,
    check: bool,
    quiet: bool,
) -> None:
    from rwkvclip_train.recipe import load_recipe

    recipe = load_recipe(recipe_name)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    if check:
        console.say(f"{recipe_name}: fine.")
        return

    import torch

    from rwkvclip_models.device import num_threads
    from rwkvclip_train.loop import train as run

    torch.set_num_threads(threads or num_threads())
    out = out or Path("runs") / recipe.name
    trained = run(
        recipe, out, device=device, data_root=data_root, num_workers=num_workers, progress=not quiet
    )
    size = f"{trained.num_parameters:,} parameters"
    console.say(f"{trained.name}: {size}, {trained.num_steps} steps, {trained.seconds:.0f} s.")
    console.say(f"Evaluate it: rwkvclip-eval run SUITE --model {trained.spec}")


def main() -> None:
    """Run the command line; the entry point of `rwkvclip-train`."""
    console.run_app(app)
