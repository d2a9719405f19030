"""Results as TensorBoard and Weights & Biases take them, through their own writers, where installed."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import UserError, shortened
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_eval.report.wording import dataset_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.loading import Loaded

PROJECT = "rwkvclip-eval"


def tag(record: Record) -> str:
    """Return the name under which a number is logged: task, protocol, dataset, metric; subsets say so."""
    subset = " (subset)" if record.subset else ""
    return f"{record.task}/{record.protocol}{subset}/{dataset_version(record)}/{record.metric}"


def scalars(record: Record) -> Iterable[tuple[str, float]]:
    """Yield name and value of a number and of the ends of its interval."""
    for name, value in (("", record.value), ("/ci_low", record.ci_low), ("/ci_high", record.ci_high)):
        if value is not None:
            yield tag(record) + name, value


def to_tensorboard(loaded: Loaded, out: Path) -> int:
    """Write every number as scalars, a folder a model, at its checkpoint's step (0 where it has none).

    Returns:
        How many numbers were written.

    Raises:
        UserError: tensorboard is not installed, or cannot write.
    """
    # torch's module of this name fails on import without the package.
    writers = optional_module("torch.utils.tensorboard", "tensorboard")
    count = 0
    for model in loaded.models:
        with explained("tensorboard"), writers.SummaryWriter(str(out / folder_name(model))) as writer:
            for record in _numbers(loaded, model):
                step = record.model_info.get("step") or 0
                for name, value in scalars(record):
                    writer.add_scalar(name, value, step)
                count += 1
    return count


def to_wandb(loaded: Loaded, out: Path) -> int:
    """Write every number into a run a model: its summary, and a table of all with their intervals.

    Whether runs are sent or kept in `out` is wandb's to say (`WANDB_MODE`, login).

    Returns:
        How many numbers were written.

    Raises:
        UserError: wandb is not installed, or refuses.
    """
    wandb = optional_module("wandb", "wandb")
    with explained("wandb"):
        out.mkdir(parents=True, exist_ok=True)
    count = 0
    for model in loaded.models:
        records = list(_numbers(loaded, model))
        config = dict(records[0].model_info) if records else {}
        started = {"project": PROJECT, "name": model, "dir": str(out), "config": config}
        with explained("wandb"), wandb.init(**started) as run:
            rows = [
                [r.task, r.protocol, dataset_version(r), r.split, r.metric, r.value, r.ci_low, r.ci_high, r.n]
                for r in records
            ]
            columns = ["task", "protocol", "dataset", "split", "metric", "value", "ci_low", "ci_high", "n"]
            run.summary.update({name: value for record in records for name, value in scalars(record)})
            run.log({"results": wandb.Table(columns=columns, data=rows)})
        count += len(records)
    return count


def _numbers(loaded: Loaded, model: str) -> Iterable[Record]:
    for entry in loaded.entries:
        if entry.model == model and entry.record.status == "ok":
            yield entry.record


@contextlib.contextmanager
def explained(package: str) -> Iterator[None]:
    """Say in one message what a writer fails with.

    Raises:
        UserError: it failed.
    """
    try:
        yield
    except Exception as error:  # other packages' errors share no base class
        raise UserError(
            f"{package} failed ({type(error).__name__}: {shortened(str(error), 500)})."
        ) from error


def optional_module(name: str, package: str) -> Any:
    """Return an optional module.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"The package {package} is not installed: pip install {package}.") from error
