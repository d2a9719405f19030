"""Logs of training runs as TensorBoard and trackio take them, through their own writers, where installed.

The log stays the truth: what is written here is made of it, at any time, and made anew by the same command.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.exchange.trackers import explained, optional_module
from rwkvclip_train.run_facts import read_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rwkvclip_train.run_log import LoggedRun

PROJECT = "rwkvclip-train"
NO_NUMBERS = ("step", "seed")
"""Fields of a log that say what a line is of."""
EVENTS = "events.out.tfevents.*"


def scalars(run: LoggedRun) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each step of a log with its numbers: `loss`, `betas/0`, `texts/raw`, `evaluation/TASK/…/METRIC`.

    Null, which the log says of what is not finite, is none.
    """
    for step, lines in itertools.groupby(run.lines, lambda line: int(line["step"])):
        numbers: dict[str, float] = {}
        for line in lines:
            for field, value in line.items():
                if field not in NO_NUMBERS:
                    numbers.update(_numbers(field, value))
        if numbers:
            yield step, numbers


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from _numbers(f"{name}/{key}", each)


def to_tensorboard(runs: Sequence[LoggedRun], out: Path) -> int:
    """Write every number of the runs as a scalar at its step, a folder a run, in the place of what was there.

    Returns:
        How many numbers were written.

    Raises:
        UserError: tensorboard is not installed, or cannot write.
        OutputError: the events of before cannot be deleted.
    """
    # torch's module of this name fails on import without the package.
    writers = optional_module("torch.utils.tensorboard", "tensorboard")
    count = 0
    for name, run in _named(runs):
        folder = out / re.sub(r"[^\w@.=-]+", "_", name)
        try:
            for before in folder.glob(EVENTS):
                before.unlink()
        except OSError as error:
            raise OutputError(f"Cannot write {folder}: {error.strerror or error}.") from error
        with explained("tensorboard"), writers.SummaryWriter(str(folder)) as writer:
            for step, numbers in scalars(run):
                for tag, value in numbers.items():
                    writer.add_scalar(tag, value, step)
                count += len(numbers)
    return count


def to_trackio(runs: Sequence[LoggedRun], project: str = PROJECT) -> int:
    """Log every number of the runs at its step into new runs of a trackio project, with their recipes.

    Where trackio keeps them is its to say (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`).

    Returns:
        How many numbers were logged.

    Raises:
        UserError: trackio is not installed, or refuses.
    """
    trackio = optional_module("trackio", "trackio")
    count = 0
    for name, run in _named(runs):
        with explained("trackio"):
            trackio.init(project=project, name=name, config=read_facts(run.path).get("recipe") or {})
            for step, numbers in scalars(run):
                trackio.log(numbers, step=step)
                count += len(numbers)
            trackio.finish()
    return count


def _named(runs: Sequence[LoggedRun]) -> Iterator[tuple[str, LoggedRun]]:
    """Yield each run with a name that no other has."""
    taken: set[str] = set()
    for run in runs:
        names = itertools.chain([run.name], (f"{run.name} #{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield name, run
