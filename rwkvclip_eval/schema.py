"""What does not fit a typed schema, in words: field, what was expected, what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import shortened, shown

if TYPE_CHECKING:
    from pydantic import ValidationError

_MAX_PROBLEMS = 100
# pydantic adds the branch of a union that it tried to a field's place.
_BRANCHES = ("literal[", "list[", "tuple[", "constrained-", "function-", "dict[")


def misfits(error: ValidationError) -> list[str]:
    """Return a line per problem: `field.0.key: what was expected (got what came)`."""
    lines = []
    for problem in error.errors()[:_MAX_PROBLEMS]:
        parts = [str(part) for part in problem["loc"]]
        where = ".".join(shortened(part) for part in parts if not part.startswith(_BRANCHES))
        text = problem["msg"].removeprefix("Value error, ")
        shown = "" if problem["type"] == "missing" else came(problem["input"])
        lines.append(f"{where}: {text}{shown}" if where else f"{text}{shown}")
    return lines


def came(value: Any) -> str:
    """Return ` (got VALUE)` for a value that can be shown, the kind of it for others."""
    if isinstance(value, str | int | float | None):
        return f" (got {shown(value)})"
    kinds = {"dict": "a mapping", "list": "a list", "tuple": "a list"}
    return f" (got {kinds.get(name := type(value).__name__, name)})"
