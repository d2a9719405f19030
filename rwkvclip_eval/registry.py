"""A typed registry of named things: refuses a taken name, suggests near matches for an unknown one.

And the users' Python files that register things of their own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Generic, TypeVar

from rwkvclip_eval.errors import UserError, near_matches, said, shown, users_code
from rwkvclip_eval.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown `name`: near matches first, then all that is known."""
    names = sorted(known)
    listed = ", ".join(map(visible, names)) or "none"
    return f"Unknown {what} {shown(name)}.{near_matches(name, names, 3)} Known: {listed}."


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    Args:
        what: the kind in the singular, as messages say it ("task", "dataset", "encoder").
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add `entry` under `name` and return it.

        Raises:
            UserError: the name is taken by another object.
        """
        if name in self._entries and self._entries[name] is not entry:
            raise UserError(f"The {self.what} name {name!r} is taken; register under another name.")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            UserError: there is none; the text lists near matches and all names.
        """
        if name not in self._entries:
            raise UserError(unknown_name(self.what, name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


_PREFIX = "rwkvclip_plugin_"
_PLUGIN_LIMIT_BYTES = 1 << 24


def run_plugin(path: Path) -> bool:
    """Run the Python file `path`, unless this process did; return whether it ran now.

    Raises:
        UserError: there is no such file, or it fails; the text says where.
    """
    if not path.is_file():
        raise UserError(f"The plugin {path} is not a file.")
    if (size := path.stat().st_size) > _PLUGIN_LIMIT_BYTES:
        raise UserError(
            f"The plugin {path} has {size} bytes; a Python file has at most {_PLUGIN_LIMIT_BYTES}."
        )
    name = f"{_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return False
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
    return True
