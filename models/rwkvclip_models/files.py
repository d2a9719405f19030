"""Reads files of which nothing is known yet: regular ones only, up to a size, with a message for the rest."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr, NoReturn

from rwkvclip_models.errors import UserError, shortened

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

TEXT_LIMIT_BYTES = 16 << 20
"""Of a file that people or programs write as text: a suite, a configuration, prompts."""
MOST_LINES = 300_000
"""Of a log; each becomes an object of many times its size."""
LINE_LIMIT_BYTES = 1 << 20
"""Of a line of a log; characters of a text."""
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return `path` with `~` or `~name` replaced by its folder; as it is where nobody is called so."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def require_regular(
    path: str | os.PathLike[str], what: str, *, error: type[UserError] = UserError
) -> os.stat_result:
    """Return the state of the file at `path`, through symbolic links, without opening it.

    A pipe would be waited for and a device read for ever, so whatever opens a file from elsewhere asks here.

    Args:
        path: the file.
        what: what it should be, for messages: "suite", "checkpoint".
        error: class of what is raised.

    Raises:
        UserError: there is none, it cannot be looked at, or it is a folder, pipe, socket or device.
    """
    try:
        state = Path(path).stat()
    except (OSError, ValueError) as problem:
        raise error(f"Cannot read the {what} {path}: {_reason(problem)}.") from problem
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(state.st_mode)), "no regular file")
        raise error(f"Cannot read the {what} {path}: expected a file, found {kind}.")
    return state


def read_bytes(
    path: str | os.PathLike[str], *, limit: int, what: str, error: type[UserError] = UserError
) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Args:
        path: the file.
        limit: most bytes it may have.
        what: what it should be, for messages.
        error: class of what is raised.

    Raises:
        UserError: it is none, cannot be read, or is larger.
    """
    size = require_regular(path, what, error=error).st_size
    if size <= limit:
        try:
            with Path(path).open("rb") as stream:
                # The size that the file system gives is not binding: it may grow, and is 0 under /proc.
                content = stream.read(limit + 1)
        except OSError as problem:
            raise error(f"Cannot read the {what} {path}: {_reason(problem)}.") from problem
        if len(content) <= limit:
            return content
        size = len(content)
    raise error(f"The {what} {path} has {size} bytes or more; at most {limit} are read.")


def read_text(
    path: str | os.PathLike[str],
    *,
    what: str,
    limit: int = TEXT_LIMIT_BYTES,
    error: type[UserError] = UserError,
) -> str:
    """Return the text of a regular UTF-8 file of at most `limit` bytes, its line ends as in Python.

    Raises:
        UserError: it is none, cannot be read, is larger, or holds other bytes.
    """
    content = read_bytes(path, limit=limit, what=what, error=error)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(
            f"The {what} {path} is not UTF-8 text: byte {problem.start} is 0x{content[problem.start]:02x}."
        ) from problem
    return text.replace("\r\n", "\n").replace("\r", "\n")


def whole_lines(
    text: AnyStr, where: str, *, most: int = MOST_LINES, error: type[UserError] = UserError
) -> list[AnyStr]:
    """Return the lines of a log without their ends.

    What stands behind the last line end is none: a process that was killed, or runs, left it unfinished.

    Args:
        text: the whole log.
        where: what holds it, for messages: "training log a.jsonl".
        most: lines that it may have.
        error: class of what is raised.

    Raises:
        UserError: there are more lines, or one is longer than `LINE_LIMIT_BYTES`.
    """
    end = "\n" if isinstance(text, str) else b"\n"
    if (number := text.count(end)) > most:
        raise error(f"The {where} has {number} lines; at most {most} are read. Shorten or delete it.")
    lines = text.split(end)[:-1]
    if (longest := max(map(len, lines), default=0)) > LINE_LIMIT_BYTES:
        number = next(i for i, line in enumerate(lines, start=1) if len(line) == longest)
        raise error(
            f"The {where}, line {number}, has {longest} characters; at most {LINE_LIMIT_BYTES} are read. "
            "Shorten or delete it."
        )
    return lines


def read_json(
    path: str | os.PathLike[str],
    *,
    what: str,
    limit: int = TEXT_LIMIT_BYTES,
    error: type[UserError] = UserError,
) -> Any:
    """Return what a JSON file says.

    Raises:
        UserError: it cannot be read (see `read_text`) or is not JSON (see `parse_json`).
    """
    return parse_json(read_text(path, what=what, limit=limit, error=error), f"{what} {path}", error=error)


def parse_json(text: str, where: str, *, error: type[UserError] = UserError) -> Any:
    """Return what `text` says; it may hold no key twice and no number that is not finite (NaN, 1e999).

    Args:
        text: JSON.
        where: what holds it, for messages: "configuration a.json".
        error: class of what is raised.

    Raises:
        UserError: it is not JSON, nested too deeply, or holds a key twice in one mapping or a number that is
            not finite.
    """

    def refuse(name: str) -> NoReturn:
        raise error(f"The {where} holds {name[:40]}; expected a finite number.")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (key := _repeated(pairs)) is not None:
            raise error(_TWICE.format(where=where, key=shortened(key)))
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=once)
    except RecursionError as problem:
        raise error(f"The {where} is nested too deeply to be read.") from problem
    except json.JSONDecodeError as problem:
        raise error(f"The {where} is not JSON: {problem}.") from problem
    except ValueError as problem:
        if isinstance(problem, UserError):
            raise
        # Python converts no integer of more than 4,300 digits.
        raise error(f"The {where} holds a number of too many digits.") from problem


def check_keys(text: str | bytes, where: str, *, error: type[UserError] = UserError) -> None:
    """Refuse a JSON text that another parser reads, where it says the same thing twice.

    Args:
        text: JSON; what is none is left to that parser.
        where: what holds it, for messages.
        error: class of what is raised.

    Raises:
        UserError: a key stands twice in one mapping, of which parsers take the last.
    """

    def once(pairs: list[tuple[str, Any]]) -> None:
        if (key := _repeated(pairs)) is not None:
            raise error(_TWICE.format(where=where, key=shortened(key)))

    try:
        json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, UserError):
            raise


_TWICE = "The {where} holds the key {key!r} twice in one mapping; remove one of them."


def _repeated(pairs: list[tuple[str, Any]]) -> str | None:
    """Return the first key that stands twice in a mapping; None where there is none."""
    if len({key for key, _ in pairs}) == len(pairs):
        return None
    return next(key for i, (key, _) in enumerate(pairs) if key in (other for other, _ in pairs[:i]))


def _reason(problem: Exception) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
