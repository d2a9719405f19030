"""`rwkvclip-eval data …` and `rwkvclip-eval cache …`. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections import Counter
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.options import (
    CacheOption,
    DataRootOption,
    PluginOption,
    RequiredRootOption,
    SuiteOption,
    prepare,
)
from rwkvclip_eval.errors import NAMES_SHOWN, DamagedData, DataNotFound, NoSuchSplit, UserError

if TYPE_CHECKING:
    from rwkvclip_eval.data.listing import CatalogueRow
    from rwkvclip_eval.data.types import DatasetRef
    from rwkvclip_eval.run.needs import Need

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="List, fetch, convert and check datasets."
)
cache_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="See and clear the feature store."
)

NamesArgument = Annotated[
    list[str], typer.Argument(help="Dataset names; `name@variant` or `name:split` allowed.")
]
SplitOption = Annotated[
    list[str] | None,
    typer.Option("--split", metavar="NAME", help="train, val or test; repeatable; all there are by default."),
]


@data_app.command("list")
def data_list(
    names: Annotated[
        list[str] | None, typer.Argument(help="Say all that is known of these, and how to get them.")
    ] = None,
    suite: SuiteOption = None,
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """List the datasets of the catalogue, or of a suite, and which of them are under the data root.

    A terminal shows what to have and how to get it; a pipe gets every column, tab-separated. Sizes are GB to
    fetch: `~` stands before one that the copy fetched may not have to the byte, `?` where nobody says it.

    Examples:
    - `rwkvclip-eval data list --suite zero-shot-11 --data-root DATA`
    - `rwkvclip-eval data list kinetics700`
    - `rwkvclip-eval data list | cut -f1,9,11`
    """
    from rwkvclip_eval.data.absence import ROOT_UNKNOWN
    from rwkvclip_eval.data.listing import catalogue_rows, describe
    from rwkvclip_eval.run.needs import catalogue_rows_of

    prepare(plugin)
    if names:
        if suite is not None:
            raise UserError("Give dataset names or --suite, not both.")
        console.say("\n\n".join(describe(name, data_root) for name in names))
        return
    entries = (
        catalogue_rows(data_root) if suite is None else catalogue_rows_of(_needs_of_suite(suite), data_root)
    )
    rows = [dataclasses.asdict(entry) for entry in entries]
    brief = [(e.label, f"{e.num_test:,}" if e.num_test else "", e.size_gb, e.state) for e in entries]
    console.table(
        list(rows[0]),
        [list(row.values()) for row in rows],
        brief=(("name", "test images", "GB", "found below the data root"), brief),
    )
    if suite is not None:
        console.note(_sum_up(entries))
    console.note(
        "One dataset, step by step: rwkvclip-eval data list NAME. To fetch: rwkvclip-eval data download NAME "
        f"--data-root {shlex.quote(str(data_root or ROOT_UNKNOWN))}"
    )


@data_app.command("verify")
def data_verify(
    names: NamesArgument,
    data_root: DataRootOption = None,
    split: SplitOption = None,
    plugin: PluginOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for a subset, an absent split or an overlap too.")
    ] = False,
) -> None:
    """Decode every image; check counts, classes, checksums, duplicates; print fingerprints.

    Each split is `fine` (sound, and of the catalogue's count), `a subset` (sound, but fewer images), `a copy
    of its own` (what could be fetched of a set that the web loses), `uncounted` (sound, but not in the
    catalogue) or `NOT fine` (damaged, contradicts the catalogue or its checksums). Absent splits and pictures
    that splits share are named. Only `NOT fine` ends with exit code 1, unless --strict is given: a run marks
    subsets itself, and published splits may overlap.

    Examples:
    - `rwkvclip-eval data verify cifar10 flickr30k --data-root DATA`
    - `rwkvclip-eval data verify sun397@partition1 --split test --data-root DATA`
    """
    from rwkvclip_eval.data.open import check_data_root
    from rwkvclip_eval.data.verified import remember
    from rwkvclip_eval.data.verify import absent_remarks, open_splits, shared_pictures, verify_dataset
    from rwkvclip_eval.progress import Progress

    prepare(plugin)
    check_data_root(data_root)
    good = True
    for name in names:
        mended: dict[str, list[str]] = {}
        try:
            datasets = open_splits(dataset_ref(name), data_root, split or (), mended)
        except DamagedData as error:
            console.say(f"{name}: NOT fine; it cannot be opened\n  {error}")
            good = False
            continue
        reports = []
        for dataset in datasets:
            label = f"{name.partition(':')[0]}:{dataset.info.split}"
            with Progress() as progress:
                update = functools.partial(progress.update, what=label)
                found = verify_dataset(dataset, update, mended.get(dataset.info.split, ()))
            console.say(f"{label}: {found.state}; {found.num_samples} images of {found.info.source}")
            console.say(f"  fingerprint {found.info.fingerprint}")
            for text in (*found.problems, *found.remarks):
                console.say(f"  {text}")
            good &= found.ok and not (strict and found.info.subset)
            reports.append(found)
        remember(reports)
        # One who names splits knows of the others.
        asked = split or dataset_ref(name).split
        lacks = [*shared_pictures(reports), *([] if asked else absent_remarks(reports))]
        for text in lacks:
            console.say(f"  {text}")
        good &= not (strict and lacks)
    raise typer.Exit(0 if good else 1)


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="Dataset name; `name@variant` allowed.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Folder of the published files, one folder per class, or a CSV manifest.",
        ),
    ],
    data_root: RequiredRootOption,
    split: SplitOption = None,
    samples_per_shard: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a shard.")] = 2000,
) -> None:
    """Write a dataset's published files (else an image folder) as shards; run it again to continue.

    A split that should be there and is not is left out, with exit code 3.

    Examples:
    - `rwkvclip-eval data prepare sun397@partition1 --from SUN397 --data-root DATA`
    - `rwkvclip-eval data prepare birds --from birds --split test --data-root DATA`
    """
    from rwkvclip_eval.data.prepare import prepare_dataset
    from rwkvclip_eval.progress import Progress

    ref = dataset_ref(name)
    splits = split or ([ref.split] if ref.split else [])
    with Progress() as progress:
        made, absent = prepare_dataset(
            ref,
            source,
            data_root,
            splits,
            samples_per_shard=samples_per_shard,
            on_progress=progress.update,
        )
    for one in made:
        console.say(
            f"{one.folder / one.split}: {one.num_samples} images in {one.num_shards} shards, "
            f"{one.num_written} of them written now"
        )
        console.say(f"  fingerprint {one.fingerprint}")
        if one.remark:
            console.say(f"  {one.remark}")
    for missing, reason in absent.items():
        console.say(f"{missing} was left out: {reason}")
    label = name.partition(":")[0]
    console.say(f"To decode every image once: rwkvclip-eval data verify {label} --data-root {data_root}")
    lacking = [missing for missing, reason in absent.items() if not isinstance(reason, NoSuchSplit)]
    if lacking:
        console.say(f"{' and '.join(lacking)} can follow by the same command; --split names what is wanted.")
    raise typer.Exit(3 if lacking else 0)


@data_app.command("download")
def data_download(
    data_root: RequiredRootOption,
    names: Annotated[
        list[str] | None, typer.Argument(help="Dataset names; `name@variant` or `name:split` allowed.")
    ] = None,
    suite: SuiteOption = None,
    split: SplitOption = None,
    plugin: PluginOption = None,
) -> None:
    """Fetch datasets with public sources; a broken download is continued, checksums are checked.

    Shards on the Hugging Face hub go to DATA/wds_NAME; other public files to DATA/NAME, unpacked. A --suite
    is what it needs and the data root lacks. Of several, one that cannot be had does not stop the others; the
    exit code is then 3.

    Examples:
    - `rwkvclip-eval data download cifar10 flickr30k --data-root DATA`
    - `rwkvclip-eval data download cifar10 --split test --data-root DATA`
    - `rwkvclip-eval data download --suite zero-shot-11 --data-root DATA`
    """
    from rwkvclip_eval.data.download import download_dataset
    from rwkvclip_eval.progress import Progress

    prepare(plugin)
    if bool(names) == (suite is not None):
        raise UserError("Give dataset names or --suite NAME, one of the two.")
    lacking: list[str] = []
    if suite is not None:
        wanted, lacking = _missing_of_suite(suite, data_root)
    else:
        wanted = [(name, dataset_ref(name), split or []) for name in names or ()]
    for name, ref, splits in wanted:
        try:
            with Progress() as progress:
                said = download_dataset(
                    ref, data_root, splits or ([ref.split] if ref.split else []), on_progress=progress.update
                )
        except (DataNotFound, DamagedData) as error:
            if len(wanted) == 1 and suite is None:
                raise
            said = f"{name}: failed: {error}"
            lacking.append(said)
        console.say(said)
    raise typer.Exit(3 if lacking else 0)


def _needs_of_suite(suite: str) -> list[Need]:
    from rwkvclip_eval.plan.suite import load_suite
    from rwkvclip_eval.plan.units import plan
    from rwkvclip_eval.run.needs import needs_of

    return needs_of(plan(load_suite(suite)))


def _missing_of_suite(
    suite: str, data_root: Path
) -> tuple[list[tuple[str, DatasetRef, list[str]]], list[str]]:
    """Return what a suite lacks and can be fetched, and the names of what must be got by hand."""
    from rwkvclip_eval.run.needs import absent_splits_of, catalogue_rows_of

    data_root.mkdir(parents=True, exist_ok=True)
    wanted: list[tuple[str, DatasetRef, list[str]]] = []
    by_hand: list[str] = []
    for need in _needs_of_suite(suite):
        (row,) = catalogue_rows_of([need], data_root)
        absent = absent_splits_of(need, data_root)
        if not absent or not row.obtain:
            console.say(f"{need.label}: already there ({row.found or 'the suite says where'}).")
        elif " data download " in row.obtain:
            wanted.append((need.label, dataset_ref(need.label), absent))
        else:
            by_hand.append(need.label)
            console.say(f"{need.label}: by hand; {row.obtain} says how.")
    return wanted, by_hand


def _sum_up(rows: list[CatalogueRow]) -> str:
    """Return how much of a suite is there, how much there is to fetch, and what has terms."""
    lacking = [row for row in rows if not row.found]
    sizes = [row.size_gb.removeprefix("~") for row in lacking]
    known = [float(size) for size in sizes if size not in ("", "?")]
    unknown = f" and {len(lacking) - len(known)} of unknown size" if len(known) < len(lacking) else ""
    said = f"{len(rows) - len(lacking)} of {len(rows)} datasets found."
    if lacking:
        said += f" To fetch: about {sum(known):,.0f} GB{unknown}."
    terms = [f"{row.label} ({row.terms})" for row in lacking if row.terms]
    return said + (f" With terms of their own: {'; '.join(terms)}." if terms else "")


@cache_app.command("show")
def cache_show(cache: CacheOption = None) -> None:
    """List the feature store's entries and their size.

    Example:  rwkvclip-eval cache show --cache /scratch/features
    """
    from rwkvclip_eval.data.samples import default_cache_dir
    from rwkvclip_eval.features.upkeep import entries

    root = cache or default_cache_dir()
    found = entries(root)
    rows = [
        [
            e.get("model", ""),
            e.get("dataset") or ("damaged" if "damaged" in e else "unfinished"),
            e.get("split", ""),
            f"{e['bytes'] / 2**20:.2f} MiB",
        ]
        for e in found
    ]
    console.table(["model", "dataset", "split", "size"], rows)
    for why, count in Counter(e["damaged"] for e in found if "damaged" in e).most_common(NAMES_SHOWN):
        console.note(f"{count} damaged, {'each' if count > 1 else 'which'} a run encodes again: {why}.")
    console.say(f"{len(found)} entries, {sum(e['bytes'] for e in found) / 2**20:.1f} MiB in {root}")


@cache_app.command("clear")
def cache_clear(cache: CacheOption = None) -> None:
    """Delete every entry of the feature store that is not in use.

    Example:  rwkvclip-eval cache clear --cache /scratch/features
    """
    from rwkvclip_eval.data.samples import default_cache_dir
    from rwkvclip_eval.features.upkeep import clear

    root = cache or default_cache_dir()
    count, freed = clear(root)
    console.say(f"Deleted {count} entries, {freed / 2**20:.1f} MiB, from {root}")


def dataset_ref(text: str) -> DatasetRef:
    """Return the reference that `name`, `name@variant`, `name:split` or `name@variant:split` means.

    Raises:
        UserError: a part is empty or could be no name.
    """
    from pydantic import ValidationError

    from rwkvclip_eval.data.types import DatasetRef

    name, colon, split = text.partition(":")
    name, at, variant = name.partition("@")
    given = {"name": name, "variant": variant if at else None, "split": split if colon else None}
    try:
        return DatasetRef.model_validate(given)
    except ValidationError as error:
        part = error.errors()[0]["loc"][0]
        raise UserError(
            f"Dataset {text!r}: expected NAME, NAME@VARIANT or NAME:SPLIT; its {part} is none."
        ) from error
