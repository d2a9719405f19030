"""`--plugin FILE`: a user's Python file that registers encoders, datasets or tasks by the names below."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import partial
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, said, users_code
from rwkvclip_eval.features.decoding import run_first_in_workers

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.open import DatasetFactory


_PREFIX = "rwkvclip_plugin_"


def load_plugin(path: Path) -> None:
    """Run the Python file `path`, once; it registers what it brings.

    Raises:
        UserError: there is no such file, or it fails; the text says where.
    """
    if not path.is_file():
        raise UserError(f"The plugin {path} is not a file.")
    name = f"{_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"The plugin {path} is not a Python file (expected a name ending in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with users_code(f"The plugin {path}"):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    except Exception as error:  # anything can go wrong in a user's file; the message names it
        del sys.modules[name]
        raise UserError(f"The plugin {path} failed: {said(error)}.") from error
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
