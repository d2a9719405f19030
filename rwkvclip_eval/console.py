"""What the command lines print: tables, notes, errors as one message."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import signal
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rwkvclip_eval.digits import refuse_odd_numbers
from rwkvclip_eval.errors import UserError, shortened, shown
from rwkvclip_eval.printable import one_line, printable
from rwkvclip_models.dependencies import INTERNAL, what_to_install

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

INTERRUPTED = 130
_NO_READER = 141
"""As shells say of a program that SIGPIPE ended; 1 would be an outcome."""
_NO_VALUE = re.compile(r"--[a-z-]+=$")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OUT_OF_MEMORY = "out of memory: this needs more than there is, or than a limit (ulimit -v) leaves."
_MAX_MESSAGE = 1900
"""Characters of an error, whatever a file or a library puts into it."""


class _Console(Console):
    """A console that leaves a reader who went away to `run_app`, where the library's own would exit."""

    def on_broken_pipe(self) -> None:
        """Raise what writing raised, without the number for which the command-line library would exit."""
        raise BrokenPipeError


_out = _Console(highlight=False, soft_wrap=True, emoji=False)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Standard error."""


_silent = False


def silence() -> None:
    """Print no error from now on: another process of this run tells the user."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """Print `text` as it is, control characters of files and data written out."""
    _out.print(printable(text), markup=False)


def note(text: str) -> None:
    """Print a line beside the output, which a pipe does not get."""
    stderr.print(printable(text), markup=False)


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
        _write("".join(f"{_tab_separated(row)}\n" for row in (columns, *rows)))
        return
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    columns, rows = brief or (columns, rows)
    for column in columns:
        # Cut cells could not be copied.
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*[Text(printable(str(cell))) for cell in row])
    _out.print(made)


def _tab_separated(row: Sequence[object]) -> str:
    """Return a row whose cells hold no tab and no line end of their own."""
    return "\t".join(one_line(" ".join(str(cell).split())) for cell in row)


def _write(text: str) -> None:
    """Write `text` past the console, which would turn tabs into spaces."""
    try:
        _out.file.write(text)
        _out.file.flush()
    except BrokenPipeError:
        _out.on_broken_pipe()


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command-line application and exit with its code.

    A `UserError` is printed as its text alone; `--debug` anywhere on the command line shows tracebacks.
    A defect of ours exits with `INTERNAL`, so that no CI takes it for the outcome of a check.
    """
    global _signalled
    _signalled = False
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) != len(sys.argv) - 1
    # A name the terminal cannot show must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    # Schedulers end jobs so; what a run holds (temporary features, its time so far) is put in order.
    signal.signal(signal.SIGTERM, _interrupt)
    # A job in the background has Ctrl-C switched off.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        empty = [
            number for number, text in enumerate(arguments, start=1) if not text or _NO_VALUE.match(text)
        ]
        if empty:
            raise UserError(
                f"argument {empty[0]} is empty; expected a name or path (is a shell variable not set?)."
            )
        refuse_odd_numbers(app, arguments)
        code: Any = app(args=arguments, standalone_mode=False)
        # A shell may have closed it.
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as error:
        # Only the shell's completion ends so; else code of a user's own did.
        if any(name.endswith("_COMPLETE") for name in os.environ):
            raise
        # So do pages of help that nobody reads to their end.
        if isinstance(error.__context__, BrokenPipeError):
            _drop_output()
            sys.exit(_NO_READER)
        called = f"sys.exit({'' if error.code is None else shown(error.code)})"
        _fail(f"Error: a plugin, a model's code or a library called {called} before the end.", 2)
    except UserError as error:
        if debug:
            _fail_traced(error, error.exit_code)
        _fail(f"Error: {error}", error.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(_NO_READER)
    except OSError as error:
        if not debug and error.filename is None and error.errno in _UNWRITABLE:
            _drop_output()
            what = "read a file or write" if error.errno == errno.EIO else "write"
            _fail(f"Error: cannot {what} the output: {error.strerror}.", UserError.exit_code)
        if not debug and error.filename is None and error.errno == errno.ENOENT:
            # Python's own search for a place; libraries make it as they are imported.
            free = "Free some space there, or set TMPDIR to a folder that has it."
            _fail(f"Error: {error.strerror}. {free}", UserError.exit_code)
        if debug or error.filename is None:
            _fail_internal(error, debug=debug)
        # A file that cannot be read or written, whoever tried: the name and the reason are what helps.
        _fail(f"Error: {error.filename}: {error.strerror}.", UserError.exit_code)
    except (ImportError, MemoryError) as error:
        text = what_to_install(error) if isinstance(error, ImportError) else _OUT_OF_MEMORY
        if debug or text is None:
            _fail_internal(error, debug=debug)
        _fail(f"Error: {text}", UserError.exit_code)
    except BaseException as error:  # the last resort: a defect is one line, the traceback on request
        if isinstance(error.__context__, EOFError):
            # That library takes an end of input for somebody who leaves; nothing here asks for input.
            error = error.__context__
        code = _click_exit_code(error, arguments)
        if code is None:
            _fail_internal(error, debug=debug)
    # The command-line library turns Ctrl-C into this code without a word.
    if code == INTERRUPTED and not _signalled:
        _fail(
            "Error: a plugin, a model's code or a library raised KeyboardInterrupt, though nobody pressed "
            "Ctrl-C.",
            UserError.exit_code,
        )
    if code == INTERRUPTED:
        _fail("Interrupted; run the same command again to continue.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Let nobody write what standard output still holds, which would fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        stderr.print(printable(f"Warning: {message}"), markup=False)
    else:
        sys.stderr.write(printable(warnings.formatwarning(message, category, filename, lineno, line)))


_signalled = False


def _interrupt(*_: object) -> NoReturn:
    global _signalled
    _signalled = True
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
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name in options:
            found = value if equals else following
    return found


def _fail_internal(error: BaseException, *, debug: bool) -> NoReturn:
    """Report a defect of ours: one line for the user, the traceback on request."""
    if debug:
        _fail_traced(error, INTERNAL)
    try:
        said = str(error)
    except Exception:  # an exception of a plugin's may not even say what it is
        said = "without a text"
    _fail(f"Internal error ({type(error).__name__}): {said}. Add --debug for the traceback.", INTERNAL)


def _fail_traced(error: BaseException, code: int) -> NoReturn:
    """Print a traceback as Python would, but for control characters in what it quotes."""
    sys.stderr.write(printable("".join(traceback.format_exception(error))))
    sys.exit(code)


def _fail(text: str, code: int) -> NoReturn:
    if not _silent:
        # Where nothing can be written, the exit code still tells.
        with contextlib.suppress(OSError, ValueError):
            stderr.print(printable(shortened(text, _MAX_MESSAGE)), markup=False)
    sys.exit(code)
