"""`--plugin FILE`: a user's Python file that registers encoders, datasets or tasks by the names below."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.decoding import run_first_in_workers
from rwkvclip_eval.registry import run_plugin

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.open import DatasetFactory


def load_plugin(path: Path) -> None:
    """Run the Python file `path`, once, here and in processes that decode; it registers what it brings.

    Raises:
        UserError: there is no such file, or it fails; the text says where.
    """
    if run_plugin(path):
        run_first_in_workers(partial(load_plugin, path.resolve()))


def register_dataset(name: str, factory: DatasetFactory) -> None:
    """Make suites know the dataset `name`; `factory` takes the split's name and returns a `Dataset`."""
    from rwkvclip_eval.data.open import DATASETS

    DATASETS.register(name, factory)


def register_task(task: object) -> None:
    """Make suites know the task `task.name`.

    Raises:
        UserError: it is no `Task`, or its name is taken.
    """
    from rwkvclip_eval.tasks import TASKS
    from rwkvclip_eval.tasks.base import Task

    if not isinstance(task, Task):
        name = task.__name__ if isinstance(task, type) else type(task).__name__
        cure = (
            f"register an object: register_task({name}())."
            if isinstance(task, type) and issubclass(task, Task)
            else f"derive its class from rwkvclip_eval.tasks.base.Task, `class {name}(Task)`, with "
            "`score(self, samples, features, protocol)`."
        )
        raise UserError(f"The task {name} is not a Task: {cure}")
    TASKS.register(task.name, task)
