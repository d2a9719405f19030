"""`--plugin FILE`: a user's Python file that registers encoders, datasets or tasks by the names below."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.open import DatasetFactory
    from rwkvclip_eval.tasks.base import Task


def load_plugin(path: Path) -> None:
    """Run the Python file `path`, once; it registers what it brings.

    Raises:
        UserError: there is no such file, or it fails; the text says where.
    """
    if not path.is_file():
        raise UserError(f"The plugin {path} is not a file.")
    name = f"rwkvclip_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"The plugin {path} is not a Python file (expected a name ending in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    except Exception as error:
        # Anything can go wrong in a user's file; the message names it.
        del sys.modules[name]
        raise UserError(f"The plugin {path} failed: {type(error).__name__}: {error}.") from error


def register_dataset(name: str, factory: DatasetFactory) -> None:
    """Make suites know the dataset `name`; `factory` takes the split's name and returns a `Dataset`."""
    from rwkvclip_eval.data.open import DATASETS

    DATASETS.register(name, factory)


def register_task(task: Task) -> None:
    """Make suites know the task `task.name`."""
    from rwkvclip_eval.tasks import TASKS

    TASKS.register(task.name, task)
