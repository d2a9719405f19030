"""`rwkvclip-eval published`: lists published numbers; compares a run with those of the same checkpoints."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.options import PublishedOption  # noqa: TC001  # typer reads the annotations
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.records.published import PublishedRow


def published(
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Method as printed; repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="NAME[=FILE]", help="What may be of a model that you run; repeatable."
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME", help="Task; repeatable.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="NAME", help="`NAME` or `NAME@VARIANT`; repeatable."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME", help="Metric; repeatable.")
    ] = None,
    folders: PublishedOption = None,
    conformance: Annotated[
        list[Path] | None,
        typer.Option("--conformance", metavar="RUN", help="Compare this run instead of listing; repeatable."),
    ] = None,
) -> None:
    """List published numbers with their sources, or compare a run with those of the same checkpoints.

    A terminal shows values with `~` where they were read from a figure; a pipe gets every column,
    tab-separated, values as printed. What is unknown is empty, or `unknown`.

    With --conformance, exit code 0 where all judged numbers conform, 1 where one differs, 3 where none could
    be judged.

    Examples:
    - `rwkvclip-eval published --method RWKV-CLIP`
    - `rwkvclip-eval published --model rwkv-clip-b32 --dataset cifar10`
    - `rwkvclip-eval published --task linear_probe --published my_papers | cut -f2,5,7`
    - `rwkvclip-eval published --conformance runs/conformance`
    """
    from rwkvclip_eval.records.published import COLUMNS, read_published

    rows = read_published(folders or ())
    for field, asked in (("method", method), ("task", task), ("metric", metric)):
        _check(field, asked or (), {getattr(row, field) for row in rows})
    sets = _asked_sets(dataset or (), rows)
    specs = [_spec(text) for text in model or ()]
    whole = rows
    chosen: dict[str, list[PublishedRow]] = {}
    for field, asked in (("method", method), ("task", task), ("metric", metric)):
        wanted = {name.casefold() for name in asked or ()}
        if wanted:
            chosen[field] = [row for row in whole if getattr(row, field).casefold() in wanted]
    if sets:
        chosen["dataset"] = [row for row in whole if sets & {row.dataset, _bare(row.dataset)}]
    if specs:
        chosen["model"] = _of_models(specs, whole)
    kept = [{id(row) for row in found} for found in chosen.values()]
    rows = [row for row in whole if all(id(row) in found for found in kept)]
    if conformance:
        raise typer.Exit(_compare(conformance, rows))
    brief = [(r.who, r.task, r.dataset, r.measure.label, r.text, r.where_from) for r in rows]
    console.table(
        COLUMNS,
        [[getattr(row, name) for name in COLUMNS] for row in rows],
        brief=(("method", "task", "dataset", "metric", "value", "source"), brief),
    )
    if not rows:
        alone = ", ".join(f"{len(found)} are of the {name}" for name, found in chosen.items())
        console.note(f"Of {len(whole)} published numbers none is of all that was asked for; {alone}.")


def _check(what: str, asked: Iterable[str], known: set[str]) -> None:
    """Refuse names of which nothing is published.

    Raises:
        UserError: there is one; the text lists near matches.
    """
    folded = {name.casefold() for name in known}
    for name in asked:
        if name.casefold() not in folded:
            from rwkvclip_eval.registry import unknown_name

            raise UserError(unknown_name(f"published {what}", name, known))


def _bare(dataset: str) -> str:
    return dataset.partition("@")[0]


def _asked_sets(asked: Iterable[str], rows: Iterable[PublishedRow]) -> set[str]:
    """Return the record names of datasets, which go by any name or title, however it is written."""
    from rwkvclip_eval.data.catalogue import catalogue
    from rwkvclip_eval.records.titles import DATASET_TITLES

    known = {name for row in rows for name in (row.dataset, _bare(row.dataset))}
    called = {_letters(name): name for name in sorted(known)}
    for name, entry in catalogue().items():
        for other in (name, DATASET_TITLES.get(name, name), *entry.aliases, entry.title):
            called.setdefault(_letters(other), name)
            called.setdefault(_letters(re.split(r" \(|,", other)[0]), name)
    sets = set()
    for text in asked:
        name, at, variant = text.partition("@")
        version = f"{called.get(_letters(name), name)}{at}{variant}"
        sets.add(called.get(_letters(version), version))
    _check("dataset", sets, known)
    return sets


def _letters(name: str) -> str:
    """Return a name by which spellings are alike: without capitals, hyphens and spaces."""
    return re.sub(r"[^\w@]|_", "", name.casefold())


def _spec(text: str) -> str:
    """Return a model's spec as records have it.

    Raises:
        UserError: no model is called so.
    """
    from rwkvclip_eval.encoders.families import family_of
    from rwkvclip_eval.encoders.spec import parse_spec

    spec = parse_spec(text)
    family_of(spec)
    return spec.public_text


def _of_models(specs: Sequence[str], rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    from rwkvclip_eval.records.published import counterparts

    found = {id(row): row for spec in specs for row in counterparts(spec, rows)}
    return list(found.values())


def _compare(runs: Iterable[Path], rows: Sequence[PublishedRow]) -> int:
    """Print the numbers of runs beside those published of the same checkpoints; return the exit code."""
    from rwkvclip_eval.records.reading import runs_below
    from rwkvclip_eval.report.conformance import (
        BRIEF_HEAD,
        HEAD,
        conformance,
        other_protocols,
        reasons,
        summary,
    )
    from rwkvclip_eval.report.loading import load_runs

    loaded = load_runs([found for path in runs for found in runs_below(path) or [path]])
    records = [entry.record for entry in loaded.entries]
    found = conformance(records, rows)
    unfit = other_protocols(records, rows)
    if not found:
        for line in unfit:
            console.note(line)
        console.note(
            "Nothing to compare: no number of these runs is of a checkpoint, dataset, metric and protocol of "
            "which one is published. `rwkvclip-eval run conformance` makes those of open_clip's checkpoints; "
            "`rwkvclip-eval published --task zero_shot_classification` lists them, by their specs."
        )
        return 3
    brief = [one.cells[: len(BRIEF_HEAD)] for one in found]
    # Programs read the record names that a pipe gets.
    full = [(one.cells[0], one.dataset, *one.cells[2:]) for one in found]
    console.table(HEAD, full, brief=(BRIEF_HEAD, brief))
    for line in (*reasons(found), *unfit, *summary(found, rows)):
        console.note(line)
    verdicts = {one.verdict for one in found}
    return 1 if "differs" in verdicts else 0 if "conforms" in verdicts else 3
