"""`export`, `import`, and the model cards of `report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvclip_eval import console
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Format(StrEnum):
    """What `export` writes."""

    CLIP_BENCHMARK = "clip-benchmark"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


_RunsArgument = Annotated[list[Path], typer.Argument(help="Run directories, as `report` takes them.")]
_ToOption = Annotated[Format, typer.Option("--to", help="Whose form.")]
_FolderOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")]
_FilesArgument = Annotated[
    list[Path], typer.Argument(help="CLIP_benchmark's JSON files, folders of them, or its CSV.")
]
_NewRunOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Run directory to make.")]


def export(runs: _RunsArgument, to: _ToOption, out: _FolderOption) -> None:
    """Write results in the form of another tool.

    `clip-benchmark`: a JSON file per dataset × model × task and `benchmark.csv`, as CLIP_benchmark's `eval`
    and `build` write them; without subsets. `tensorboard`: scalars at the checkpoint's step. `wandb`: a run a
    model, sent or kept offline as `WANDB_MODE` says.

    Example:  rwkvclip-eval export runs/b32 --to clip-benchmark --out results
    """
    from rwkvclip_eval.report.loading import load_runs
    from rwkvclip_models.disk import refuse_others, write_text

    loaded = load_runs(runs)
    if to is Format.CLIP_BENCHMARK:
        from rwkvclip_eval.exchange.clip_benchmark import result_files

        files, table = result_files([entry.record for entry in loaded.entries])
        if not files:
            raise UserError(
                "These runs have no result for CLIP_benchmark: subsets, imported numbers and tasks that it "
                "does not have are left out."
            )
        refuse_others(out, {"benchmark.csv": "dataset_fingerprint"})
        for name, text in files.items():
            write_text(out / name, text)
        write_text(out / "benchmark.csv", table)
        console.say(f"{len(files)} result files and benchmark.csv: {out}")
        return
    from rwkvclip_eval.exchange.trackers import to_tensorboard, to_wandb

    count = (to_tensorboard if to is Format.TENSORBOARD else to_wandb)(loaded, out)
    console.say(f"{count} numbers of {len(loaded.models)} models: {out}")


def import_results(files: _FilesArgument, out: _NewRunOption) -> None:
    """Make a run directory of CLIP_benchmark's results, which `report` shows beside others.

    The numbers are marked with the file they came from. It says nothing of images, precision or split, so
    they have no interval and no lead is claimed from them.

    Example:  rwkvclip-eval import results/*.json --out runs/theirs
    """
    from rwkvclip_eval.exchange.imported_run import import_run

    imported = import_run(files, out)
    for task, count in imported.passed_over.items():
        console.note(f"{count} results of the task {task} passed over: it has no counterpart here.")
    models = {record.model for record in imported.records}
    console.say(f"{len(imported.records)} numbers of {len(models)} models: {out}")


def write_cards(runs: Sequence[Path], out: Path, models: Sequence[str], repository: str | None) -> None:
    """Write a model card of each of `models` (all by default) into `out`/model_card; upload the only one.

    Raises:
        UserError: a model is not in the runs, or several are to be uploaded to one repository.
    """
    from rwkvclip_eval.exchange.model_card import write_model_cards
    from rwkvclip_eval.exchange.upload import check_repository, push_card
    from rwkvclip_eval.report.loading import load_runs

    if repository is not None:
        check_repository(repository)
    folders = write_model_cards(load_runs(runs), out / "model_card", models, repository)
    for model, folder in folders.items():
        console.say(f"Model card of {model}: {folder / 'README.md'}")
    if repository is not None:
        (folder,) = folders.values()
        console.say(f"Uploaded: {push_card(folder, repository)}")
