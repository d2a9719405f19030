"""What the fields of a class mean stands in one place: under `Attributes:` of its docstring."""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rwkvclip_eval", "models/rwkvclip_models", "train/rwkvclip_train")
ENTRY = re.compile(r"^    (\w+): \S", re.MULTILINE)


def wrong_fields(source: str) -> list[str]:
    """Return the classes of a file that describe their fields in another way, each with what is wrong.

    A dataclass or named tuple, public or private, lists all of its fields, in order. No class has a string or
    a comment at a field. Models of pydantic say it in `Field(description=…)`, of which the list of a recipe's
    keys is made.
    """
    found = []
    said = comments(source) if "dataclass" in source or "NamedTuple" in source else []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        if any(is_string(after) for each, after in itertools.pairwise(node.body) if each in fields):
            found.append(f"{node.name}: a string below a field")
        if not holds_data(node):
            continue
        names = [
            ast.unparse(each.target) for each in fields if "ClassVar" not in ast.unparse(each.annotation)
        ]
        listed = ENTRY.findall((ast.get_docstring(node) or "").partition("Attributes:\n")[2])
        if listed != names:
            found.append(f"{node.name}: Attributes are {listed}, fields {names}")
        if any(each.lineno - 1 <= line <= (each.end_lineno or 0) for each in fields for line in said):
            found.append(f"{node.name}: a comment at a field")
    return found


def holds_data(node: ast.ClassDef) -> bool:
    """Whether a class is a dataclass or a named tuple."""
    return "NamedTuple" in map(ast.unparse, node.bases) or any(
        ast.unparse(each).partition("(")[0] in ("dataclass", "dataclasses.dataclass")
        for each in node.decorator_list
    )


def is_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def comments(source: str) -> list[int]:
    """Return the lines of a file's comments, those for tools left out."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    own = (token for token in tokens if token.type == tokenize.COMMENT)
    return [token.start[0] for token in own if not token.string.startswith(("# type:", "# noqa"))]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_says_what_its_fields_mean_under_attributes(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    assert not [
        (path.name, said) for path in paths for said in wrong_fields(path.read_text(encoding="utf-8"))
    ]


HEAD = '@dataclass(frozen=True)\nclass A:\n    """One."""\n\n'
LISTED = HEAD.replace(
    "One.", "One.\n\n    Attributes:\n        x: the first.\n        y: the\n            other.\n    "
)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LISTED + "    x: int\n    y: int = 0\n", None),
        (LISTED + "    x: int\n    y: int = 0\n    kind: ClassVar[str] = ''\n", None),
        (LISTED + "    y: int\n    x: int\n", "A: Attributes are"),
        (LISTED + "    x: int\n", "A: Attributes are"),
        (HEAD + "    x: int\n", "A: Attributes are"),
        (HEAD.replace("class A", "class _A") + "    x: int\n", "_A: Attributes are"),
        (HEAD.replace("class A", "class _A") + '    x: int\n    """The first."""\n', "a string below"),
        (LISTED + "    x: int  # the first\n    y: int\n", "a comment at"),
        (LISTED + "    # the first\n    x: int\n    y: int\n", "a comment at"),
        ("class A(Task):\n    x: int\n    '''The first.'''\n", "a string below"),
        ("class A(NamedTuple):\n    x: int\n", "A: Attributes are"),
        ("class A(BaseModel):\n    x: int = Field(1, description='the first')\n", None),
    ],
)
def test_other_ways_are_found(source: str, said: str | None) -> None:
    found = wrong_fields(source)
    assert (not found) if said is None else any(said in each for each in found)
