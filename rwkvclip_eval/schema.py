"""What does not fit a typed schema, in words: field, what was expected, what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import AfterValidator

from rwkvclip_eval.errors import shortened, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

_MAX_PROBLEMS = 100
_MAX_NUMBER = 1e15
# pydantic adds the branch of a union that it tried to a field's place.
_BRANCHES = ("literal[", "list[", "tuple[", "constrained-", "function-", "dict[")


def misfits(error: ValidationError) -> list[str]:
    """Return a line per problem: `field.0.key: what was expected (got what came)`."""
    lines = []
    for problem in error.errors()[:_MAX_PROBLEMS]:
        parts = [str(part) for part in problem["loc"]]
        where = ".".join(shortened(part) for part in parts if not part.startswith(_BRANCHES))
        text = problem["msg"].removeprefix("Value error, ")
        # A check of ours says itself what of a mapping or list came.
        told = problem["type"] == "missing" or (
            problem["type"] == "value_error" and isinstance(problem["input"], dict | list | tuple)
        )
        shown = "" if told else came(problem["input"])
        lines.append(f"{where}: {text}{shown}" if where else f"{text}{shown}")
    return lines


def facts(**kinds: type) -> AfterValidator:
    """Return a check of a mapping from JSON: its numbers are finite and of sane size.

    Args:
        kinds: what the values of some keys are, where they are there and not null; `float` allows whole
            numbers.
    """

    def check(value: Mapping[str, Any]) -> Mapping[str, Any]:
        for key, kind in kinds.items():
            given = value.get(key)
            allowed = (int, float) if kind is float else (int, bool) if kind is int else kind
            if given is not None and not isinstance(given, allowed):
                raise ValueError(f"{key} must be {_WORDS[kind]}{came(given)}")
        _check_numbers(value)
        return value

    return AfterValidator(check)


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _check_numbers(value: Any) -> None:
    """Raise ValueError for a number in a JSON value that is not finite, or of more than 15 digits."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, int | float) and not abs(one) <= _MAX_NUMBER:
            raise ValueError(f"numbers are of at most 15 digits{came(one)}")
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []


def came(value: Any) -> str:
    """Return ` (got VALUE)` for a value that can be shown, the kind of it for others."""
    if isinstance(value, str | int | float | None):
        return f" (got {shown(value)})"
    kinds = {"dict": "a mapping", "list": "a list", "tuple": "a list"}
    return f" (got {kinds.get(name := type(value).__name__, name)})"
