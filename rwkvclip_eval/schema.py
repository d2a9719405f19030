"""What does not fit a typed schema, in words: field, what was expected, what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from rwkvclip_eval.errors import near_matches, shortened, shown
from rwkvclip_eval.printable import unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails

MAX_PROBLEMS = 100
"""Of one text, that are looked at."""
MOST_DIGITS = 12
"""Of a number that counts or names something."""
_MAX_NUMBER = 1e15
# pydantic adds the branch of a union that it tried to a field's place.
_KINDS = ("int", "float", "str", "bool")
_BRANCHES = ("literal[", "list[", "tuple[", "constrained-", "function-", "dict[")


class Strict(BaseModel):
    """What a user writes by hand: a key that it does not know is refused, with a guess at which was meant.

    So is a value of another type, whatever it could be read as: a number in quotes, 2.0 where a whole number
    is expected, 1 for true. Whole numbers stand for others, and lists for tuples, of which fields are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _guess_unknown_keys(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(given, dict):
            given = {key: _as_tuple(value) for key, value in given.items()}
        try:
            return read(given)
        except ValidationError as error:
            if not any(map(_is_own_unknown_key, error.errors())):
                raise
            raise _with_guesses(cls, error) from None


def _as_tuple(value: Any) -> Any:
    """Return a list, and those in it, as tuples: what neither YAML nor JSON has, and a frozen model needs."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _is_own_unknown_key(problem: ErrorDetails) -> bool:
    return problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1


def _with_guesses(model: type[BaseModel], error: ValidationError) -> ValidationError:
    """Return `error` with a guess for each unknown key of `model`, which then is not called missing, too."""
    guessed: set[str] = set()
    problems = error.errors()[:MAX_PROBLEMS]
    for problem in filter(_is_own_unknown_key, problems):
        key = shortened(str(problem["loc"][0]))
        hint = near_matches(key, model.model_fields)
        guessed |= {name for name in model.model_fields if repr(name) in hint}
        hint = hint or f" Allowed: {', '.join(model.model_fields)}."
        problem["type"], problem["msg"] = "unknown_key", f"unknown key {key!r}.{hint}"
    return ValidationError.from_exception_data(
        model.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError(one["type"], "{said}", {"said": one["msg"]}),
                loc=one["loc"],
                input=one["input"],
            )
            for one in problems
            if one["type"] != "missing" or one["loc"][0] not in guessed
        ],
    )


def whole_number(text: str) -> int | None:
    """Return the number that a text of digits (0 to 9) names; None for another text or too many of them."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def plain_number(text: str) -> float:
    """Return the number that a text names in the digits 0 to 9.

    Raises:
        ValueError: it is another text, or of other digits, which Python reads too.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"expected a number in the digits 0 to 9, got {shown(text)}")
    return float(text)


def readable(text: str) -> str:
    """Return a text of a field that shows something.

    Raises:
        ValueError: it does not, or holds what no text may hold.
    """
    if why := unreadable(text):
        raise ValueError(f"expected a text that can be read; it {why}")
    return text


def empty_or_readable(text: str) -> str:
    """Return a text of a field that shows something where there is any, see `readable`."""
    return text and readable(text)


def place(location: tuple[str | int, ...]) -> str:
    """Return where a problem is as its file has it: `field.0.key`."""
    parts = [str(part) for part in location]
    return ".".join(
        shortened(part) for part in parts if not part.startswith(_BRANCHES) and part not in _KINDS
    )


def misfits(error: ValidationError) -> list[str]:
    """Return a line per problem: `field.0.key: what was expected (got what came)`."""
    lines = []
    for problem in error.errors()[:MAX_PROBLEMS]:
        where = place(problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        # A check of ours says itself what of a mapping or list came.
        told = problem["type"] in ("missing", "unknown_key") or (
            problem["type"] == "value_error" and isinstance(problem["input"], dict | list | tuple)
        )
        shown = "" if told else came(problem["input"])
        lines.append(f"{where}: {text}{shown}" if where else f"{text}{shown}")
    return lines


def facts(**kinds: type) -> AfterValidator:
    """Return a check of a mapping from JSON: its numbers are finite and of sane size.

    Args:
        kinds: what the values of some keys are, where they are there and not null; `float` allows whole
            numbers, and only `bool` allows true and false.
    """

    def check(value: Mapping[str, Any]) -> Mapping[str, Any]:
        for key, kind in kinds.items():
            given = value.get(key)
            allowed = (int, float) if kind is float else kind
            flag = isinstance(given, bool) and kind is not bool
            if given is not None and (flag or not isinstance(given, allowed)):
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
