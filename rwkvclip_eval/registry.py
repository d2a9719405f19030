"""A typed registry of named things: refuses a taken name, suggests near matches for an unknown one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from rwkvclip_eval.errors import UserError, near_matches, shown
from rwkvclip_eval.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
