"""Errors a user can mend, and the exit code each leads to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rwkvclip_models.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    UserError,
    joined,
    near_matches,
    nearest,
    shortened,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "NAMES_SHOWN",
    "CheckpointError",
    "ConfigError",
    "DamagedData",
    "DataNotFound",
    "DataWarning",
    "EncodingFailed",
    "NoSuchSplit",
    "OutputError",
    "SuiteError",
    "UserError",
    "joined",
    "name_some",
    "near_matches",
    "nearest",
    "no_exit",
    "shortened",
    "shown",
]


class SuiteError(UserError):
    """A suite file that does not say what it should; the text names file and line."""


class DataNotFound(UserError):
    """A dataset that is not where it was looked for. The runner records it and goes on with the others.

    Attributes:
        brief: what records keep: the same without the places of this machine.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief or message


class NoSuchSplit(DataNotFound):
    """A split that the data do not claim to have, where one that is missing is another matter."""


class DamagedData(UserError):
    """Images, shards or annotations that cannot be read, or counts that contradict the catalogue."""


class EncodingFailed(UserError):
    """Images or texts of which a model gives no usable features. The runner records it and goes on."""


class DataWarning(UserWarning):
    """Something of ours beside the data was wrong and was made anew; the text names it."""


NAMES_SHOWN = 5
"""How many samples, models or other things a message names before it only counts."""
NAME_LENGTH = 200
"""Characters of each of them; a member of an archive may have any name."""


def name_some(names: Iterable[str]) -> str:
    """Return the first few of `names` for a message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(shortened(name, NAME_LENGTH) for name in listed[:NAMES_SHOWN]) + more


@contextlib.contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Keep code of a user's own from ending the command without a word.

    Raises:
        UserError: the block called `sys.exit`; the text names `what` did.
    """
    try:
        yield
    except SystemExit as error:
        raise UserError(
            f"{what} called sys.exit({'' if error.code is None else shown(error.code)}), which would end the "
            "command without a result; let it raise an exception that says what is wrong."
        ) from error
