"""The keys of a recipe as a table: what `rwkvclip-train --explain` prints and docs/recipes.md holds."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rwkvclip_eval.registry import unknown_name
from rwkvclip_train.flavour import Quirks
from rwkvclip_train.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

TITLE = "# Recipe keys\n\nWhat a YAML file for `rwkvclip-train` says; other keys are refused.\n"


def recipe_rows() -> list[tuple[str, str, str]]:
    """Return key (nested ones behind a dot), default (`needed` where there is none) and meaning."""
    return list(_rows(Recipe, ""))


def explained(key: str | None) -> list[tuple[str, str, str]]:
    """Return the rows of `key` and of the keys below it, or of all.

    Raises:
        RecipeError: there is no such key.
    """
    rows = recipe_rows()
    if key is None:
        return rows
    found = [row for row in rows if f"{row[0]}.".startswith(f"{key}.")]
    if not found:
        raise RecipeError(unknown_name("recipe key", key, [row[0] for row in rows]))
    return found


def recipe_page() -> str:
    """Return the keys as a page of Markdown."""
    lines = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in recipe_rows()]
    return "\n".join([TITLE, "| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def _rows(model: type[BaseModel], before: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        said = field.description or ""
        if said:
            # It says itself what is in it, or where that stands.
            inner = None
        elif inner is not None:
            first = (inner.__doc__ or "").partition("\n")[0].rstrip(".")
            listed = typing.get_origin(field.annotation) is tuple
            said = f"{'a list, each: ' if listed else ''}{first[:1].lower()}{first[1:]}"
        default = _default(field, inner)
        if model is Quirks:
            default += "; official `True`"
        yield f"{before}{name}", default, said.replace("|", "or")
        if inner is not None:
            yield from _rows(inner, f"{before}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field is, or is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)


def _default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    if field.is_required():
        return "needed"
    if inner is not None or field.default in (None, PydanticUndefined):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{value}`"
