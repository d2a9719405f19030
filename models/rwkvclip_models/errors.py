"""Errors a user can mend. Their text is the whole message: what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MESSAGE_LENGTH = 1500
"""Characters; what is read from a file can be wrong in any number of places."""


class UserError(ValueError):
    """Bad input of any kind; the command line prints the text alone and exits with `exit_code`."""

    exit_code = 2


class CheckpointError(UserError):
    """A checkpoint that cannot be read, is unsafe to read, or does not fit its configuration."""


class ConfigError(UserError):
    """A model configuration with a missing, unknown or impossible value."""


class OutputError(UserError):
    """What cannot be written, or read back, or belongs to another run."""


def joined(problems: Sequence[str], separator: str = "\n") -> str:
    """Return `problems` as one text, those that do not fit into a message only counted."""
    taken, length = 0, 0
    for problem in problems:
        length += len(problem) + len(separator)
        if taken and length > _MESSAGE_LENGTH:
            break
        taken += 1
    kept = [shortened(problem, _MESSAGE_LENGTH) for problem in problems[:taken]]
    return separator.join(
        [*kept, *([f"… and {len(problems) - taken} more"] if taken < len(problems) else [])]
    )


def near_matches(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return a question that names what `name` may be meant for, after a space; empty if nothing is near.

    Upper and lower case are alike.
    """
    folded = {other.casefold(): other for other in sorted(known)}
    near = difflib.get_close_matches(shortened(name).casefold(), folded, n=most)
    return f" Did you mean {' or '.join(repr(folded[one]) for one in near)}?" if near else ""


def shown(value: object) -> str:
    """Return a value as a message shows it: short, whatever a file says."""
    # Python writes out no whole number of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return shortened(repr(value))


def shortened(text: str, length: int = 80) -> str:
    """Return `text`, cut to `length` characters where it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
