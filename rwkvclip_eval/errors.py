"""Errors a user can mend, and the exit code each leads to."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.printable import visible
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
    "refuse_newer",
    "said",
    "shortened",
    "shown",
    "users_code",
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
    return ", ".join(shortened(visible(name), NAME_LENGTH) for name in listed[:NAMES_SHOWN]) + more


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
    import json

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
def users_code(what: str, *, failing: bool = False) -> Iterator[None]:
    """Keep code of a user's own from ending the command without a word, or with one that names nobody.

    Args:
        what: names it.
        failing: whether any other exception of it is such an error, too; else it passes.

    Raises:
        UserError: the block called `sys.exit`, raised what is no `Exception` (but for Ctrl-C's), raised an
            error of ours without a text, or closed standard output or error, which then are opened again.
    """
    try:
        yield
    except SystemExit as error:
        raise UserError(
            f"{what} called sys.exit({'' if error.code is None else shown(error.code)}), which would end the "
            "command without a result; let it raise an exception that says what is wrong."
        ) from error
    except KeyboardInterrupt:
        raise
    except UserError as error:
        if not str(error).strip():
            error.args = (f"{what} raised {type(error).__name__} without a text; let it say what is wrong.",)
        raise
    except BaseException as error:  # a plugin may raise anything
        if isinstance(error, Exception) and not failing:
            raise
        kind = "failed with" if isinstance(error, Exception) else "raised what is no Exception,"
        raise UserError(f"{what} {kind} {said(error)}.") from error
    finally:
        closed = _opened_again()
    if closed:
        raise UserError(f"{what} closed {' and '.join(closed)}, where messages go; leave both open.")


def said(error: BaseException) -> str:
    """Return an exception's class and text; one of a user's own may not even say what it is."""
    try:
        text = str(error).strip()
    except Exception:  # its own text may fail in any way
        text = ""
    return f"{type(error).__name__}: {shortened(text, 1000).rstrip('.')}" if text else type(error).__name__


def _opened_again() -> list[str]:
    """Open standard output and error where code closed them, and return their names."""
    found = []
    for number, name, called in ((1, "stdout", "standard output"), (2, "stderr", "standard error")):
        stream, first = getattr(sys, name), getattr(sys, f"__{name}__")
        lost = stream is first is not None and not _is_open(number)
        if lost:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        # Without either from the start, a shell closed it.
        if lost or (stream is None is not first) or getattr(stream, "closed", False):
            found.append(called)
            file = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, file)
    return found


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
