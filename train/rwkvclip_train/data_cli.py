"""`rwkvclip-train data …`: index, look at and time training data. Imports nothing heavy until it must."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwkvclip_eval import console
from rwkvclip_eval.errors import UserError, name_some
from rwkvclip_eval.printable import one_line

if TYPE_CHECKING:
    from rwkvclip_train.data.indexed import IndexedPairs
    from rwkvclip_train.data.pairs import Key, Pairs
    from rwkvclip_train.data.synthetic import SyntheticPairs

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Index training data, look at them, time their loader.",
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Holds the shards or tables, at any depth.")
]
SourceArgument = Annotated[
    str, typer.Argument(metavar="FOLDER", help="An indexed folder, or synthetic:N[@WIDTHxHEIGHT].")
]
IndexOption = Annotated[
    Path | None, typer.Option("--index", metavar="DIR", help="Folder of the index; FOLDER/index by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WorkersOption = Annotated[
    int, typer.Option("--num-workers", min=1, max=1024, metavar="N", help="Threads that decode.")
]
SizeOption = Annotated[int, typer.Option("--size", min=1, max=4096, metavar="PX", help="Side of the crops.")]


@data_app.command("index")
def data_index(
    folder: FolderArgument,
    index: IndexOption = None,
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="tar, rec, parquet or csv; by default the first there is.")
    ] = "",
    kinds: Annotated[
        str,
        typer.Option(metavar="NAME,…", help="Kinds of text to keep; by default all. Others are as absent."),
    ] = "",
    token_kinds: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="What the texts of a record, or of a row of a token array, are called, in order; by default "
            "raw, synthetic, generated.",
        ),
    ] = "",
    image_column: Annotated[
        str, typer.Option(metavar="NAME", help="Of tables; by default image, path, file_name, ….")
    ] = "",
    longest: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Longer texts (characters) are not drawn.")
    ] = 2000,
    without: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys to leave out, one a line, as `data stats --broken` writes."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write the index of a folder of pairs; run it again to continue one that was stopped.

    Reads webdataset tars, MXNet RecordIO, parquet and CSV tables, and token arrays (.npy) beside them. Empty
    texts and too long ones are counted and not drawn; samples without an image or a usable text are counted
    and left out. A damaged shard is refused. docs/training-data.md has the layouts.

    Examples:
    - `rwkvclip-train data index DATA/yfcc15m`
    - `rwkvclip-train data index DATA/cc3m --kinds raw,synthetic`
    - `rwkvclip-train data index READ_ONLY --index indices/cc3m --without broken.txt`
    """
    from rwkvclip_train.data.build import Settings, build_index, read_keys

    settings = Settings(
        layout=layout,
        kinds=_names(kinds),
        token_kinds=_names(token_kinds),
        image_column=image_column,
        longest=longest,
        without=read_keys(without) if without else frozenset(),
    )
    from rwkvclip_eval.progress import Progress

    with Progress() as progress:

        def show(done: int, total: int, pairs: int) -> None:
            megabytes = f"{done >> 20:,} of {total >> 20:,} MiB"
            progress.update(done, max(total, 1), "index", f"{pairs:,} pairs, {megabytes}")

        about = build_index(folder, index, settings, on_progress=show)
    if json_output:
        shown = about.model_dump(include={"num_pairs", "kinds", "not_drawn", "left_out", "fingerprint"})
        _print_json({"shards": len(about.shards), **shown})
        return
    console.say(
        f"{folder}: {about.num_pairs:,} pairs in {len(about.shards):,} shards; kinds of text: "
        f"{one_line(', '.join(about.kinds))}"
    )
    _say_counts(about.not_drawn, about.left_out, about.examples)
    console.say(f"  fingerprint {about.fingerprint}")


@data_app.command("stats")
def data_stats(
    source: SourceArgument,
    index: IndexOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Look at N pairs, evenly spread; by default at all."),
    ] = None,
    broken: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the keys of broken images, for `index --without`."),
    ] = None,
    num_workers: WorkersOption = 1,
    json_output: JsonOption = False,
) -> None:
    """Count pairs and texts, measure both, decode every image, find copies.

    Exit code 1 where an image is broken or the index was changed.

    Examples:
    - `rwkvclip-train data stats DATA/cc3m --broken broken.txt --num-workers 16`
    - `rwkvclip-train data stats DATA/cc3m --limit 10000 --json`
    """
    from rwkvclip_models.disk import write_text
    from rwkvclip_train.data.stats import collect, require_replaceable

    opened = _opened(source, index, digests=False)
    if broken is not None:
        require_replaceable(broken, opened)
    from rwkvclip_eval.progress import Progress

    with Progress() as progress:
        stats = collect(
            opened,
            limit=limit,
            num_workers=num_workers,
            on_progress=lambda done, total: progress.update(done, total, "pairs"),
        )
    if broken is not None:
        write_text(broken, "".join(f"{key}\t{' '.join(why.split())}\n" for key, why in stats.broken))
    if json_output:
        _print_json(dataclasses.asdict(stats))
    else:
        console.say(f"{source}: {stats.pairs:,} pairs, {stats.looked_at:,} of them looked at")
        console.table(
            ["kind", "pairs", "texts seen", "least, letters or ids", "5 %", "median", "95 %", "most"],
            [[k, v["pairs"], v["texts"], *(f"{q:g}" for q in v["length"])] for k, v in stats.kinds.items()],
        )
        console.table(
            ["images", "least", "5 %", "median", "95 %", "most"],
            [
                [name, *(f"{q:,.0f}" for q in values)]
                for name, values in (
                    ("width, px", stats.width_px),
                    ("height, px", stats.height_px),
                    ("file, bytes", stats.image_bytes),
                )
            ],
        )
        console.say(f"  formats: {', '.join(f'{name} {n:,}' for name, n in stats.formats.items())}")
        console.say(f"  copies of earlier ones: {stats.same_image:,} images, {stats.same_text:,} texts")
        for group in stats.copies:
            console.say(f"    {' = '.join(group)}")
        _say_counts(stats.not_drawn, stats.left_out, stats.examples)
        console.say(f"  broken images: {len(stats.broken):,}")
        for key, why in stats.broken[:20]:
            console.say(f"    {key}: {why}")
        for problem in stats.problems:
            console.say(f"  {problem}")
    raise typer.Exit(1 if stats.broken or stats.problems else 0)


@data_app.command("peek")
def data_peek(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A recipe, an indexed folder, or synthetic:N.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The sheet: a .png or .html file.")
    ] = Path("peek.html"),
    step: Annotated[int, typer.Option(min=1, max=10**9, help="Which step, from 1 as in the log.")] = 1,
    count: Annotated[
        int, typer.Option("--pairs", min=1, max=1024, metavar="N", help="The step's first N.")
    ] = 16,
    size: SizeOption = 224,
    texts: Annotated[
        str, typer.Option(metavar="KIND=WEIGHT,…", help="Of a folder; by default all kinds equally often.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of a folder; a recipe has its own.")] = 0,
    index: IndexOption = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the wds_* folders that a recipe names.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show what a step would see: crops, flips and the texts drawn, as a picture sheet.

    Of a recipe, exactly what training takes at that step; of a folder, with the default augmentation.

    Examples:
    - `rwkvclip-train data peek my_recipe.yaml --step 1000 -o step.html --data-root DATA`
    - `rwkvclip-train data peek DATA/cc3m --texts raw=1,generated=2 -o sheet.png`
    """
    from rwkvclip_train.data.peek import look, write_sheet

    if Path(source).is_dir() or source.startswith("synthetic:"):
        pairs, keys = _folder_step(source, index, size, texts, seed, step - 1, count)
    else:
        pairs, keys = _recipe_step(source, data_root, step - 1, count)
    seen = look(pairs, keys)
    write_sheet(out, seen, f"{source}, step {step}")
    if json_output:
        _print_json([{"key": pair.name, "kind": pair.kind, "text": pair.text} for pair in seen])
        return
    console.table(["key", "kind", "text"], [[pair.name, pair.kind, pair.text] for pair in seen])
    console.note(f"The pictures: {out}")


@data_app.command("bench")
def data_bench(
    source: SourceArgument,
    index: IndexOption = None,
    size: SizeOption = 224,
    images: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Images in a round.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Rounds, each of both.")] = 7,
    json_output: JsonOption = False,
) -> None:
    """Measure images a second and core beside plain torchvision and Pillow, in turns.

    CPU time of one thread from file to normalised tensor. It also says how much the pixels differ where an
    image was decoded at a smaller scale.

    Examples:
    - `rwkvclip-train data bench DATA/cc3m`
    - `rwkvclip-train data bench synthetic:256@1024x768 --json`
    """
    from rwkvclip_train.data.bench import measure
    from rwkvclip_train.recipe import AugmentationRecipe

    opened = _opened(source, index)
    from rwkvclip_eval.progress import Progress

    with Progress() as progress:
        speed = measure(
            opened,
            size_px=(size, size),
            augmentation=AugmentationRecipe.model_validate({"horizontal_flip": 0.5}),
            images=images,
            rounds=rounds,
            on_progress=lambda done, total: progress.update(done, total, "rounds"),
        )
    if json_output:
        _print_json(dataclasses.asdict(speed))
        return
    console.table(
        ["loader", "images/s and core"],
        [["this", f"{speed.images_per_s:.0f}"], ["torchvision + Pillow", f"{speed.plain_images_per_s:.0f}"]],
    )
    console.say(
        f"  {speed.ratio:.2f} times as many ({speed.ratio_low:.2f} to {speed.ratio_high:.2f} over "
        f"{speed.rounds} rounds of {speed.images} images)"
    )
    console.say(
        f"  {speed.reduced_share:.0%} decoded at a smaller scale; pixels differ by {speed.mean_error:.2f} of "
        f"255 on average and {speed.max_error} at most from decoding whole"
    )


def _folder_step(
    source: str, index: Path | None, size: int, texts: str, seed: int, step: int, count: int
) -> tuple[Pairs, list[Key]]:
    from rwkvclip_models import tokenize
    from rwkvclip_train.data.open import check_kinds
    from rwkvclip_train.data.pairs import Pairs, Part
    from rwkvclip_train.order import GlobalOrder, batch_keys
    from rwkvclip_train.recipe import AugmentationRecipe

    opened = _opened(source, index)
    weights = _weights(texts)
    if weights is not None:
        check_kinds(opened, weights, "--texts")
    pairs = Pairs(
        [Part(opened, weights)],
        image_size_px=(size, size),
        tokenize=tokenize,
        augmentation=AugmentationRecipe.model_validate({}),
        seed=seed,
    )
    count = min(count, len(pairs))
    return pairs, batch_keys(GlobalOrder(len(pairs), count, seed), step)


def _recipe_step(source: str, data_root: Path | None, step: int, count: int) -> tuple[Pairs, list[Key]]:
    import torch

    from rwkvclip_train.data.open import open_sources
    from rwkvclip_train.data.pairs import Pairs
    from rwkvclip_train.models import build_trainee
    from rwkvclip_train.order import batch_keys, order_of
    from rwkvclip_train.recipe import load_recipe

    recipe = load_recipe(source)
    trainee = build_trainee(recipe.model, seed=recipe.seed, device=torch.device("cpu"))
    pairs = Pairs(
        open_sources(recipe, data_root),
        image_size_px=trainee.image_size_px,
        tokenize=trainee.tokenize,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
    )
    if step >= (most := recipe.num_steps(len(pairs))):
        raise UserError(f"{recipe.name} has {most} steps; got --step {step + 1}.")
    return pairs, batch_keys(order_of(recipe, len(pairs))[0], step)[:count]


def _opened(source: str, index: Path | None, *, digests: bool = True) -> IndexedPairs | SyntheticPairs:
    from rwkvclip_train.data.open import open_pairs

    return open_pairs(source, index, digests=digests)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _weights(text: str) -> dict[str, float] | None:
    """Return kind → weight of `raw=1,generated=2`; None of nothing."""
    found: dict[str, float] = {}
    for part in _names(text):
        kind, equals, weight = part.partition("=")
        try:
            found[kind] = float(weight) if equals else 1.0
        except ValueError:
            found[kind] = -1.0
        if not 0 <= found[kind] <= 1e9:
            raise UserError(f"--texts: expected KIND=WEIGHT with a weight from 0, got {part!r}.")
    if found and not any(found.values()):
        raise UserError("--texts: one weight must be above 0.")
    return found or None


def _say_counts(not_drawn: dict[str, int], left_out: dict[str, int], examples: dict[str, str]) -> None:
    for what, counts in (("texts not drawn", not_drawn), ("samples left out", left_out)):
        for why, count in counts.items():
            console.say(f"  {what}: {count:,}, {why} ({name_some([examples.get(why, '')])})")


def _print_json(value: Any) -> None:
    console.say(json.dumps(value, indent=1, ensure_ascii=False))
