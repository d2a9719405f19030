"""Changes of single keys of a recipe, as `--set key=value` says them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import shown
from rwkvclip_eval.schema import whole_number
from rwkvclip_eval.yaml_file import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rwkvclip_eval.errors import UserError


def apply_changes(
    content: dict[str, Any], changes: Iterable[str], *, error: type[UserError]
) -> dict[str, Any]:
    """Change the keys `content` of a recipe as read and return those changed with their values.

    Args:
        content: of the file; changed in place.
        changes: each `key=value`. A key inside another stands behind a dot (`quirks.beta1_cycle`), and
            so does the number of a list's entry (`data.0.repeat`, from 0); a value is YAML: a number, true,
            a text, null for none, [0.9, 0.95]. Later ones prevail.
        error: class of what is raised.

    Raises:
        UserError: a change has another form, its value is not YAML, or its key leads nowhere.
    """
    changed = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise error(f"--set: expected KEY=VALUE, as quirks.beta1_cycle=true, got {shown(change)}.")
        changed[key] = parse_yaml(text, f"--set {key}", error=error)[1]
        _put(content, key, changed[key], error)
    return changed


def named_by_change(line: str, keys: Iterable[str]) -> str:
    """Return a mistake `FILE:LINE: key: …`, of a changed key with `--set` in the place of the file."""
    found = re.fullmatch(r"(?s).*?:\d+: (([^\s:]+): .*)", line)
    if found is None:
        return line
    place = found[2] + "."
    return next((f"--set {found[1]}" for key in keys if place.startswith(key + ".")), line)


def _put(content: dict[str, Any], key: str, value: Any, error: type[UserError]) -> None:
    where: Any = content
    parts = key.split(".")
    for position, part in enumerate(parts):
        at: Any = part
        before = ".".join(parts[:position])
        if isinstance(where, list):
            at = whole_number(part)
            if at is None or at >= len(where):
                raise error(
                    f"--set {key}: {before} is a list; expected a number below {len(where)}, got "
                    f"{shown(part)}."
                )
        elif not isinstance(where, dict):
            raise error(f"--set {key}: {before} is {shown(where)}, which has no keys of its own.")
        if position == len(parts) - 1:
            where[at] = value
        elif isinstance(where, dict) and where.get(at) is None:
            where[at] = {}
        where = where[at]
