"""`compare`: whether a candidate is worse than a baseline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rwkvclip_eval import console
from rwkvclip_eval.cli.options import PublishedOption  # noqa: TC001  # typer reads the annotations
from rwkvclip_eval.errors import OutputError, UserError, joined, name_some

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from rwkvclip_eval.compare.gate import Rule
    from rwkvclip_eval.compare.result import Result
    from rwkvclip_eval.compare.speed import SpeedComparison
    from rwkvclip_eval.records.schema import Record


class Format(StrEnum):
    """How `compare` says what it found."""

    terminal = "terminal"
    json = "json"
    github = "github"
    junit = "junit"
    html = "html"


class Pair(StrEnum):
    """Which runs of two methods belong together."""

    seed = "seed"
    order = "order"
    none = "none"


ENDINGS = {Format.json: "json", Format.github: "md", Format.junit: "xml", Format.html: "html"}


def compare(
    baseline: Annotated[
        str | None,
        typer.Argument(
            metavar="BASELINE",
            help="What to compare with: a run directory, a baseline file, or hf://owner/repo/file[@revision].",
        ),
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Argument(metavar="CANDIDATE", help="What to judge: the same, of the same suite and data."),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=100, help="Loss that is of no consequence, in points.")
    ] = 0.5,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Chance of REGRESSION where nothing differs, at most.")
    ] = 0.05,
    repeat_baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The baseline again, at another precision, or at another batch size with `--no-cache`: "
            "stored features are not encoded anew.",
        ),
    ] = None,
    baseline_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where that run holds several.")
    ] = None,
    candidate_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where that run holds several.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to say it.")] = Format.terminal,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for HTML, JSON, Markdown and JUnit files.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of the datasets, for pictures of samples that flipped in HTML.",
        ),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare nothing: write BASELINE's outcomes, without pictures, to a file to compare "
            "with where the run is not.",
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RUN,RUN",
            help="A method and its runs, one a seed, instead of two checkpoints; repeatable, the baseline "
            "first. RUN@SEED where no training log in the run says its seed.",
        ),
    ] = None,
    pair: Annotated[
        Pair | None,
        typer.Option(
            help="Which runs of groups belong together: those of one seed (by default, where both have the "
            "same seeds), those at the same place (order), or none."
        ),
    ] = None,
    baseline_speed: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Measurement of `bench` of the baseline, or its efficiency.csv."),
    ] = None,
    candidate_speed: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="That of the candidate: both verdicts stand in one report."),
    ] = None,
    published: PublishedOption = None,
) -> None:
    """Say whether a candidate is worse than a baseline, sample by sample.

    With --group, whether a method is worse than another, over seeds.

    Exit codes: 0 PASS; 1 REGRESSION; 2 the runs cannot be compared; 3 INCONCLUSIVE, AMBIGUOUS, or too few
    seeds for a verdict; 70 a defect of this program. With --baseline-speed and --candidate-speed, what
    `bench compare` says stands beside it: SLOWER is 1, AMBIGUOUS 3.

    Examples:
    - `rwkvclip-eval compare runs/main runs/pull-request`
    - `rwkvclip-eval compare runs/main runs/pull-request --repeat-baseline runs/main-bf16 --format github`
    - `rwkvclip-eval compare runs/main runs/new --baseline-speed speed/main --candidate-speed speed/new`
    - `rwkvclip-eval compare runs/main --write-baseline main.baseline`
    - `rwkvclip-eval compare hf://owner/model/main.baseline runs/pull-request`
    - `rwkvclip-eval compare --group clip=runs/c0,runs/c1,runs/c2 --group rwkv-clip=runs/r0,runs/r1,runs/r2`
    """
    from rwkvclip_eval.compare import formats, gate, with_speed
    from rwkvclip_eval.compare.pairing import pin, read_side
    from rwkvclip_eval.compare.result import compare_runs

    rule = gate.Rule(margin / 100, alpha)
    if (baseline_speed is None) != (candidate_speed is None) or (
        baseline_speed and (group or write_baseline)
    ):
        raise UserError(
            "--baseline-speed and --candidate-speed go together, each with a run of `bench`, in a comparison "
            "of two runs."
        )
    if group:
        if {baseline, candidate, repeat_baseline, baseline_model, candidate_model, write_baseline} != {None}:
            raise UserError("--group brings its own runs: leave out BASELINE, CANDIDATE and their options.")
        _compare_groups(group, rule, pair or Pair.seed, published or (), format, out)
    if baseline is None or pair is not None or published:
        raise UserError(
            "Expected two runs, `compare BASELINE CANDIDATE`; or methods, `compare --group NAME=RUN,RUN "
            "--group NAME=RUN,RUN`, to which --pair and --published belong."
        )
    if write_baseline is not None:
        if candidate is not None:
            raise UserError("--write-baseline takes one run: leave out CANDIDATE.")
        size = pin(_local(baseline), baseline_model, write_baseline)
        console.say(f"Baseline of {size / 1e6:.2f} MB: {write_baseline}")
        return
    if candidate is None:
        raise UserError("What to judge is missing: rwkvclip-eval compare BASELINE CANDIDATE.")
    result = compare_runs(
        read_side(_local(baseline), baseline_model),
        read_side(_local(candidate), candidate_model),
        read_side(_local(repeat_baseline), baseline_model) if repeat_baseline else None,
        rule,
    )
    speed = _speed(baseline_speed, candidate_speed)
    if format is Format.terminal:
        gated = [formats.cells(row) for row in result.rows if row.verdict]
        console.table(formats.COLUMNS, gated)
        console.say("\n".join(formats.summary(result)))
        if speed:
            print_speed(speed)
    written = {
        Format.json: lambda: with_speed.as_json(result, speed),
        Format.github: lambda: with_speed.as_github(result, speed),
        Format.junit: lambda: with_speed.as_junit(result, speed),
        Format.html: lambda: _page(result, data_root, speed),
    }
    give(written, format, out)
    raise typer.Exit(with_speed.exit_code(result, speed))


def _speed(baseline: Path | None, candidate: Path | None) -> SpeedComparison | None:
    """Return the comparison of two measurements of speed; None where none are given."""
    if baseline is None or candidate is None:
        return None
    from rwkvclip_eval.compare.speed import compare_speed
    from rwkvclip_eval.compare.speed_side import read_speed_side

    return compare_speed(read_speed_side(baseline), read_speed_side(candidate))


def print_speed(found: SpeedComparison) -> None:
    """Print a comparison of speed: its table, then what it rests on."""
    from rwkvclip_eval.compare import speed_formats

    console.table(speed_formats.COLUMNS, [speed_formats.cells(row) for row in found.rows])
    console.say("\n".join(speed_formats.summary(found)))


def _compare_groups(
    texts: Sequence[str],
    rule: Rule,
    pair: Pair,
    published: Sequence[Path],
    format: Format,
    out: Path | None,
) -> NoReturn:
    from rwkvclip_eval.compare import group_formats as formats
    from rwkvclip_eval.compare.group_runs import read_groups
    from rwkvclip_eval.compare.groups import compare_groups
    from rwkvclip_eval.records.published import read_published
    from rwkvclip_eval.report.group_page import group_page

    result = compare_groups(read_groups(texts), rule, pair.value, read_published(published))
    if format is Format.terminal:
        for one in result.comparisons:
            console.table(formats.columns(one), formats.rows(one))
        if result.published:
            console.table(formats.PUBLISHED_COLUMNS, formats.published_rows(result))
        console.say("\n".join(formats.summary(result)))
    written = {
        Format.json: lambda: formats.as_json(result),
        Format.github: lambda: formats.as_github(result),
        Format.junit: lambda: formats.as_junit(result),
        Format.html: lambda: group_page(result),
    }
    give(written, format, out)
    raise typer.Exit(result.exit_code)


def give(written: Mapping[Format, Callable[[], str]], format: Format, out: Path | None) -> None:
    """Print the form that was asked for, and write all into the folder `out`."""
    if format in written:
        console.say(written[format]().rstrip("\n"))
    if out:
        from rwkvclip_models.disk import refuse_others, write_text

        refuse_others(out, {"comparison.html": "rwkvclip-eval", "comparison.json": '"exit_code"'})
        out.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            write_text(out / f"comparison.{ENDINGS[name]}", text())


def _page(result: Result, data_root: Path | None, speed: SpeedComparison | None) -> str:
    """Return a comparison as HTML, with pictures from the runs' examples and the data."""
    from rwkvclip_eval.report.comparison import comparison_page
    from rwkvclip_eval.report.comparison_pictures import collect_pictures

    def read(record: Record, keys: Collection[str]) -> dict[str, str]:
        from rwkvclip_eval.run.pictures import pictures

        return pictures(record, keys, data_root)

    return comparison_page(result, collect_pictures(result, read if data_root else None), speed=speed)


def _local(source: str) -> Path:
    """Return where a run directory or baseline file lies on this machine, fetched from the hub if need be."""
    from rwkvclip_eval.compare.pinned import LIMIT_BYTES
    from rwkvclip_eval.exchange.hub_file import PREFIX, fetch_file

    return fetch_file(source, LIMIT_BYTES) if source.startswith(PREFIX) else Path(source)


def check_runs(runs: Sequence[Path]) -> NoReturn:
    """Say which numbers of runs their stored predictions do not give again, and exit with the code for it.

    Of measurements of speed, which their cells do not give.
    """
    from rwkvclip_eval.compare.rederive import check_run
    from rwkvclip_eval.records.efficiency import is_measurement
    from rwkvclip_eval.records.reading import without_digest

    measurements = [run for run in runs if is_measurement(run)]
    changed = _check_measurements(measurements) if measurements else False
    if len(measurements) == len(runs):
        raise typer.Exit(1 if changed else 0)
    found = [one for run in runs if run not in measurements for one in check_run(run)]
    wrong = [one for one in found if one.outcome == "differs"]
    untold = [one for one in found if one.outcome == "not derived"]
    if wrong or untold:
        rows = [
            [one.unit, one.metric, one.recorded.text, one.derived.text if one.derived else "", one.why]
            for one in (*wrong, *untold)
        ]
        console.table(["unit", "metric", "recorded", "from predictions", "why"], rows)
    damaged = dict.fromkeys(one.why for one in found if one.outcome == "damaged")
    if damaged:
        raise OutputError(joined(list(damaged)))
    equal = len(found) - len(wrong) - len(untold)
    console.say(f"{equal} of {len(found)} numbers come out of the predictions as recorded.")
    if bare := [one for run in runs if run not in measurements for one in without_digest(run)]:
        console.note(
            "No digest tells whether records and predictions were changed together, since the run is of an "
            f"older version or did not end: {name_some(map(str, bare))}."
        )
    raise typer.Exit(1 if wrong or changed else 3 if untold or not found else 0)


def _check_measurements(runs: Sequence[Path]) -> bool:
    """Say which records of speed their cells do not give again; return whether there are such."""
    from rwkvclip_eval.bench.records import check_records

    found = [check_records(run) for run in runs]
    wrong = [line for _, _, lines in found for line in lines]
    if wrong:
        console.table(["unit", "metric", "recorded", "from cells"], wrong)
    total, equal = sum(count for count, _, _ in found), sum(same for _, same, _ in found)
    console.say(f"{equal} of {total} records of speed come out of their cells as recorded.")
    return bool(wrong)
