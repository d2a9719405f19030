"""Numbers on the command line are of the digits 0 to 9."""

from __future__ import annotations

import inspect
import typing

from rwkvclip_eval.errors import UserError, shown

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    import typer


def refuse_odd_numbers(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Refuse a number on the command line in other signs than the digits 0 to 9, which Python would read.

    Raises:
        UserError: there is one, such as `--limit 1_0`.
    """
    numbers: frozenset[str] | None = None
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        option, value = (option, value) if equals else (before, argument)
        if value.isascii() and "_" not in value:
            continue
        try:
            float(value)
        except ValueError:
            continue
        numbers = _options_of_numbers(app) if numbers is None else numbers
        if option in numbers:
            raise UserError(f"{option}: expected a number in the digits 0 to 9, got {shown(value)}.")


def _options_of_numbers(app: typer.Typer) -> frozenset[str]:
    """Return the names of the options of an application that take a number."""
    found: set[str] = set()
    for group in app.registered_groups:
        found |= _options_of_numbers(group.typer_instance) if group.typer_instance else set()
    for command in app.registered_commands:
        callback = command.callback
        hints = typing.get_type_hints(callback, include_extras=True) if callback else {}
        for name, parameter in (inspect.signature(callback).parameters if callback else {}).items():
            kind, extras = hints.get(name), getattr(hints.get(name), "__metadata__", ())
            kind = typing.get_args(kind)[0] if extras else kind
            if {int, float} & {kind, *typing.get_args(kind)}:
                given = [*extras, parameter.default]
                names = next((one.param_decls for one in given if hasattr(one, "param_decls")), None)
                found |= set(names or (f"--{name.replace('_', '-')}",))
    return frozenset(found)
