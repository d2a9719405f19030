"""An application in which only the command that is called has options.

Of the others help shows no more than name and purpose. Typer would read the options of all commands at each
start: a seventh of the instructions of `--help`.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    import typer
    from typer.models import CommandInfo, TyperInfo

    Info = TypeVar("Info", CommandInfo, TyperInfo)


def outlined(app: typer.Typer, arguments: Collection[str]) -> typer.Typer:
    """Return an application whose commands have no options where `arguments` do not name them.

    A shell that completes a line names none there, and gets the application as it is.
    """
    if any(name.endswith("_COMPLETE") for name in os.environ):
        return app
    short = copy.copy(app)
    short.registered_commands = [
        command if _name(command) in arguments else _outline(command) for command in app.registered_commands
    ]
    short.registered_groups = []
    for group in app.registered_groups:
        kept = copy.copy(group)
        if group.typer_instance is not None:
            named = group.name in arguments
            kept.typer_instance = outlined(group.typer_instance, arguments if named else ())
            if not named and group.typer_instance.registered_callback is not None:
                kept.typer_instance.registered_callback = _outline(group.typer_instance.registered_callback)
        short.registered_groups.append(kept)
    return short


def _name(command: CommandInfo | TyperInfo) -> str | None:
    if command.name or command.callback is None:
        return command.name
    return command.callback.__name__.lower().replace("_", "-")


def _outline(command: Info) -> Info:
    """Return the command with its name and documentation, and no options."""
    short = copy.copy(command)

    def nothing() -> None:
        """Stand for a command that is only listed."""

    nothing.__doc__ = command.callback.__doc__
    short.name, short.callback = _name(command), nothing
    return short
