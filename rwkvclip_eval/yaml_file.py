"""Reads YAML that a user wrote: of bounded size, each key once, nothing but plain values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from rwkvclip_eval.errors import UserError, joined, shortened
from rwkvclip_eval.schema import MAX_PROBLEMS, came, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError

YAML_LIMIT_BYTES = 1 << 20
"""Of a file."""
MAX_NODES = 20_000
"""Keys, values and entries of a file, with what an alias (`*name`) stands for counted at each place."""


class _Loader(yaml.SafeLoader):
    """Knows plain values alone, and stops at too many nodes, which are found before any is made a value."""

    num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=_TOO_MANY, problem_mark=self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        kind = node.tag.rpartition(":")[2]
        said = f"a value of the kind {kind}; expected a text (in quotes), a number, true, false or null"
        raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark)

    def construct_yaml_number(self, node: yaml.ScalarNode) -> float:
        """Return a number, unless it is one that people write in another sense."""
        if ":" in node.value or _OCTAL.fullmatch(node.value):
            said = f"{node.value} is read as base 60 or 8; write the number in base 10, or a text in quotes"
            raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark)
        if _OTHER_BASE.match(node.value) or ("_" in node.value and not _THOUSANDS.fullmatch(node.value)):
            shown = shortened(node.value)
            said = f"{shown} is not read alike everywhere; write the number in base 10, or a text in quotes"
            raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark)
        whole = node.tag.endswith(":int")
        number: float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        return number


_OTHER_BASE = re.compile("[-+]?0[xb]")
# As people write 1_000_000; nobody means 1_0.
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(_[0-9]{3})+(\.[0-9]*)?")
_OCTAL = re.compile("[-+]?0[0-9_]+")
_TAG = "tag:yaml.org,2002:"
_PLAIN = tuple(_TAG + kind for kind in ("null", "bool", "str", "seq", "map"))
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_Loader.yaml_constructors = {
    **{tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN},
    **dict.fromkeys(_NUMBERS, _Loader.construct_yaml_number),
    None: _Loader.construct_undefined,
}
# YAML 1.1 takes 1e-3 for a text.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))
_TOO_MANY = f"more than {MAX_NODES} keys, values and entries (an alias counts as what it stands for)"


def parse_yaml(text: str, source: str, *, error: type[UserError] = UserError) -> tuple[yaml.Node | None, Any]:
    """Return the tree of `text`, for line numbers, and the value that it says.

    Args:
        text: YAML.
        source: file name for messages.
        error: class of what is raised.

    Raises:
        UserError: it is not YAML, too large, nested too deeply, or holds a key twice in one mapping.
    """
    if len(text) > YAML_LIMIT_BYTES:
        raise error(f"{source} has {len(text)} characters; at most {YAML_LIMIT_BYTES} are read.")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_size(node, source, error)
        twice = list(_duplicate_keys(node))
        if twice:
            raise error(
                joined([f"{source}:{line}: the key {shortened(key)!r} occurs twice." for key, line in twice])
            )
        return node, None if node is None else loader.construct_document(node)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        said = str(getattr(problem, "problem", None) or problem).partition("\n")[0]
        raise error(f"{source}{line}: not valid YAML: {shortened(said, 300)}.") from problem
    except RecursionError as problem:
        raise error(f"{source}: nested too deeply to be read.") from problem
    except (ValueError, OverflowError) as problem:
        if isinstance(problem, UserError):
            raise
        # A number of too many digits, a date that is none.
        raise error(f"{source}: not valid YAML: {shortened(str(problem), 300)}.") from problem
    finally:
        if loader is not None:
            loader.dispose()


def line_of(node: yaml.Node | None, location: tuple[str | int, ...]) -> int:
    """Return the line (from 1) of the deepest node on the way to `location`."""
    line = node.start_mark.line if node else 0
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = key.start_mark.line, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


_TEXTS = {
    "too_short": "the list is empty; it needs at least one entry.",
    "tuple_type": "expected a list.",
    "list_type": "expected a list.",
    "dict_type": "expected a mapping.",
    "model_type": "expected a mapping.",
}


def mistakes(
    error: ValidationError,
    node: yaml.Node | None,
    source: str,
    *,
    below: tuple[str | int, ...] = (),
    texts: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line per mistake in a file: `FILE:LINE: field.0.key: what is wrong`.

    A list called empty because an entry of it is wrong is left out.

    Args:
        error: what the schema found.
        node: the file's tree.
        source: the file's name.
        below: where in the file the part begins that was checked.
        texts: kind of a problem, as pydantic calls it → what is said of it, where we know better.
    """
    problems = error.errors()[:MAX_PROBLEMS]
    words = {**_TEXTS, **(texts or {})}
    lines = []
    for problem in problems:
        kind, own = problem["type"], problem["loc"]
        inside = (one for one in problems if one is not problem and one["loc"][: len(own)] == own)
        if kind == "too_short" and any(inside):
            continue
        location = (*below, *own)
        text = words.get(kind) or problem["msg"].removeprefix("Value error, ")
        if kind == "missing":
            text = f"the key {location[-1]!r} is missing."
        elif kind not in (*words, "value_error", "unknown_key"):
            text += came(problem["input"])
        # A key that is not there has the line of what lacks it.
        line = line_of(node, location[:-1] if kind == "missing" else location)
        lines.append(": ".join([f"{source}:{line}", *([place(location)] if location else []), text]))
    return lines


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_size(node: yaml.Node | None, source: str, error: type[UserError]) -> None:
    """Refuse a tree that is larger than allowed once aliases are put in, or endless."""
    sizes: dict[int, int] = {}
    under_way: set[int] = set()

    def size(one: yaml.Node) -> int:
        if id(one) in under_way:
            raise error(f"{source}: an alias (*name) stands inside what it stands for.")
        if id(one) not in sizes:
            under_way.add(id(one))
            sizes[id(one)] = 1 + sum(map(size, _children(one)))
            under_way.remove(id(one))
        return sizes[id(one)]

    if node is not None and size(node) > MAX_NODES:
        raise error(f"{source}: {_TOO_MANY}.")


def _duplicate_keys(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Yield every key that stands a second time in its mapping, with its line; each mapping is seen once."""
    waiting, seen = [node] if node is not None else [], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, yaml.MappingNode):
            keys: set[Any] = set()
            for key, _ in one.value:
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
                if name and name in keys:
                    yield name, key.start_mark.line + 1
                keys.add(name)
        waiting += list(_children(one))[::-1]
