"""Errors a user can mend, and the exit code each leads to."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

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
    "NewerFile",
    "NoSuchSplit",
    "OutputError",
    "SuiteError",
    "UserError",
    "joined",
    "name_some",
    "near_matches",
    "nearest",
    "no_exit",
    "refuse_newer",
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


class NewerFile(OutputError):
    """A file that a later version of ours wrote in a form that this one does not know."""


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


def refuse_newer(content: str | bytes, key: str, known: int, what: str) -> None:
    """Refuse a file of a later form than is read, whatever else in it fits or does not.

    Args:
        content: JSON; what is none is the reader's to refuse.
        key: under which it states its version.
        known: the latest that is read.
        what: names the file.

    Raises:
        NewerFile: it is later.
    """
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
    version = found.get(key) if isinstance(found, dict) else None
    if type(version) is int and version > known:
        raise NewerFile(
            f"{what} was written by a newer version of rwkvclip-eval: {key} {shown(version)}; expected up to "
            f"{known}. Upgrade, or use the version that wrote it."
        )


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
