"""What the command lines print: tables, progress with rate and time left, errors as one message."""

from __future__ import annotations

import io
import signal
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from rwkvclip_eval.errors import UserError, shortened, shown
from rwkvclip_eval.printable import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

INTERRUPTED = 130
_MAX_MESSAGE = 1900
"""Characters of an error, whatever a file or a library puts into it."""

_out = Console(highlight=False, soft_wrap=True, emoji=False)
_err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


_silent = False


def silence() -> None:
    """Print no error from now on: another process of this run tells the user."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """Print `text` as it is, control characters of files and data written out."""
    _out.print(printable(text), markup=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    brief: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None,
) -> None:
    """Print a table; on a pipe, tab-separated values.

    Args:
        columns: names.
        rows: one cell per column.
        brief: columns and rows for a terminal, where the full ones are too wide for it.
    """
    if not _out.is_terminal:
        for row in (columns, *rows):
            say("\t".join(one_line(str(cell)) for cell in row))
        return
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    columns, rows = brief or (columns, rows)
    for column in columns:
        # Cut cells could not be copied.
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*[Text(printable(str(cell))) for cell in row])
    _out.print(made)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


class Progress:
    """Progress bars on a terminal, none elsewhere; `say` prints on both.

    Args:
        bars: False shows none on a terminal either.
    """

    def __init__(self, *, bars: bool = True) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=_err,
            transient=True,
            disable=not (bars and _err.is_terminal),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` items of `what` are done."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(printable(what), total=total, completed=done)
        else:
            self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        _err.print(printable(text), markup=False)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command-line application and exit with its code.

    A `UserError` is printed as its text alone; `--debug` anywhere on the command line shows tracebacks.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) != len(sys.argv) - 1
    # A name the terminal cannot show must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    # Schedulers end jobs so; what a run holds (temporary features, its time so far) is put in order.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code: Any = app(args=arguments, standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except UserError as error:
        if debug:
            _fail_traced(error)
        _fail(f"Error: {error}", error.exit_code)
    except OSError as error:
        if debug or error.filename is None:
            _fail_internal(error, debug=debug)
        # A file that cannot be read or written, whoever tried: the name and the reason are what helps.
        _fail(f"Error: {error.filename}: {error.strerror}.", UserError.exit_code)
    except Exception as error:  # the last resort: a defect is one line, the traceback on request
        if isinstance(error.__context__, EOFError):
            # That library takes an end of input for somebody who leaves; nothing here asks for input.
            error = error.__context__
        code = _click_exit_code(error, arguments)
        if code is None:
            _fail_internal(error, debug=debug)
    # The command-line library turns Ctrl-C into this code without a word.
    if code == INTERRUPTED:
        _fail("Interrupted; run the same command again to continue.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of ours as its text alone; others as Python does."""
    if category.__module__.startswith("rwkvclip_"):
        _err.print(printable(f"Warning: {message}"), markup=False)
    else:
        sys.stderr.write(printable(warnings.formatwarning(message, category, filename, lineno, line)))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _click_exit_code(error: Any, arguments: Sequence[str]) -> int | None:
    """Return the code of an exception of the command-line library (usage errors, aborts); None for others.

    The library says what an option's value should be; what came is added.
    """
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):
        given = _given(getattr(getattr(error, "param", None), "opts", ()), arguments)
        error.message = printable(f"{error.message}{'' if given is None else f' (got {shown(given)})'}")
        show()
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    return None


def _given(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return the last value that the command line gives one of `options`; None where there is none."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name in options:
            found = value if equals else following
    return found


def _fail_internal(error: BaseException, *, debug: bool) -> NoReturn:
    """Report a defect of ours: one line for the user, the traceback on request."""
    if debug:
        _fail_traced(error)
    _fail(f"Internal error ({type(error).__name__}): {error}. Add --debug for the traceback.", 1)


def _fail_traced(error: BaseException) -> NoReturn:
    """Print a traceback as Python would, but for control characters in what it quotes."""
    sys.stderr.write(printable("".join(traceback.format_exception(error))))
    sys.exit(1)


def _fail(text: str, code: int) -> NoReturn:
    if not _silent:
        _err.print(printable(shortened(text, _MAX_MESSAGE)), markup=False)
    sys.exit(code)
